"""The score-function estimator of the bound's gradient: the general one, whose variance the reparameterization avoids.

For the encoder's parameters phi it uses the identity grad E_q[f] = E_q[f grad log q], which holds where f does not
depend on phi. Here f = log p(x, z) - log q(z|x) does, through log q; the term that this adds, -E_q[grad log q], is
zero and left out. For the decoder's parameters the gradient of log p(x|z) is all there is.
"""

from typing import NamedTuple

import numpy as np

from ..parameters import Buffers
from . import elbo

#: How much of the running baseline is kept from one minibatch to the next.
KEPT = 0.9


class Samples(NamedTuple):
    """What the gradient holds constant: z ~ q(z|x) (L * M, J), and what each one's grad log q is multiplied by."""

    z: object
    weights: np.ndarray  # (L * M,): f(z) less a baseline
    elbo: float  # mean of f: an estimate of the bound


class ScoreFunction:
    """The score-function estimator with L samples z for each datapoint, and a baseline that lowers its variance.

    A baseline may be anything that does not depend on the sample that it is subtracted for: the expectation of
    b grad log q is zero. An instance keeps scratch arrays: it belongs to one thread.

    Parameters
    ----------
    model : Model
    n_samples : int, the L of the paper
    baseline : {None, "running", "leave-one-out"}
        What is subtracted from f: nothing, its mean over earlier minibatches, or its mean over the datapoint's other
        samples.
    """

    def __init__(self, model, n_samples=1, baseline=None):
        self.model, self.n_samples, self.baseline = model, n_samples, baseline
        self._buffers, self._later = (Buffers(model.backend, model.dtype) for _ in range(2))
        self._gradient = model.gradient()

    def draw(self, rng, n_rows):
        """Draw the noise of a minibatch: see `SGVB.draw`."""
        shape = self.n_samples * n_rows, self.model.architecture.n_components
        return self.model.backend.asarray(rng.standard_normal(shape, dtype=np.float32), self.model.dtype)

    def sample(self, parameters, x, rows, noise, state=None):
        """Draw z and weigh it.

        Returns
        -------
        samples : Samples; state : the running baseline, in nats, or None
        """
        model, to_numpy = self.model, self.model.backend.to_numpy
        done = elbo.forward(model, parameters, x, noise, False, self._buffers)
        z = to_numpy(done.z).copy()
        zeros = np.zeros_like(z)
        log_prior = model.backend.gaussian_log_prob(z, zeros, zeros, 1.0)[0]
        f = to_numpy(done.log_likelihood) + log_prior - self._log_q(done.encoded, z)[0]
        weights = (f - self._baseline(f, state)).astype(model.dtype)
        mean = float(f.mean(dtype=float))
        if self.baseline == "running":
            state = mean if state is None else KEPT * state + (1 - KEPT) * mean
        return Samples(z, weights, mean), state

    def _baseline(self, f, state):
        """Return what is subtracted from f (L * M,)."""
        if self.baseline == "leave-one-out":
            f = f.reshape(self.n_samples, -1)
            return ((f.sum(axis=0) - f) / (self.n_samples - 1)).reshape(-1)
        return 0 if state is None else state

    def _log_q(self, encoded, z):
        """Return log q(z|x) (L * M,) and its gradients by mu and log_var, a row for each sample."""
        mu, log_var = (np.tile(self.model.backend.to_numpy(output), (self.n_samples, 1)) for output in encoded.outputs)
        return self.model.backend.gaussian_log_prob(z, mu, log_var, 1.0)

    def value_and_grad(self, parameters, x, samples):
        """Return mean(log p(x|z) + weight * log q(z|x)), z and weights held constant, and its gradient.

        The gradient is the estimate of the bound's; the value is no bound.

        Returns
        -------
        value : float; gradient : Parameters, whose memory is used again by the next call
        """
        model, R = self.model, len(samples.z)
        encoded = model.encode(parameters, x, self._later)
        decoded = model.decode(parameters, samples.z, self._later)
        log_likelihood = model.backend.to_numpy(model.log_likelihood(x, decoded, 1 / R, self._later))
        model.decoder.backward(parameters, samples.z, decoded, self._gradient, self._later)

        log_q, *gradients = self._log_q(encoded, samples.z)
        for doutput, gradient in zip(encoded.doutputs, gradients):
            weighted = samples.weights[:, None] * gradient / R
            doutput[...] = weighted.reshape(self.n_samples, len(x), -1).sum(axis=0)
        model.encoder.backward(parameters, x, encoded, self._gradient, self._later)
        return float(np.mean(log_likelihood + samples.weights * log_q, dtype=float)), self._gradient

    def elbo(self, value, samples):
        """Return the estimate of the bound, in nats a datapoint, that goes with a value."""
        return samples.elbo

    def first_nonfinite(self, parameters, x, samples):
        """Name the first place of the computation that holds a NaN or an infinite value: see `SGVB.first_nonfinite`."""
        model = self.model
        _, gradient = self.value_and_grad(parameters, x, samples)
        encoded, decoded = (
            model.encode(parameters, x, self._later),
            model.decode(parameters, samples.z, self._later),
        )
        places = [("input", x), *model.layers(encoded, decoded), ("weight of the samples", samples.weights)]
        return elbo.first_nonfinite(model, places, gradient)
