"""Set up a training for `VAE`: make the choices that depend on the data, build the model, build the trainer.

``settings`` is a namespace with the checked settings of a `VAE`. Functions return NamedTuples; this module does not
import `VAE`.
"""

import contextlib
import dataclasses
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import backends, training
from .backends.formulas import UPDATES
from .backends.interface import Backend
from .conventions import column_names, compare_names, short_repr, warn
from .estimators import ESTIMATORS, Estimator, Scorer, runs_on, suits, supports
from .estimators.sharded import Sharded, n_shards
from .fitted import Fitted, generator
from .likelihoods import LIKELIHOODS
from .model import Architecture, Model
from .parallel import ALONE, SERIAL, Serial
from .parameters import Parameters
from .preprocessing import (
    BINARIZE,
    Binarization,
    Data,
    Preprocessor,
    choose_likelihood,
    fingerprints,
    fit_preprocessor,
)
from .progress import Doing
from .sparse import TableLike
from .table import Survey, survey
from .training.interruption import undropped

#: Maximum number of training rows used to compare step sizes, and to examine a fitted model.
SOME_ROWS = 2000


class Decisions(NamedTuple):
    """What is fixed before the first step: each is the setting, or chosen from the data if the setting is "auto"."""

    preprocessor: Preprocessor
    architecture: Architecture
    backend: str
    seed: int
    learning_rate: float


class Run(NamedTuple):
    """A training that is ready to start."""

    trainer: training.Trainer
    valid: Data | None  # validation data
    fingerprints: list | None  # of training and validation data; None if the training data comes in pieces


class StartingPoint(NamedTuple):
    """Parameters, initial or fitted, with what is needed to compute with them: for checks and measurements."""

    architecture: Architecture
    data: Data
    vector: np.ndarray  # (P,) float64
    backend: Backend

    def __repr__(self) -> str:
        return short_repr(self)


def begin(
    settings: SimpleNamespace,
    X: TableLike,
    X_valid: TableLike | None = None,
    *,
    max_epochs: int | None = None,
    say: Callable[[str], None],
    doing: Doing = lambda stage: None,
    parallel: Serial = SERIAL,
) -> tuple[Decisions, Run]:
    """Check the data, choose every setting that is "auto", and set up a training from new parameters.

    Parameters
    ----------
    settings : namespace
    X : array or sparse matrix (N, D)
    X_valid : array or sparse matrix (N', D), optional
    max_epochs : int, optional
        Replaces the setting.
    say : callable
        Called with a message for each choice as soon as it is made.
    doing : callable
        Told what is being done from now on.
    parallel : Serial or Team
        All ranks of a team call this with the same arguments.

    Raises
    ------
    ValueError, TypeError
        If the data is not valid or does not suit the settings.
    FloatingPointError
        If training diverges with every candidate step size.
    """
    _check_has_bound(settings, X_valid)
    doing("looking at the data")
    missing = settings.missing == "model"
    table = survey(X, missing=missing, parallel=parallel)
    seed = parallel.first(lambda: _seed(settings.random_state))
    preprocessor, messages = _choose_preprocessing(settings, table, seed)
    data, valid = preprocessor.data(table), None
    if X_valid is not None:
        compare_names(column_names(X_valid), column_names(X), "VAE")
        valid = preprocessor.data(survey(X_valid, "X_valid", missing, parallel), "X_valid")
    for message in messages:
        say(message)
    architecture = architecture_of(settings, preprocessor)
    epochs, n_rows = max_epochs or settings.max_epochs, len(table.X)
    if parallel.is_team:
        backend = _shared(settings, parallel, n_rows)
    else:
        backend = _choose_backend(settings, architecture, n_rows, epochs)
    model = make_model(architecture, settings.backend, backend, settings.dtype, data.missing)
    prints = _common_fingerprints(data, valid, parallel)
    initial = model.initial(generator(seed, "weights"), settings.init_std)
    if np.abs(initial).max() > np.finfo(model.dtype).max:
        raise ValueError(f"init_std is {settings.init_std!r}; expected initial weights that {model.dtype} can hold")

    def trainer_for(learning_rate, parallel=parallel):
        return make_trainer(
            settings, model, data, initial, learning_rate, n_rows, seed, parallel=parallel, max_epochs=epochs
        )

    learning_rate = settings.learning_rate
    parallel.first(lambda: _compile(lambda: trainer_for(0.0, _by_itself(parallel)), model, doing))
    if learning_rate == "auto":
        rows = some_rows(n_rows, seed)
        score = shared_scorer(training_scorer(settings.estimator, model, seed, settings.n_samples), parallel)
        learning_rate, bounds = training.choose_step_size(
            trainer_for,
            lambda parameters: score(parameters, data, rows).mean(),
            UPDATES[settings.optimizer].step_sizes,
            doing,
        )
        tried = ", ".join(f"{candidate:g}: {bound:.1f}" for candidate, bound in bounds.items())
        say(f"learning rate: {learning_rate:g} (training bound in nats after a short trial with {tried})")
    decisions = Decisions(preprocessor, architecture, backend, seed, learning_rate)
    return decisions, Run(trainer_for(learning_rate), valid, prints)


