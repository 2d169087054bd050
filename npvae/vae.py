"""The estimator that users hold: `VAE`, with scikit-learn's conventions.

Its methods are thin: ``settings`` checks and documents the settings, ``fitting`` decides and sets up the training,
``fitted`` computes with the result.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from os import PathLike
from types import SimpleNamespace
from typing import Any, Concatenate, NamedTuple, ParamSpec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import fitting, modelfile, persistence, settings
from .conditional import uses
from .conventions import (
    SklearnEstimator,
    check_number,
    check_seed,
    not_finite,
    not_fitted,
    short_repr,
    warn,
    warn_if_not_finite,
)
from .description import describe
from .evaluation.health import examine
from .evaluation.log_likelihood import estimate
from .fitted import Fitted
from .parallel import SERIAL, team
from .progress import show_progress, show_rows, show_stages, tell
from .sparse import TableLike, as_vector
from .table import as_table, survey
from .training import Checkpointer, Epoch, NonFiniteError

P = ParamSpec("P")

#: The models in training: id of the model -> the call that trains it. Its methods are atomic.
_in_training: dict[int, object] = {}


def _alone(method: Callable[Concatenate["VAE", P], "VAE"]) -> Callable[Concatenate["VAE", P], "VAE"]:
    """Have a method that trains refuse a model that is in training: both calls would write to the same arrays."""

    @functools.wraps(method)
    def alone(self: "VAE", *arguments: P.args, **named: P.kwargs) -> "VAE":
        call = object()
        if _in_training.setdefault(id(self), call) is not call:
            raise RuntimeError(
                f"this {type(self).__name__} is being trained already, in another thread or by the fit whose callback "
                "this is; train a copy of it: copy.deepcopy(model)"
            )
        try:
            return method(self, *arguments, **named)
        finally:
            del _in_training[id(self)]

    return alone


class Codes(NamedTuple):
    """What `VAE.encode` returns: the parameters of q(z|x) of each row.

    Examples
    --------
    >>> Codes(mean=np.zeros((1, 2)), std=np.ones((1, 2))).std
    array([[1., 1.]])
    """

    mean: Any  # (N, J)
    std: Any  # (N, J)

    def __repr__(self) -> str:
        return short_repr(self)


class VAE(SklearnEstimator):  # noqa: D101 - the docstring is put together from the table of settings
    __doc__ = f"""A variational autoencoder, trained by stochastic gradient variational Bayes (Kingma & Welling, 2014).

    The constructor stores every setting as given; `fit` checks them.

    {settings.numpydoc()}

    Attributes
    ----------
    parameters_ : Parameters
        Flat vector of all parameters, and its named views.
    history_ : list of Epoch
        One entry for each epoch, with the bounds that are maximised: see ``estimator``.
    report_ : list of str
        What was found in the data and what was chosen.
    health_ : Health
        What the model has learnt, measured on up to 2000 rows of the training data. Not set by `partial_fit`, nor for
        a model without encoder.
    likelihood_, learning_rate_, backend_
        The values used, chosen where the setting is "auto".
    n_features_in_ : int
        Columns of the training data, the D of the paper.
    feature_names_in_ : array of str
        Names of the columns, if they have names.
    n_samples_seen_ : int
        Rows of the training data, the N of the paper.
    dtype_in_ : str
        Floating-point type of the training data; for integers that of the model. `sample` returns it.
    architecture_, preprocessor_, seed_
        Architecture, preprocessing and seed that belong to the parameters.
    training_, fingerprints_
        State of the training and fingerprints of its data, for `resume` and `partial_fit`.
    fitted_ : Fitted
        The model with its parameters, on the backend in use, for evaluation and for programs of one's own.
    stopped_ : str or None
        Why training ended before ``max_epochs``.
    notes_ : dict
        What was given to `save` as ``notes``.

    Examples
    --------
    >>> import numpy as np
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> model = npvae.VAE(2, hidden_layer_sizes=(8,), learning_rate=0.05, max_epochs=2, backend="reference").fit(X)
    >>> model.transform(X).shape
    (200, 2)
    """

    def __init__(
        self,
        n_components: int = 20,
        *,
        hidden_layer_sizes: Sequence[int] = (500,),
        activation: str = "tanh",
        likelihood: str = "auto",
        binarize: str = "none",
        missing: str = "error",
        estimator: str = "sgvb-b",
        posterior: str = "gaussian",
        n_samples: int = 1,
        batch_size: int = 100,
        optimizer: str = "adagrad",
        learning_rate: str | float = "auto",
        schedule: str = "constant",
        averaging: str = "none",
        clip_norm: str | float = "none",
        weight_prior: float = 1.0,
        init_std: float | str = 0.1,
        max_epochs: int = 100,
        patience: int = 10,
        backend: str = "auto",
        dtype: Any = "float32",
        callbacks: Sequence[Callable] = (),
        verbose: bool = False,
        random_state: int | None = 0,
    ) -> None:
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.likelihood = likelihood
        self.binarize = binarize
        self.missing = missing
        self.estimator = estimator
        self.posterior = posterior
        self.n_samples = n_samples
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.averaging = averaging
        self.clip_norm = clip_norm
        self.weight_prior = weight_prior
        self.init_std = init_std
        self.max_epochs = max_epochs
        self.patience = patience
        self.backend = backend
        self.dtype = dtype
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    history_: list[Epoch]
    learning_rate_: float
    n_samples_seen_: int

    def _checked_settings(self):
        """Return the settings as a namespace, or refuse one that is not valid."""
        values = {name: getattr(self, name) for name in settings.SETTINGS}  # a subclass may have other parameters
        settings.check(values)
        return SimpleNamespace(**values)

    # Fitting ----------------------------------------------------------------------------------------------------------

    @_alone
    def fit(
        self,
        X: TableLike,
        y: Any = None,
        *,
        X_valid: TableLike | None = None,
        checkpoint: str | PathLike | Callable | None = None,
        checkpoint_every: float = 60.0,
        comm: Any = None,
        exact_sum: bool = True,
    ) -> "VAE":
        """Maximise the lower bound on log p(X).

        Parameters
        ----------
        X : array or sparse matrix (N, D)
            uint8 data is read as pixels and stays uint8 in memory. With ``missing="model"`` cells may be NaN or masked.
            Of a sparse matrix one minibatch at a time is dense; the result has the bits of that of the dense array.
        y : ignored
        X_valid : array or sparse matrix (N', D), optional
            Validation data: its bound is recorded after each epoch, training stops early, the best parameters stay.
        checkpoint : path, optional
            Model file, written when training begins, every ``checkpoint_every`` seconds, and at the end. After a crash,
            ``npvae.load(path).resume(X)`` continues the run. Until the end the file holds the latest parameters, not
            the best ones. Or a function that is called with the model and saves it.
        checkpoint_every : float
        comm : mpi4py.MPI.Intracomm, optional
            The ranks that train this model together: each calls this method with the same arguments. All end with the
            same model. Rank 0 alone writes, prints and calls back.
        exact_sum : bool
            With ``comm``: whether the bits are the same for any number of ranks. False saves a little of each step.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a setting or the data is not valid; the message names it.
        NonFiniteError
            If training diverges, or the model that it leads to has a score that is not finite; the model holds the
            last parameters at hand whose bound was finite, or the best ones on validation data.
        OSError
            If the checkpoint cannot be written when training begins, or at the end. In between it is tried again.
        RuntimeError
            If this model is being trained already, in another thread; so do `resume` and `partial_fit`.
        """
        with self._ranks(comm, exact_sum, X_valid) as parallel:
            values = self._checked_settings()
            checkpointer = self._checkpointer(checkpoint, checkpoint_every)
            return self._run(self._begin(values, X, X_valid, parallel=parallel), checkpointer)

    @_alone
    def resume(
        self,
        X: TableLike,
        y: Any = None,
        *,
        X_valid: TableLike | None = None,
        checkpoint: str | PathLike | Callable | None = None,
        checkpoint_every: float = 60.0,
        comm: Any = None,
        exact_sum: bool = True,
    ) -> "VAE":
        """Continue a training that was interrupted or killed, or that is to have more epochs.

        With the same data and settings as at its beginning, it ends with the same bits as if it had not stopped.
        Settings may be changed before, such as ``max_epochs`` or ``learning_rate``; those of the networks and of the
        likelihood stay as fitted. With more epochs, a decay of the step size is that of the longer training. An
        optimizer or an average that the training did not have begins anew.

        Parameters
        ----------
        X, X_valid : the data of the run, again
        y, checkpoint, checkpoint_every, comm, exact_sum : see `fit`
            With ``comm``, the number of ranks may be another one than before.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is nothing to resume, or the data is not that of the run: shape, type and a checksum of up to a
            thousand rows are compared.
        NonFiniteError, OSError
            See `fit`.
        """
        with self._ranks(comm, exact_sum, X_valid) as parallel:
            values, fitted = self._checked_settings(), self.fitted_
            checkpointer, state = self._checkpointer(checkpoint, checkpoint_every), self.training_
            if self.fingerprints_ is None:
                raise ValueError("this model was trained on data in pieces; continue with partial_fit")
            learning_rate = self._learning_rate()
            with show_stages(self._says(parallel)) as doing:
                run = fitting.resume(
                    values, fitted, state, self.fingerprints_, X, X_valid,
                    learning_rate=learning_rate, n_datapoints=self.n_samples_seen_, doing=doing,
                    parallel=parallel,
                )  # fmt: skip
            done = state.progress.epoch - 1
            if done >= self.max_epochs:
                tell(
                    self._says(parallel), f"nothing to resume: {done} epochs are done; for more, set max_epochs higher"
                )
            history = [epoch for epoch in self.history_ if epoch.epoch <= done]
            return self._run(run, checkpointer, learning_rate_=learning_rate, history_=history)

    @_alone
    def partial_fit(self, X: TableLike, y: Any = None) -> "VAE":
        """Train for one epoch on a piece of the data.

        The first piece decides the likelihood, the scaling of the columns and, where it is "auto", the learning rate.
        After `fit`, training continues from the fitted parameters. N, the number of datapoints that the prior on the
        weights is weighed against, is the number of rows of all calls so far; a piece given twice counts twice.

        Parameters
        ----------
        X : array or sparse matrix (N', D)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the step size is to decay to zero at the end of the training: there is none. If the estimator is
            "monte-carlo-em", which needs all rows at once.
        NonFiniteError
            See `fit`.
        """
        values = self._checked_settings()
        if values.schedule != "constant":
            raise ValueError(f"schedule is {values.schedule!r}; partial_fit has no last step, and expects 'constant'")
        fitting.check_in_pieces(values)
        if not hasattr(self, "parameters_"):
            run, changes = self._begin(values, X, max_epochs=1)._replace(fingerprints=None), {}
        else:
            fitted, learning_rate = self.fitted_, self._learning_rate()
            data = fitted.data(X)
            if far := self.preprocessor_.far_from(survey(X, missing=fitted.model.missing)):
                warn(far)
            seen = self.n_samples_seen_ + len(data.X)
            run = fitting.next_piece(
                values, fitted, self.training_, data, learning_rate=learning_rate, n_datapoints=seen
            )
            changes = {"learning_rate_": learning_rate, "n_samples_seen_": seen}
        return self._run(run, self._checkpointer(None), **changes)

    @contextlib.contextmanager
    def _ranks(self, comm, exact_sum, X_valid):
        """Yield the ranks of a communicator, which must have the same settings; or this process alone."""

        def decisive():  # callbacks and `verbose` are those of rank 0
            names = settings.SETTINGS.keys() - {"callbacks", "verbose"}
            given = {"exact_sum": bool(exact_sum), "X_valid": "None" if X_valid is None else "given"}
            return given | {name: repr(getattr(self, name)) for name in sorted(names)}

        with team(comm, exact_sum) as parallel:
            parallel.agree(decisive)
            with fitting.on_a_share_of_the_cores(parallel):
                yield parallel

    def _says(self, parallel):
        """Return whether to print: of several ranks, the first one does."""
        return self.verbose and parallel.rank == 0

    def _begin(self, values, X, X_valid=None, max_epochs=None, parallel=SERIAL):
        """Have the data decide, and forget what an earlier fit has left."""
        report, verbose = [], self._says(parallel)

        def say(message):
            report.append(message)
            tell(verbose, message)

        with show_stages(verbose) as doing:
            decided, run = fitting.begin(
                values, X, X_valid, max_epochs=max_epochs, say=say, doing=doing, parallel=parallel
            )
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self._keep_feature_names(X)
        self.n_samples_seen_, self.n_features_in_ = len(run.trainer.data.X), decided.preprocessor.n_columns
        self.preprocessor_, self.architecture_ = decided.preprocessor, decided.architecture
        self.backend_, self.seed_, self.learning_rate_ = decided.backend, decided.seed, decided.learning_rate
        self.likelihood_ = self.preprocessor_.likelihood
        self.dtype_in_ = _float_type(run.trainer.data.X.dtype, run.trainer.parameters.vector.dtype).name
        self.report_, self.history_, self.notes_ = report, [], {}
        return run

    def _learning_rate(self):
        """Return the step size to continue with: the setting, or for "auto" the one that the fit has chosen."""
        return self.learning_rate_ if isinstance(self.learning_rate, str) else self.learning_rate

    def _checkpointer(self, checkpoint, every=60.0):
        def record(state, epoch):
            self.training_ = state
            if epoch is not None:
                self.history_.append(epoch)

        def write():
            checkpoint(self) if callable(checkpoint) else self.save(checkpoint)

        return Checkpointer(record, None if checkpoint is None else write, every)

    def _run(self, run, checkpointer, **changes):
        """Set these attributes, train, keep what is needed to continue, and examine the result.

        A run on a piece of the data has no fingerprints, and its result is not examined. Nor is a model without
        encoder, which has no bound.
        """
        trainer, whole, before = run.trainer, run.fingerprints is not None, dict(vars(self))
        parallel, verbose = trainer.parallel, self._says(trainer.parallel)
        vars(self).update(changes)
        self.parameters_ = trainer.parameters  # live: a callback can use the model
        self.fingerprints_, self.stopped_ = run.fingerprints, None
        vars(self).pop("health_", None)
        try:
            checkpointer.begin(trainer)
        except BaseException:  # no file, no training: the model stays as it was
            vars(self).clear()
            vars(self).update(before)
            raise
        fitted, epochs, done = self.fitted_, trainer.settings.max_epochs, trainer.progress.epoch - 1
        try:
            with show_progress(epochs, verbose and whole, done) as show:

                def keep(trainer, epoch):
                    checkpointer(trainer, epoch)
                    show.within(trainer.progress.seen / len(trainer.data.X))

                self.stopped_ = fitting.train(run, self._training_scorer(), (show, *self.callbacks), keep)
        except NonFiniteError as error:
            self.stopped_, self.training_ = str(error), trainer.sound
            raise
        finally:
            self.parameters_ = fitting.on_host(fitted.model, self.parameters_)
        kept = f"kept: {trainer.kept}" if trainer.best is not None or self.averaging != "none" else None
        for message in filter(None, (self.stopped_, kept)):
            self.report_.append(message)
            tell(verbose, message)
        if whole and self.architecture_.has_encoder:
            fitted = self.fitted_
            with show_stages(verbose) as doing:
                doing("examining the model")
                rows, scorer = fitting.some_rows(len(trainer.data.X), fitted.seed), self._training_scorer()
                self.health_ = parallel.first(lambda: examine(fitted, trainer.data.take(rows), self.history_, scorer))
            tell(verbose, str(self.health_))
        parallel.first(checkpointer.save)
        return self

    def _training_scorer(self):
        """Return a new scorer, whose buffers are freed with it, of the bound that the training maximises."""
        return fitting.training_scorer(self.estimator, self.fitted_.model, self.seed_, self.n_samples)

    def __getstate__(self):
        """Return what copies and pickles hold: parameters that a GPU is training are copied to the host."""
        state = dict(vars(self))
        if "parameters_" in state and not isinstance(self.parameters_.vector, np.ndarray):
            state["parameters_"] = fitting.on_host(self.fitted_.model, self.parameters_)
        return state

    def _summary(self):
        return describe(self) if hasattr(self, "parameters_") else ()

    # Using what was fitted --------------------------------------------------------------------------------------------

    @property
    def fitted_(self) -> Fitted:
        """The model with its parameters, on the backend in use, for evaluation and for programs of one's own."""
        self._check_fitted()
        dtype = self.parameters_.vector.dtype
        model = fitting.make_model(self.architecture_, self.backend, self.backend_, dtype, self._allows_nan)
        parameters, names = fitting.on_backend(model, self.parameters_), getattr(self, "feature_names_in_", None)
        return Fitted(model, parameters, self.preprocessor_, self.seed_, self.n_samples, names)

    def transform(self, X: TableLike) -> Any:
        """Return the posterior means: the mu of q(z|x), (N, J) for X (N, D), an array or a sparse matrix.

        Here and in the other methods, codes and data are returned in the floating-point type of the array given, and
        for integers in that of the model. Scores are float64.
        """
        fitted = self.fitted_
        data = fitted.data(X)
        return self._wrap(self._answer("transform", fitted.encode(data)[0], data.X.dtype), X)

    def fit_transform(self, X: TableLike, y: Any = None) -> Any:
        """Return ``fit(X).transform(X)``."""
        return self.fit(X).transform(X)

    def inverse_transform(self, Z: ArrayLike) -> NDArray:
        """Return E[x|z] in the units of the data (pixels in [0, 1]), (R, D) for Z (R, J).

        Where weights are random (full variational Bayes), it is the mean over draws of them.
        """
        return self._answer("E[x|z]", self.fitted_.mean(Z), as_table(Z, "Z").dtype)

    def predictive_std(self, Z: ArrayLike) -> NDArray:
        """Return the epistemic uncertainty of E[x|z], as a standard deviation in the units of the data.

        It is how much E[x|z] varies with random weights (full variational Bayes); it excludes observation noise.
        Without random weights it is zero.

        Parameters
        ----------
        Z : array (R, J)

        Returns
        -------
        array (R, D)
        """
        return self._answer("predictive_std", np.std(list(self.fitted_.decode(Z)), axis=0), as_table(Z, "Z").dtype)

    def weight_divergence(self) -> float:
        """Return D_KL(q(theta) || p(theta)) of all random weights together, in nats; 0 if none are random.

        The bound on log p(X) is the number of datapoints times `score`, less this.
        """
        fitted = self.fitted_
        return fitted.model.weight_posterior.divergence(fitted.parameters)

    def reconstruct(self, X: TableLike) -> NDArray:
        """Return E[x|z] at the posterior mean of each row, in the units of the data: (N, D) for X (N, D).

        X may be sparse; the result is dense.
        """
        fitted = self.fitted_
        data = fitted.data(X)
        mu, _ = fitted.encode(data)
        if message := not_finite("the posterior mean", mu):
            raise ValueError(message)
        return self._answer("reconstruct", fitted.mean(mu), data.X.dtype)

    def encode(self, X: TableLike) -> Codes:
        """Return mean and standard deviation of q(z|x) of each row: the codes, and how sure they are.

        `transform` returns the means alone.

        Parameters
        ----------
        X : array or sparse matrix (N, D)

        Returns
        -------
        Codes
            ``mean`` and ``std``, (N, J) each; data frames where `transform` returns one.

        Examples
        --------
        >>> import numpy as np
        >>> import npvae
        >>> X = np.random.default_rng(0).normal(size=(200, 5))
        >>> settings = {"hidden_layer_sizes": (8,), "learning_rate": 0.05, "max_epochs": 2, "backend": "reference"}
        >>> mean, std = npvae.VAE(2, **settings).fit(X).encode(X[:3])
        >>> mean.shape, std.shape
        ((3, 2), (3, 2))
        """
        fitted = self.fitted_
        data = fitted.data(X)
        mu, log_var = fitted.encode(data)
        codes = (self._answer("encode", code, data.X.dtype) for code in (mu, np.exp(log_var / 2)))
        return Codes(*(self._wrap(code, X) for code in codes))

    def sample_posterior(self, X: TableLike, n_draws: int = 1, *, random_state: int | None = None) -> NDArray:
        """Draw codes z ~ q(z|x) of each row, the model's approximation of the posterior p(z|x).

        The noise of a row is keyed by its content and ``random_state``, by default the model's seed.

        Parameters
        ----------
        X : array or sparse matrix (N, D)
        n_draws : int
        random_state : int, optional

        Returns
        -------
        array (n_draws, N, J)

        Examples
        --------
        >>> import numpy as np
        >>> import npvae
        >>> X = np.random.default_rng(0).normal(size=(200, 5))
        >>> settings = {"hidden_layer_sizes": (8,), "learning_rate": 0.05, "max_epochs": 2, "backend": "reference"}
        >>> model = npvae.VAE(2, **settings).fit(X)
        >>> z = model.sample_posterior(X, 500)
        >>> bool(abs(z.mean(axis=0) - model.transform(X)).max() < 0.3)
        True
        """
        fitted = self.fitted_
        check_number("n_draws", n_draws, np.integer, 1)
        data = fitted.data(X)
        z = fitted.sample_posterior(data, n_draws, self._seed(random_state))
        return self._answer("sample_posterior", z, data.X.dtype)

    def _seed(self, random_state):
        """Return the seed of draws: the one given, or the model's own."""
        if random_state is None:
            return self.seed_
        check_number("random_state", random_state, np.integer, 0)
        return random_state

    def sample(self, n_samples: int = 1, *, mean: bool = False, random_state: int | None = None) -> NDArray:
        """Draw x from the model: z from the prior p(z), then x from p(x|z), in the units of the data.

        Parameters
        ----------
        n_samples : int
        mean : bool
            True: E[x|z] in place of x, without the noise of p(x|z). The paper shows these means in its Figure 5.
        random_state : int, optional
            A seed; by default it is the model's own, and the samples are the same at each call.

        Returns
        -------
        array (n_samples, D)
            Pixels are in [0, 1].

        Examples
        --------
        >>> import numpy as np
        >>> import npvae
        >>> X = np.random.default_rng(0).integers(0, 2, (200, 5))
        >>> settings = {"hidden_layer_sizes": (8,), "learning_rate": 0.05, "max_epochs": 2, "backend": "reference"}
        >>> model = npvae.VAE(2, **settings).fit(X)
        >>> np.unique(model.sample(50)), bool(model.sample(50, mean=True).max() < 1)
        (array([0., 1.], dtype=float32), True)
        """
        fitted = self.fitted_
        check_number("n_samples", n_samples, np.integer, 1)
        check_seed("random_state", random_state)
        rng = fitted.generator("sample") if random_state is None else np.random.default_rng(random_state)
        Z = rng.standard_normal((n_samples, fitted.model.architecture.n_components))
        x = fitted.mean(Z) if mean else fitted.sample(Z, rng)
        return warn_if_not_finite("sample", x).astype(self.dtype_in_, copy=False)

    def interpolate(self, x1: TableLike, x2: TableLike, steps: int = 10) -> NDArray:
        """Return E[x|z] along the straight line from the code of one datapoint to that of another.

        The codes are the means of q(z|x). The first and the last row are the reconstructions of the two.

        Parameters
        ----------
        x1, x2 : array or sparse array (D,)
        steps : int
            Points on the line, with its ends.

        Returns
        -------
        array (steps, D)
            In the units of the data; pixels are in [0, 1].

        Examples
        --------
        >>> import numpy as np
        >>> import npvae
        >>> X = np.random.default_rng(0).normal(size=(200, 5))
        >>> settings = {"hidden_layer_sizes": (8,), "learning_rate": 0.05, "max_epochs": 2, "backend": "reference"}
        >>> model = npvae.VAE(2, **settings).fit(X)
        >>> np.allclose(model.interpolate(X[0], X[1], steps=5)[[0, -1]], model.reconstruct(X[:2]))
        True
        """
        check_number("steps", steps, np.integer, 2)
        x1, x2 = as_vector(x1), as_vector(x2)
        line = np.linspace(self._code_of("x1", x1), self._code_of("x2", x2), steps)
        return self._answer("interpolate", self.fitted_.mean(line), np.asarray(x1).dtype)

    def _code_of(self, name, x):
        """Return the mean (J,) of q(z|x) of one datapoint."""
        if np.ndim(x) != 1:
            raise ValueError(f"{name} has the shape {np.shape(x)}; expected one datapoint, (D,)")
        fitted = self.fitted_
        table = survey(np.asarray(x)[None], name, fitted.model.missing)
        return fitted.encode(fitted.preprocessor.data(table, name))[0][0]

    # What is not seen: p(x | seen) ------------------------------------------------------------------------------------

    def impute(
        self,
        X: TableLike,
        *,
        n_draws: int | None = None,
        return_std: bool = False,
        method: str = "chains",
        n_samples: int = 256,
        random_state: int | None = None,
    ) -> Any:
        """Fill in the cells of X that are NaN, by their distribution under the model given the others.

        z is sampled from p(z | observed cells) by Markov chains: see ``docs/uses.md``. A row that is NaN throughout is
        one of the prior. Cells that are there stay as they are.

        Parameters
        ----------
        X : array, data frame or sparse matrix (N, D)
        n_draws : int, optional
            Return so many draws of the missing cells in place of their means: multiple imputation.
        return_std : bool
            Whether to return standard deviations as well; they include the noise of p(x|z).
        method : {"chains", "one-pass"}
            "chains": conditional means. "one-pass", a baseline: encode the row with 0 in its holes, and decode; for
            standardized columns, 0 is the mean.
        n_samples : int
            Samples of z for each row.
        random_state : int, optional
            The noise of a row is keyed by this seed, by default the model's, and by the row's content.

        Returns
        -------
        array or data frame (N, D), like X; of a sparse X an array
            Conditional means E[missing | observed]. Of a binary cell, this is the probability of 1. With
            ``return_std`` a tuple of two, with standard deviations, which are 0 where X has a value. With ``n_draws``
            an array (n_draws, N, D).

        Raises
        ------
        ValueError
            If X does not match the training data, holds infinite values, or a setting is not valid; if the model has
            random weights.

        Warns
        -----
        UserWarning
            Where the chains of a row do not agree, or their effective sample size is small.

        Examples
        --------
        >>> import numpy as np
        >>> import npvae
        >>> X = np.random.default_rng(0).normal(size=(200, 1)) + [0.0, 5.0, 9.0]
        >>> settings = {"hidden_layer_sizes": (), "learning_rate": 0.05, "max_epochs": 50, "backend": "reference"}
        >>> model = npvae.VAE(1, **settings).fit(X)
        >>> model.impute([[0.0, np.nan, 9.0], [1.0, np.nan, np.nan]]).round()
        array([[ 0.,  5.,  9.],
               [ 1.,  6., 10.]])
        """
        with self._wanted("filling in", n_draws, return_std, n_samples, random_state) as wanted:
            return uses.impute(self.fitted_, X, method, wanted)

    def denoise(
        self,
        X: TableLike,
        *,
        sigma: ArrayLike | None = None,
        salt_and_pepper: float | None = None,
        extremes: Sequence[float] | None = None,
        n_draws: int | None = None,
        return_std: bool = False,
        n_samples: int = 256,
        random_state: int | None = None,
    ) -> Any:
        """Return E[x | noisy x], for noise of a known kind and strength. It is integrated out, as part of p(noisy x|z).

        One of ``sigma`` and ``salt_and_pepper`` must be given. Cells that are NaN are filled in.

        Parameters
        ----------
        X : array, data frame or sparse matrix (N, D)
        sigma : float or array (D,), optional
            Standard deviation of Gaussian noise that was added, in the units of X. Where it is 0, x is as in X.
        salt_and_pepper : float, optional
            The probability with which a cell was replaced by one of two values, each as likely.
        extremes : (float, float), optional
            These two values, in the units of X. By default the ends of the range, for data that lies in [0, 1].
        n_draws, return_std, n_samples, random_state : see `impute`

        Returns
        -------
        array or data frame (N, D), like X; of a sparse X an array
            See `impute`. Pixels are in the units of X; a grey value is the probability of 1.

        Raises
        ------
        ValueError
            If not exactly one kind of noise is given, or its strength is out of range. See also `impute`.

        Warns
        -----
        UserWarning
            See `impute`.

        Examples
        --------
        >>> import numpy as np
        >>> import npvae
        >>> X = np.random.default_rng(0).normal(size=(200, 1)) + [0.0, 5.0, 9.0]
        >>> settings = {"hidden_layer_sizes": (), "learning_rate": 0.05, "max_epochs": 50, "backend": "reference"}
        >>> model = npvae.VAE(1, **settings).fit(X)
        >>> model.denoise([[0.5, 4.5, 9.0]], sigma=0.5).round()
        array([[0., 5., 9.]])
        """
        with self._wanted("denoising", n_draws, return_std, n_samples, random_state) as wanted:
            return uses.denoise(self.fitted_, X, sigma, salt_and_pepper, extremes, wanted)

    def super_resolve(
        self,
        X: TableLike,
        image_shape: Sequence[int],
        factor: int,
        *,
        n_draws: int | None = None,
        return_std: bool = False,
        n_samples: int = 256,
        random_state: int | None = None,
    ) -> Any:
        """Return E[picture | averages of its blocks]: pictures with ``factor`` times as many pixels on each side.

        For a Gaussian decoder the averages are Gaussian. Of a binary picture, they count the pixels that are 1 in a
        block; a number between two integers, as of grey values, counts as both. Averages that are NaN were not seen.

        Parameters
        ----------
        X : array (N, D / factor^2)
            Averages over blocks of factor x factor pixels, in the units of the training data.
        image_shape : (height, width) or (height, width, colours)
            Of the pictures that are returned, those of the training.
        factor : int
            It divides height and width.
        n_draws, return_std, n_samples, random_state : see `impute`

        Returns
        -------
        array (N, D)
            In the units of X. See `impute`.

        Raises
        ------
        ValueError
            If the shape is not that of the model's pictures, the factor does not divide it, or X is not of the shape or
            the range that follows; if the data has columns of several kinds. See also `impute`.

        Warns
        -----
        UserWarning
            See `impute`.

        Examples
        --------
        >>> import numpy as np
        >>> import npvae
        >>> X = np.random.default_rng(0).normal(size=(200, 1)) + [1.0, 2.0, 3.0, 4.0]  # pictures of 2 x 2 pixels
        >>> settings = {"hidden_layer_sizes": (), "learning_rate": 0.05, "max_epochs": 50, "backend": "reference"}
        >>> model = npvae.VAE(1, **settings).fit(X)
        >>> model.super_resolve([[2.5]], image_shape=(2, 2), factor=2).round()
        array([[1., 2., 3., 4.]])
        """
        with self._wanted("super-resolving", n_draws, return_std, n_samples, random_state) as wanted:
            return uses.super_resolve(self.fitted_, X, image_shape, factor, wanted)

    @contextlib.contextmanager
    def _wanted(self, stage, n_draws, return_std, n_samples, random_state):
        """Yield what is wanted of p(x | seen), with a display of progress."""
        self._check_fitted()
        seed = self._seed(random_state)
        with show_rows(stage, self.verbose) as told:
            yield uses.Wanted(n_draws, return_std, n_samples, seed, told)

    def score_samples(self, X: TableLike) -> NDArray[np.float64]:
        """Estimate the lower bound on log p(x) of each row: (N,) in nats, for X (N, D); of its observed cells.

        The noise of a row is keyed by its content and the model's seed: a score does not change from call to call, nor
        with the other rows. It is in nats of the data as given, whatever its type: of uint8 pixels a density is lower
        by D log 255 than of the same pixels divided by 255. A Bernoulli gives a probability, which has no unit.

        The bound is that of equation 7 for every estimator, also where the training maximised another: after "iwae" it
        may lie far below log p(x), since q(z|x) was fitted to serve many samples together.
        """
        fitted = self.fitted_
        return warn_if_not_finite("score_samples", fitted.score(fitted.data(X)))

    def score(self, X: TableLike, y: Any = None) -> float:
        """Return the mean of `score_samples`: the lower bound a datapoint, in nats. ``y`` is ignored."""
        return float(np.mean(self.score_samples(X)))

    def log_likelihood(
        self, X: TableLike, *, method: str = "importance", n_samples: int | None = None, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimate log p(x) of each row: (N,) in nats of the data as given, for X (N, D).

        `score_samples` is a lower bound on it, and takes a small part of the time. ``docs/likelihood.md`` compares the
        methods. As for a score, the noise of a row is keyed by its content and the model's seed.

        Parameters
        ----------
        X : array or sparse matrix (N, D)
        method : {"importance", "marginal", "annealed", "quadrature"}
            "importance": samples of q(z|x). "marginal": the estimator of the paper's Appendix D. "annealed": annealed
            importance sampling. "quadrature": a grid that moves from q(z|x) to the posterior, for up to 3 latents.
        n_samples : int, optional
            Samples of q(z|x) (by default 5000), samples of the posterior in each set (50), chains (16), or nodes in
            each dimension (41; or 5, 9, 13, ...).
        return_std : bool
            Whether to return standard errors as well.

        Returns
        -------
        array (N,), or with ``return_std`` a tuple of two: the estimates and their standard errors, in nats

        Raises
        ------
        ValueError
            If there is no such method, it does not take this number of samples or this many latent dimensions, or X
            does not match the training data.

        Warns
        -----
        UserWarning
            Where a diagnosis of the method says that an estimate is not to be believed: in how many rows, and the worst
            of them.
        """
        fitted = self.fitted_
        found = estimate(fitted, fitted.data(X), method, n_samples)
        log_prob = warn_if_not_finite("log_likelihood", found.log_prob)
        return (log_prob, found.error) if return_std else log_prob

    def _answer(self, name, array, dtype):
        """Return an array in the floating-point type given, with a warning if it has values that are not finite."""
        return warn_if_not_finite(name, array).astype(_float_type(dtype, self.parameters_.vector.dtype), copy=False)

    def _check_fitted(self):
        if not hasattr(self, "parameters_"):
            raise not_fitted(type(self).__name__)

    @property
    def _allows_nan(self):
        return self.missing == "model"

    @property
    def _n_features_out(self):
        return self.architecture_.n_components

    # Files and checks -------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike, notes: dict | None = None) -> None:
        """Write the fitted model, and the state of its training, to exactly this path: whole or not at all.

        The file is an ``.npz`` without pickles. Callbacks are not saved.

        Parameters
        ----------
        path : str or path
        notes : dict of what JSON can hold, optional
            Kept in the file, and found again in ``notes_``.

        Raises
        ------
        OSError
            If it cannot be written; a file that was there before is then unchanged.
        TypeError
            If JSON cannot hold the notes.
        ValueError
            If `load` would refuse the file: a setting was changed to what no fit accepts, or a number is not finite.
        """
        self._check_fitted()
        modelfile.save(path, *persistence.to_file(self, self.notes_ if notes is None else notes))
        if notes is not None:
            self.notes_ = notes

    @classmethod
    def load(cls, path: str | PathLike) -> "VAE":
        """Read a model that `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not an npvae model, or is damaged. The message names the file, and the entry that cannot be.
        """
        header, arrays = modelfile.load(path)
        try:
            return persistence.from_file(cls, header, arrays)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def starting_point(self, X: TableLike) -> fitting.StartingPoint:
        """Return what training on X would start from, or the fitted parameters: for `npvae.gradcheck`."""
        values = self._checked_settings()
        return fitting.starting_point(values, X, self.fitted_ if hasattr(self, "parameters_") else None)


def _float_type(given: np.dtype, otherwise: np.dtype) -> np.dtype:
    """Return the type of floats given; for integers and bools the other one."""
    return given.newbyteorder("=") if given.kind == "f" else otherwise


def load(path: str | PathLike) -> VAE:
    """Read a model that `VAE.save` wrote; see `VAE.load`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 4))
    >>> model = npvae.VAE(1, learning_rate=0.02, max_epochs=1, backend="reference").fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(pathlib.Path(folder, "model.npz"))
    ...     again = npvae.load(pathlib.Path(folder, "model.npz"))
    >>> again.score(X) == model.score(X)
    True
    """
    return VAE.load(path)
