"""Distributions of vectors: samples (..., K) of which every element may depend on a whole parameter.

They have ``pullback(eps, dz)`` but not ``gradients``: the derivatives of each element with respect to each element of a
parameter would be an array too many.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, gammaln, xlogy

from .base import FloatArray, Parameter, Reparameterized, Shape, uniform
from .implicit import Chi2, Gamma
from .location_scale import Normal


@dataclass(frozen=True)
class MultivariateNormal(Reparameterized):
    """N(loc, L L^T) with loc (K,) and the Cholesky factor L = scale_tril (K, K): z = loc + L eps.

    Examples
    --------
    >>> from npvae.distributions import MultivariateNormal
    >>> q = MultivariateNormal(loc=[1.0, 0.0], scale_tril=[[2.0, 0.0], [1.0, 1.0]])
    >>> q.rsample([1.0, -1.0])
    array([3., 0.])
    >>> q.log_prob([[1.0, 0.0], [3.0, 0.0]]).round(3)
    array([-2.531, -3.531])
    """

    loc: Parameter = Parameter()
    scale_tril: Parameter = Parameter()

    @property
    def _n_dimensions(self) -> int:
        return len(self.loc)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return rng.standard_normal((*np.atleast_1d(shape), self._n_dimensions))

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        """Return the log-density of noise eps (..., K), a value a vector, in nats."""
        return Normal().log_prob(eps).sum(axis=-1)

    def entropy(self) -> FloatArray:
        """Return K/2 (1 + log 2 pi) + log det L in nats."""
        scales = np.diag(self.scale_tril)
        return len(scales) * Normal().entropy() + np.log(scales).sum()

    def _log_prob(self, x: FloatArray) -> FloatArray:
        eps = np.linalg.solve(self.scale_tril, (x - self.loc)[..., None])[..., 0]
        return self.log_prob_noise(eps) - np.log(np.diag(self.scale_tril)).sum()

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return self.loc + eps @ np.transpose(self.scale_tril)

    def _pullback(self, eps: FloatArray, dz: FloatArray) -> dict[str, FloatArray]:
        return {"loc": dz, "scale_tril": np.tril(dz[..., :, None] * eps[..., None, :])}


@dataclass(frozen=True)
class MultivariateStudentT(MultivariateNormal):
    """The elliptical family with heavier tails: the noise of a `MultivariateNormal` over sqrt(c / df), c chi-squared.

    There is no derivative with respect to df, which is fixed.

    Examples
    --------
    >>> from npvae.distributions import MultivariateStudentT
    >>> q = MultivariateStudentT(loc=[0.0, 0.0], scale_tril=[[1.0, 0.0], [0.0, 1.0]], df=4.0)
    >>> q.log_prob([[0.0, 0.0], [3.0, 0.0]]).round(3)
    array([-1.838, -5.374])
    """

    df: Parameter = Parameter(1.0)

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        chi2 = Chi2(self.df).rsample(uniform(rng, (*np.atleast_1d(shape), 1)))
        return super().draw(rng, shape) * np.sqrt(self.df / chi2)

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        nu, K = self.df, self._n_dimensions
        return self._log_constant() - (nu + K) / 2 * np.log1p((np.asarray(eps, float) ** 2).sum(axis=-1) / nu)

    def entropy(self) -> FloatArray:
        """Return the entropy in nats."""
        nu, K = self.df, self._n_dimensions
        expected = (nu + K) / 2 * (digamma((nu + K) / 2) - digamma(nu / 2))
        return expected - self._log_constant() + np.log(np.diag(self.scale_tril)).sum()

    def _log_constant(self) -> FloatArray:
        nu, K = self.df, self._n_dimensions
        return gammaln((nu + K) / 2) - gammaln(nu / 2) - K / 2 * np.log(np.pi * nu)


@dataclass(frozen=True)
class Dirichlet(Reparameterized):
    """Shares x_k / sum(x) of Gamma variables x with shapes concentration (K,).

    Examples
    --------
    >>> from npvae.distributions import Dirichlet
    >>> Dirichlet(concentration=[2.0, 2.0, 4.0]).rsample([0.5, 0.5, 0.5]).round(3)
    array([0.239, 0.239, 0.522])
    """

    concentration: Parameter = Parameter()

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return uniform(rng, (*np.atleast_1d(shape), len(self.concentration)))

    def _log_prob(self, x: FloatArray) -> FloatArray:
        a = self.concentration
        return xlogy(a - 1, x).sum(axis=-1) + gammaln(a.sum()) - gammaln(a).sum()

    def _rsample(self, eps: FloatArray) -> FloatArray:
        x = Gamma(self.concentration).rsample(eps)
        return x / x.sum(axis=-1, keepdims=True)

    def _pullback(self, eps: FloatArray, dz: FloatArray) -> dict[str, FloatArray]:
        gamma = Gamma(self.concentration)
        x = gamma.rsample(eps)
        total = x.sum(axis=-1, keepdims=True)
        dx = (dz - (dz * x / total).sum(axis=-1, keepdims=True)) / total
        return {"concentration": dx * gamma.gradients(eps)["concentration"]}
