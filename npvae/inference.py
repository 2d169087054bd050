"""Variational inference for any model with continuous unknowns: the paper's estimator without a recognition network.

The user supplies log p(x, z) as a function of z, with its gradient, and picks a location-scale family for q(z). What is
maximised is the bound E_q[log p(x, z)] + H(q) (equation 2): the expectation by samples z = loc + scale * eps, the
entropy in closed form, since H(q) = H(eps) + log scale.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .distributions import MultivariateNormal

#: How much of the mean squared gradient is kept from one step to the next. (Adagrad keeps all: the gradients of a start
#: far off would slow down the steps near the end, of which there are few here.)
KEPT, EPSILON = 0.99, 1e-8

#: A step is at most so many times the usual one: earlier gradients may have been small by chance.
LONGEST = 10.0


class Posterior(NamedTuple):
    """What `fit_posterior` returns."""

    q: object  # the distribution
    elbo: float  # the bound on log p(x) in nats, from fresh samples
    elbo_error: float  # its standard error
    history: np.ndarray  # (steps,) the estimate of each step


def fit_posterior(log_joint, q, *, steps=5000, n_samples=10, learning_rate=0.1, random_state=0):
    """Fit q(z) to the posterior p(z|x) by stochastic gradient ascent on the bound.

    Parameters
    ----------
    log_joint : callable
        From samples z (n, K) to log p(x, z) (n,) in nats and its gradient by z (n, K).
    q : Normal, Laplace, Logistic with loc and scale (K,), or MultivariateNormal
        Of `npvae.reparameterization`: the family, and where it starts.
    steps : int
    n_samples : int, for each step
    learning_rate : float
        Length of the first steps, in each coordinate; it falls to zero, linearly.
    random_state : int

    Returns
    -------
    Posterior

    Raises
    ------
    FloatingPointError
        If the bound is not finite; the message names the step.
    """
    rng, squares, average, history = np.random.default_rng(random_state), {}, {}, []
    free, shape = _unconstrained(q), np.shape(q.loc)
    for step in range(steps):
        here = _constrained(q, free)
        eps = here.draw(rng, (n_samples, *shape) if not isinstance(q, MultivariateNormal) else n_samples)
        value, gradient = elbo_and_gradient(log_joint, here, eps)
        if not np.isfinite(value) or not all(np.all(np.isfinite(g)) for g in gradient.values()):
            raise FloatingPointError(f"the bound or its gradient is not finite at step {step + 1}; a smaller "
                                     f"learning_rate than {learning_rate:g} may help")  # fmt: skip
        history.append(value)
        gradient = _chain(here, gradient)
        size = learning_rate * (1 - step / steps)
        for name, g in gradient.items():
            # The mean is of earlier steps alone: were this gradient part of its own scale, skewed noise would pull the
            # parameters away from where the gradient is zero on average.
            total = squares.get(name, 0)
            mean = total / (1 - KEPT**step) if step else g**2
            free[name] = free[name] + size * np.clip(g / np.sqrt(mean + EPSILON), -LONGEST, LONGEST)
            squares[name] = KEPT * total + (1 - KEPT) * g**2
            if step >= steps // 2:  # the answer is the mean of the later half, in which the noise averages out
                average[name] = average.get(name, 0) + free[name] / (steps - steps // 2)
    here = _constrained(q, average)
    eps = here.draw(rng, (10_000, *shape) if not isinstance(q, MultivariateNormal) else 10_000)
    terms = log_joint(here.rsample(eps))[0]
    return Posterior(here, float(terms.mean() + np.sum(here.entropy())), float(terms.std() / 100), np.array(history))


def elbo_and_gradient(log_joint, q, eps):
    """Return the estimate of the bound from noise eps (n, K), and its gradient by loc and by scale or scale_tril."""
    log_p, dz = log_joint(q.rsample(eps))
    gradient = {name: g.mean(axis=0) for name, g in q.pullback(eps, dz).items()}
    name = _scale_of(q)
    scale = np.asarray(getattr(q, name))
    gradient[name] = gradient[name] + (np.diag(1 / np.diag(scale)) if scale.ndim == 2 else 1 / scale)
    return float(np.mean(log_p) + np.sum(q.entropy())), gradient


def _scale_of(q):
    return "scale_tril" if isinstance(q, MultivariateNormal) else "scale"


# Scales are positive: the ascent is on their logarithms, for a Cholesky factor those of its diagonal.


def _unconstrained(q):
    scale = np.array(getattr(q, _scale_of(q)), float)
    if scale.ndim == 2:
        np.fill_diagonal(scale, np.log(np.diag(scale)))
    else:
        scale = np.log(scale)
    return {"loc": np.array(q.loc, float), _scale_of(q): scale}


def _constrained(q, free):
    scale = free[_scale_of(q)]
    if scale.ndim == 2:
        scale = np.tril(scale, -1) + np.diag(np.exp(np.diag(scale)))
    else:
        scale = np.exp(scale)
    return replace(q, loc=free["loc"], **{_scale_of(q): scale})


def _chain(q, gradient):
    """Return the gradient by what is unconstrained: d/d log s = s d/ds."""
    name = _scale_of(q)
    scale = np.asarray(getattr(q, name))
    factor = np.where(np.eye(len(scale), dtype=bool), scale, 1) if scale.ndim == 2 else scale
    return {"loc": gradient["loc"], name: factor * gradient[name]}
