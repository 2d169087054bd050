"""From data and settings to a training: what the data decides, and the trainer that follows from it.

Everything passes as values: `settings` is a namespace of the settings of a `VAE`, results are NamedTuples. The face,
``vae``, keeps them; nothing here knows it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import backends, training
from .backends.interface import Backend
from .conventions import column_names, compare_names
from .estimators import ESTIMATORS, Scorer, runs, runs_on, suits
from .fitted import Fitted, generator
from .model import Architecture, Model
from .parameters import Parameters
from .preprocessing import Data, Preprocessor, Survey, choose_likelihood, fingerprints, fit_preprocessor, survey

#: Training rows whose bound decides between step sizes, and those that a fitted model is examined on.
SOME_ROWS = 2000


class Decisions(NamedTuple):
    """What the data has decided before the first step."""

    preprocessor: Preprocessor
    architecture: Architecture
    backend: str
    seed: int
    learning_rate: float


class Run(NamedTuple):
    """A training that is about to begin."""

    trainer: training.Trainer
    valid: Data | None
    fingerprints: list | None  # of training and validation data; None for a piece of the data


class StartingPoint(NamedTuple):
    """Parameters to look at, before or after a fit, with what they belong to: for gradient checks and variances."""

    architecture: Architecture
    data: Data
    vector: np.ndarray  # (P,) float64
    backend: Backend


def begin(settings, X, X_valid=None, *, max_epochs=None, say: Callable[[str], None]) -> tuple[Decisions, Run]:
    """Look at the data, decide, and set up a training from new parameters.

    Parameters
    ----------
    settings : namespace, checked
    X, X_valid : array (N, D) and (N', D), or None
    max_epochs : int, in place of the setting
    say : called with each choice in words, as soon as it is made
    """
    table = survey(X)
    preprocessor, messages = _choose_preprocessing(settings, table)
    data, valid = preprocessor.data(table), None
    if X_valid is not None:
        compare_names(column_names(X_valid), column_names(X), "VAE")
        valid = preprocessor.data(survey(X_valid, "X_valid"), "X_valid")
    for message in messages:
        say(message)
    architecture = architecture_of(settings, preprocessor.likelihood, table.X.shape[1])
    epochs, n_rows = max_epochs or settings.max_epochs, len(table.X)
    backend = _choose_backend(settings, architecture, n_rows, epochs)
    seed = _seed(settings.random_state)
    model = make_model(architecture, settings.backend, backend, settings.dtype)
    initial = model.initial(generator(seed, "weights"), settings.init_std)

    def trainer_for(learning_rate):
        return make_trainer(settings, model, data, initial, learning_rate, n_rows, seed, max_epochs=epochs)

    learning_rate = settings.learning_rate
    if learning_rate == "auto":
        subset, scorer = some_rows(data, seed), Scorer(model, seed, settings.n_samples)
        learning_rate, bounds = training.choose_step_size(
            trainer_for, lambda parameters: scorer(parameters, subset).mean()
        )
        tried = ", ".join(f"{candidate:g}: {bound:.1f}" for candidate, bound in bounds.items())
        say(f"learning rate: {learning_rate:g} (training bound in nats after the first steps of {tried})")
    decisions = Decisions(preprocessor, architecture, backend, seed, learning_rate)
    return decisions, Run(trainer_for(learning_rate), valid, fingerprints(data, valid))


def resume(settings, fitted: Fitted, state, prints, X, X_valid=None, *, learning_rate, n_datapoints) -> Run:
    """Set up the rest of a training from its `training.State`.

    Raises
    ------
    ValueError
        If the data is not that of the run: its ``prints`` are compared.
    """
    data = fitted.data(X)
    valid = None if X_valid is None else fitted.data(X_valid, "X_valid")
    found = fingerprints(data, valid)
    for name, this, expected in zip(("X", "X_valid"), found, prints):
        if this != expected:
            raise ValueError(
                f"{name} is {this}, but the training to resume had {expected} (rows, columns, type, checksum)"
            )
    trainer = make_trainer(
        settings, fitted.model, data, state.parameters, learning_rate, n_datapoints, fitted.seed, state
    )
    return Run(trainer, valid, found)


def next_piece(settings, fitted: Fitted, state, data: Data, *, learning_rate, n_datapoints) -> Run:
    """Set up an epoch on another piece of the data; ``n_datapoints`` counts the rows of all pieces so far."""
    # The objective is a mean over the piece: the prior has the share in it that it has in a mean over all rows.
    weight_prior, progress = settings.weight_prior * len(data.X) / n_datapoints, state.progress
    epoch = progress.epoch + (progress.seen > 0)  # one that was interrupted is over
    progress = dataclasses.replace(
        progress, epoch=epoch, seen=0, total=0.0, order=None, best_bound=-np.inf, since_best=0
    )
    vector = fitted.model.backend.to_numpy(fitted.parameters.vector)
    state = state._replace(parameters=vector, best=vector[:0], progress=progress)
    changes = {"max_epochs": epoch, "weight_prior": weight_prior}
    trainer = make_trainer(
        settings, fitted.model, data, vector, learning_rate, n_datapoints, fitted.seed, state, **changes
    )
    return Run(trainer, None, None)


def make_trainer(
    settings, model: Model, data: Data, initial, learning_rate, n_datapoints, seed, state=None, **changes
) -> training.Trainer:
    """Return the trainer of these settings, from initial parameters (P,) or from a state.

    Raises
    ------
    ValueError
        If the estimator does not suit the model.
    """
    architecture = model.architecture
    if not suits(settings.estimator, architecture):
        raise ValueError(
            f"estimator is {settings.estimator!r}, but the model was fitted by another, with "
            f"{_weights(architecture)} weights and the posterior {architecture.posterior!r}; fit it anew"
        )
    run = training.Settings(
        settings.optimizer, learning_rate, settings.weight_prior, settings.batch_size, settings.max_epochs,
        settings.patience,
    )._replace(**changes)  # fmt: skip
    estimator = ESTIMATORS[settings.estimator].make(model, settings.n_samples, n_datapoints)
    return training.Trainer(estimator, model.parameters(initial), data, generator(seed, "training"), run, state)


def train(run: Run, scorer: Scorer, callbacks, keep) -> str | None:
    """Train, and return why it ended before ``max_epochs``: see `training.train`."""
    score_valid = None if run.valid is None else lambda parameters: scorer(parameters, run.valid).mean()
    return training.train(run.trainer, score_valid, callbacks, keep)


def starting_point(settings, X, fitted: Fitted | None = None) -> StartingPoint:
    """Return what training on X would start from, or what a fitted model has."""
    table = survey(X)
    if fitted is not None:
        model, vector = fitted.model, fitted.model.backend.to_numpy(fitted.parameters.vector).astype(float)
        return StartingPoint(model.architecture, fitted.preprocessor.data(table), vector, model.backend)
    preprocessor, _ = _choose_preprocessing(settings, table)
    architecture = architecture_of(settings, preprocessor.likelihood, table.X.shape[1])
    model = make_model(architecture, settings.backend, "cpu", settings.dtype)
    vector = model.initial(generator(_seed(settings.random_state), "weights"), settings.init_std)
    return StartingPoint(architecture, preprocessor.data(table), vector, model.backend)


def architecture_of(settings, likelihood: str, n_features: int) -> Architecture:
    """Return the architecture that these settings and data of so many columns make."""
    return Architecture(
        n_features, int(settings.n_components), tuple(map(int, settings.hidden_layer_sizes)), settings.activation,
        likelihood, posterior=settings.posterior, random_weights=ESTIMATORS[settings.estimator].random_weights,
    )  # fmt: skip


def make_model(architecture: Architecture, setting: str, chosen: str, dtype) -> Model:
    """Return the model on the backend that is set, or with "auto" on the chosen one, where there is a GPU if it needs one.

    Raises
    ------
    ValueError
        If such a model does not run on the backend that is set.
    """
    if setting != "auto" and not runs_on(architecture, setting):
        raise ValueError(
            f"backend is {setting!r}, but the model has {_weights(architecture)} weights and the "
            f"posterior {architecture.posterior!r}; expected fixed weights and 'gaussian' there, or another backend"
        )
    if setting == "auto":
        setting = "cpu" if backends.missing(chosen) else chosen
    return Model(architecture, backends.get(setting), dtype)


def on_backend(model: Model, parameters: Parameters) -> Parameters:
    """Return parameters where the model's backend computes: themselves, if they are there."""
    vector = model.backend.asarray(parameters.vector, model.dtype)
    return parameters if vector is parameters.vector else model.layout.view(vector)


def on_host(model: Model, parameters: Parameters) -> Parameters:
    """Return parameters on the host: themselves, if they are there."""
    vector = model.backend.to_numpy(parameters.vector)
    return parameters if vector is parameters.vector else model.layout.view(vector)


def some_rows(data: Data, seed: int) -> Data:
    """Return up to `SOME_ROWS` rows, drawn at random."""
    rows = generator(seed, "step size").permutation(len(data.X))[:SOME_ROWS]
    return data._replace(X=data.X[np.sort(rows)])


def _choose_preprocessing(settings, table: Survey) -> tuple[Preprocessor, list[str]]:
    likelihood, reason = settings.likelihood, "as set"
    if likelihood == "auto":
        likelihood, reason = choose_likelihood(table)
    preprocessor, notices = fit_preprocessor(table, likelihood)
    return preprocessor, [f"likelihood: {likelihood} ({reason})", *notices]


def _choose_backend(settings, architecture, n_rows, max_epochs) -> str:
    """Return the backend: as set, or by the work that a fit to so many rows is."""
    if settings.backend != "auto":
        return settings.backend
    if not runs(settings.estimator, settings.posterior, "cuda"):
        return "cpu"
    rows = min(settings.batch_size, n_rows)
    multiplied = Model(architecture, backends.get("reference")).layout.n_weights * settings.n_samples
    step = 6 * rows * multiplied  # a multiplication and an addition in each of three products of a layer
    return backends.choose(step, step * max_epochs * n_rows / rows)


def _weights(architecture: Architecture) -> str:
    return "random" if architecture.random_weights else "fixed"


def _seed(random_state: Any) -> int:
    """Return random_state, or a fresh seed for None."""
    return int(np.random.default_rng().integers(2**63)) if random_state is None else int(random_state)
