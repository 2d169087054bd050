"""A model with exact answers: x = z W + b + noise, with z ~ N(0, I) and noise ~ N(0, diag(variance)).

A VAE without hidden layers is such a model. log p(x) and the posterior have closed forms, and expectation-maximization
is exact, so approximate methods can be checked against them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..conventions import array_of_shape, check_each, check_number, check_seed
from ..distributions import MultivariateNormal, Normal


class LinearGaussian(NamedTuple):
    """The linear-Gaussian model with these parameters.

    The methods raise TypeError or ValueError if a parameter or an argument has another shape than stated or is not
    finite, or if a variance is not positive. Nothing is broadcast.

    Examples
    --------
    The bound of any q(z|x), plus its KL divergence from the posterior, is log p(x) (equation 1):

    >>> model = LinearGaussian(W=np.array([[1.0, 2.0]]), b=np.zeros(2), variance=np.ones(2))
    >>> x, mu, log_var = np.array([[0.5, -1.0]]), np.array([[0.3]]), np.array([[-1.0]])
    >>> bool(np.allclose(model.elbo(x, mu, log_var) + model.divergence(x, mu, log_var), model.log_prob(x)))
    True
    """

    W: np.ndarray  # (J, D)
    b: np.ndarray  # (D,)
    variance: np.ndarray  # (D,)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return log p(x) in nats, (N,) for x (N, D): a Gaussian with covariance W^T W + diag(variance)."""
        (W, b, variance), x = self._checked(), self._rows(x)
        covariance = W.T @ W + np.diag(variance)
        return MultivariateNormal(b, np.linalg.cholesky(covariance)).log_prob(x)

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean (N, J) and the covariance (J, J) of p(z|x). The covariance is the same for every x."""
        (W, b, variance), x = self._checked(), self._rows(x)
        scaled = W / variance
        covariance = np.linalg.inv(np.eye(len(W)) + scaled @ W.T)
        return (x - b) @ scaled.T @ covariance, covariance

    def elbo(self, x: np.ndarray, mu: np.ndarray, log_var: np.ndarray) -> np.ndarray:
        """Return the exact bound in nats, (N,), for q(z|x) = N(mu, diag(exp(log_var))); mu and log_var are (N, J)."""
        (W, b, variance), x = self._checked(), self._rows(x)
        mu, log_var = self._outputs(x, mu, log_var)
        error = Normal(0.0, np.sqrt(variance)).log_prob(x - b - mu @ W).sum(axis=1)
        expected = error - 0.5 * np.exp(log_var) @ (W**2 / variance).sum(axis=1)
        return expected - 0.5 * (mu**2 + np.expm1(log_var) - log_var).sum(axis=1)

    def divergence(self, x: np.ndarray, mu: np.ndarray, log_var: np.ndarray) -> np.ndarray:
        """Return the exact D_KL(q(z|x) || p(z|x)) in nats, (N,), for q(z|x) as in `elbo`."""
        mu, log_var = self._outputs(self._rows(x), mu, log_var)
        mean, covariance = self.posterior(x)
        precision, error = np.linalg.inv(covariance), mu - mean
        spread = np.exp(log_var) @ np.diag(precision) - log_var.sum(axis=1) + np.linalg.slogdet(covariance)[1]
        return 0.5 * (spread + np.einsum("ij,jk,ik->i", error, precision, error) - len(covariance))

    def _checked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the parameters as arrays."""
        W = _finite("W", self.W, ("J", "D"))
        D = W.shape[1:]
        b, variance = (
            _finite("b", self.b, D, ", since W is (J, D)"),
            _finite("variance", self.variance, D, ", since W is (J, D)"),
        )
        check_each("variance", variance, variance > 0, "numbers above 0")
        return W, b, variance

    def _rows(self, x: np.ndarray) -> np.ndarray:
        return _finite("x", x, ("N", self._checked()[0].shape[1]), ", since W is (J, D)")

    def _outputs(self, x: np.ndarray, mu: np.ndarray, log_var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = len(x), len(self.W)
        return _finite("mu", mu, shape, ", a row for each of x"), _finite("log_var", log_var, shape, ", as mu has")


def _finite(name: str, given: ArrayLike, shape: tuple[int | str, ...], why: str = "") -> np.ndarray:
    array = array_of_shape(name, given, shape, why)
    check_each(name, array, np.isfinite(array), "finite numbers")
    return array


def expectation_maximization(
    x: np.ndarray, n_components: int, *, steps: int = 1000, tolerance: float = 1e-9, random_state: int = 0
) -> tuple[LinearGaussian, list[float]]:
    """Fit a linear-Gaussian model by exact expectation-maximization (Dempster, Laird and Rubin, 1977).

    The model is known as factor analysis.

    Parameters
    ----------
    x : array (N, D)
    n_components : int
        Latent dimensions, J.
    steps : int
        Maximum number of steps.
    tolerance : float
        Stop when the mean log-likelihood rises by less than this in a step, in nats.
    random_state : int
        Seed of the initial weights.

    Returns
    -------
    model : LinearGaussian
    history : list of float
        Mean log-likelihood of the rows before each step, in nats. It never falls.

    Raises
    ------
    TypeError, ValueError
        If x does not have two dimensions, some of it is not finite, or a column is constant, which has no density; if a
        number is out of range; if a step finds that other columns determine one, whose variance then is zero.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 1)) @ np.array([[1.0, 2.0, 3.0]]) + rng.normal(size=(200, 3))
    >>> model, history = expectation_maximization(x, 1, steps=50)
    >>> model.W.shape, history[-1] > history[0]
    ((1, 3), True)
    """
    check_number("n_components", n_components, np.integer, 1)
    check_number("steps", steps, np.integer, 1)
    check_number("tolerance", tolerance, np.floating, 0)
    check_seed("random_state", random_state)
    x = _finite("x", x, ("N", "D"))
    constant = np.flatnonzero(np.ptp(x, axis=0) == 0)
    if len(constant):
        raise ValueError(
            f"x is constant in {len(constant)} columns, the first is {constant[0]}; expected columns that vary"
        )
    b, rng = x.mean(axis=0), np.random.default_rng(random_state)
    centred = x - b
    model = LinearGaussian(0.1 * rng.standard_normal((n_components, x.shape[1])) * x.std(axis=0), b, x.var(axis=0))
    history = []
    for _ in range(steps):
        history.append(float(model.log_prob(x).mean()))
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            break
        mean, covariance = model.posterior(x)  # the expectation step: moments of z
        products = mean.T @ centred / len(x)
        W = np.linalg.solve(covariance + mean.T @ mean / len(x), products)  # the maximization step
        model = LinearGaussian(W, b, (centred**2).mean(axis=0) - (W * products).sum(axis=0))
    return model, history
