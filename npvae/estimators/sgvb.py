"""Stochastic gradient variational Bayes (SGVB): the paper's two estimators of the bound, with handwritten gradients.

Version A (equation 6) estimates the whole bound from samples. Version B (equation 7; equation 10 for the Gaussian VAE)
has the KL divergence of q(z|x) from the prior in closed form. Both are reparameterized: with the noise fixed, each is
an ordinary function of the parameters, and the gradient computed here is exactly the gradient of this function.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..backends.interface import Array
from ..model import Model
from ..parameters import Buffers, Parameters
from . import bound
from .interface import Result


class Passes(NamedTuple):
    """The results of a forward and a backward pass, as arrays of the backend.

    Examples
    --------
    The bound of the minibatch is the difference of two means:

    >>> done = Passes(np.array([-2.0, -4.0]), np.array([0.5, 1.5]), None)
    >>> float(done.log_likelihood.mean() - done.kl.mean())
    -4.0
    """

    log_likelihood: Array  # (L * M,) log p(x|z), in nats
    kl: Array  # (M,) or (L * M,), in nats: see `bound.Forward`
    gradient: Any  # Parameters, of mean(log_likelihood) - mean(kl)


class SGVB:
    """The SGVB estimator of the bound per datapoint on a minibatch: equation 8 of the paper, divided by N.

    The methods are those of `interface.Estimator`. The gradient is taken with only the noise held constant.

    Parameters
    ----------
    model : Model
    n_samples : int
        Samples z for each datapoint, the L of the paper.
    analytic_kl : bool
        Version B if true, version A if false.

    Examples
    --------
    >>> from npvae import backends
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"), "float64")
    >>> parameters, x = model.parameters(np.zeros(model.layout.size)), rng.random((5, 3))
    >>> estimator = SGVB(model, n_samples=10)
    >>> result = estimator.value_and_grad(parameters, x, estimator.draw(rng, len(x)))

    With all parameters zero, q(z|x) is the prior and each of the three pixels has probability 1/2:

    >>> bool(np.isclose(result.elbo, 3 * np.log(0.5)))
    True
    """

    State: Any = None
    updates_per_sample = 1

    def __init__(self, model: Model, n_samples: int = 1, analytic_kl: bool = True) -> None:
        self.model, self.n_samples, self.analytic_kl = model, n_samples, analytic_kl
        self._buffers = Buffers(model.backend, model.dtype)
        self._gradient = model.gradient()

    @property
    def runs_ahead(self) -> bool:
        """Whether a step needs no arithmetic but the backend's."""
        return self.model.latent_on_backend

    def noise_shape(self, n_rows: int) -> tuple[int, int]:
        """Return the shape of a minibatch's noise, (L * n_rows, J)."""
        return self.n_samples * n_rows, self.model.architecture.n_components

    def draw_into(self, rng: np.random.Generator, out: np.ndarray) -> np.ndarray:
        """Draw the noise of a minibatch into a NumPy array (L * n_rows, J) of float32, and return the array.

        It is float32 for a float64 model too: a seed gives the same noise in every precision and on every backend.
        """
        return self.model.noise(rng, out)

    def draw(self, rng: np.random.Generator, n_rows: int) -> Array:
        """Draw the noise of a minibatch: eps (L * n_rows, J), an array of the backend. The next call overwrites it."""
        shape = self.noise_shape(n_rows)
        noise = self._buffers.get_or_make(("noise", shape), lambda: np.empty(shape, np.float32))
        return self.model.backend.asarray(self.draw_into(rng, noise), self.model.dtype)

    def sample(self, parameters: Parameters, x: Array, rows: Any, noise: Array, state: Any = None) -> tuple[Array, Any]:
        """Return what is held constant in the gradient: here, the noise itself."""
        return noise, state

    def value_and_grad(self, parameters: Parameters, x: Array, samples: Array) -> Result:
        """Estimate the bound per datapoint, in nats, and its gradient.

        Version A is equation 6, version B equation 7, averaged over the minibatch: equation 8, divided by N.
        """
        done, to_numpy = self.passes(parameters, x, samples), self.model.backend.to_numpy
        value = mean_in_order(to_numpy(done.log_likelihood)) - mean_in_order(to_numpy(done.kl))
        return Result(value, value, done.gradient)

    def passes(self, parameters: Parameters, x: Array, samples: Array) -> Passes:
        """Compute the terms of the bound (forward) and the gradient (backward). On a GPU, return without waiting."""
        M, R = x.shape[0], samples.shape[0]  # R = L * M
        done = bound.forward(self.model, parameters, x, samples, self.analytic_kl, self._buffers)
        kl_rows = M if self.analytic_kl else R
        self._backward(parameters, x, samples, done, self._buffers.full(1 / kl_rows, kl_rows))  # weights of the mean
        return Passes(done.log_likelihood, done.kl, self._gradient)

    def _backward(self, parameters: Parameters, x: Array, eps: Array, done: bound.Forward, weights: Array) -> None:
        """Compute the gradient of -sum(weights * kl) and of the function whose gradient ``decoded.doutputs`` has."""
        model, (mu, log_var), out = self.model, done.encoded.outputs, done.encoded.doutputs
        dz = self._buffers("dz", *eps.shape)
        model.decoder.backward(parameters, done.z, done.decoded, self._gradient, self._buffers, dz)
        model.backend.gaussian_latent_backward(mu, log_var, eps, dz, self.analytic_kl, weights, out)
        model.encoder.backward(parameters, model.seen(x, self._buffers), done.encoded, self._gradient, self._buffers)

    def places(self, parameters: Parameters, x: Array, samples: Array) -> list:
        """List (name, array) of what is computed: see `interface.Estimator`."""
        done = bound.forward(self.model, parameters, x, samples, self.analytic_kl, self._buffers)
        layers = self.model.layers(done.encoded, done.decoded)
        terms = [("log-likelihood", done.log_likelihood), ("KL divergence of q(z|x) from the prior", done.kl)]
        return [("input", self.model.seen(x, self._buffers)), *layers, *terms]


def mean_in_order(values: ArrayLike) -> float:
    """Return the mean of numbers, summed in float64 and in order.

    Examples
    --------
    >>> mean_in_order([1.0, 2.0, 6.0])
    3.0
    """
    sums = np.cumsum(values, dtype=np.float64)
    return float(sums[-1] / len(sums))
