"""The choice of a step size: the paper's protocol, a comparison of the training bound after the first steps."""

import itertools

import numpy as np

from .loop import NonFiniteError

#: The step sizes that the paper compares.
STEP_SIZES = (0.01, 0.02, 0.1)

#: Steps that each of them gets, after those that only accumulate.
TRIAL_STEPS = 200


def choose_step_size(make_trainer, score):
    """Compare the step sizes of the paper on the training bound after the first iterations.

    Each gets `TRIAL_STEPS` steps past those that only accumulate (fewer where the whole run is shorter), from the same
    parameters with the same noise. One whose training diverges is rejected.

    Parameters
    ----------
    make_trainer : callable, from a step size to a fresh Trainer
    score : callable, from Parameters to the bound of (part of) the training data in nats

    Returns
    -------
    step_size : float; bounds : dict of step size -> bound in nats, -inf where it diverged

    Raises
    ------
    FloatingPointError
        If all of them diverge.
    """
    bounds = {step_size: _trial(make_trainer(step_size), score) for step_size in STEP_SIZES}
    best = max(bounds, key=bounds.get)
    if bounds[best] == -np.inf:
        raise FloatingPointError(f"training diverges with every step size of {STEP_SIZES}; set learning_rate lower")
    return best, bounds


def _trial(trainer, score):
    accumulating = -(-trainer.progress.accumulate_only // trainer.estimator.updates_per_sample)
    remaining = min(accumulating + TRIAL_STEPS, trainer.settings.max_epochs * trainer.steps_per_epoch)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            while remaining > 0:
                for rows in itertools.islice(trainer.minibatches(), remaining):
                    trainer.step(rows)
                    remaining -= 1
            bound = score(trainer.parameters)
    except NonFiniteError:
        return -np.inf
    return bound if np.isfinite(bound) else -np.inf
