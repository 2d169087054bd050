"""The estimator that users hold: `VAE`, with scikit-learn's conventions, and the one call `fit`.

It checks what comes in, wires the parts together, and turns results back into the units of the data.
"""

import inspect
import logging
import sys

import numpy as np

from . import backends, checkpoint, training
from .estimators import ESTIMATORS, Scorer
from .model import LIKELIHOODS, Architecture, Model
from .optimizers import STEPS
from .parameters import Buffers
from .preprocessing import Preprocessor, Scaling, check_array, choose_likelihood, fit_preprocessor
from .progress import show_progress

logger = logging.getLogger(__name__)

#: Training rows whose bound decides between step sizes.
STEP_SIZE_ROWS = 2000


class VAE:
    """A variational autoencoder, trained by stochastic gradient variational Bayes (Kingma & Welling, 2014).

    Every setting is stored as given and checked by `fit`.

    Parameters
    ----------
    n_components : int
        Dimension J of the latent space.
    hidden_layer_sizes : tuple of int
        Units of the encoder's hidden layers; the decoder has the same in reverse. ``()`` is a linear model.
    activation : {"tanh", "sigmoid"}
        Of the hidden layers.
    likelihood : {"auto", "bernoulli", "gaussian", "sigmoid-gaussian"}
        p(x|z). "auto" looks at the data: 0 and 1, pixels (uint8) or values in [0, 1] are Bernoulli, anything else is
        Gaussian on standardized columns. "sigmoid-gaussian" has means in (0, 1), as for the paper's Frey faces. The
        log-variance of a Gaussian never falls below -13.57: the rounding error of an 8-bit pixel in [0, 1], and one
        883rd of the standard deviation of a standardized column. uint8 data is read as pixels, divided by 255, unless
        it holds 0 and 1 alone.
    estimator : {"sgvb-b", "sgvb-a"}
        Of the bound: with the divergence from the prior in closed form, or sampled.
    n_samples : int
        Samples z for each datapoint, the L of the paper.
    batch_size : int
        Datapoints in a minibatch, the M of the paper.
    optimizer : {"adagrad", "sgd"}
    learning_rate : "auto" or float
        Step size. "auto" compares 0.01, 0.02 and 0.1 on the training bound after the first iterations.
    weight_prior : float
        Precision of the Gaussian prior on all weights, not biases (maximum a posteriori); 0 is maximum likelihood.
    init_std : float
        Standard deviation of the initial weights.
    max_epochs : int
    patience : int
        Epochs without a better validation bound after which training stops, when there is validation data.
    backend : {"auto", "reference", "cpu"}
        Where the arithmetic is done.
    dtype : {"float32", "float64"}
    callbacks : sequence of callables
        Each is called after an epoch with a `training.Epoch`; returning True stops training.
    verbose : bool
        Whether to show progress, and the choices made, on standard error.
    random_state : int or None
        Seed of everything random: the same seed gives the same bits. None takes a new one for each fit.

    Attributes
    ----------
    parameters_ : Parameters, the flat vector and its named views
    history_ : list of Epoch
    report_ : list of str, what was found in the data and chosen
    likelihood_, learning_rate_ : what "auto" became
    n_features_in_ : int, columns of the data
    architecture_, preprocessor_, seed_ : what the parameters belong to
    """

    def __init__(
        self,
        n_components=20,
        *,
        hidden_layer_sizes=(500,),
        activation="tanh",
        likelihood="auto",
        estimator="sgvb-b",
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

    # Settings, as scikit-learn handles them ---------------------------------------------------------------------------

    def get_params(self, deep=True):
        """Return the settings as a dict."""
        return {name: getattr(self, name) for name in inspect.signature(VAE).parameters}

    def set_params(self, **params):
        """Change settings by name and return self; ValueError for unknown names."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"VAE has no parameter {name!r}; it has {', '.join(self.get_params())}")
            setattr(self, name, value)
        return self

    def __repr__(self):
        defaults = inspect.signature(VAE).parameters
        changed = (f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name].default)
        return f"VAE({', '.join(changed)})"

    def _check_settings(self):
        _check_choice("activation", self.activation, ("tanh", "sigmoid"))
        _check_choice("likelihood", self.likelihood, ("auto", *LIKELIHOODS))
        _check_choice("estimator", self.estimator, tuple(ESTIMATORS))
        _check_choice("optimizer", self.optimizer, tuple(STEPS))
        _check_choice("dtype", self.dtype, ("float32", "float64", np.float32, np.float64))
        backends.get(self.backend)
        for name in ("n_components", "n_samples", "batch_size", "max_epochs", "patience"):
            _check_number(name, getattr(self, name), np.integer, 1)
        for name, kind in (("hidden_layer_sizes", "integers"), ("callbacks", "functions")):
            if not isinstance(getattr(self, name), tuple | list):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a tuple of {kind}, which may be empty")
        for size in self.hidden_layer_sizes:
            _check_number("hidden_layer_sizes", size, np.integer, 1)
        for name in ("weight_prior", "init_std"):
            _check_number(name, getattr(self, name), np.floating, 0)
        if self.learning_rate != "auto":
            _check_number("learning_rate", self.learning_rate, np.floating, 0)
            if self.learning_rate == 0:
                raise ValueError("learning_rate is 0; expected 'auto' or a number above 0")
        if self.random_state is not None:
            _check_number("random_state", self.random_state, np.integer, 0)

    # Fitting ----------------------------------------------------------------------------------------------------------

    def fit(self, X, y=None, *, X_valid=None):
        """Maximise the lower bound on log p(X).

        Parameters
        ----------
        X : array (N, D)
            uint8 data is read as pixels and stays uint8 in memory.
        y : ignored
        X_valid : array (N', D), optional
            Validation data: its bound is recorded after each epoch, training stops early, the best parameters stay.

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
        """
        self._check_settings()
        X = check_array(X)
        likelihood, preprocessor, messages = self._choose_preprocessing(X)
        data = preprocessor.data(X)
        valid = None if X_valid is None else preprocessor.data(check_array(X_valid, "X_valid"), "X_valid")

        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)  # from here on, what an earlier fit has left would not belong together
        self.n_features_in_, self.likelihood_, self.preprocessor_ = X.shape[1], likelihood, preprocessor
        self.architecture_ = self._architecture(likelihood, X.shape[1])
        self.seed_ = _seed(self.random_state)
        self.report_ = []
        for message in messages:
            self._say(message)
        self._train(data, valid)
        return self

    def _choose_preprocessing(self, X):
        likelihood, reason = self.likelihood, "as set"
        if likelihood == "auto":
            likelihood, reason = choose_likelihood(X)
        preprocessor, notices = fit_preprocessor(X, likelihood)
        return likelihood, preprocessor, [f"likelihood: {likelihood} ({reason})", *notices]

    def _train(self, data, valid):
        model = Model(self.architecture_, backends.get(self.backend), self.dtype)
        initial = model.layout.initial(self._rng("weights"), self.init_std)
        self.learning_rate_ = self.learning_rate
        if self.learning_rate == "auto":
            self.learning_rate_ = self._choose_step_size(model, data, initial)
        trainer = self._trainer(model, data, initial, self.learning_rate_)
        self.parameters_, self.history_ = trainer.parameters, []  # live, so that a callback can use the model
        scorer = self._scorer(model)
        score_valid = None if valid is None else lambda parameters: scorer(parameters, valid).mean()
        with show_progress(self.max_epochs, self.verbose) as show:
            ended = training.train(trainer, score_valid, (self.history_.append, show, *self.callbacks))
        if ended:
            self._say(ended)

    def _choose_step_size(self, model, data, initial):
        rows = self._rng("step size").permutation(len(data.X))[:STEP_SIZE_ROWS]
        subset, scorer = data._replace(X=data.X[np.sort(rows)]), self._scorer(model)
        step_size, bounds = training.choose_step_size(
            lambda candidate: self._trainer(model, data, initial, candidate),
            lambda parameters: scorer(parameters, subset).mean(),
        )
        bounds = ", ".join(f"{candidate:g}: {bound:.1f}" for candidate, bound in bounds.items())
        self._say(f"learning rate: {step_size:g} (training bound in nats after the first steps of {bounds})")
        return step_size

    def _trainer(self, model, data, initial, step_size):
        settings = training.Settings(
            self.optimizer, step_size, self.weight_prior, self.batch_size, self.max_epochs, self.patience
        )
        estimator = ESTIMATORS[self.estimator](model, self.n_samples)
        return training.Trainer(estimator, model.parameters(initial), data, self._rng("training"), settings)

    def _architecture(self, likelihood, n_features):
        sizes = tuple(map(int, self.hidden_layer_sizes))
        return Architecture(n_features, int(self.n_components), sizes, self.activation, likelihood)

    def _scorer(self, model):
        return Scorer(model, self.seed_, self.n_samples)

    def _rng(self, purpose):
        return _rng(self.seed_, purpose)

    def _say(self, message):
        self.report_.append(message)
        if self.verbose:
            print(message, file=sys.stderr)
        else:
            logger.info(message)

    # Using what was fitted --------------------------------------------------------------------------------------------

    def transform(self, X):
        """Return the posterior means: the mu of q(z|x), (N, J) for X (N, D)."""
        model, data = self._fitted_model(), self.preprocessor_.data(check_array(X))

        def mu(rows, buffers):
            x = model.backend.gather(data.X, rows, data.scaling, buffers("x", len(rows), self.n_features_in_))
            return model.encode(self.parameters_, x, buffers).outputs[0]

        return _by_batches(model, mu, len(data.X))

    def inverse_transform(self, Z):
        """Return E[x|z] in the units of the data (pixels in [0, 1]), (R, D) for Z (R, J)."""
        model, Z = self._fitted_model(), check_array(Z, "Z")
        if Z.shape[1] != model.architecture.n_components:
            raise ValueError(f"Z has {Z.shape[1]} columns; expected n_components = {model.architecture.n_components}")
        z = model.backend.asarray(Z, model.dtype)

        def mean(rows, buffers):
            return model.mean(model.decode(self.parameters_, z[rows[0] : rows[-1] + 1], buffers).outputs)

        return self.preprocessor_.restore(_by_batches(model, mean, len(Z)))

    def reconstruct(self, X):
        """Return E[x|z] at the posterior mean of each row, in the units of the data: (N, D) for X (N, D)."""
        return self.inverse_transform(self.transform(X))

    def sample(self, n_samples=1, *, random_state=None):
        """Draw z from the prior and return E[x|z], in the units of the data: (n_samples, D).

        These are the means that the paper shows in its Figure 5, without the noise of p(x|z). ``random_state`` is a
        seed; by default it is the model's own, and the samples are the same at each call.
        """
        model = self._fitted_model()
        _check_number("n_samples", n_samples, np.integer, 1)
        rng = self._rng("sample") if random_state is None else np.random.default_rng(random_state)
        return self.inverse_transform(rng.standard_normal((n_samples, model.architecture.n_components)))

    def score_samples(self, X):
        """Estimate the lower bound on log p(x) of each row: (N,) in nats, for X (N, D).

        The noise of a row is keyed by its content and the model's seed: a score does not change from call to call, nor
        with the other rows. With standardized columns it is in nats of the data as given.
        """
        model, data = self._fitted_model(), self.preprocessor_.data(check_array(X))
        return self._scorer(model)(self.parameters_, data)

    def score(self, X, y=None):
        """Return the mean of `score_samples`: the lower bound a datapoint, in nats. ``y`` is ignored."""
        return float(np.mean(self.score_samples(X)))

    def _fitted_model(self):
        if not hasattr(self, "parameters_"):
            raise NotFittedError("this VAE is not fitted yet; call fit(X) first")
        return Model(self.architecture_, backends.get(self.backend), self.parameters_.vector.dtype)

    # Files and checks -------------------------------------------------------------------------------------------------

    def save(self, path):
        """Write the fitted model to exactly this path: an ``.npz`` without pickles, whole or not at all.

        Callbacks are not saved.
        """
        model = self._fitted_model()
        settings = self.get_params() | {"callbacks": (), "dtype": model.dtype.name}
        header = {
            "settings": {name: _plain(value) for name, value in settings.items()},
            "fitted": {name: _plain(getattr(self, name)) for name in _FITTED},
            "architecture": self.architecture_._asdict(),
            "uint8_scale": self.preprocessor_.uint8_scale,
            "history": [tuple(map(_plain, epoch)) for epoch in self.history_],
        }
        shift, scale = self.preprocessor_.scaling
        vector = model.backend.to_numpy(self.parameters_.vector)
        checkpoint.save(path, header, {"parameters": vector, "shift": shift, "scale": scale})

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
        header, arrays = checkpoint.load(path)
        try:
            settings = {name: tuple(v) if isinstance(v, list) else v for name, v in header["settings"].items()}
            model = cls(**settings)
            model._check_settings()
            vars(model).update({name: header["fitted"][name] for name in _FITTED})
            model.architecture_ = Architecture(**header["architecture"])
            model.architecture_ = model.architecture_._replace(
                hidden_layer_sizes=tuple(model.architecture_.hidden_layer_sizes)
            )
            inner = Model(model.architecture_, backends.get(model.backend), model.dtype)
            model.parameters_ = inner.parameters(_expect(arrays, "parameters", inner.layout.size))
            scaling = Scaling(*(_expect(arrays, name, model.architecture_.n_features) for name in Scaling._fields))
            model.preprocessor_ = Preprocessor(model.architecture_.likelihood, scaling, header["uint8_scale"])
            model.history_ = [training.Epoch(*epoch) for epoch in header["history"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        return model

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
            layout = Model(architecture, backends.get(self.backend)).layout
            vector = layout.initial(_rng(_seed(self.random_state), "weights"), self.init_std)
        return architecture, preprocessor.data(X), vector


class NotFittedError(ValueError, AttributeError):
    """A method needs a fitted model."""


#: Fitted attributes that go into a model file's header as they are.
_FITTED = ("n_features_in_", "likelihood_", "learning_rate_", "seed_", "report_")


def fit(X, *, X_valid=None, **settings):
    """Train a `VAE` on X with settings suited to its size, and say what was chosen and why.

    Parameters
    ----------
    X : array (N, D)
        See `VAE.fit`.
    X_valid : array (N', D), optional
        Validation data: training then stops after ``patience`` epochs without a better bound on it.
    **settings
        Any parameter of `VAE`: what is given is not chosen.

    Returns
    -------
    VAE, fitted; ``report_`` lists the choices
    """
    X = check_array(X)
    n, d = X.shape
    choices = {
        "n_components": (min(20, max(1, d // 2)), "at most half the columns; what is superfluous stays at the prior"),
        "hidden_layer_sizes": ((500,) if d >= 100 else (100,), f"for {d} columns"),
        "max_epochs": (int(np.clip(1_000_000 // n, 10, 1000)), f"a million samples of {n} rows, in 10 to 1000 epochs"),
    }
    chosen = {name: value for name, (value, _) in choices.items()}
    model = VAE(**{"verbose": True} | chosen | settings)
    report = [f"{name}: {value} ({reason})" for name, (value, reason) in choices.items() if name not in settings]
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


def _plain(value):
    """Turn NumPy scalars and tuples into what JSON holds."""
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _expect(arrays, name, length):
    array = arrays[name]
    if array.shape != (length,) or array.dtype.kind != "f":
        raise ValueError(f"{name} is {array.dtype} {array.shape}; expected floats {(length,)}")
    return array


def _check_choice(name, value, known):
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")


def _check_number(name, value, kind, least):
    """Refuse what is not a number of this kind (np.integer, np.floating) and at least ``least``."""
    types = (int, np.integer) if kind is np.integer else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, types) or not least <= value < np.inf:
        article = "an integer" if kind is np.integer else "a number"
        raise ValueError(f"{name} is {value!r}; expected {article} of at least {least}")
