"""The model whose answers are known: x = z W + b + noise, with z ~ N(0, I) and noise ~ N(0, diag(variance)).

It is what a VAE without hidden layers is. Its evidence and posterior have closed forms, and expectation-maximization
needs no approximation: a standard by which to measure what does.
"""

from typing import NamedTuple

import numpy as np

from ..distributions import MultivariateNormal, Normal


class LinearGaussian(NamedTuple):
    """The parameters: W (J, D), b (D,) and variance (D,)."""

    W: np.ndarray
    b: np.ndarray
    variance: np.ndarray

    def log_prob(self, x):
        """Return log p(x) in nats, (N,) for x (N, D): a Gaussian with covariance W^T W + diag(variance)."""
        covariance = self.W.T @ self.W + np.diag(self.variance)
        return MultivariateNormal(self.b, np.linalg.cholesky(covariance)).log_prob(x)

    def posterior(self, x):
        """Return mean (N, J) and covariance (J, J) of p(z|x); the covariance is the same for every x."""
        scaled = self.W / self.variance
        covariance = np.linalg.inv(np.eye(len(self.W)) + scaled @ self.W.T)
        return (x - self.b) @ scaled.T @ covariance, covariance

    def elbo(self, x, mu, log_var):
        """Return the bound (N,) for q(z|x) = N(mu, diag(exp(log_var))), (N, J) each, exactly."""
        error = Normal(0.0, np.sqrt(self.variance)).log_prob(x - self.b - mu @ self.W).sum(axis=1)
        expected = error - 0.5 * np.exp(log_var) @ (self.W**2 / self.variance).sum(axis=1)
        return expected - 0.5 * (mu**2 + np.expm1(log_var) - log_var).sum(axis=1)

    def divergence(self, x, mu, log_var):
        """Return D_KL(q(z|x) || p(z|x)) (N,), exactly: with `elbo` it adds up to `log_prob`."""
        mean, covariance = self.posterior(x)
        precision, error = np.linalg.inv(covariance), mu - mean
        spread = np.exp(log_var) @ np.diag(precision) - log_var.sum(axis=1) + np.linalg.slogdet(covariance)[1]
        return 0.5 * (spread + np.einsum("ij,jk,ik->i", error, precision, error) - len(covariance))


def expectation_maximization(x, n_components, *, steps=1000, tolerance=1e-9, random_state=0):
    """Maximise the likelihood of x (N, D) exactly (Dempster, Laird and Rubin, 1977; here known as factor analysis).

    Parameters
    ----------
    x : array (N, D)
    n_components : int
    steps : int, at most
    tolerance : float, rise of the mean log-likelihood at which to stop, in nats
    random_state : int, for the initial weights

    Returns
    -------
    model : LinearGaussian
    history : list of float, mean log-likelihood of the rows before each step, which never falls
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
