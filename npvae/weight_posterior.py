"""q(theta): a Gaussian for each random weight and bias of a model, for full variational Bayes (Appendix F).

theta = mu + sigma * zeta is computed by the latent layer of the backend, one array of weights at a time. The rows of a
weight matrix take the place of datapoints, its columns that of latent dimensions. The prior p(theta) is N(0, I), like
p(z), so the KL divergence has the same formula.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .backends.interface import Array, Backend
from .distributions.divergence import kl_from_standard_normal
from .parameters import Layout, Parameters

#: Suffix of the name of an array of log-variances; the array of means has the name without it.
LOG_VAR = ".log_var"

#: log sigma^2 before training: sigma is 0.01, a tenth of the usual ``init_std``, so that the first steps are close to
#: those with fixed weights.
INITIAL_LOG_VAR = 2 * np.log(0.01)


class WeightPosterior:
    """The posterior of the random arrays among a model's parameters.

    Parameters
    ----------
    shapes : dict of name -> shape, of the random arrays
        When it is empty, no array is random, and a draw is the parameters as they are.
    backend : Backend

    Attributes
    ----------
    layout : Layout of the random arrays alone: the layout of zeta

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.backends import reference
    >>> from npvae.parameters import Layout
    >>> from npvae.weight_posterior import WeightPosterior
    >>> shapes = {"decoder.mu.W": (2, 3)}
    >>> posterior = WeightPosterior(shapes, reference)
    >>> layout = Layout(shapes | posterior.log_var_shapes())
    >>> list(layout.shapes)
    ['decoder.mu.W', 'decoder.mu.W.log_var']
    >>> posterior.divergence(layout.view(np.zeros(layout.size)))  # q is the prior: mu = 0, sigma = 1
    0.0
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], backend: Backend) -> None:
        self.backend, self.layout = backend, Layout(shapes)

    def log_var_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays of log-variances by name."""
        return {name + LOG_VAR: shape for name, shape in self.layout.shapes.items()}

    def _arrays(self, parameters: Parameters) -> Iterator[tuple[str, Array, Array]]:
        """Yield (name, mu, log_var) of each random array, mu and log_var as matrices."""
        for name in self.layout.shapes:
            yield name, _matrix(parameters[name]), _matrix(parameters[name + LOG_VAR])

    def sample(self, parameters: Parameters, zeta: Array, analytic_kl: bool, drawn: Parameters) -> float:
        """Draw theta = mu + sigma * zeta.

        Parameters
        ----------
        parameters : Parameters
        zeta : array (layout.size,), standard normal
        analytic_kl : bool
            True: the KL divergence in closed form. False: log q(theta) - log p(theta) at the draw.
        drawn : Parameters, overwritten with the draw; arrays that are not random are copied

        Returns
        -------
        float : D_KL(q(theta) || p(theta)) in nats, or its estimate from the draw
        """
        drawn.vector[...] = parameters.vector
        noise, total = self.layout.view(zeta), 0.0
        for name, mu, log_var in self._arrays(parameters):
            out = _matrix(drawn[name]), None
            kl = self.backend.gaussian_latent(mu, log_var, _matrix(noise[name]), analytic_kl, out)[1]
            total += float(np.sum(self.backend.to_numpy(kl), dtype=float))
        return total

    def sample_backward(
        self, parameters: Parameters, zeta: Array, analytic_kl: bool, weight: float, gradients: tuple[Any, Any]
    ) -> None:
        """Backward pass of `sample`, for an objective with the term ``-weight * kl``, kl being what `sample` returned.

        Parameters
        ----------
        parameters, zeta, analytic_kl : as in `sample`
        weight : float
        gradients : (at the draw, at the parameters), both Parameters
            Reads the first, the gradient of all other terms of the objective at the draw. Overwrites the second.
        """
        of_drawn, gradient = gradients
        gradient.vector[...] = of_drawn.vector
        noise = self.layout.view(zeta)
        for name, mu, log_var in self._arrays(parameters):
            out = _matrix(gradient[name]), _matrix(gradient[name + LOG_VAR])
            weights = self.backend.asarray(np.full(len(mu), weight), mu.dtype)
            arguments = _matrix(noise[name]), _matrix(of_drawn[name]), analytic_kl, weights, out
            self.backend.gaussian_latent_backward(mu, log_var, *arguments)

    def draws(self, parameters: Parameters, seed: int, n: int) -> Iterator[Parameters]:
        """Yield n draws, whose noise depends on the seed alone. Each overwrites the one before.

        Where no array is random, yields the parameters themselves, once.
        """
        if not self.layout.shapes:
            yield parameters
            return
        rng, drawn = np.random.default_rng([seed, *b"weights"]), parameters.layout.view(parameters.vector.copy())
        for _ in range(n):
            self.sample(parameters, self.noise(rng, parameters.vector.dtype), True, drawn)
            yield drawn

    def noise(self, rng: np.random.Generator, dtype: DTypeLike) -> Array:
        """Draw zeta (layout.size,): in float32, and then converted, so that every precision gets the same noise."""
        return self.backend.asarray(rng.standard_normal(self.layout.size, dtype=np.float32), dtype)

    def divergence(self, parameters: Parameters) -> float:
        """Return the KL divergence D_KL(q(theta) || p(theta)) in nats, computed in float64."""
        total = 0.0
        for _, *arrays in self._arrays(parameters):
            mu, log_var = (np.asarray(self.backend.to_numpy(array), float) for array in arrays)
            total += float(kl_from_standard_normal(mu, log_var).sum())
        return total


def _matrix(array: Array) -> Array:
    """View an array as a matrix; a bias (O,) becomes one row."""
    return array.reshape(-1, array.shape[-1])
