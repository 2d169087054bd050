"""Probability distributions: densities, entropies, KL divergences, and reparameterized samples.

A reparameterized sample is z = g(eps): the distribution of the noise eps does not depend on the parameters, so the
gradient of an expectation is the expectation of a gradient (section 2.4 of the paper). One file for each approach:

- `location_scale`: z = loc + scale * eps, where eps has the standard distribution of the family;
- `inverse_cdf`: eps is uniform on (0, 1) and g is the inverse of the distribution function;
- `composition`: z is a function of variables that have one of these forms;
- `implicit`: where the three approaches fail, the inverse distribution function is found numerically, and its
  derivatives come from the implicit function theorem (the Gamma distribution);
- `multivariate`: vectors.

`special` has the functions that keep the densities accurate at extreme arguments and parameters.

Names and parameters are those of PyTorch's distributions where it has them. Parameters outside their range (a negative
scale) are refused with ValueError when the distribution is made. Parameters, samples and noise may be
anything that NumPy can turn into an array; they broadcast, and results are float64. Every family has

- ``log_prob(x)``: the log-density in nats, -inf outside the support, NaN at NaN.

Every family except `Bernoulli` also has

- ``draw(rng, shape)``: noise for samples of this shape, from a `numpy.random.Generator`;
- ``rsample(eps)``: the samples g(eps) of this noise;
- ``pullback(eps, dz)``: from the derivatives dz of a function at the samples to its derivatives with respect to each
  parameter, by name, one for each sample (not summed).

Families of scalars have ``gradients(eps)`` as well: the derivatives of the samples themselves. Where it is known in
closed form, ``entropy()`` is in nats; families with an explicit inverse distribution function have ``icdf(p)``.
"""

from .composition import Beta, Erlang, FisherSnedecor, LogNormal, StudentT
from .discrete import Bernoulli
from .divergence import kl_divergence
from .implicit import Chi2, Gamma
from .inverse_cdf import (
    Cauchy,
    Exponential,
    Gompertz,
    Gumbel,
    Logistic,
    Pareto,
    Rayleigh,
    Reciprocal,
    Weibull,
)
from .location_scale import Laplace, Normal, Triangular, Uniform
from .multivariate import Dirichlet, MultivariateNormal, MultivariateStudentT

__all__ = [
    "Bernoulli",
    "Beta",
    "Cauchy",
    "Chi2",
    "Dirichlet",
    "Erlang",
    "Exponential",
    "FisherSnedecor",
    "Gamma",
    "Gompertz",
    "Gumbel",
    "Laplace",
    "LogNormal",
    "Logistic",
    "MultivariateNormal",
    "MultivariateStudentT",
    "Normal",
    "Pareto",
    "Rayleigh",
    "Reciprocal",
    "StudentT",
    "Triangular",
    "Uniform",
    "Weibull",
    "kl_divergence",
]
