"""Estimators of the bound and of its gradient, all behind one `interface`. To add one, add a row to ``ESTIMATORS``."""

from ..model import POSTERIORS
from .bound import WEIGHT_DRAWS, Scorer
from .full_vb import FullVB
from .interface import Estimator, Result, Spec, first_nonfinite
from .score_function import ScoreFunction
from .sgvb import SGVB

_EVERY_POSTERIOR = tuple(POSTERIORS)

ESTIMATORS = {
    "sgvb-a": Spec(lambda model, L, N: SGVB(model, L, analytic_kl=False), _EVERY_POSTERIOR),
    "sgvb-b": Spec(lambda model, L, N: SGVB(model, L, analytic_kl=True), _EVERY_POSTERIOR),
    "score-function": Spec(lambda model, L, N: ScoreFunction(model, L)),
    "score-function-running": Spec(lambda model, L, N: ScoreFunction(model, L, "running")),
    "score-function-leave-one-out": Spec(
        lambda model, L, N: ScoreFunction(model, L, "leave-one-out"), fewest_samples=2
    ),
    "full-vb": Spec(
        lambda model, L, N: FullVB(model, L, N, analytic_kl=True),
        _EVERY_POSTERIOR, backends=("reference", "cpu"), random_weights="decoder",
    ),
    "full-vb-sampled": Spec(
        lambda model, L, N: FullVB(model, L, N, analytic_kl=False),
        _EVERY_POSTERIOR, backends=("reference", "cpu"), random_weights="decoder",
    ),
}  # fmt: skip


def available(posterior: str, backend: str = "cpu") -> list[str]:
    """List the names of the estimators that know this family of q(z|x), on a backend ("auto": on some).

    Examples
    --------
    >>> available("laplace")
    ['sgvb-a', 'sgvb-b', 'full-vb', 'full-vb-sampled']
    """
    if backend == "auto":
        backend = "cpu"
    return [name for name in ESTIMATORS if runs(name, posterior, backend)]


def runs(name: str, posterior: str, backend: str) -> bool:
    """Tell whether an estimator knows this family of q(z|x) and runs on this backend."""
    spec = ESTIMATORS[name]
    return posterior in spec.posteriors and backend in spec.backends and backend in POSTERIORS[posterior].backends


def suits(name, architecture):
    """Tell whether the estimator of that name works on a model."""
    spec = ESTIMATORS[name]
    return architecture.posterior in spec.posteriors and spec.random_weights == architecture.random_weights


def runs_on(architecture, backend: str) -> bool:
    """Tell whether a model is computed by this backend: whether some estimator that suits it runs there."""
    return any(suits(name, architecture) and runs(name, architecture.posterior, backend) for name in ESTIMATORS)


__all__ = [
    "ESTIMATORS", "SGVB", "WEIGHT_DRAWS", "Estimator", "FullVB", "Result", "ScoreFunction", "Scorer", "Spec",
    "available", "first_nonfinite", "runs", "runs_on", "suits",
]  # fmt: skip