def resume(
    settings: SimpleNamespace,
    fitted: Fitted,
    state: training.State,
    prints: list,
    X: TableLike,
    X_valid: TableLike | None = None,
    *,
    learning_rate: float,
    n_datapoints: int,
    doing: Doing = lambda stage: None,
    parallel: Serial = SERIAL,
) -> Run:
    """Set up the rest of a training from its saved state; of ``parallel`` see `begin`.

    Raises
    ------
    ValueError
        If the data is not the data of the training: its fingerprints must equal ``prints``.
    """
    parallel.agree(
        lambda: {
            "what was trained so far": f"{state.progress.samples_seen} rows, with parameters of the checksum "
            f"{zlib.crc32(state.parameters.tobytes())}"
        }
    )
    data = fitted.data(X, parallel=parallel)
    valid = None if X_valid is None else fitted.data(X_valid, "X_valid", parallel)
    found = _common_fingerprints(data, valid, parallel)
    for name, this, expected in zip(("X", "X_valid"), found, prints):
        if this != expected:
            raise ValueError(
                f"{name} is {this}, but the training to resume had {expected} (rows, columns, type, checksum)"
            )
    if parallel.is_team:
        _shared(settings, parallel, len(data.X))

    def make(parallel):
        return make_trainer(
            settings, fitted.model, data, state.parameters, learning_rate, n_datapoints, fitted.seed, state, parallel
        )

    parallel.first(lambda: _compile(lambda: make(_by_itself(parallel)), fitted.model, doing))
    return Run(make(parallel), valid, found)


def _compile(make: Callable[[], training.Trainer], model: Model, doing: Doing) -> None:
    """Have kernels that are not compiled yet compiled, by one step of a trainer that is thrown away.

    It is done before the training begins: while a kernel is compiled, Ctrl-C could not end a training at once.
    """
    if stage := backends.compiling(model.backend, model.dtype):
        doing(stage)
        trainer = make()

        def first_step() -> None:
            with contextlib.suppress(training.NonFiniteError):  # the training itself will meet it again
                trainer.steps(next(trainer.runs()))

        undropped(first_step)


