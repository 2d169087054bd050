"""The choice of a step size by the paper's protocol: compare the training bound after the first steps (section 5)."""

from collections.abc import Callable, Sequence

import numpy as np

from ..parameters import Parameters
from .loop import NonFiniteError, Trainer

#: The step sizes that the paper compares.
STEP_SIZES = (0.01, 0.02, 0.1)

#: Steps of each trial that move the parameters: they follow Adagrad's first steps, which do not.
TRIAL_STEPS = 200


def choose_step_size(
    make_trainer: Callable[[float], Trainer],
    score: Callable[[Parameters], float],
    step_sizes: Sequence[float] | None = None,
    doing: Callable[[str], object] = lambda stage: None,
) -> tuple[float, dict[float, float]]:
    """Choose the step size with the best training bound after a short trial.

    Trials have ``TRIAL_STEPS`` steps (fewer if the whole training is shorter). All start from the same parameters and
    have the same noise. A step size with which training diverges is rejected.

    Parameters
    ----------
    make_trainer : callable, from a step size to a new Trainer
    score : callable, from Parameters to the bound of (part of) the training data, in nats per datapoint
    step_sizes : sequence of float, optional
        Those of the paper by default.
    doing : callable, told of each trial when it begins

    Returns
    -------
    step_size : float
    bounds : dict of step size -> bound in nats per datapoint, -inf if training diverged

    Raises
    ------
    FloatingPointError
        If training diverges with every step size.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.backends import reference
    >>> from npvae.estimators import ESTIMATORS, Scorer
    >>> from npvae.model import Architecture, Model
    >>> from npvae.preprocessing import fit_preprocessor
    >>> from npvae.table import survey
    >>> from npvae.training import Settings, Trainer, choose_step_size
    >>> table = survey(np.eye(4)[np.arange(20) % 2])
    >>> data = fit_preprocessor(table, "bernoulli")[0].data(table)
    >>> model = Model(Architecture(4, 1, hidden_layer_sizes=()), reference)
    >>> def make_trainer(step_size):
    ...     rng = np.random.default_rng(0)
    ...     parameters = model.parameters(model.initial(rng, 0.1))
    ...     estimator = ESTIMATORS["sgvb-b"].make(model, 1, len(data.X))
    ...     return Trainer(estimator, parameters, data, rng, Settings(learning_rate=step_size, max_epochs=50))
    >>> scorer = Scorer(model, seed=0)
    >>> step_size, bounds = choose_step_size(make_trainer, lambda parameters: scorer(parameters, data).mean())
    >>> step_size, sorted(bounds)
    (0.1, [0.01, 0.02, 0.1])
    """
    step_sizes, bounds = STEP_SIZES if step_sizes is None else step_sizes, {}
    for number, step_size in enumerate(step_sizes, 1):
        doing(f"choosing the step size: trial {number} of {len(step_sizes)}, with {step_size:g}")
        bounds[step_size] = _trial(make_trainer(step_size), score)
    best = max(bounds, key=lambda step_size: bounds[step_size])
    if bounds[best] == -np.inf:
        raise FloatingPointError(
            f"training diverges with every step size of {tuple(step_sizes)}; set learning_rate lower"
        )
    return best, bounds


def _trial(trainer: Trainer, score: Callable[[Parameters], float]) -> float:
    """Train for a trial and return the bound, -inf if training diverged."""
    accumulating = -(-trainer.progress.accumulate_only // trainer.estimator.updates_per_sample)
    remaining = min(accumulating + TRIAL_STEPS, trainer.settings.max_epochs * trainer.steps_per_epoch)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            while remaining > 0:
                for run in trainer.runs():
                    trainer.steps(run[:remaining])
                    remaining -= len(run)
                    if remaining <= 0:
                        break
                trainer.progress.epoch += 1  # the next rows are drawn anew
            bound = score(trainer.parameters)
    except NonFiniteError:
        return -np.inf
    return bound if np.isfinite(bound) else -np.inf
