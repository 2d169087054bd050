"""Reparameterized distributions: samples as functions of noise, z = g(eps), and the derivatives of that path.

The three approaches of the paper (section 2.4) and what is left when they fail:

- inverse CDF: eps is uniform on (0, 1), and g is the inverse of the distribution function;
- location-scale: eps has the standard distribution of the family, and z = loc + scale * eps;
- composition: z is made of variables that have one of the other forms;
- an inverse CDF found numerically, with derivatives by the implicit function theorem: the Gamma distribution, and all
  that is composed of it.

Names and parameters are those of PyTorch's distributions, where it has them; parameters broadcast. Every class has

- ``log_prob(x)``: the log-density in nats, -inf outside of the support;
- ``draw(rng, shape)``: noise for samples of this shape;
- ``rsample(eps)``: g, the samples of this noise;
- ``pullback(eps, dz)``: the derivatives of some function by each continuous parameter, by name, from those by the
  samples, dz; one for each sample, not summed.

Distributions of one number have ``gradients(eps)`` too: the derivatives of ``rsample(eps)`` by each parameter and,
where one number of noise makes one number z, by ``"eps"``. Those that can be a posterior of a VAE, or be fitted to one,
have ``entropy()`` in nats and, if of one number, ``icdf(p)``, the inverse of the distribution function.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaincinv, gammaln, logit, xlogy

from . import distributions


class Reparameterized:
    """A distribution of one number; its noise is uniform on (0, 1) unless it says otherwise."""

    @classmethod
    def draw(cls, rng, shape):
        """Draw noise: ends excluded, which many an inverse CDF sends to infinity."""
        return (rng.integers(0, 2**52, shape) + 0.5) * 2.0**-52

    @classmethod
    def log_prob_noise(cls, eps):
        """Return the log-density of the noise, element by element."""
        return np.zeros(np.shape(eps))

    def pullback(self, eps, dz):
        """Return dz times the derivative of each sample by each parameter."""
        return {name: dz * gradient for name, gradient in self.gradients(eps).items() if name != "eps"}


# Inverse CDF ----------------------------------------------------------------------------------------------------------
#
# With u for the noise, which is uniform. The derivative with respect to u is 1 / q(z), which is not used to write it.


@dataclass(frozen=True)
class Exponential(Reparameterized):
    """Density rate exp(-rate x) for x >= 0."""

    rate: object = 1.0

    def log_prob(self, x):
        return np.where(x >= 0, np.log(self.rate) - self.rate * x, -np.inf)

    def rsample(self, eps):
        return -np.log1p(-eps) / self.rate

    def gradients(self, eps):
        return {"eps": 1 / (self.rate * (1 - eps)), "rate": -self.rsample(eps) / self.rate}


@dataclass(frozen=True)
class Cauchy(Reparameterized):
    """Density 1 / (pi scale (1 + y^2)) with y = (x - loc) / scale."""

    loc: object = 0.0
    scale: object = 1.0

    def log_prob(self, x):
        return -np.log(np.pi * self.scale) - np.log1p(((x - self.loc) / self.scale) ** 2)

    def rsample(self, eps):
        return self.loc + self.scale * np.tan(np.pi * (eps - 0.5))

    def gradients(self, eps):
        tangent = np.tan(np.pi * (eps - 0.5))
        return {"eps": self.scale * np.pi * (1 + tangent**2), "loc": np.ones_like(eps), "scale": tangent}


@dataclass(frozen=True)
class Logistic(Reparameterized):
    """Density s(y) s(-y) / scale with y = (x - loc) / scale and s the sigmoid; a location-scale family as well."""

    loc: object = 0.0
    scale: object = 1.0

    def log_prob(self, x):
        y = np.abs((x - self.loc) / self.scale)  # the density is even
        return -y - 2 * np.log1p(np.exp(-y)) - np.log(self.scale)

    def rsample(self, eps):
        return self.loc + self.scale * logit(eps)

    icdf = rsample

    def entropy(self):
        return 2 + np.log(self.scale)

    def gradients(self, eps):
        return {"eps": self.scale / (eps * (1 - eps)), "loc": np.ones_like(eps), "scale": logit(eps)}


@dataclass(frozen=True)
class Rayleigh(Reparameterized):
    """The length of a vector of two normals of this scale; it is not in PyTorch."""

    scale: object = 1.0

    def log_prob(self, x):
        y = x / self.scale
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(x >= 0, np.log(y / self.scale) - y**2 / 2, -np.inf)

    def rsample(self, eps):
        return self.scale * np.sqrt(-2 * np.log1p(-eps))

    def gradients(self, eps):
        z = self.rsample(eps)
        return {"eps": self.scale**2 / (z * (1 - eps)), "scale": z / self.scale}


@dataclass(frozen=True)
class Pareto(Reparameterized):
    """Density alpha scale^alpha / x^(alpha + 1) for x >= scale."""

    scale: object = 1.0
    alpha: object = 1.0

    def log_prob(self, x):
        with np.errstate(divide="ignore", invalid="ignore"):
            log_x = np.log(x)
        inside = np.log(self.alpha) + self.alpha * np.log(self.scale) - (self.alpha + 1) * log_x
        return np.where(x >= self.scale, inside, -np.inf)

    def rsample(self, eps):
        return self.scale * np.exp(-np.log1p(-eps) / self.alpha)

    def gradients(self, eps):
        z = self.rsample(eps)
        return {
            "eps": z / (self.alpha * (1 - eps)),
            "scale": z / self.scale,
            "alpha": z * np.log1p(-eps) / self.alpha**2,
        }


@dataclass(frozen=True)
class Weibull(Reparameterized):
    """(x / scale)^concentration has the standard exponential distribution."""

    scale: object = 1.0
    concentration: object = 1.0

    def log_prob(self, x):
        k = self.concentration
        with np.errstate(divide="ignore", invalid="ignore"):
            y = x / self.scale
            return np.where(x >= 0, np.log(k / self.scale) + xlogy(k - 1, y) - y**k, -np.inf)

    def rsample(self, eps):
        return self.scale * (-np.log1p(-eps)) ** (1 / self.concentration)

    def gradients(self, eps):
        z, e = self.rsample(eps), -np.log1p(-eps)
        return {
            "eps": z / (self.concentration * e * (1 - eps)),
            "scale": z / self.scale,
            "concentration": -z * np.log(e) / self.concentration**2,
        }


@dataclass(frozen=True)
class Reciprocal(Reparameterized):
    """Density proportional to 1 / x between low and high, or log x uniform; it is not in PyTorch."""

    low: object = 1.0
    high: object = np.e

    def log_prob(self, x):
        inside = (x >= self.low) & (x <= self.high)
        return np.where(inside, -np.log(np.where(inside, x, 1)) - np.log(np.log(self.high / self.low)), -np.inf)

    def rsample(self, eps):
        return self.low * (self.high / self.low) ** eps

    def gradients(self, eps):
        z = self.rsample(eps)
        return {"eps": z * np.log(self.high / self.low), "low": z * (1 - eps) / self.low, "high": z * eps / self.high}


@dataclass(frozen=True)
class Gompertz(Reparameterized):
    """Hazard concentration rate exp(rate x) for x >= 0; it is not in PyTorch."""

    concentration: object = 1.0
    rate: object = 1.0

    def log_prob(self, x):
        inside = np.log(self.concentration * self.rate) + self.rate * x - self.concentration * np.expm1(self.rate * x)
        return np.where(x >= 0, inside, -np.inf)

    def rsample(self, eps):
        return np.log1p(-np.log1p(-eps) / self.concentration) / self.rate

    def gradients(self, eps):
        z, e = self.rsample(eps), -np.log1p(-eps)
        hazard = self.rate * (self.concentration + e)
        return {
            "eps": 1 / (hazard * (1 - eps)),
            "concentration": -e / (self.concentration * hazard),
            "rate": -z / self.rate,
        }


@dataclass(frozen=True)
class Gumbel(Reparameterized):
    """Distribution function exp(-exp(-y)) with y = (x - loc) / scale."""

    loc: object = 0.0
    scale: object = 1.0

    def log_prob(self, x):
        y = (x - self.loc) / self.scale
        return -y - np.exp(-y) - np.log(self.scale)

    def rsample(self, eps):
        return self.loc - self.scale * np.log(-np.log(eps))

    icdf = rsample

    def entropy(self):
        return 1 + np.euler_gamma + np.log(self.scale)

    def gradients(self, eps):
        return {
            "eps": -self.scale / (eps * np.log(eps)),
            "loc": np.ones_like(eps),
            "scale": -np.log(-np.log(eps)),
        }


# Location-scale -------------------------------------------------------------------------------------------------------


class LocationScale(Reparameterized):
    """z = loc + scale * eps; the standard member's density is ``log_prob_noise``."""

    def log_prob(self, x):
        return self.log_prob_noise((x - self.loc) / self.scale) - np.log(self.scale)

    def rsample(self, eps):
        return self.loc + self.scale * eps

    def gradients(self, eps):
        return {"eps": self.scale * np.ones_like(eps), "loc": np.ones_like(eps), "scale": eps}