def next_piece(
    settings: SimpleNamespace,
    fitted: Fitted,
    state: training.State,
    data: Data,
    *,
    learning_rate: float,
    n_datapoints: int,
) -> Run:
    """Set up one epoch on another piece of the data. ``n_datapoints`` is the number of rows of all pieces so far."""
    # Trainer computes weight_prior / (rows of this piece). The factor makes it weight_prior / (rows of all pieces).
    weight_prior, progress = settings.weight_prior * len(data.X) / n_datapoints, state.progress
    epoch = progress.epoch + (progress.seen > 0)  # an interrupted epoch counts as complete
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
    settings: SimpleNamespace,
    model: Model,
    data: Data,
    initial: np.ndarray,
    learning_rate: float,
    n_datapoints: int,
    seed: int,
    state: training.State | None = None,
    parallel: Serial = SERIAL,
    **changes: Any,
) -> training.Trainer:
    """Return the trainer for these settings, from initial parameters (P,) and optionally a saved state.

    With a team of ranks, their trainers do the same steps together.

    ``changes`` replace fields of `training.Settings`.

    Raises
    ------
    ValueError
        If the estimator does not suit the model.
    """
    _check_suits(settings.estimator, model.architecture)
    training_settings = training.Settings(
        optimizer=settings.optimizer,
        learning_rate=learning_rate,
        weight_prior=settings.weight_prior,
        batch_size=settings.batch_size,
        max_epochs=settings.max_epochs,
        patience=settings.patience,
        schedule=settings.schedule,
        averaging=settings.averaging,
        clip_norm=None if settings.clip_norm == "none" else settings.clip_norm,
    )._replace(**changes)

    def make() -> Estimator:
        return ESTIMATORS[settings.estimator].make(model, settings.n_samples, n_datapoints)

    size = min(settings.batch_size, len(data.X))
    estimator: Any = Sharded(make, parallel, size) if parallel.is_team else make()
    parameters, rng = model.parameters(initial), generator(seed, "training")
    return training.Trainer(estimator, parameters, data, rng, training_settings, state, parallel)


def training_scorer(estimator: str, model: Model, seed: int, n_samples: int) -> Scorer:
    """Return the scorer of the bound that a training maximises, which need not be that of `Fitted.score`."""
    return Scorer(model, seed, n_samples, ESTIMATORS[estimator].importance_weighted)


