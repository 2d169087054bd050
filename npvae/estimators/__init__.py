"""Estimators of the bound and of its gradient. All have one `interface`; a new one is a new row of ``ESTIMATORS``."""

from ..model import POSTERIORS, Architecture
from .bound import WEIGHT_DRAWS, Scorer
from .full_vb import FullVB
from .importance_weighted import DoublyReparameterized, ImportanceWeighted
from .interface import Estimator, Result, Spec, first_nonfinite
from .monte_carlo_em import MonteCarloEM
from .score_function import ScoreFunction
from .sgvb import SGVB
from .wake_sleep import WakeSleep

_EVERY_POSTERIOR = tuple(POSTERIORS)
_SMOOTH = tuple(name for name, row in POSTERIORS.items() if row.slope is not None)

#: All estimators by name.
ESTIMATORS = {
    "sgvb-a": Spec(lambda model, L, N: SGVB(model, L, analytic_kl=False), _EVERY_POSTERIOR),
    "sgvb-b": Spec(lambda model, L, N: SGVB(model, L, analytic_kl=True), _EVERY_POSTERIOR),
    "iwae": Spec(
        lambda model, L, N: ImportanceWeighted(model, L),
        _EVERY_POSTERIOR,
        backends=("reference", "cpu"),
        importance_weighted=True,
    ),
    "iwae-dreg": Spec(
        lambda model, L, N: DoublyReparameterized(model, L),
        _SMOOTH,
        backends=("reference", "cpu"),
        importance_weighted=True,
    ),
    "score-function": Spec(lambda model, L, N: ScoreFunction(model, L)),
    "score-function-running": Spec(lambda model, L, N: ScoreFunction(model, L, "running")),
    "score-function-leave-one-out": Spec(
        lambda model, L, N: ScoreFunction(model, L, "leave-one-out"), fewest_samples=2
    ),
    "full-vb": Spec(
        lambda model, L, N: FullVB(model, L, N, analytic_kl=True),
        _EVERY_POSTERIOR,
        backends=("reference", "cpu"),
        random_weights="decoder",
    ),
    "full-vb-sampled": Spec(
        lambda model, L, N: FullVB(model, L, N, analytic_kl=False),
        _EVERY_POSTERIOR,
        backends=("reference", "cpu"),
        random_weights="decoder",
    ),
    "wake-sleep": Spec(lambda model, L, N: WakeSleep(model, L)),
    "monte-carlo-em": Spec(MonteCarloEM, backends=("reference", "cpu"), has_encoder=False, in_pieces=False),
}


def available(posterior: str, backend: str = "cpu") -> list[str]:
    """List the names of the estimators that support this family of q(z|x) on this backend.

    Parameters
    ----------
    posterior : str
        A name in `model.POSTERIORS`.
    backend : str
        "auto" gives the estimators that run on the CPU.

    Returns
    -------
    list of str
        Names in `ESTIMATORS`.

    Examples
    --------
    >>> available("laplace")
    ['sgvb-a', 'sgvb-b', 'iwae', 'iwae-dreg', 'full-vb', 'full-vb-sampled']
    """
    if backend == "auto":
        backend = "cpu"
    return [name for name in ESTIMATORS if supports(name, posterior, backend)]


def supports(name: str, posterior: str, backend: str) -> bool:
    """Tell whether an estimator supports this family of q(z|x) and runs on this backend.

    Examples
    --------
    >>> supports("full-vb", "gaussian", "cpu"), supports("full-vb", "gaussian", "cuda")
    (True, False)
    """
    spec = ESTIMATORS[name]
    return posterior in spec.posteriors and backend in spec.backends and backend in POSTERIORS[posterior].backends


def suits(name: str, architecture: Architecture) -> bool:
    """Tell whether an estimator can train a model: same family of q(z|x), same random weights, an encoder or none.

    On any backend.

    Examples
    --------
    >>> from npvae.model import Architecture
    >>> suits("sgvb-b", Architecture(3, 2)), suits("sgvb-b", Architecture(3, 2, random_weights="decoder"))
    (True, False)
    """
    spec = ESTIMATORS[name]
    same = spec.random_weights == architecture.random_weights and spec.has_encoder == architecture.has_encoder
    return same and architecture.posterior in spec.posteriors


def runs_on(architecture: Architecture, backend: str) -> bool:
    """Tell whether a backend can compute a model: whether an estimator that suits the model runs there.

    Examples
    --------
    >>> from npvae.model import Architecture
    >>> [runs_on(Architecture(3, 2, posterior="laplace"), backend) for backend in ("reference", "cpu", "cuda")]
    [True, True, False]
    """
    return any(suits(name, architecture) and supports(name, architecture.posterior, backend) for name in ESTIMATORS)


__all__ = [
    "ESTIMATORS", "SGVB", "WEIGHT_DRAWS", "DoublyReparameterized", "Estimator", "FullVB", "ImportanceWeighted",
    "MonteCarloEM", "Result", "ScoreFunction", "Scorer", "Spec", "WakeSleep", "available", "first_nonfinite", "runs_on",
    "suits", "supports",
]  # fmt: skip