@dataclass(frozen=True)
class Normal(LocationScale, distributions.Normal):
    """N(loc, scale^2)."""

    @classmethod
    def draw(cls, rng, shape):
        return rng.standard_normal(shape)

    @classmethod
    def log_prob_noise(cls, eps):
        return distributions.Normal().log_prob(eps)


@dataclass(frozen=True)
class Laplace(LocationScale):
    """Density exp(-|y|) / (2 scale) with y = (x - loc) / scale."""

    loc: object = 0.0
    scale: object = 1.0

    @classmethod
    def draw(cls, rng, shape):
        return rng.laplace(size=shape)

    @classmethod
    def log_prob_noise(cls, eps):
        return -np.abs(eps) - np.log(2)

    def icdf(self, p):
        return self.loc - self.scale * np.sign(p - 0.5) * np.log(2 * np.minimum(p, 1 - p))

    def entropy(self):
        return 1 + np.log(2) + np.log(self.scale)


@dataclass(frozen=True)
class Triangular(LocationScale):
    """Symmetric about loc, zero from loc +- scale on; it is not in PyTorch."""

    loc: object = 0.0
    scale: object = 1.0

    @classmethod
    def draw(cls, rng, shape):
        return rng.triangular(-1, 0, 1, shape)

    @classmethod
    def log_prob_noise(cls, eps):
        inside = np.abs(eps) < 1
        return np.where(inside, np.log1p(-np.where(inside, np.abs(eps), 0)), -np.inf)

    def icdf(self, p):
        return self.loc + self.scale * np.sign(p - 0.5) * (1 - np.sqrt(2 * np.minimum(p, 1 - p)))

    def entropy(self):
        return 0.5 + np.log(self.scale)


