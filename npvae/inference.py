"""Variational inference for any model with continuous unknowns: the paper's estimator without a recognition network.

The user supplies log p(x, z) as a function of z, with its gradient, and chooses the family of q(z). The bound
E_q[log p(x, z)] + H(q) (equation 2) is maximised: the expectation is estimated from reparameterized samples z = g(eps),
the entropy H(q) is in closed form. Nothing here knows of networks or of minibatches.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .conventions import (
    array_of_shape,
    check_each,
    check_number,
    check_positive,
    check_seed,
    did_you_mean,
    kind_of,
    short_repr,
)
from .distributions import Laplace, Logistic, MultivariateNormal, Normal

#: From samples z (n, K) to log p(x, z) (n,) in nats and its gradient with respect to z (n, K).
LogJoint = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]

#: The families of q(z): parameters ``loc`` and ``scale`` of shape (K,), or ``loc`` and ``scale_tril`` (K, K).
Family = Normal | Laplace | Logistic | MultivariateNormal

#: Samples from which the bound of the result is estimated.
N_FINAL = 10_000

#: Decay of the running mean of squared gradients, from one step to the next. (Adagrad sums them instead: large
#: gradients of a distant start would then shorten all later steps, and there are few steps here.)
DECAY = 0.99

#: Keeps a step finite where all gradients so far are zero.
EPSILON = 1e-8

#: The largest ratio of a gradient to the root of that mean: earlier gradients may be small by chance.
MAX_RATIO = 10.0


class Posterior(NamedTuple):
    """The result of `fit_posterior`.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.distributions import Normal
    >>> Posterior(q=Normal(), elbo=-1.2, elbo_error=0.01, history=np.array([-3.0, -1.2])).elbo
    -1.2
    """

    q: Family  # the fitted distribution
    elbo: float  # the bound on log p(x) in nats, estimated from new samples
    elbo_error: float  # its standard error
    history: NDArray[np.float64]  # (steps,) the estimate of the bound at each step

    def __repr__(self) -> str:
        return short_repr(self)


def fit_posterior(
    log_joint: LogJoint,
    q: Family,
    *,
    steps: int = 5000,
    n_samples: int = 10,
    learning_rate: float = 0.1,
    random_state: int = 0,
) -> Posterior:
    """Fit q(z) to the posterior p(z|x) by stochastic gradient ascent on the bound (equation 2).

    The parameters of the result are the mean over the second half of the steps, which averages out the noise.

    Parameters
    ----------
    log_joint : callable
        From samples z (n, K) to log p(x, z) (n,) in nats and its gradient with respect to z (n, K).
    q : Normal, Laplace or Logistic with loc and scale (K,), or MultivariateNormal
        The family (from `npvae.distributions`) and the initial parameters.
    steps : int
    n_samples : int
        Samples in each step.
    learning_rate : float
        Length of the first steps in each coordinate; it decreases linearly to zero.
    random_state : int

    Returns
    -------
    Posterior

    Raises
    ------
    TypeError, ValueError
        If ``q`` is of another family, or its parameters have other shapes or a scale that is not positive; if
        ``log_joint`` returns something else than a value for each row and a gradient of the shape of z; if a number is
        out of range.
    FloatingPointError
        If the bound, its gradient or the parameters are not finite.

    Examples
    --------
    A posterior that is known, N(3, 0.5^2), with log p(x) = 0:

    >>> from npvae.distributions import Normal
    >>> def log_joint(z):
    ...     return Normal(3.0, 0.5).log_prob(z).sum(axis=1), (3.0 - z) / 0.5**2
    >>> found = fit_posterior(log_joint, Normal(loc=[0.0], scale=[1.0]), steps=1000)
    >>> found.q.loc.round(1), found.q.scale.round(1)
    (array([3.]), array([0.5]))
    >>> abs(found.elbo) < 0.01
    True
    """
    check_number("steps", steps, np.integer, 1)
    check_number("n_samples", n_samples, np.integer, 1)
    check_positive("learning_rate", learning_rate)
    check_seed("random_state", random_state)
    _check_family(q)
    # Of more rows than columns: with as many, a sum over the wrong axis has the right shape.
    value_and_gradient(log_joint, q.rsample(_draw(q, np.random.default_rng(0), len(q.loc) + 1)))
    rng, history = np.random.default_rng(random_state), []
    squares: dict[str, NDArray[np.float64]] = {}
    average: dict[str, NDArray[np.float64]] = {}
    free = _unconstrained(q)
    for step in range(steps):
        here = _constrained(q, free)
        value, gradient = _elbo_and_gradient(log_joint, here, _draw(here, rng, n_samples))
        if not np.isfinite(value) or not all(np.all(np.isfinite(g)) for g in gradient.values()):
            raise FloatingPointError(
                f"the bound or its gradient is not finite at step {step + 1}; a learning_rate smaller than "
                f"{learning_rate:g} may help"
            )
        history.append(value)
        gradient = _chain(here, gradient)
        size = learning_rate * (1 - step / steps)
        for name, g in gradient.items():
            # The mean excludes this step: a gradient that is part of its own scale, with skewed noise, would pull the
            # parameters away from the point where the gradient is zero on average.
            total = squares.get(name, 0)
            mean = total / (1 - DECAY**step) if step else g**2
            free[name] = free[name] + size * np.clip(g / np.sqrt(mean + EPSILON), -MAX_RATIO, MAX_RATIO)
            squares[name] = DECAY * total + (1 - DECAY) * g**2
            if step >= steps // 2:
                average[name] = average.get(name, 0) + free[name] / (steps - steps // 2)
    here = _constrained(q, average)
    terms, _ = value_and_gradient(log_joint, here.rsample(_draw(here, rng, N_FINAL)))
    if not np.all(np.isfinite(terms)):
        raise FloatingPointError(
            f"log p(x, z) is not finite for {np.sum(~np.isfinite(terms))} of {N_FINAL} samples z of the fitted q, so "
            "its bound is not either: q may reach where p(x, z) is zero or cannot be computed"
        )
    return Posterior(here, float(terms.mean() + np.sum(here.entropy())), float(terms.std() / 100), np.array(history))


def elbo_and_gradient(
    log_joint: LogJoint, q: Family, eps: NDArray[np.float64]
) -> tuple[float, dict[str, NDArray[np.float64]]]:
    """Estimate the bound from noise, with its gradient with respect to the parameters of q.

    Parameters
    ----------
    log_joint : callable, as in `fit_posterior`
    q : as in `fit_posterior`
    eps : array (n, K), noise from ``q.draw``

    Returns
    -------
    elbo : float, in nats
    gradient : dict with "loc" (K,) and "scale" (K,), or "scale_tril" (K, K)

    Examples
    --------
    The bound is exact, and its gradient zero, where q is the posterior:

    >>> import numpy as np
    >>> from npvae.distributions import Normal
    >>> eps = np.array([[-1.0], [1.0]])
    >>> elbo, gradient = elbo_and_gradient(lambda z: (Normal().log_prob(z)[:, 0], -z), Normal([0.0], [1.0]), eps)
    >>> round(elbo, 12), gradient
    (0.0, {'loc': array([0.]), 'scale': array([0.])})
    """
    _check_family(q)
    return _elbo_and_gradient(log_joint, q, array_of_shape("eps", eps, ("n", len(q.loc)), ", as noise of q has"))


def _elbo_and_gradient(log_joint, q, eps):
    log_p, dz = value_and_gradient(log_joint, q.rsample(eps))
    gradient = {name: g.mean(axis=0) for name, g in q.pullback(eps, dz).items()}
    name = _scale_of(q)
    scale = np.asarray(getattr(q, name))
    gradient[name] = gradient[name] + (np.diag(1 / np.diag(scale)) if scale.ndim == 2 else 1 / scale)  # of the entropy
    return float(np.mean(log_p) + np.sum(q.entropy())), gradient


def value_and_gradient(
    log_joint: LogJoint, z: NDArray[np.float64], name: str = "log_joint"
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what a user's function returns for z (n, K), after checking what it is. Errors call it ``name``.

    Examples
    --------
    >>> value_and_gradient(lambda z: (-(z**2).sum(axis=1), -2 * z), np.array([[1.0, 2.0]]))
    (array([-5.]), array([[-2., -4.]]))
    """
    if not callable(log_joint):
        raise TypeError(f"{name} is {kind_of(log_joint)}; expected a function that returns (log_p, gradient)")
    n, shape = len(z), z.shape
    result = log_joint(z)
    if not isinstance(result, tuple | list) or len(result) != 2:
        found = f"{len(result)} things" if isinstance(result, tuple | list) else f"an object {kind_of(result)}"
        raise TypeError(f"{name} returned {found}; expected a pair (log_p, gradient)")
    log_p, dz = result
    log_p = array_of_shape(f"the log_p that {name} returned", log_p, (n,), ", a value for each row of z")
    return log_p, array_of_shape(f"the gradient that {name} returned", dz, shape, ", as z has")


