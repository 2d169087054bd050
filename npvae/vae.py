"""The estimator that users hold: `VAE`, with scikit-learn's conventions, and the one call `fit`.

It checks what comes in, wires the parts together, and turns results back into the units of the data.
"""

import dataclasses
import logging
import sys

import numpy as np

from . import backends, modelfile, persistence, settings, training
from .conventions import Estimator, check_number, column_names, compare_names, not_fitted
from .estimators import ESTIMATORS, RANDOM, WEIGHT_DRAWS, Scorer, available, suits
from .health import examine
from .model import Architecture, Model
from .parameters import Buffers
from .preprocessing import check_array, choose_likelihood, fingerprints, fit_preprocessor
from .progress import show_progress
from .training import NonFiniteError

logger = logging.getLogger(__name__)

#: Training rows whose bound decides between step sizes, and those that a fitted model is examined on.
SOME_ROWS = 2000


class VAE(Estimator):
    __doc__ = f"""A variational autoencoder, trained by stochastic gradient variational Bayes (Kingma & Welling, 2014).

    The constructor stores every setting as given; `fit` checks them.

    {settings.numpydoc()}

    Attributes
    ----------
    parameters_ : Parameters
        Flat vector of all parameters, and its named views.
    history_ : list of Epoch
        One entry for each epoch.
    report_ : list of str
        What was found in the data and what was chosen.
    health_ : Health
        What the model has learnt, measured on up to 2000 rows of the training data. Not set by `partial_fit`.
    likelihood_, learning_rate_, backend_
        The values used, chosen where the setting is "auto".
    n_features_in_ : int
        Columns of the training data, the D of the paper.
    feature_names_in_ : array of str
        Names of the columns, if they have names.
    n_samples_seen_ : int
        Rows of the training data, the N of the paper.
    architecture_, preprocessor_, seed_
        Architecture, preprocessing and seed that belong to the parameters.
    training_, fingerprints_
        State of the training and fingerprints of its data, for `resume` and `partial_fit`.
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
        n_components=20,
        *,
        hidden_layer_sizes=(500,),
        activation="tanh",
        likelihood="auto",
        estimator="sgvb-b",
        posterior="gaussian",
        n_samples=1,
        batch_size=100,
        optimizer="adagrad",
        learning_rate="auto",
        weight_prior=1.0,
        init_std=0.1,
        max_epochs=100,
        patience=10,
        backend="auto",
        dtype="float32",
        callbacks=(),
        verbose=False,
        random_state=0,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.likelihood = likelihood
        self.estimator = estimator
        self.posterior = posterior
        self.n_samples = n_samples
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_prior = weight_prior
        self.init_std = init_std
        self.max_epochs = max_epochs
        self.patience = patience
        self.backend = backend
        self.dtype = dtype
        self.callbacks = callbacks
        self.verbose = verbose
        self.random_state = random_state

    def _check_settings(self):
        settings.check(vars(self))

    def _runs_on_cuda(self):
        return self.estimator in available(self.posterior, "cuda")

    # Fitting ----------------------------------------------------------------------------------------------------------

    def fit(self, X, y=None, *, X_valid=None, checkpoint=None, checkpoint_every=60.0):
        """Maximise the lower bound on log p(X).

        Parameters
        ----------
        X : array (N, D)
            uint8 data is read as pixels and stays uint8 in memory.
        y : ignored
        X_valid : array (N', D), optional
            Validation data: its bound is recorded after each epoch, training stops early, the best parameters stay.
        checkpoint : path, optional
            Model file that is written when training begins, every ``checkpoint_every`` seconds, and at the end: a run
            that was killed goes on with ``npvae.load(path).resume(X)``. Until the end it holds the latest parameters,
            not the best ones. Or a function that is called with the model and saves it.
        checkpoint_every : float

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a setting or the data is not valid; the message names it.
        NonFiniteError
            If training diverges; the model holds the parameters before the step that failed, or the best ones on
            validation data.
        OSError
            If the checkpoint cannot be written when training begins, or at the end. In between it is tried again.
        """
        self._check_settings()
        keeper = self._keeper(checkpoint, checkpoint_every)
        model, data, initial, valid = self._start(X, X_valid)
        return self._run(self._trainer(model, data, initial), valid, keeper, fingerprints(data, valid))

    def resume(self, X, y=None, *, X_valid=None, checkpoint=None, checkpoint_every=60.0):
        """Go on with a training that was interrupted, killed, or is to have more epochs.

        With the data and the settings that it began with, it ends with the same bits as if it had not stopped. Settings
        may be changed before, such as ``max_epochs`` or ``learning_rate``; those of the networks and of the likelihood
        stay as fitted.

        Parameters
        ----------
        X, X_valid : the data of the run, again
        y, checkpoint, checkpoint_every : see `fit`

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is nothing to go on with, or the data is not that of the run: its shape, its type and a checksum of
            up to a thousand rows are compared.
        NonFiniteError, OSError
            See `fit`.
        """
        self._check_settings()
        model, keeper, state = self._fitted_model(), self._keeper(checkpoint, checkpoint_every), self.training_
        if self.fingerprints_ is None:
            raise ValueError("this model was trained on data in pieces; go on with partial_fit")
        data, valid = self._data(X), None if X_valid is None else self._data(X_valid, "X_valid")
        found = fingerprints(data, valid)
        for name, this, expected in zip(("X", "X_valid"), found, self.fingerprints_):
            if this != expected:
                had = f"{expected} (rows, columns, type, checksum)"
                raise ValueError(f"{name} is {this}, but the training that is to go on had {had}")
        if state.progress.epoch > self.max_epochs:
            done = state.progress.epoch - 1
            self._tell(f"nothing to resume: {done} epochs are done; for more, set max_epochs higher")
        self.history_ = [epoch for epoch in self.history_ if epoch.epoch < state.progress.epoch]
        self._take_learning_rate()
        return self._run(self._trainer(model, data, state.parameters, state), valid, keeper, found)

    def partial_fit(self, X, y=None):
        """Train for one epoch on a piece of the data.

        The first piece decides the likelihood, the scaling of the columns and, where it is "auto", the learning rate,
        as if it were all. After `fit`, training goes on from what was fitted. N, which says how little the prior on the
        weights matters against the data, is the number of rows of all calls so far; a piece given twice counts twice.

        Parameters
        ----------
        X : array (N', D)
        y : ignored

        Returns
        -------
        self
        """
        self._check_settings()
        if not hasattr(self, "parameters_"):
            model, data, initial, _ = self._start(X, max_epochs=1)
            trainer = self._trainer(model, data, initial, max_epochs=1)
        else:
            model, data, progress = self._fitted_model(), self._data(X), self.training_.progress
            self._take_learning_rate()
            self.n_samples_seen_ += len(data.X)
            # The objective is a mean over the piece: the prior has the share in it that it has in a mean over all rows.
            weight_prior = self.weight_prior * len(data.X) / self.n_samples_seen_
            epoch = progress.epoch + (progress.seen > 0)  # one that was interrupted is over
            progress = dataclasses.replace(
                progress, epoch=epoch, seen=0, total=0.0, order=None, best_bound=-np.inf, since_best=0
            )
            vector = model.backend.to_numpy(self.parameters_.vector)
            state = training.State(vector, self.training_.squares, vector[:0], progress)
            trainer = self._trainer(model, data, vector, state, max_epochs=epoch, weight_prior=weight_prior)
        return self._run(trainer, None, self._keeper(None), None)

    def _keeper(self, checkpoint, every=60.0):
        write = checkpoint
        if checkpoint is not None and not callable(checkpoint):
            write = lambda model: model.save(checkpoint)  # noqa: E731
        return persistence.Keeper(self, write, every)

    def _start(self, X, X_valid=None, **changes):
        """Decide what the data decides, and forget what an earlier fit has left, which would not belong with it.

        Returns
        -------
        model : Model; data : Data; initial : the parameters (P,), as drawn; valid : Data, or None
        """
        array = check_array(X)
        likelihood, preprocessor, messages = self._choose_preprocessing(array)
        data, valid = preprocessor.data(array), None
        if X_valid is not None:
            compare_names(column_names(X_valid), column_names(X), type(self).__name__)
            valid = preprocessor.data(check_array(X_valid, "X_valid"), "X_valid")

        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self._keep_feature_names(X)
        self.n_samples_seen_, self.n_features_in_ = array.shape
        self.likelihood_, self.preprocessor_ = likelihood, preprocessor
        self.architecture_ = self._architecture(likelihood, array.shape[1])
        self.backend_ = self._choose_backend(len(array), changes.get("max_epochs", self.max_epochs))
        self.seed_ = _seed(self.random_state)
        self.report_, self.history_, self.notes_ = [], [], {}
        for message in messages:
            self._say(message)
        model = self._model(self.dtype)
        initial = model.initial(self._rng("weights"), self.init_std)
        self.learning_rate_ = self.learning_rate
        if self.learning_rate == "auto":
            self.learning_rate_ = self._choose_step_size(model, data, initial, changes)
        return model, data, initial, valid

    def _take_learning_rate(self):
        """Take a learning rate that was set since the fit; one that was chosen by it stays."""
        if self.learning_rate != "auto":
            self.learning_rate_ = self.learning_rate

    def _choose_backend(self, n_rows, max_epochs):
        """Return the backend: as set, or by the work that a fit to so many rows is."""
        if self.backend != "auto":
            return self.backend
        rows = min(self.batch_size, n_rows)
        multiplied = Model(self.architecture_, backends.get("reference")).layout.n_weights * self.n_samples
        step = 6 * rows * multiplied  # a multiplication and an addition in each of three products of a layer
        return backends.choose(step, step * max_epochs * n_rows / rows) if self._runs_on_cuda() else "cpu"

    def _choose_preprocessing(self, X):
        likelihood, reason = self.likelihood, "as set"
        if likelihood == "auto":
            likelihood, reason = choose_likelihood(X)
        preprocessor, notices = fit_preprocessor(X, likelihood)
        return likelihood, preprocessor, [f"likelihood: {likelihood} ({reason})", *notices]

    def _run(self, trainer, valid, keeper, prints):
        """Train, keep what is needed to go on, and look at the result; ``prints`` is None for a piece of the data."""
        self.parameters_, model = trainer.parameters, trainer.estimator.model  # live: a callback can use the model
        self.fingerprints_, self.stopped_, whole = prints, None, prints is not None
        vars(self).pop("health_", None)
        keeper.begin(trainer)
        scorer = self._scorer(model)
        score_valid = None if valid is None else lambda parameters: scorer(parameters, valid).mean()
        epochs, done = trainer.settings.max_epochs, trainer.progress.epoch - 1
        try:
            with show_progress(epochs, self.verbose and whole, done) as show:
                self.stopped_ = training.train(trainer, score_valid, (show, *self.callbacks), keeper)
        except NonFiniteError as error:
            self.stopped_ = str(error)
            raise
        finally:  # what stays is on the host
            vector = model.backend.to_numpy(self.parameters_.vector)
            if vector is not self.parameters_.vector:
                self.parameters_ = model.layout.view(vector)
        if self.stopped_:
            self._say(self.stopped_)
        if whole:
            self.health_ = examine(model, self._parameters(model), self._some_rows(trainer.data), scorer, self.history_)
            self._tell(str(self.health_))
        keeper.save()
        return self

    def _parameters(self, model):
        """Return the parameters where the model's backend computes."""
        vector = model.backend.asarray(self.parameters_.vector, model.dtype)
        return self.parameters_ if vector is self.parameters_.vector else model.layout.view(vector)

    def _choose_step_size(self, model, data, initial, changes):
        subset, scorer = self._some_rows(data), self._scorer(model)
        step_size, bounds = training.choose_step_size(
            lambda candidate: self._trainer(model, data, initial, learning_rate=candidate, **changes),
            lambda parameters: scorer(parameters, subset).mean(),
        )
        bounds = ", ".join(f"{candidate:g}: {bound:.1f}" for candidate, bound in bounds.items())
        self._say(f"learning rate: {step_size:g} (training bound in nats after the first steps of {bounds})")
        return step_size

    def _some_rows(self, data):
        rows = self._rng("step size").permutation(len(data.X))[:SOME_ROWS]
        return data._replace(X=data.X[np.sort(rows)])

    def _trainer(self, model, data, initial, state=None, **changes):
        settings = training.Settings(
            self.optimizer, self.learning_rate_, self.weight_prior, self.batch_size, self.max_epochs, self.patience
        )
        if not suits(self.estimator, model.architecture):
            raise ValueError(
                f"estimator is {self.estimator!r}, but the model was fitted by another, with "
                f"{'random' if model.architecture.random else 'fixed'} weights and the posterior "
                f"{model.architecture.posterior!r}; fit it anew"
            )
        estimator = ESTIMATORS[self.estimator](model, self.n_samples, self.n_samples_seen_)
        settings, rng = settings._replace(**changes), self._rng("training")
        return training.Trainer(estimator, model.parameters(initial), data, rng, settings, state)

    def _architecture(self, likelihood, n_features):
        sizes = tuple(map(int, self.hidden_layer_sizes))
        return Architecture(
            n_features, int(self.n_components), sizes, self.activation, likelihood,
            posterior=self.posterior, random=RANDOM.get(self.estimator),
        )  # fmt: skip

    def _model(self, dtype):
        backend, architecture = self._backend(), self.architecture_
        if self.backend == "cuda" and (architecture.random or architecture.posterior != "gaussian"):
            raise ValueError(
                f"backend is 'cuda', but the model has {'random' if architecture.random else 'fixed'} weights and the "
                f"posterior {architecture.posterior!r}; expected fixed weights and 'gaussian' there, or another backend"
            )
        return Model(architecture, backend, dtype)

    def _backend(self):
        """Return the backend in use; "auto" is what the last fit has chosen, where there is a GPU if that is one."""
        if self.backend != "auto":
            return backends.get(self.backend)
        chosen = getattr(self, "backend_", "cpu")
        return backends.get("cpu" if chosen == "cuda" and backends.missing_for_cuda() else chosen)

    def _scorer(self, model):
        return Scorer(model, self.seed_, self.n_samples)

    def _rng(self, purpose):
        return _rng(self.seed_, purpose)

    def _say(self, message):
        self.report_.append(message)
        self._tell(message)

    def _tell(self, message):
        if self.verbose:
            print(message, file=sys.stderr)
        else:
            logger.info(message)

    # Using what was fitted --------------------------------------------------------------------------------------------

    def transform(self, X):
        """Return the posterior means: the mu of q(z|x), (N, J) for X (N, D)."""
        model, data = self._fitted_model(), self._data(X)
        parameters = self._parameters(model)

        def mu(rows, buffers):
            x = model.backend.gather(data.X, rows, data.scaling, buffers("x", len(rows), self.n_features_in_))
            return model.encode(parameters, x, buffers).outputs[0]

        return self._wrap(_by_batches(model, mu, len(data.X)), X)

    def fit_transform(self, X, y=None):
        """Return ``fit(X).transform(X)``."""
        return self.fit(X).transform(X)

    def inverse_transform(self, Z):
        """Return E[x|z] in the units of the data (pixels in [0, 1]), (R, D) for Z (R, J).

        Where weights are random (full variational Bayes), it is the mean over draws of them.
        """
        return np.mean(self._predictions(Z), axis=0)

    def predictive_std(self, Z):
        """Return how much E[x|z] varies with the weights, as a standard deviation in the units of the data.

        It tells what the model does not know for want of data; the noise of p(x|z) is no part of it. Without random
        weights it is zero.

        Parameters
        ----------
        Z : array (R, J)

        Returns
        -------
        array (R, D)
        """
        return np.std(self._predictions(Z), axis=0)

    def _predictions(self, Z):
        """Return E[x|z] in the units of the data, (R, D), for each draw of the weights."""
        model, Z = self._fitted_model(), check_array(Z, "Z")
        if Z.shape[1] != model.architecture.n_components:
            raise ValueError(f"Z has {Z.shape[1]} columns; expected n_components = {model.architecture.n_components}")
        z = model.backend.asarray(Z, model.dtype)

        def mean(drawn):
            return lambda rows, buffers: model.mean(model.decode(drawn, z[rows[0] : rows[-1] + 1], buffers).outputs)

        draws = model.weights.draws(self._parameters(model), self.seed_, WEIGHT_DRAWS)
        return [self.preprocessor_.restore(_by_batches(model, mean(drawn), len(Z))) for drawn in draws]

    def weight_divergence(self):
        """Return D_KL(q(theta) || p(theta)) of all random weights together, in nats; 0 if none are random.

        The bound on log p(X) is the number of datapoints times `score`, less this.
        """
        return self._fitted_model().weights.divergence(self.parameters_)

    def reconstruct(self, X):
        """Return E[x|z] at the posterior mean of each row, in the units of the data: (N, D) for X (N, D)."""
        return self.inverse_transform(np.asarray(self.transform(X)))

    def sample(self, n_samples=1, *, random_state=None):
        """Draw z from the prior and return E[x|z], in the units of the data: (n_samples, D).

        These are the means that the paper shows in its Figure 5, without the noise of p(x|z). ``random_state`` is a
        seed; by default it is the model's own, and the samples are the same at each call.
        """
        model = self._fitted_model()
        check_number("n_samples", n_samples, np.integer, 1)
        rng = self._rng("sample") if random_state is None else np.random.default_rng(random_state)
        return self.inverse_transform(rng.standard_normal((n_samples, model.architecture.n_components)))

    def score_samples(self, X):
        """Estimate the lower bound on log p(x) of each row: (N,) in nats, for X (N, D).

        The noise of a row is keyed by its content and the model's seed: a score does not change from call to call, nor
        with the other rows. With standardized columns it is in nats of the data as given.
        """
        model, data = self._fitted_model(), self._data(X)
        return self._scorer(model)(self._parameters(model), data)

    def score(self, X, y=None):
        """Return the mean of `score_samples`: the lower bound a datapoint, in nats. ``y`` is ignored."""
        return float(np.mean(self.score_samples(X)))

    def _check_fitted(self):
        if not hasattr(self, "parameters_"):
            raise not_fitted(type(self).__name__)

    def _fitted_model(self):
        self._check_fitted()
        return self._model(self.parameters_.vector.dtype)

    def _data(self, X, name="X"):
        """Check data like that of the fit, and attach its scaling."""
        self._check_feature_names(X)
        return self.preprocessor_.data(check_array(X, name), name)

    @property
    def _n_features_out(self):
        return self.architecture_.n_components

    # Files and checks -------------------------------------------------------------------------------------------------

    def save(self, path, notes=None):
        """Write the fitted model, and where its training stands, to exactly this path: whole or not at all.

        The file is an ``.npz`` without pickles. Callbacks are not saved.

        Parameters
        ----------
        path : str or path
        notes : dict of what JSON can hold, optional
            Kept in the file, and found again in ``notes_``.

        Raises
        ------
        OSError
            If it cannot be written; a file that was there before is then as it was.
        TypeError
            If JSON cannot hold the notes.
        """
        self._check_fitted()
        header, arrays = persistence.to_file(self)
        modelfile.save(path, header | {"notes": self.notes_ if notes is None else notes}, arrays)
        if notes is not None:
            self.notes_ = notes

    @classmethod
    def load(cls, path):
        """Read a model that `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not an npvae model, or is damaged.
        """
        header, arrays = modelfile.load(path)
        try:
            return persistence.from_file(cls, header, arrays)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    def starting_point(self, X):
        """Return what training on X would start from, or what a fitted model has: for `npvae.gradcheck`.

        Returns
        -------
        architecture : Architecture; data : X as Data; vector (P,) : parameters, float64
        """
        self._check_settings()
        X = check_array(X)
        if hasattr(self, "parameters_"):
            architecture, preprocessor = self.architecture_, self.preprocessor_
            vector = self._fitted_model().backend.to_numpy(self.parameters_.vector).astype(float)
        else:
            likelihood, preprocessor, _ = self._choose_preprocessing(X)
            architecture = self._architecture(likelihood, X.shape[1])
            model = Model(architecture, self._backend())
            vector = model.initial(_rng(_seed(self.random_state), "weights"), self.init_std)
        return architecture, preprocessor.data(X), vector


def fit(X, *, X_valid=None, **values):
    """Train a `VAE` on X with settings suited to its size, and report what was chosen and why.

    Parameters
    ----------
    X : array (N, D)
        See `VAE.fit`.
    X_valid : array (N', D), optional
        Validation data: training then stops after ``patience`` epochs without a better bound on it.
    **values
        Any setting of `VAE`; the settings given are not chosen.

    Returns
    -------
    VAE
        Fitted; ``report_`` lists the choices.
    """
    choices = [choice for choice in settings.for_data(*check_array(X).shape) if choice.name not in values]
    model = VAE(**{"verbose": True} | {choice.name: choice.value for choice in choices} | values)
    report = [f"{name}: {value} ({reason})" for name, value, reason in choices]
    if model.verbose and report:
        print(*report, sep="\n", file=sys.stderr)
    model.fit(X, X_valid=X_valid)
    model.report_ = report + model.report_
    return model


def load(path):
    """Read a model that `VAE.save` wrote; see `VAE.load`."""
    return VAE.load(path)


def _by_batches(model, function, n_rows):
    """Stack ``function(rows, buffers)``, an array of the backend each time, over batches of at most 500 rows."""
    buffers = Buffers(model.backend, model.dtype)
    batches = np.split(np.arange(n_rows), range(Scorer.batch_size, n_rows, Scorer.batch_size))
    return np.concatenate([np.array(model.backend.to_numpy(function(rows, buffers))) for rows in batches])


def _rng(seed, purpose):
    """Return the generator of a purpose: independent of the others, and the same whenever it is asked for."""
    return np.random.default_rng([seed, *purpose.encode()])


def _seed(random_state):
    """Return random_state, or a fresh seed for None."""
    return int(np.random.default_rng().integers(2**63)) if random_state is None else int(random_state)
