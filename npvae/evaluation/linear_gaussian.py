"""A model with exact answers: x = z W + b + noise, with z ~ N(0, I) and noise ~ N(0, diag(variance)).

A VAE without hidden layers is such a model. log p(x) and the posterior have closed forms, and expectation-maximization
is exact, so approximate methods can be checked against them.
"""

from typing import NamedTuple

import numpy as np

from ..distributions import MultivariateNormal, Normal


class LinearGaussian(NamedTuple):
    """The linear-Gaussian model with these parameters.

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
        covariance = self.W.T @ self.W + np.diag(self.variance)
        return MultivariateNormal(self.b, np.linalg.cholesky(covariance)).log_prob(x)

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean (N, J) and the covariance (J, J) of p(z|x). The covariance is the same for every x."""
        scaled = self.W / self.variance
        covariance = np.linalg.inv(np.eye(len(self.W)) + scaled @ self.W.T)
        return (x - self.b) @ scaled.T @ covariance, covariance

    def elbo(self, x: np.ndarray, mu: np.ndarray, log_var: np.ndarray) -> np.ndarray:
        """Return the exact bound in nats, (N,), for q(z|x) = N(mu, diag(exp(log_var))); mu and log_var are (N, J)."""
        error = Normal(0.0, np.sqrt(self.variance)).log_prob(x - self.b - mu @ self.W).sum(axis=1)
        expected = error - 0.5 * np.exp(log_var) @ (self.W**2 / self.variance).sum(axis=1)
        return expected - 0.5 * (mu**2 + np.expm1(log_var) - log_var).sum(axis=1)

    def divergence(self, x: np.ndarray, mu: np.ndarray, log_var: np.ndarray) -> np.ndarray:
        """Return the exact D_KL(q(z|x) || p(z|x)) in nats, (N,), for q(z|x) as in `elbo`."""
        mean, covariance = self.posterior(x)
        precision, error = np.linalg.inv(covariance), mu - mean
        spread = np.exp(log_var) @ np.diag(precision) - log_var.sum(axis=1) + np.linalg.slogdet(covariance)[1]
        return 0.5 * (spread + np.einsum("ij,jk,ik->i", error, precision, error) - len(covariance))


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

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 1)) @ np.array([[1.0, 2.0, 3.0]]) + rng.normal(size=(200, 3))
    >>> model, history = expectation_maximization(x, 1, steps=50)
    >>> model.W.shape, history[-1] > history[0]
    ((1, 3), True)
    """
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
