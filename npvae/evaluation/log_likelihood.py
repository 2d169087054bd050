"""log p(x) of a fitted model by any of several methods: the table `METHODS`, and `estimate`, which runs one.

The methods are in files of their own. ``VAE.log_likelihood`` is what users call; `docs/likelihood.md` compares them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..conventions import check_choice, check_number, warn
from ..estimators import WEIGHT_DRAWS
from ..fitted import Fitted
from ..model import Architecture
from ..preprocessing import Data
from .annealing import annealed_importance_sampling
from .appendix_d import FEWEST, marginal
from .estimates import Estimates, log_mean_exp
from .grid import MOST_LATENTS, check_nodes, integrate
from .importance import importance_sampling


class Limit(NamedTuple):
    """When a diagnosis says that a row's estimate is not to be believed.

    Examples
    --------
    >>> Limit("above", 0.7, "take more samples").exceeded(np.array([0.3, 0.9, np.nan]))
    array([False,  True, False])
    """

    side: str  # "above" or "below": where the values are bad
    value: float
    advice: str

    def exceeded(self, values: np.ndarray) -> np.ndarray:
        """Tell which values are on the bad side."""
        return values > self.value if self.side == "above" else values < self.value

    def worst(self, values: np.ndarray, axis: int | None = None) -> Any:
        """Return the worst of the values."""
        return (np.nanmax if self.side == "above" else np.nanmin)(values, axis=axis)

    def doubt(self, method: str, name: str, values: np.ndarray, rows: np.ndarray | None = None) -> str | None:
        """Say what a user should know of the rows whose values (N,) of this diagnosis are bad; None if none are.

        ``rows`` (N,) are their numbers, by default from 0.
        """
        bad = np.flatnonzero(self.exceeded(values))
        if not len(bad):
            return None
        worst = bad[values[bad].argmax() if self.side == "above" else values[bad].argmin()]
        return (
            f"{method}: the {name} is {self.side} {self.value:g} in {len(bad)} of {len(values)} rows, the worst is row "
            f"{worst if rows is None else rows[worst]} with {values[worst]:.3g}: {self.advice}"
        )


class Method(NamedTuple):
    """A method: what it computes, what it needs, and when not to believe it.

    Examples
    --------
    >>> METHODS["importance"].n_samples
    5000
    """

    estimate: Callable[[Fitted, Data, int], Estimates]
    n_samples: int  # by default
    counts: str  # what ``n_samples`` is the number of
    limits: dict[str, Limit]  # of each diagnosis
    check: Callable[[str, Any], None] = partial(check_number, kind=np.integer, least=2)  # of n_samples
    needs_encoder: bool = False
    most_latents: float = np.inf  # it needs that there are no more
    few_latents: float = np.inf  # with more of them there is a warning

    def lacks(self, architecture: Architecture) -> str | None:
        """Say what this model lacks for the method; None if it can be used."""
        J = architecture.n_components
        if self.needs_encoder and not architecture.has_encoder:
            return "needs an encoder, and the model has none"
        if self.most_latents < J:
            return f"needs at most {self.most_latents} latent dimensions, and the model has {J}"
        return None


#: All methods by name.
METHODS = {
    "importance": Method(
        importance_sampling,
        5000,
        "samples of q(z|x)",
        {
            "Pareto shape": Limit(
                "above", 0.7, "q(z|x) is too narrow there, and the estimate is low; method='annealed' does not need it"
            ),
            "effective sample size": Limit("below", 10, "take more samples, or method='annealed'"),
        },
        needs_encoder=True,
    ),
    "marginal": Method(
        marginal,
        50,
        "samples of the posterior in each set",
        {"spread of the sets": Limit("above", 1.0, "take more samples, or another method")},
        check=partial(check_number, kind=np.integer, least=FEWEST),
        few_latents=4,
    ),
    "annealed": Method(
        annealed_importance_sampling,
        16,
        "chains",
        {"effective sample size": Limit("below", 3, "take more chains, or more densities with npvae.evaluation")},
    ),
    "quadrature": Method(
        integrate,
        41,
        "nodes in each dimension",
        {"change if every second node is left out": Limit("above", 0.01, "take more nodes")},
        check=check_nodes,
        needs_encoder=True,
        most_latents=MOST_LATENTS,
    ),
}


def estimate(fitted: Fitted, data: Data, method: str = "importance", n_samples: int | None = None) -> Estimates:
    """Estimate log p(x) of each row, and warn where it is not to be believed.

    Random weights are integrated out: p(x) is the mean over `estimators.WEIGHT_DRAWS` draws of them, and the standard
    error is that between draws. A diagnosis is then the worst of all draws.

    Parameters
    ----------
    fitted : Fitted
    data : Data
    method : str
        A name in `METHODS`.
    n_samples : int, optional
        What it counts depends on the method; by default `Method.n_samples`.

    Returns
    -------
    Estimates

    Raises
    ------
    ValueError
        If there is no method of that name, ``n_samples`` is not a number that it takes, or the model has no encoder or
        too many latent dimensions for it.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> fitted = npvae.VAE(1, **settings).fit(X).fitted_
    >>> one, other = (estimate(fitted, fitted.data(X[:5]), method) for method in ("importance", "quadrature"))
    >>> bool(np.all(np.abs(one.log_prob - other.log_prob) < 0.01))
    True
    """
    check_choice("method", method, tuple(METHODS))
    row, architecture = METHODS[method], fitted.model.architecture
    n_samples = row.n_samples if n_samples is None else n_samples
    row.check("n_samples", n_samples)
    if lacking := row.lacks(architecture):
        others = ", ".join(repr(name) for name, other in METHODS.items() if not other.lacks(architecture))
        raise ValueError(f"method is {method!r}, which {lacking}; expected one of {others}")
    draws = fitted.model.weight_posterior.draws(fitted.parameters, fitted.seed, WEIGHT_DRAWS)
    found = _combined([row.estimate(replace(fitted, parameters=drawn), data, n_samples) for drawn in draws], row)
    for doubt in _doubts(method, row, found, architecture.n_components):
        warn(doubt)
    return found


def _combined(of_draws, row):
    """Return one `Estimates` from those of all draws of the weights."""
    if len(of_draws) == 1:
        return of_draws[0]
    log_prob, error = log_mean_exp(np.array([found.log_prob for found in of_draws]))
    diagnosis = {
        name: limit.worst(np.array([found.diagnosis[name] for found in of_draws]), axis=0)
        for name, limit in row.limits.items()
    }
    return Estimates(log_prob, error, diagnosis)


def _doubts(method, row, found, J):
    """Yield what a user should know before believing the estimates."""
    if row.few_latents < J:
        yield (
            f"the method {method!r} is for at most {row.few_latents} latent dimensions, and the model has {J}: "
            "the estimates may be off by more than their standard errors"
        )
    for name, limit in row.limits.items():
        if doubt := limit.doubt(method, name, found.diagnosis[name]):
            yield doubt