def shared_scorer(scorer: Scorer, parallel: Serial) -> Callable[..., NDArray[np.float64]]:
    """Return a function from (parameters, data, row numbers or None for all) to scores, which ranks share out.

    The score of a row does not depend on the others, but NumPy rounds its products by how many there are. So the parts
    are the same for any number of ranks. Each rank reads only the rows that it scores.
    """

    def score(parameters: Parameters, data: Data, rows: NDArray | None = None) -> NDArray[np.float64]:
        if not parallel.is_team:
            return scorer(parameters, data if rows is None else data.take(rows))
        rows = np.arange(len(data.X)) if rows is None else rows
        parts = np.array_split(rows, max(n_shards(len(rows)), len(rows) // scorer.batch_size))
        scores = parallel.map(lambda part: scorer(parameters, data.take(part)) if len(part) else part, parts)
        return np.concatenate(list(scores))

    return score


def train(run: Run, scorer: Scorer, callbacks: Any, keep: Any) -> str | None:
    """Train, and return why training ended before ``max_epochs``, or None: see `training.train`.

    Raises
    ------
    NonFiniteError
        If training diverges, or if the model that it leads to has a score that is not finite.
    """
    trainer, valid = run.trainer, run.valid
    score = shared_scorer(scorer, trainer.parallel)
    score_valid = None if valid is None else lambda parameters: score(parameters, valid).mean()
    stopped = training.train(trainer, score_valid, callbacks, keep)
    if trainer.estimator.model.encoder is not None:
        trainer.check(score, trainer.batch_size if run.fingerprints is None else SOME_ROWS)
    if valid is not None and trainer.progress.best_bound == -np.inf and trainer.progress.epoch > 1:
        warn(
            "X_valid has a finite bound after no epoch, and training could not use it: its rows are too far from the "
            "training data; score_samples(X_valid) shows which"
        )
    return stopped


def starting_point(settings: SimpleNamespace, X: TableLike, fitted: Fitted | None = None) -> StartingPoint:
    """Return the initial parameters of a training on X, or the parameters of the fitted model."""
    if fitted is not None:
        model, vector = fitted.model, fitted.model.backend.to_numpy(fitted.parameters.vector).astype(float)
        _check_suits(settings.estimator, model.architecture)
        return StartingPoint(model.architecture, fitted.data(X), vector, model.backend)
    table, seed = survey(X, missing=settings.missing == "model"), _seed(settings.random_state)
    preprocessor, _ = _choose_preprocessing(settings, table, seed)
    architecture = architecture_of(settings, preprocessor)
    data, dtype = preprocessor.data(table), settings.dtype
    model = make_model(architecture, settings.backend, "cpu", dtype, data.missing)
    vector = model.initial(generator(seed, "weights"), settings.init_std)
    return StartingPoint(architecture, data, vector, model.backend)


def architecture_of(settings: SimpleNamespace, preprocessor: Preprocessor) -> Architecture:
    """Return the architecture for these settings and for data that is preprocessed in this way."""
    return Architecture(
        len(preprocessor.order),
        int(settings.n_components),
        tuple(map(int, settings.hidden_layer_sizes)),
        settings.activation,
        preprocessor.likelihood,
        posterior=settings.posterior,
        random_weights=ESTIMATORS[settings.estimator].random_weights,
        n_binary=len(preprocessor.binary_columns),
        has_encoder=ESTIMATORS[settings.estimator].has_encoder,
    )


def make_model(architecture: Architecture, setting: str, chosen: str, dtype: DTypeLike, missing: bool) -> Model:
    """Return the model on a backend.

    Parameters
    ----------
    architecture : Architecture
    setting : str
        The setting ``backend``.
    chosen : str
        The backend for the setting "auto". On a machine without a GPU, "cpu" is used in place of "cuda".
    dtype : "float32" or "float64"
    missing : bool
        Whether data may have cells that are not observed.

    Raises
    ------
    ValueError
        If the backend that is set cannot compute this model.
    """
    if setting != "auto" and not runs_on(architecture, setting):
        raise ValueError(
            f"backend is {setting!r}, but the model has {_kind(architecture)}; this backend needs fixed weights, an "
            "encoder and the posterior 'gaussian': choose these or another backend"
        )
    if setting == "auto":
        setting = "cpu" if backends.missing(chosen) else chosen
    return Model(architecture, backends.get(setting), dtype, missing)


def on_backend(model: Model, parameters: Parameters) -> Parameters:
    """Move parameters to the model's backend. Returns the argument itself if it is there already."""
    vector = model.backend.asarray(parameters.vector, model.dtype)
    return parameters if vector is parameters.vector else model.layout.view(vector)


def on_host(model: Model, parameters: Parameters) -> Parameters:
    """Move parameters to the host. Returns the argument itself if it is there already."""
    vector = model.backend.to_numpy(parameters.vector)
    return parameters if vector is parameters.vector else model.layout.view(vector)


def some_rows(n_rows: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers of at most `SOME_ROWS` rows, drawn at random."""
    return np.sort(generator(seed, "step size").permutation(n_rows)[:SOME_ROWS])


def _common_fingerprints(data: Data, valid: Data | None, parallel: Serial) -> list:
    """Return the fingerprints of the data, which one rank computes; all compare a few rows."""
    parallel.agree(lambda: dict(zip(("X", "X_valid"), fingerprints(data, valid, n_rows=10))))
    return parallel.first(lambda: fingerprints(data, valid))


def _choose_preprocessing(settings, table: Survey, seed: int) -> tuple[Preprocessor, list[str]]:
    likelihood, reason = settings.likelihood, "as set"
    if likelihood == "auto":
        likelihood, reason = choose_likelihood(table, settings.binarize)
    binarization = _binarization(settings.binarize, seed, likelihood, reason)
    preprocessor, notices = fit_preprocessor(table, likelihood)
    if binarization is not None:
        what = "X holds nothing but 0 and 1, which stay" if table.is_binary else BINARIZE[settings.binarize]
        notices.append(f"binarize: {settings.binarize} ({what})")
    if table.missing:
        notices.append(f"missing: {_missing_of(table)}")
    return preprocessor._replace(binarization=binarization), [f"likelihood: {likelihood} ({reason})", *notices]


def _missing_of(table: Survey) -> str:
    """Say how much of a table is not observed."""
    empty = sum(table.map(lambda share: sum(int(np.sum(~np.any(seen, axis=1))) for _, seen in share.parts())))
    share = 1 - table.n_observed.sum() / table.X.size
    rows = f"; {empty} of {len(table.X)} rows have no observed cell, and carry no information" if empty else ""
    return f"{share:.1%} of the cells are not observed{rows}"


def _binarization(binarize: str, seed: int, likelihood: str, reason: str) -> Binarization | None:
    """Return how data is binarized; ValueError if the likelihood, which was chosen for a reason, is a density."""
    if binarize == "none":
        return None
    if LIKELIHOODS[likelihood].density:
        expected = " or ".join(f"likelihood={name!r}" for name, row in LIKELIHOODS.items() if not row.density)
        raise ValueError(
            f"binarize is {binarize!r}, but the likelihood is {likelihood!r} ({reason}), a density, which has no "
            f"probability of zeros and ones; expected binarize='none', or {expected} for pixels in [0, 1]"
        )
    return Binarization(binarize, seed)


def _choose_backend(settings, architecture, n_rows, max_epochs) -> str:
    """Return the backend: as set, or for "auto" chosen by the number of operations of the whole training."""
    if settings.backend != "auto":
        return settings.backend
    if not supports(settings.estimator, settings.posterior, "cuda"):
        return "cpu"
    rows = min(settings.batch_size, n_rows)
    products = Model(architecture, backends.get("reference")).layout.n_weights * settings.n_samples
    step = 6 * rows * products  # 2 operations in each of 3 matrix products: forward, dW, dx
    return backends.choose(step, step * max_epochs * n_rows / rows)


def on_a_share_of_the_cores(parallel: Serial) -> contextlib.AbstractContextManager:
    """Return a context in which kernels use this rank's share of the cores, so that ranks do not fight for them."""
    if not parallel.is_team:
        return contextlib.nullcontext()
    from .backends.runtime import Place, using_threads

    here = Place.here()
    return using_threads(here.share(parallel.gather(here).count(here)))


def _by_itself(parallel: Serial) -> Serial:
    """Return what a rank, or the one process, does the same with by itself."""
    return ALONE if parallel.is_team else SERIAL


def _shared(settings: SimpleNamespace, parallel: Any, n_rows: int) -> str:
    """Return the backend for many ranks, and warn if some of them will have no work.

    Raises
    ------
    ValueError
        If the backend that is set does not take part in the steps of many ranks.
    """
    if settings.backend == "cuda":
        raise ValueError("backend is 'cuda', which does not train on several ranks; expected 'cpu', or no comm")
    size = min(settings.batch_size, n_rows)
    at_work = min(n_shards(size, parallel), size)
    if at_work < parallel.size:
        warn(f"batch_size is {settings.batch_size}: {at_work} of {parallel.size} ranks have work; expected larger ones")
    return "cpu" if settings.backend == "auto" else settings.backend


def _check_suits(estimator: str, architecture: Architecture) -> None:
    if not suits(estimator, architecture):
        raise ValueError(
            f"estimator is {estimator!r}, but the model was fitted with another one, for {_kind(architecture)}; "
            "call fit to start again"
        )


def _kind(architecture: Architecture) -> str:
    """Say what of an architecture decides which estimators and backends suit it."""
    weights, encoder = "random" if architecture.random_weights else "fixed", "an" if architecture.has_encoder else "no"
    return f"{weights} weights, {encoder} encoder and the posterior {architecture.posterior!r}"


def _check_has_bound(settings: SimpleNamespace, X_valid: TableLike | None) -> None:
    """Check that nothing is to be chosen by the bound if the estimator has none."""
    estimator = settings.estimator
    if ESTIMATORS[estimator].has_encoder:
        return
    if settings.learning_rate == "auto":
        raise ValueError(
            f"learning_rate is 'auto'; expected a number for {estimator}, which has no encoder, and so no bound to "
            "choose it by"
        )
    if X_valid is not None:
        raise ValueError(
            f"X_valid is given; expected None for {estimator}, which has no encoder, and so no bound to stop early by"
        )


def check_in_pieces(settings: SimpleNamespace) -> None:
    """Check that the estimator can train on one piece of the data after the other.

    Raises
    ------
    ValueError
        If it has a state for each row of the whole data.
    """
    if not ESTIMATORS[settings.estimator].in_pieces:
        raise ValueError(
            f"estimator is {settings.estimator!r}, which keeps Markov chains of all rows of the data from epoch to "
            "epoch; partial_fit cannot train it on pieces: use fit, and resume for more epochs"
        )


def _seed(random_state: Any) -> int:
    """Return random_state as an int, or a new random seed for None."""
    return int(np.random.default_rng().integers(2**63)) if random_state is None else int(random_state)