@dataclass(frozen=True)
class Uniform(Reparameterized):
    """Constant between low and high: a location-scale family with loc = low and scale = high - low."""

    low: object = 0.0
    high: object = 1.0

    def log_prob(self, x):
        inside = (x >= self.low) & (x <= self.high)
        return np.where(inside, -np.log(np.subtract(self.high, self.low)), -np.inf)

    def rsample(self, eps):
        return self.low + np.subtract(self.high, self.low) * eps

    icdf = rsample

    def entropy(self):
        return np.log(np.subtract(self.high, self.low))

    def gradients(self, eps):
        return {"eps": np.subtract(self.high, self.low) * np.ones_like(eps), "low": 1 - eps, "high": eps}


# Numerical inverse CDF ------------------------------------------------------------------------------------------------


def _gammainc_derivative(a, x):
    """Return the derivative of the regularized lower incomplete gamma function P(a, x) with respect to a.

    Below the mean it is the derivative of the power series of P, term by term; above, that of the continued fraction
    of 1 - P (Abramowitz and Stegun 6.5.29 and 6.5.31), carried along as it is evaluated (Lentz's method).
    """
    a, x = np.broadcast_arrays(np.asarray(a, float), np.asarray(x, float))
    result, below = np.zeros(x.shape), x < a + 1
    for part, derivative in ((below & (x > 0), _derivative_of_series), (~below, _derivative_of_fraction)):
        if part.any():
            result[part] = derivative(a[part], x[part])
    return result


