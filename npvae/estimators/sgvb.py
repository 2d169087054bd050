"""Stochastic gradient variational Bayes: the paper's two estimators of the bound, and their gradients by hand.

Version A (equation 6) samples the whole bound; version B (equation 7, and 10 for the Gaussian VAE) has the divergence
of q(z|x) from the prior in closed form. Both are reparameterized: with the noise fixed they are ordinary functions of
the parameters, and the gradient below is theirs, exactly.
"""

from typing import NamedTuple

import numpy as np

from ..parameters import Buffers
from . import elbo


class Passes(NamedTuple):
    """The terms of the bound and its gradient, where the backend computes."""

    log_likelihood: object  # (L * M,)
    kl: object  # (M,)
    gradient: object  # Parameters


class SGVB:
    """The minibatch estimator of the bound a datapoint (equation 8 over N), with L samples z for each datapoint.

    What the gradient holds constant is the noise itself. An instance keeps scratch arrays: it belongs to one thread.

    Parameters
    ----------
    model : Model
    n_samples : int, the L of the paper
    analytic_kl : bool, version B if true, version A if false
    """

    def __init__(self, model, n_samples=1, analytic_kl=True):
        self.model, self.n_samples, self.analytic_kl = model, n_samples, analytic_kl
        self._buffers = Buffers(model.backend, model.dtype)
        self._gradient = model.gradient()

    def draw(self, rng, n_rows):
        """Draw the noise of a minibatch: eps (L * n_rows, J), as q(z|x) has it; float32 whatever the model's type.

        So a seed gives the same noise in every precision and on every backend. The next call overwrites it.
        """
        shape = self.noise_shape(n_rows)
        noise = self._buffers.made(("noise", shape), lambda: np.empty(shape, np.float32))
        self.draw_into(rng, noise)
        return self.model.backend.asarray(noise, self.model.dtype)

    def noise_shape(self, n_rows):
        """Return the shape of the noise of a minibatch."""
        return self.n_samples * n_rows, self.model.architecture.n_components

    def draw_into(self, rng, out):
        """Draw the noise of one or several minibatches into a float32 array on the host."""
        self.model.noise(rng, out)

    def sample(self, parameters, x, rows, noise, state=None):
        """Fix what the gradient holds constant: here the noise itself. Returns (samples, state)."""
        return noise, state

    def value_and_grad(self, parameters, x, samples):
        """Estimate the bound a datapoint and its gradient.

        Parameters
        ----------
        parameters : Parameters; x (M, D); samples: of `sample`

        Returns
        -------
        value : float, in nats, averaged over the M rows
        gradient : Parameters; its memory is used again by the next call
        """
        done = self.passes(parameters, x, samples)
        return _mean(self.model, done.log_likelihood) - _mean(self.model, done.kl), done.gradient

    def passes(self, parameters, x, samples):
        """Compute the terms of the bound, forward, and its gradient, backward, where the backend computes.

        Returns
        -------
        Passes
        """
        model, M = self.model, x.shape[0]
        done = elbo.forward(model, parameters, x, samples, self.analytic_kl, self._buffers)
        dz = self._buffers("dz", *samples.shape)
        model.decoder.backward(parameters, done.z, done.decoded, self._gradient, self._buffers, dz)
        encoded = done.encoded
        model.backend.gaussian_latent_backward(*encoded.outputs, samples, dz, self.analytic_kl, 1 / M, encoded.doutputs)
        model.encoder.backward(parameters, x, encoded, self._gradient, self._buffers)
        return Passes(done.log_likelihood, done.kl, self._gradient)

    def elbo(self, value, samples):
        """Return the estimate of the bound, in nats a datapoint, that goes with a value: the value itself."""
        return value

    def first_nonfinite(self, parameters, x, samples):
        """Name the first place of the computation, in its order, that holds a NaN or an infinite value; None if none.

        Returns
        -------
        str : "input", the name of a layer, or "gradient of" the name of an array
        """
        model = self.model
        _, gradient = self.value_and_grad(parameters, x, samples)
        done = elbo.forward(model, parameters, x, samples, self.analytic_kl, self._buffers)
        places = [("input", x), *model.layers(done.encoded, done.decoded)]
        places += [("log-likelihood", done.log_likelihood), ("divergence of q(z|x) from the prior", done.kl)]
        return elbo.first_nonfinite(model, places, gradient)


def _mean(model, array):
    """Return the mean of a vector, in float64 whatever its type."""
    return sum(model.backend.to_numpy(array).tolist()) / len(array)
