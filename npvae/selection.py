"""The one call `fit`: settings by the size of the data, and what only held-out rows can tell, compared on some of them.

``settings`` has the rules and the candidates. A table is trained on four fifths of its rows with each candidate; the
other rows choose the candidate and the number of epochs, and the model is then trained on all rows.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import settings
from .conventions import check_keywords
from .fitted import generator
from .fitting import training_scorer
from .likelihoods import LIKELIHOODS
from .preprocessing import choose_likelihood, fit_preprocessor
from .progress import show_stages, tell
from .sparse import TableLike, is_sparse
from .table import Survey, as_table, survey
from .training import INTERRUPTED, NonFiniteError
from .vae import VAE

#: The share of the rows that are held out, and how many there must be.
HELD_OUT, FEWEST = 0.2, 10

#: Held-out rows are not used if a value lies so many standard deviations from the mean of the other rows: one of them
#: would decide about the mean bound of all.
OUTLIER = 8.0

#: The model trained on all rows is not kept if its bound on all rows is lower by this many nats than the trial's.
UNLUCKY = 1.0

#: More starts that are tried where no latent dimension is used.
MORE_STARTS = 2


class Trial(NamedTuple):
    """A candidate, and the model that was trained with it on a part of the rows.

    Examples
    --------
    >>> print(Trial({"weight_prior": 10.0}))
    weight_prior 10.0: diverged
    """

    changes: dict[str, Any]
    model: VAE | None = None  # None if training diverged
    bound: float = -np.inf  # of the held-out rows, in nats
    epoch: int = 0  # which had this bound

    def __str__(self) -> str:
        found = f"{self.bound:.2f} after epoch {self.epoch}" if self.model else "diverged"
        return f"{_words(self.changes)}: {found}"


def _words(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in changes.items())


def fit(X: TableLike, *, X_valid: TableLike | None = None, **values: Any) -> VAE:
    """Train a `VAE` on X with settings suited to its size, and report what was chosen and why.

    On a table, of up to a million numbers, what only data can tell is found out first: nets with different weight
    priors and a linear one are trained on four fifths of the rows, and the bound of the other rows chooses one of them
    and the number of epochs. The model that is returned is trained on all rows.

    Parameters
    ----------
    X : array or sparse matrix (N, D)
        See `VAE.fit`.
    X_valid : array or sparse matrix (N', D), optional
        Validation data, in place of held-out rows: the model is the best one on it, trained on X.
    **values
        Any setting of `VAE`; the settings given are not chosen.

    Returns
    -------
    VAE
        Fitted; ``report_`` lists the choices.

    Examples
    --------
    >>> import numpy as np
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> model = npvae.fit(X, max_epochs=2, backend="reference", verbose=False)
    >>> model.report_[0]
    'n_components: 2 (at most half the columns; those that are not needed stay at the prior)'
    """
    check_keywords("fit", values, ("X_valid", *settings.SETTINGS))
    settings.check({name: setting.default for name, setting in settings.SETTINGS.items()} | values)
    if is_sparse(X):
        X = as_table(X)  # converted once
    if is_sparse(X_valid):
        X_valid = as_table(X_valid, "X_valid")
    n_rows, n_features = as_table(X).shape
    choices = settings.for_data(n_rows, n_features, values)
    model = VAE(**{"verbose": True} | {choice.name: choice.value for choice in choices} | values)
    report = [f"{name}: {value} ({reason})" for name, value, reason in choices]

    def say(line: str) -> None:
        report.append(line)
        tell(model.verbose, line)

    for line in report:
        tell(model.verbose, line)
    candidates = settings.candidates(n_rows, n_features, values)
    if len(candidates) < 2:
        model.fit(X, X_valid=X_valid)
    else:
        model = _selected(model, X, X_valid, candidates, values, say)
    model.report_ = report + model.report_
    return model


def _selected(model, X, X_valid, candidates, values, say):
    """Return the model trained with the best candidate, on all rows of X."""
    table = survey(X, missing=model.missing == "model")
    likelihood = choose_likelihood(table)[0] if model.likelihood == "auto" else model.likelihood
    own = {"verbose": model.verbose, "callbacks": model.callbacks}
    common = model.get_params() | {"verbose": False, "callbacks": (), "likelihood": likelihood}
    rows = None if X_valid is not None else _parts(table, likelihood, model.random_state)
    if X_valid is None and rows is None:
        prior = values.get("weight_prior", settings.STRONG_PRIOR)
        say("held-out rows: none (there are too few rows, or columns that vary in few of them)")
        say(f"weight_prior: {prior} ({'as set' if 'weight_prior' in values else 'a weak prior overfits few rows'})")
        return model.set_params(weight_prior=prior).fit(X)
    parts = (X, X_valid) if rows is None else tuple(_rows(X, part) for part in rows)
    with show_stages(model.verbose) as doing:
        trials = _trials(common, candidates, parts, doing)
        best = max(trials, key=lambda trial: trial.bound)
        if best.model is None or not any(best.model.health_.active):  # a plateau, or a step too far
            trials += _trials(common, _other_starts(common, candidates[0], best, values), parts, doing)
            best = max(trials, key=lambda trial: trial.bound)
    say(f"bounds of {len(parts[1])} {'validation' if X_valid is not None else 'held-out'} rows in nats, "
        f"with {'; '.join(map(str, trials))}")  # fmt: skip
    if best.model is None:
        return model.fit(X, X_valid=X_valid)  # the error says what to do
    best.model.set_params(**own)
    if X_valid is not None:
        return best.model
    model.set_params(**best.changes)
    if "max_epochs" not in values:
        model.set_params(max_epochs=best.epoch)
    say(f"trained on all rows with {best}")
    try:
        model.fit(X)
        worse = _bound(model, X) < _bound(best.model, X) - UNLUCKY
    except NonFiniteError:
        worse = True
    if worse:
        say("the model trained on a part of the rows is better than that trained on all of them, and is kept")
        best.model.report_ = []
        return best.model
    return model


def _bound(model: VAE, X: TableLike) -> float:
    """Return the mean over X of the bound that the model's training maximised."""
    fitted = model.fitted_
    scorer = training_scorer(model.estimator, fitted.model, fitted.seed, fitted.n_samples)
    return float(np.mean(scorer(fitted.parameters, fitted.data(X))))


def _parts(table: Survey, likelihood: str, random_state: int | None) -> tuple[NDArray, NDArray] | None:
    """Return the numbers of the rows to train on and of those to choose on.

    None if there are too few, or if in the rows to train on a binary column is constant, or a column has no value.
    """
    order = generator(random_state or 0, "held-out rows").permutation(len(table.X))
    held, train = (np.sort(rows) for rows in np.split(order, [int(HELD_OUT * len(order))]))
    if len(held) < FEWEST:
        return None
    part, rest = (table.take(rows) for rows in (train, held))
    if LIKELIHOODS[likelihood].has_kinds and not np.array_equal(part.both, table.both):
        return None
    if not part.n_observed.all():
        return None
    data = fit_preprocessor(part, likelihood)[0].data(rest)
    standardized = (data.values(slice(None)) - data.scaling.shift) * data.scaling.scale
    held = held[~np.any(abs(standardized) > OUTLIER, axis=1)]
    return (train, held) if len(held) >= FEWEST else None


def _rows(X: Any, rows: NDArray) -> Any:
    """Return some rows of an array or a data frame, which keep the names of the columns."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return X[rows] if hasattr(X, "columns") or np.ma.isMaskedArray(X) else as_table(X)[rows]


def _trials(common, candidates, parts, doing):
    """Train with each candidate."""
    trials = []
    for number, changes in enumerate(candidates, 1):
        doing(f"trial {number} of {len(candidates)}: {_words(changes)}")
        model = VAE(**common | changes)
        try:
            model.fit(parts[0], X_valid=parts[1])
        except NonFiniteError:
            trials.append(Trial(changes))
            continue
        if (model.stopped_ or "").startswith(INTERRUPTED):  # there is no model yet that could be kept
            raise KeyboardInterrupt
        bounds = [epoch.elbo_valid for epoch in model.history_]
        best = int(np.nanargmax(bounds))
        trials.append(Trial(changes, model, bounds[best], model.history_[best].epoch))
    return trials


def _other_starts(common, candidate, best, values):
    """Return candidates with other initial parameters, or with smaller steps if training diverged."""
    if best.model is None:
        step = common["learning_rate"]
        return [] if "learning_rate" in values or step == "auto" else [candidate | {"learning_rate": step / 10}]
    if common["random_state"] is None:
        return [candidate] * MORE_STARTS
    return [best.changes | {"random_state": common["random_state"] + n} for n in range(1, MORE_STARTS + 1)]