def _derivative_of_series(a, x):
    log_x, n = np.log(x), 0
    term, total = np.exp(a * log_x - x - gammaln(a + 1)), np.zeros(x.shape)
    largest = term.copy()
    while n < 10 or np.any(term > 1e-18 * largest):
        total += term * (log_x - digamma(a + n + 1))
        n += 1
        term = term * (x / (a + n))
        largest = np.maximum(largest, term)
    return total


def _derivative_of_fraction(a, x):
    factor = np.exp(a * np.log(x) - x - gammaln(a))
    # The fraction 1 / (b_0 + a_1 / (b_1 + ...)) with b_n = x + 2n + 1 - a and a_n = -n (n - a), and d/da of all parts.
    b = x + 1 - a
    c, dc, d, dd = np.full(x.shape, 1e150), np.zeros(x.shape), 1 / b, 1 / b**2
    f, df, n, change = d.copy(), dd.copy(), 0, np.array([1.0])
    while np.any(change > 4e-16) and n < 10_000:
        n += 1
        numerator, b = -n * (n - a), b + 2
        dd, d = -(n * d + numerator * dd - 1), b + numerator * d
        dc, c = n / c - numerator * dc / c**2 - 1, b + numerator / c
        dd, d = dd / d**2, 1 / d
        step = c * d
        change = dc * d + c * dd
        df, f = df * step + f * change, f * step
        change = np.maximum(np.abs(change), np.abs(step - 1))
    return -factor * (f * (np.log(x) - digamma(a)) + df)


@dataclass(frozen=True)
class Gamma(Reparameterized):
    """Density proportional to x^(concentration - 1) exp(-rate x): any shape, by the numerical inverse of its CDF."""

    concentration: object = 1.0
    rate: object = 1.0

    def log_prob(self, x):
        a, y = self.concentration, np.multiply(self.rate, x)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = xlogy(a - 1, y) - y - gammaln(a) + np.log(self.rate)
        return np.where(y >= 0, inside, -np.inf)

    def rsample(self, eps):
        return gammaincinv(self.concentration, eps) / self.rate

    def gradients(self, eps):
        standard = gammaincinv(self.concentration, eps)
        density = np.exp(Gamma(self.concentration).log_prob(standard))
        with np.errstate(divide="ignore", invalid="ignore"):
            by_shape = np.where(standard > 0, -_gammainc_derivative(self.concentration, standard) / density, 0)
            return {
                "eps": 1 / (density * self.rate),
                "concentration": by_shape / self.rate,
                "rate": -standard / np.square(self.rate),
            }


# Composition ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogNormal(Reparameterized):
    """The exponential of N(loc, scale^2)."""

    loc: object = 0.0
    scale: object = 1.0

    draw, log_prob_noise = Normal.draw, Normal.log_prob_noise

    def log_prob(self, x):
        with np.errstate(divide="ignore", invalid="ignore"):
            log_x = np.log(x)
        return np.where(x > 0, Normal(self.loc, self.scale).log_prob(np.where(x > 0, log_x, 0)) - log_x, -np.inf)

    def rsample(self, eps):
        return np.exp(self.loc + self.scale * eps)

    def gradients(self, eps):
        z = self.rsample(eps)
        return {"eps": z * self.scale, "loc": z, "scale": z * eps}


class Composed(Reparameterized):
    """Made of several numbers of noise, along the last axis; ``_n_noise`` says of how many."""

    def draw(self, rng, shape):
        return Reparameterized.draw(rng, (*np.atleast_1d(shape), self._n_noise))