def _check_family(q: Family) -> None:
    """Raise TypeError or ValueError if q is not a family that can be fitted, with valid parameters."""
    if not isinstance(q, Family):
        known = ", ".join(family.__name__ for family in get_args(Family))
        near = did_you_mean(q, [family.__name__ for family in get_args(Family)])
        raise TypeError(f"q is {kind_of(q)}; expected one of the families {known}{near}")
    loc = array_of_shape("loc of q", q.loc, ("K",))
    check_each("loc of q", loc, np.isfinite(loc), "finite numbers")
    if isinstance(q, MultivariateNormal):
        L = array_of_shape(
            "scale_tril of q", q.scale_tril, (len(loc), len(loc)), f", since loc has the shape {loc.shape}"
        )
        check_each("scale_tril of q", L, np.isfinite(L), "finite numbers")
        check_each("scale_tril of q", L, (L == 0) | (np.tri(len(L)) > 0), "0 above the diagonal")
        check_each("scale_tril of q", L, (L > 0) | ~np.eye(len(L), dtype=bool), "numbers above 0 on the diagonal")
    else:
        scale = array_of_shape("scale of q", q.scale, loc.shape, ", as loc has")
        check_each("scale of q", scale, (scale > 0) & np.isfinite(scale), "finite numbers above 0")


