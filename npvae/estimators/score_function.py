"""The score-function estimator of the bound's gradient: it needs no reparameterization, but its variance is high.

For the encoder's parameters phi it uses grad E_q[f] = E_q[f grad log q] (section 2.2 of the paper), with
f = log p(x, z) - log q(z|x). The identity requires that f does not depend on phi. Here log q does; the extra term is
-E_q[grad log q], which is zero and left out. For the decoder's parameters the gradient is that of log p(x|z).
"""

from typing import Any, NamedTuple

import numpy as np

from ..backends.interface import Array
from ..model import Model
from ..parameters import Buffers, Parameters
from . import bound
from .interface import Result

#: Weight of the old running baseline in its update. The mean of the new minibatch has the weight 1 - KEPT.
KEPT = 0.9


class Samples(NamedTuple):
    """What the gradient holds constant: z ~ q(z|x), and the factor of each sample's grad log q(z|x).

    Examples
    --------
    One datapoint with two samples whose f are -100 and -104. With the leave-one-out baseline:

    >>> f = np.array([-100.0, -104.0])
    >>> samples = Samples(z=np.zeros((2, 1)), weights=(f - f[::-1]) / 2, elbo=f.mean())
    >>> samples.weights
    array([ 2., -2.])
    """

    z: Array  # (L * M, J)
    weights: Array  # (L * M,): (f(z) - baseline) / (L * M)
    elbo: float  # mean of f: an estimate of the bound, in nats


class Baseline(NamedTuple):
    """The state of a running baseline.

    Examples
    --------
    >>> Baseline(np.array([-100.0])).mean.shape
    (1,)
    """

    mean: np.ndarray  # (1,) float64: exponentially decaying mean of f over minibatches, in nats


class ScoreFunction:
    """The score-function estimator, with a baseline b that reduces its variance.

    The estimator uses (f - b) grad log q(z|x) in place of f grad log q(z|x). It stays unbiased for any b that does not
    depend on the sample z: then the expectation of b grad log q(z|x) is zero. The methods are those of
    `interface.Estimator`.

    Parameters
    ----------
    model : Model
        Whose q(z|x) is Gaussian.
    n_samples : int
        Samples z for each datapoint, the L of the paper.
    baseline : {None, "running", "leave-one-out"}
        Zero, the decaying mean of f over earlier minibatches (zero for the first one), or the mean of f over the
        datapoint's other samples, which needs at least two samples.

    Examples
    --------
    >>> from npvae import backends
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"), "float64")
    >>> parameters, x = model.parameters(model.initial(rng, std=0.1)), rng.random((5, 3))
    >>> estimator = ScoreFunction(model, n_samples=2, baseline="running")
    >>> samples, state = estimator.sample(parameters, x, np.arange(5), estimator.draw(rng, len(x)))
    >>> result = estimator.value_and_grad(parameters, x, samples)
    >>> bool(result.elbo == samples.elbo == state.mean[0])
    True
    """

    updates_per_sample = 1
    runs_ahead = False

    def __init__(self, model: Model, n_samples: int = 1, baseline: str | None = None) -> None:
        self.model, self.n_samples, self.baseline = model, n_samples, baseline
        self.State = Baseline if baseline == "running" else None
        self._buffers, self._later = (Buffers(model.backend, model.dtype) for _ in range(2))
        self._gradient = model.gradient()

    def draw(self, rng: np.random.Generator, n_rows: int) -> Array:
        """Draw the noise of a minibatch: eps (L * n_rows, J), an array of the backend."""
        shape = self.n_samples * n_rows, self.model.architecture.n_components
        return self.model.backend.asarray(rng.standard_normal(shape, dtype=np.float32), self.model.dtype)

    def sample(
        self, parameters: Parameters, x: Array, rows: Any, noise: Array, state: Baseline | None = None
    ) -> tuple[Samples, Baseline | None]:
        """Draw z and compute the weights. Returns them and the next state."""
        backend = self.model.backend
        done = bound.forward(self.model, parameters, x, noise, False, self._buffers)
        f = backend.to_numpy(done.log_likelihood) - backend.to_numpy(done.kl)
        weights = (f - self._baseline(f, state)) / len(f)
        mean = float(f.mean(dtype=float))
        if self.baseline == "running":
            state = Baseline(np.array([mean]) if state is None else KEPT * state.mean + (1 - KEPT) * mean)
        return Samples(done.z, backend.asarray(weights, self.model.dtype), mean), state

    def _baseline(self, f, state):
        """Return the baseline, a number or (L * M,), for f (L * M,)."""
        if self.baseline == "leave-one-out":
            f = f.reshape(self.n_samples, -1)
            return ((f.sum(axis=0) - f) / (self.n_samples - 1)).reshape(-1)
        return state.mean if self.baseline == "running" and state is not None else 0

    def part_of(self, state: Baseline, rows: Any) -> Baseline:
        """Return the part of a state that belongs to some rows: see `interface.Stateful`."""
        return state

    def merged(self, before: Baseline | None, parts: list[tuple[Any, Baseline]]) -> Baseline:
        """Return the state after a minibatch, from those after its parts: their mean is that of all of its f."""
        rows = [len(rows) for rows, _ in parts]
        return Baseline(np.average([state.mean for _, state in parts], axis=0, weights=rows))

    def value_and_grad(self, parameters: Parameters, x: Array, samples: Samples) -> Result:
        """Return mean(log p(x|z)) + sum(weights * log q(z|x)) and its gradient, with z and weights held constant.

        The gradient is an estimate of the gradient of the bound. The value is not an estimate of the bound.
        """
        model, R, to_numpy = self.model, len(samples.z), self.model.backend.to_numpy
        encoded, decoded = self._passes(parameters, x, samples)
        log_likelihood = model.log_likelihood(x, decoded, self._later.full(1 / R, R), self._later)
        model.decoder.backward(parameters, samples.z, decoded, self._gradient, self._later)
        (mu, log_var), out = encoded.outputs, (self._later("log_q", R), *encoded.doutputs)
        log_q, *_ = model.backend.gaussian_log_q(samples.z, mu, log_var, samples.weights, out)
        model.encoder.backward(parameters, model.seen(x, self._later), encoded, self._gradient, self._later)
        weighted = np.sum(to_numpy(samples.weights) * to_numpy(log_q), dtype=float)
        value = float(np.mean(to_numpy(log_likelihood), dtype=float) + weighted)
        return Result(value, samples.elbo, self._gradient)

    def _passes(self, parameters, x, samples):
        return self.model.encode(parameters, x, self._later), self.model.decode(parameters, samples.z, self._later)

    def places(self, parameters: Parameters, x: Array, samples: Samples) -> list:
        """List (name, array) of what is computed: see `interface.Estimator`."""
        layers = self.model.layers(*self._passes(parameters, x, samples))
        return [("input", self.model.seen(x, self._later)), *layers, ("weight of the samples", samples.weights)]
