"""Distributions of vectors: samples (..., K) of which every element may depend on a whole parameter.

They have ``pullback(eps, dz)`` but not ``gradients``: the derivatives of each element with respect to each element of a
parameter would be an array too many.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, softmax

from .base import FloatArray, Parameter, Reparameterized, Shape, uniform
from .composition import student_t_log_constant, student_t_log_kernel
from .implicit import log_quantile
from .location_scale import Normal
from .special import LOG_2PI, log_ratio, scaled_exp, stirling_error, times

#: Shares outside of the support of a Dirichlet distribution have a sum that differs from 1 by more.
SUM_OF_SHARES = 1e-6


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

    def __post_init__(self) -> None:
        loc, L = np.asarray(self.loc), np.asarray(self.scale_tril)
        if loc.ndim != 1 or not loc.size:
            raise ValueError(f"loc has shape {loc.shape}; expected a vector (K,)")
        if L.shape != (len(loc), len(loc)):
            raise ValueError(f"scale_tril has shape {L.shape}; expected {(len(loc), len(loc))}, as loc has {len(loc)}")
        if np.any(np.triu(L, 1)):
            raise ValueError(f"scale_tril contains {float(L[np.triu(L, 1) != 0][0])!r} above its diagonal; expected 0")
        if np.any(np.diag(L) <= 0):
            found = float(np.diag(L)[np.diag(L) <= 0][0])
            raise ValueError(f"scale_tril has {found!r} on its diagonal; expected numbers above 0")

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return rng.standard_normal((*np.atleast_1d(shape), self._n_dimensions))

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        """Return the log-density of noise eps (..., K), a value a vector, in nats."""
        return Normal().log_prob(eps).sum(axis=-1)

    def entropy(self) -> FloatArray:
        """Return K/2 (1 + log 2 pi) + log det L in nats."""
        scales = np.diag(self.scale_tril)
        return len(scales) * Normal().entropy() + np.log(scales).sum()

    def _is_nan(self, x: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(np.isnan(x).any(axis=-1))

    def _log_prob(self, x: FloatArray) -> FloatArray:
        finite = np.asarray(np.isfinite(x).all(axis=-1))
        difference = np.where(finite[..., None], x, 0) - self.loc
        size = _size(difference)
        eps = np.asarray(np.linalg.solve(self.scale_tril, (difference / size)[..., None])[..., 0], float)
        value = self._log_prob_of_noise(eps, size[..., 0]) - np.log(np.diag(self.scale_tril)).sum()
        return np.where(finite, value, -np.inf)[()]

    def _log_prob_of_noise(self, eps: FloatArray, size: FloatArray) -> FloatArray:
        """Return the log-density of the noise eps * size."""
        return self.log_prob_noise(eps * size[..., None])

    def _rsample(self, eps: FloatArray) -> FloatArray:
        size = _size(eps)
        return self.loc + eps / size @ np.transpose(self.scale_tril) * size

    def _pullback(self, eps: FloatArray, dz: FloatArray) -> dict[str, FloatArray]:
        return {"loc": dz, "scale_tril": np.tril(dz[..., :, None] * eps[..., None, :])}


def _size(vectors: FloatArray) -> FloatArray:
    """Return what to divide vectors (..., K) by so that their squares do not overflow: 1 for all but the largest."""
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    return np.where(largest > 1e150, largest, 1.0)


@dataclass(frozen=True)
class MultivariateStudentT(MultivariateNormal):
    """The elliptical family with heavier tails: the noise of a `MultivariateNormal` over sqrt(c / df), c chi-squared.

    There is no derivative with respect to df, which is fixed. The limit for df = inf is the `MultivariateNormal`. For
    a small df, noise may be longer than float64 holds; its length is then the largest float64.

    Examples
    --------
    >>> from npvae.distributions import MultivariateStudentT
    >>> q = MultivariateStudentT(loc=[0.0, 0.0], scale_tril=[[1.0, 0.0], [0.0, 1.0]], df=4.0)
    >>> q.log_prob([[0.0, 0.0], [3.0, 0.0]]).round(3)
    array([-1.838, -5.374])
    """

    df: Parameter = Parameter(1.0, above=0.0, infinite=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.ndim(self.df):
            raise ValueError(f"df has shape {np.shape(self.df)}; expected a number")

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        log_factor = -log_quantile(np.asarray(self.df) / 2, uniform(rng, (*np.atleast_1d(shape), 1)))[0] / 2
        normal = super().draw(rng, shape)
        with np.errstate(divide="ignore"):
            longest = np.log(np.finfo(float).max) - np.log(np.abs(normal).max(axis=-1, keepdims=True))
        return scaled_exp(np.minimum(log_factor, longest * (1 - 1e-15)), normal)

    @np.errstate(all="ignore")
    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        eps = np.asarray(eps, float)
        size = _size(eps)
        return self._log_prob_of_noise(eps / size, size[..., 0])

    def _log_prob_of_noise(self, eps: FloatArray, size: FloatArray) -> FloatArray:
        log_square = np.log((eps**2).sum(axis=-1)) + 2 * np.log(size)
        return self._log_constant() + student_t_log_kernel(self.df, self._n_dimensions, log_square)

    @np.errstate(all="ignore")
    def entropy(self) -> FloatArray:
        """Return the entropy in nats."""
        h, k = min(float(self.df), 1e300) / 2, self._n_dimensions / 2
        if h < 1e3:
            expected = (h + k) * (digamma(h + k) - digamma(h))
        else:  # the difference of digamma(h) = log h - 1 / (2 h) - 1 / (12 h^2) + ..., without cancellation
            expected = (h + k) * np.log1p(k / h) + k / h / 2 + (k / h) * (1 + h / (h + k)) / (12 * h)
        return expected - self._log_constant() + np.log(np.diag(self.scale_tril)).sum()

    def _log_constant(self) -> FloatArray:
        return student_t_log_constant(self.df, self._n_dimensions)


@dataclass(frozen=True)
class Dirichlet(Reparameterized):
    """Shares x_k / sum(x) of Gamma variables x with shapes concentration (K,).

    The support are shares of at least 0 whose sum is 1 within 1e-6, as that of float32 may be.

    Examples
    --------
    >>> from npvae.distributions import Dirichlet
    >>> Dirichlet(concentration=[2.0, 2.0, 4.0]).rsample([0.5, 0.5, 0.5]).round(3)
    array([0.239, 0.239, 0.522])
    """

    concentration: Parameter = Parameter(above=0.0)

    def __post_init__(self) -> None:
        if np.ndim(self.concentration) != 1 or not np.size(self.concentration):
            raise ValueError(f"concentration has shape {np.shape(self.concentration)}; expected a vector (K,)")

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        return uniform(rng, (*np.atleast_1d(shape), len(self.concentration)))

    def _is_nan(self, x: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(np.isnan(x).any(axis=-1))

    def _log_prob(self, x: FloatArray) -> FloatArray:
        a = self.concentration
        n, p = a.sum(), a / a.sum()
        inside = (x >= 0).all(axis=-1) & (np.abs(x.sum(axis=-1) - 1) < SUM_OF_SHARES)
        # (a - 1) log x - a log p, where a log(x / p) is far smaller than each
        terms = np.where(x > 0, a * log_ratio(x, p) - np.log(x), times(a - 1, np.log(x)) - a * np.log(p))
        constant = 0.5 * np.log(a) - stirling_error(a) - 0.5 * LOG_2PI
        total = (terms + constant).sum(axis=-1) + stirling_error(n) - 0.5 * np.log(n) + 0.5 * LOG_2PI
        return np.where(inside, total, -np.inf)[()]

    def _logarithms(self, eps: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the logarithms of the Gamma variables, and the derivative of each by its concentration."""
        log_share, derivative = log_quantile(self.concentration, eps)
        return log_share + np.log(self.concentration), derivative + 1 / self.concentration

    def _rsample(self, eps: FloatArray) -> FloatArray:
        return softmax(self._logarithms(eps)[0], axis=-1)

    def _pullback(self, eps: FloatArray, dz: FloatArray) -> dict[str, FloatArray]:
        log_x, derivative = self._logarithms(eps)
        z = softmax(log_x, axis=-1)
        return {"concentration": z * (dz - (dz * z).sum(axis=-1, keepdims=True)) * derivative}