def _draw(q: Family, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Draw noise for n samples (n, K)."""
    return q.draw(rng, n if isinstance(q, MultivariateNormal) else (n, *np.shape(q.loc)))


def _scale_of(q: Family) -> str:
    return "scale_tril" if isinstance(q, MultivariateNormal) else "scale"


# Scales are positive: the ascent is on their logarithms; for a Cholesky factor, on those of its diagonal.


def _unconstrained(q: Family) -> dict[str, NDArray[np.float64]]:
    scale = np.array(getattr(q, _scale_of(q)), float)
    if scale.ndim == 2:
        np.fill_diagonal(scale, np.log(np.diag(scale)))
    else:
        scale = np.log(scale)
    return {"loc": np.array(q.loc, float), _scale_of(q): scale}


@np.errstate(over="ignore")
def _constrained(q: Family, free: dict[str, NDArray[np.float64]]) -> Family:
    scale = free[_scale_of(q)]
    if scale.ndim == 2:
        scale = np.tril(scale, -1) + np.diag(np.exp(np.diag(scale)))
    else:
        scale = np.exp(scale)
    parameters: dict[str, Any] = {"loc": free["loc"], _scale_of(q): scale}
    try:
        return replace(q, **parameters)
    except ValueError as error:  # the initial ones were in range
        raise FloatingPointError(f"the ascent diverged: {error}; a smaller learning_rate may help") from None


def _chain(q: Family, gradient: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return the gradient with respect to the unconstrained parameters: d/d log s = s d/ds."""
    name = _scale_of(q)
    scale = np.asarray(getattr(q, name))
    factor = np.where(np.eye(len(scale), dtype=bool), scale, 1) if scale.ndim == 2 else scale
    return {"loc": gradient["loc"], name: factor * gradient[name]}