@dataclass(frozen=True)
class Erlang(Composed):
    """A sum of so many exponentials: a Gamma distribution whose concentration is a whole number, and so has no path."""

    concentration: int = 1
    rate: object = 1.0

    _n_noise = property(lambda self: self.concentration)

    def log_prob(self, x):
        return Gamma(self.concentration, self.rate).log_prob(x)

    def rsample(self, eps):
        return -np.log1p(-eps).sum(axis=-1) / self.rate

    def gradients(self, eps):
        return {"rate": -self.rsample(eps) / self.rate}


@dataclass(frozen=True)
class Chi2(Reparameterized):
    """The sum of squares of df standard normals; for an even df also the Erlang(df / 2, 1 / 2)."""

    df: object = 1.0

    def log_prob(self, x):
        return self._gamma.log_prob(x)

    def rsample(self, eps):
        return self._gamma.rsample(eps)

    def gradients(self, eps):
        gradients = self._gamma.gradients(eps)
        return {"eps": gradients["eps"], "df": gradients["concentration"] / 2}

    @property
    def _gamma(self):
        return Gamma(np.divide(self.df, 2), 0.5)


def _of_two(parts, parameter, eps):
    """Return samples of two distributions, from eps (..., 2), and their derivatives by the parameter of that name."""
    samples = [part.rsample(eps[..., i]) for i, part in enumerate(parts)]
    return *samples, *(part.gradients(eps[..., i])[parameter] for i, part in enumerate(parts))


@dataclass(frozen=True)
class Beta(Composed):
    """x / (x + y) for x and y of Gamma distributions with these concentrations, in this order."""

    concentration1: object = 1.0
    concentration0: object = 1.0

    _n_noise = 2

    def log_prob(self, x):
        a, b = self.concentration1, self.concentration0
        inside = (x >= 0) & (x <= 1)
        y = np.where(inside, x, 0.5)
        with np.errstate(divide="ignore"):
            value = xlogy(a - 1, y) + xlogy(b - 1, 1 - y) + gammaln(np.add(a, b)) - gammaln(a) - gammaln(b)
        return np.where(inside, value, -np.inf)

    def rsample(self, eps):
        x, y = (Gamma(a).rsample(eps[..., i]) for i, a in enumerate((self.concentration1, self.concentration0)))
        return x / (x + y)

    def gradients(self, eps):
        x, y, dx, dy = _of_two((Gamma(self.concentration1), Gamma(self.concentration0)), "concentration", eps)
        return {"concentration1": y * dx / (x + y) ** 2, "concentration0": -x * dy / (x + y) ** 2}


