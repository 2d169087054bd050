"""q(theta): a Gaussian for each random weight and bias of a model, for full variational Bayes (Appendix F).

The latent layer of a backend computes theta = mu + sigma * zeta, an array of weights at a time: rows take the place of
datapoints, columns that of latent dimensions. So the prior is N(0, I), and the KL divergence from it is that of z.
"""

import numpy as np

from .distributions import Normal, kl_divergence
from .parameters import Layout

#: What follows the name of an array of means in the name of that of its log-variances.
LOG_VAR = ".log_var"

#: log sigma^2 before training: sigma is 0.01, a tenth of the usual ``init_std``. Training then begins nearly as with
#: fixed weights.
INITIAL_LOG_VAR = 2 * np.log(0.01)


class WeightPosterior:
    """The random arrays of a model's parameters. Without any, a draw is the parameters themselves.

    Parameters
    ----------
    shapes : dict of name -> shape, of the random arrays
    backend : module with ``gaussian_latent`` and ``gaussian_latent_backward``
    """

    def __init__(self, shapes, backend):
        self.backend, self.layout = backend, Layout(shapes)

    def log_var_shapes(self):
        """Return the shapes of the arrays of log-variances by name."""
        return {name + LOG_VAR: shape for name, shape in self.layout.shapes.items()}

    def _arrays(self, parameters):
        """Yield (name, mu, log_var) of each random array, the arrays as matrices."""
        for name in self.layout.shapes:
            yield name, _matrix(parameters[name]), _matrix(parameters[name + LOG_VAR])

    def sample(self, parameters, zeta, analytic_kl, drawn):
        """Draw theta = mu + sigma * zeta.

        Parameters
        ----------
        parameters : Parameters
        zeta : array of `layout`'s size, standard normal
        analytic_kl : bool, whether the KL divergence is in closed form or log q(theta) - log p(theta) at the draw
        drawn : Parameters, overwritten with the draw; arrays that are not random are copied

        Returns
        -------
        divergence : float, D_KL(q(theta) || p(theta)) in nats, or its estimate
        """
        drawn.vector[...] = parameters.vector
        noise, total = self.layout.view(zeta), 0.0
        for name, mu, log_var in self._arrays(parameters):
            out = _matrix(drawn[name]), None
            kl = self.backend.gaussian_latent(mu, log_var, _matrix(noise[name]), analytic_kl, out)[1]
            total += float(np.sum(self.backend.to_numpy(kl), dtype=float))
        return total

    def sample_backward(self, parameters, zeta, analytic_kl, weight, gradients):
        """Backward pass of `sample`, for an objective that holds ``-weight * divergence``.

        Parameters
        ----------
        parameters, zeta, analytic_kl : as in `sample`
        gradients : (of the rest at the draw, at the parameters), both Parameters; the second is overwritten
        """
        of_drawn, gradient = gradients
        gradient.vector[...] = of_drawn.vector
        noise = self.layout.view(zeta)
        for name, mu, log_var in self._arrays(parameters):
            out = _matrix(gradient[name]), _matrix(gradient[name + LOG_VAR])
            weights = self.backend.asarray(np.full(len(mu), weight), mu.dtype)
            arguments = _matrix(noise[name]), _matrix(of_drawn[name]), analytic_kl, weights, out
            self.backend.gaussian_latent_backward(mu, log_var, *arguments)

    def draws(self, parameters, seed, n):
        """Yield n draws as Parameters, the same for the same seed; each overwrites the one before."""
        if not self.layout.shapes:
            yield parameters
            return
        rng, drawn = np.random.default_rng([seed, *b"weights"]), parameters.layout.view(parameters.vector.copy())
        for _ in range(n):
            self.sample(parameters, self.noise(rng, parameters.vector.dtype), True, drawn)
            yield drawn

    def noise(self, rng, dtype):
        """Draw zeta, for all random arrays: float32 numbers whatever the type, so that a seed gives the same ones."""
        return self.backend.asarray(rng.standard_normal(self.layout.size, dtype=np.float32), dtype)

    def divergence(self, parameters):
        """Return D_KL(q(theta) || p(theta)) in nats, in float64."""
        total = 0.0
        for _, *arrays in self._arrays(parameters):
            mu, log_var = (np.asarray(self.backend.to_numpy(array), float) for array in arrays)
            total += float(kl_divergence(Normal(mu, np.exp(log_var / 2)), Normal()).sum())
        return total


def _matrix(array):
    return array.reshape(-1, array.shape[-1])
