"""The score-function estimator of the bound's gradient: the general one, whose variance the reparameterization avoids.

For the encoder's parameters phi it uses the identity grad E_q[f] = E_q[f grad log q], which holds where f does not
depend on phi. Here f = log p(x, z) - log q(z|x) does, through log q; the term that this adds, -E_q[grad log q], is
zero and left out. For the decoder's parameters the gradient of log p(x|z) is all there is.
"""

from typing import Any, NamedTuple

import numpy as np

from ..parameters import Buffers
from . import bound
from .interface import Result

#: How much of the running baseline is kept from one minibatch to the next.
KEPT = 0.9


class Samples(NamedTuple):
    """What the gradient holds constant: z ~ q(z|x), and what each one's grad log q is multiplied by."""

    z: Any  # (L * M, J)
    weights: Any  # (L * M,): f(z) less a baseline, over L * M
    elbo: float  # mean of f: an estimate of the bound, in nats


class Baseline(NamedTuple):
    """The state of a running baseline."""

    mean: np.ndarray  # (1,) float64, of f over the minibatches so far, in nats


class ScoreFunction:
    """The score-function estimator with L samples z for each datapoint, and a baseline that lowers its variance.

    A baseline may be anything that does not depend on the sample that it is subtracted for: the expectation of
    b grad log q is zero. For the interface see `interface.Estimator`.

    Parameters
    ----------
    model : Model, whose q(z|x) is Gaussian
    n_samples : int, the L of the paper
    baseline : {None, "running", "leave-one-out"}
        What is subtracted from f: nothing, its mean over earlier minibatches, or its mean over the datapoint's other
        samples.
    """

    State = Baseline
    updates_per_sample = 1
    runs_ahead = False

    def __init__(self, model, n_samples=1, baseline=None):
        self.model, self.n_samples, self.baseline = model, n_samples, baseline
        self._buffers, self._later = (Buffers(model.backend, model.dtype) for _ in range(2))
        self._gradient = model.gradient()

    def draw(self, rng, n_rows):
        """Draw the noise of a minibatch, eps (L * n_rows, J): see `SGVB.draw`."""
        shape = self.n_samples * n_rows, self.model.architecture.n_components
        return self.model.backend.asarray(rng.standard_normal(shape, dtype=np.float32), self.model.dtype)

    def sample(self, parameters, x, rows, noise, state=None):
        """Draw z and weigh it; returns `Samples` and the next `Baseline`."""
        backend = self.model.backend
        done = bound.forward(self.model, parameters, x, noise, False, self._buffers)
        f = backend.to_numpy(done.log_likelihood) - backend.to_numpy(done.kl)
        weights = (f - self._baseline(f, state)) / len(f)
        mean = float(f.mean(dtype=float))
        if self.baseline == "running":
            state = Baseline(np.array([mean]) if state is None else KEPT * state.mean + (1 - KEPT) * mean)
        return Samples(done.z, backend.asarray(weights, self.model.dtype), mean), state

    def _baseline(self, f, state):
        """Return what is subtracted from f (L * M,)."""
        if self.baseline == "leave-one-out":
            f = f.reshape(self.n_samples, -1)
            return ((f.sum(axis=0) - f) / (self.n_samples - 1)).reshape(-1)
        return 0 if state is None else state.mean

    def value_and_grad(self, parameters, x, samples):
        """Return mean(log p(x|z)) + sum(weights * log q(z|x)), z and weights held constant, and its gradient.

        The gradient is the estimate of the bound's; the value is no bound.
        """
        model, R, to_numpy = self.model, len(samples.z), self.model.backend.to_numpy
        encoded, decoded = self._passes(parameters, x, samples)
        log_likelihood = model.log_likelihood(x, decoded, self._later.full(1 / R, R), self._later)
        model.decoder.backward(parameters, samples.z, decoded, self._gradient, self._later)
        out = self._later("log_q", R), *encoded.doutputs
        log_q, *_ = model.backend.gaussian_log_q(samples.z, *encoded.outputs, samples.weights, out)
        model.encoder.backward(parameters, x, encoded, self._gradient, self._later)
        weighted = np.sum(to_numpy(samples.weights) * to_numpy(log_q), dtype=float)
        value = float(np.mean(to_numpy(log_likelihood), dtype=float) + weighted)
        return Result(value, samples.elbo, self._gradient)

    def _passes(self, parameters, x, samples):
        return self.model.encode(parameters, x, self._later), self.model.decode(parameters, samples.z, self._later)

    def places(self, parameters, x, samples):
        """List (name, array) of what is computed: see `interface.Estimator`."""
        layers = self.model.layers(*self._passes(parameters, x, samples))
        return [("input", x), *layers, ("weight of the samples", samples.weights)]
