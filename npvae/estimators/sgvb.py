"""Stochastic gradient variational Bayes: the paper's two estimators of the bound, and their gradients by hand.

Version A (equation 6) samples the whole bound; version B (equation 7, and 10 for the Gaussian VAE) has the KL divergence
of q(z|x) from the prior in closed form. Both are reparameterized: with the noise fixed they are ordinary functions of
the parameters, and the gradient below is theirs, exactly.
"""

from typing import Any, NamedTuple

import numpy as np

from ..parameters import Buffers
from . import bound
from .interface import Result


class Passes(NamedTuple):
    """A step's forward and backward pass, where the backend computes: the value is the difference of two means."""

    log_likelihood: Any  # (L * M,) log p(x|z), in nats
    kl: Any  # (M,) or (L * M,), in nats
    gradient: Any  # Parameters, of mean(log_likelihood) - mean(kl)


class SGVB:
    """The minibatch estimator of the bound a datapoint (equation 8 over N), with L samples z for each datapoint.

    What the gradient holds constant is the noise itself. For the interface see `interface.Estimator`.

    Parameters
    ----------
    model : Model
    n_samples : int, the L of the paper
    analytic_kl : bool, version B if true, version A if false
    """

    State = None
    updates_per_sample = 1
    runs_ahead = True

    def __init__(self, model, n_samples=1, analytic_kl=True):
        self.model, self.n_samples, self.analytic_kl = model, n_samples, analytic_kl
        self._buffers = Buffers(model.backend, model.dtype)
        self._gradient = model.gradient()

    def noise_shape(self, n_rows):
        """Return the shape of a minibatch's noise, (L * n_rows, J)."""
        return self.n_samples * n_rows, self.model.architecture.n_components

    def draw_into(self, rng, out):
        """Draw a minibatch's noise of q(z|x) into a NumPy array, float32 whatever the model's type, and return it.

        So a seed gives the same noise in every precision and on every backend.
        """
        return self.model.noise(rng, out)

    def draw(self, rng, n_rows):
        """Draw the noise of a minibatch: eps (L * n_rows, J), where the backend computes; the next call overwrites it."""
        shape = self.noise_shape(n_rows)
        noise = self._buffers.get_or_make(("noise", shape), lambda: np.empty(shape, np.float32))
        return self.model.backend.asarray(self.draw_into(rng, noise), self.model.dtype)

    def sample(self, parameters, x, rows, noise, state=None):
        """Fix what the gradient holds constant: here the noise itself."""
        return noise, state

    def value_and_grad(self, parameters, x, samples):
        """Estimate the bound a datapoint, in nats, and its gradient."""
        done, to_numpy = self.passes(parameters, x, samples), self.model.backend.to_numpy
        value = _mean(to_numpy(done.log_likelihood)) - _mean(to_numpy(done.kl))
        return Result(value, value, done.gradient)

    def passes(self, parameters, x, samples):
        """Compute the terms of the bound, forward, and its gradient, backward, without waiting for the results."""
        model, M, R = self.model, x.shape[0], samples.shape[0]
        done = bound.forward(model, parameters, x, samples, self.analytic_kl, self._buffers)
        dz = self._buffers("dz", *samples.shape)
        model.decoder.backward(parameters, done.z, done.decoded, self._gradient, self._buffers, dz)
        encoded, kl_rows = done.encoded, M if self.analytic_kl else R
        weights = self._buffers.full(1 / kl_rows, kl_rows)
        model.backend.gaussian_latent_backward(
            *encoded.outputs, samples, dz, self.analytic_kl, weights, encoded.doutputs
        )
        model.encoder.backward(parameters, x, encoded, self._gradient, self._buffers)
        return Passes(done.log_likelihood, done.kl, self._gradient)

    def places(self, parameters, x, samples):
        """List (name, array) of what is computed: see `interface.Estimator`."""
        done = bound.forward(self.model, parameters, x, samples, self.analytic_kl, self._buffers)
        layers = self.model.layers(done.encoded, done.decoded)
        terms = [("log-likelihood", done.log_likelihood), ("divergence of q(z|x) from the prior", done.kl)]
        return [("input", x), *layers, *terms]


def _mean(values):
    """Return the mean of a vector, in float64 whatever its type."""
    return sum(values.tolist()) / len(values)