@dataclass(frozen=True)
class FisherSnedecor(Composed):
    """F: the ratio of two chi-squared variables, each over its degrees of freedom."""

    df1: object = 1.0
    df2: object = 1.0

    _n_noise = 2

    def log_prob(self, x):
        ratio = np.divide(self.df1, self.df2)
        a, b = np.divide(self.df1, 2), np.divide(self.df2, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = xlogy(a, ratio) + xlogy(a - 1, x) - (a + b) * np.log1p(ratio * x)
        return np.where(x >= 0, inside + gammaln(a + b) - gammaln(a) - gammaln(b), -np.inf)

    def rsample(self, eps):
        x, y = (Chi2(df).rsample(eps[..., i]) / df for i, df in enumerate((self.df1, self.df2)))
        return x / y

    def gradients(self, eps):
        x, y, dx, dy = _of_two((Chi2(self.df1), Chi2(self.df2)), "df", eps)
        z = (x / self.df1) / (y / self.df2)
        return {"df1": z * (dx / x - 1 / self.df1), "df2": z * (1 / self.df2 - dy / y)}


@dataclass(frozen=True)
class StudentT(Composed):
    """loc + scale * t with t = eps_0 sqrt(df / c): eps_0 standard normal, c a chi-squared variable of eps_1."""

    df: object = 1.0
    loc: object = 0.0
    scale: object = 1.0

    def draw(self, rng, shape):
        return np.stack([Normal.draw(rng, shape), Reparameterized.draw(rng, shape)], axis=-1)

    def log_prob(self, x):
        nu, y = self.df, (x - self.loc) / self.scale
        constant = gammaln((nu + 1) / 2) - gammaln(np.divide(nu, 2)) - np.log(np.pi * nu) / 2
        return constant - (nu + 1) / 2 * np.log1p(y**2 / nu) - np.log(self.scale)

    def _standard(self, eps):
        return eps[..., 0] * np.sqrt(self.df / Chi2(self.df).rsample(eps[..., 1]))

    def rsample(self, eps):
        return self.loc + self.scale * self._standard(eps)

    def gradients(self, eps):
        t, c = self._standard(eps), Chi2(self.df)
        by_df = t / 2 * (1 / np.asarray(self.df) - c.gradients(eps[..., 1])["df"] / c.rsample(eps[..., 1]))
        return {"loc": np.ones_like(t), "scale": t, "df": self.scale * by_df}


# Vectors --------------------------------------------------------------------------------------------------------------
#
# Their samples (..., K) depend on parameters as a whole. So they have ``pullback(eps, dz)`` in place of ``gradients``:
# from the derivatives of some function by the samples to those by the parameters, one set for each sample.


@dataclass(frozen=True)
class MultivariateNormal:
    """N(loc, L L^T) with the Cholesky factor L = scale_tril (K, K): an elliptical location-scale family."""

    loc: object
    scale_tril: object

    def draw(self, rng, shape):
        return rng.standard_normal((*np.atleast_1d(shape), len(self.loc)))

    def log_prob_noise(self, eps):
        return distributions.Normal().log_prob(eps).sum(axis=-1)

    def log_prob(self, x):
        eps = np.linalg.solve(self.scale_tril, (x - self.loc)[..., None])[..., 0]
        return self.log_prob_noise(eps) - np.log(np.diag(self.scale_tril)).sum()

    def entropy(self):
        scales = np.diag(self.scale_tril)
        return len(scales) * distributions.Normal().entropy() + np.log(scales).sum()

    def rsample(self, eps):
        return self.loc + eps @ np.transpose(self.scale_tril)

    def pullback(self, eps, dz):
        return {"loc": dz, "scale_tril": np.tril(dz[..., :, None] * eps[..., None, :])}


@dataclass(frozen=True)
class MultivariateStudentT(MultivariateNormal):
    """The elliptical family with heavier tails: a MultivariateNormal's noise over sqrt(c / df), df fixed."""

    df: object = 1.0

    def draw(self, rng, shape):
        chi2 = Chi2(self.df).rsample(Reparameterized.draw(rng, (*np.atleast_1d(shape), 1)))
        return super().draw(rng, shape) * np.sqrt(self.df / chi2)

    def _log_constant(self):
        nu, K = self.df, len(self.loc)
        return gammaln((nu + K) / 2) - gammaln(nu / 2) - K / 2 * np.log(np.pi * nu)

    def log_prob_noise(self, eps):
        nu, K = self.df, len(self.loc)
        return self._log_constant() - (nu + K) / 2 * np.log1p((eps**2).sum(axis=-1) / nu)

    def entropy(self):
        nu, K = self.df, len(self.loc)
        expected = (nu + K) / 2 * (digamma((nu + K) / 2) - digamma(nu / 2))
        return expected - self._log_constant() + np.log(np.diag(self.scale_tril)).sum()


@dataclass(frozen=True)
class Dirichlet:
    """Shares x_k / sum x of Gamma variables with these concentrations (K,)."""

    concentration: object

    def draw(self, rng, shape):
        return Reparameterized.draw(rng, (*np.atleast_1d(shape), len(self.concentration)))

    def log_prob(self, x):
        a = np.asarray(self.concentration)
        return xlogy(a - 1, x).sum(axis=-1) + gammaln(a.sum()) - gammaln(a).sum()

    def rsample(self, eps):
        x = Gamma(self.concentration).rsample(eps)
        return x / x.sum(axis=-1, keepdims=True)

    def pullback(self, eps, dz):
        gamma = Gamma(self.concentration)
        x = gamma.rsample(eps)
        total = x.sum(axis=-1, keepdims=True)
        dx = (dz - (dz * x / total).sum(axis=-1, keepdims=True)) / total
        return {"concentration": dx * gamma.gradients(eps)["concentration"]}
