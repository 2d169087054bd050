"""The importance-weighted bound of Burda, Grosse and Salakhutdinov (2016), and two estimators of its gradient.

With k samples z_l ~ q(z|x) and their weights w_l = p(x, z_l) / q(z_l|x), E[log 1/k sum_l w_l] is a lower bound on
log p(x). It is that of SGVB-A for k = 1, and rises with k to log p(x). The samples of a datapoint share it by their
normalized weights omega_l = w_l / sum_m w_m.

The gradient of log 1/k sum_l w_l is sum_l omega_l grad log w_l: `ImportanceWeighted`. For the encoder, its ratio of
signal to noise falls with k. That of `DoublyReparameterized` rises.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.interface import Array
from ..model import POSTERIORS, Model
from ..parameters import Parameters
from . import bound
from .interface import Result
from .sgvb import SGVB, mean_in_order

#: Most rows of samples that are computed at a time, unless the minibatch or the samples of a datapoint are more.
ROWS = 500


def normalized(log_weights: NDArray) -> NDArray[np.float64]:
    """Return the logarithms of the weights of each datapoint, divided by their sum: (k, M) for (k, M).

    Examples
    --------
    >>> np.exp(normalized(np.log([[1.0], [3.0]]))).round(2).ravel()
    array([0.25, 0.75])
    """
    with np.errstate(invalid="ignore"):  # of weights that are not finite: the training stops, and names the place
        above = log_weights - log_weights.max(axis=0)
        return above - np.log(np.exp(above).sum(axis=0))


class Terms(NamedTuple):
    """The terms of each datapoint in the bound, which is mean(log_likelihood) - mean(kl).

    Examples
    --------
    >>> Terms(log_likelihood=[-2.0, -4.0], kl=[0.5, 1.5]).mean()
    -4.0
    """

    log_likelihood: list[float]
    kl: list[float]

    def add(self, done: bound.Forward, piece: "Piece") -> NDArray[np.float64]:
        """Add the terms of a piece, and return the normalized weights omega (k, m) of its samples."""
        log_likelihood, kl = (a.reshape(-1, len(piece.x)).astype(float) for a in (done.log_likelihood, done.kl))
        log_omega = normalized(log_likelihood - kl)
        omega = np.exp(log_omega)
        # For every l, log 1/k sum_m w_m = log w_l - log(k omega_l). So it is the mean of that by the weights, too.
        self.log_likelihood.extend((omega * log_likelihood).sum(axis=0).tolist())
        self.kl.extend((omega * (kl + (log_omega + np.log(len(omega))))).sum(axis=0).tolist())
        return omega

    def mean(self) -> float:
        """Return the bound a datapoint, in nats."""
        return mean_in_order(self.log_likelihood) - mean_in_order(self.kl)


class ImportanceWeighted(SGVB):
    """The importance-weighted bound with its own gradient: the value is the bound, the noise is held constant.

    The methods are those of `interface.Estimator`. With one sample, value and gradient have the bits of SGVB-A.

    A minibatch is computed in pieces, each some datapoints with all their samples. So many samples need little more
    memory than one: that of `ROWS` rows, of a minibatch of single samples, or of a datapoint, whichever is more.

    For a family of q(z|x) whose support has ends, the bound rises to the integral of p(x, z) between them.

    Parameters
    ----------
    model : Model
    n_samples : int
        Samples z for each datapoint, the k of Burda et al.

    Examples
    --------
    >>> from npvae import backends
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"), "float64")
    >>> parameters, x = model.parameters(model.initial(rng, std=1.0)), rng.random((5, 3))
    >>> estimator = ImportanceWeighted(model, n_samples=50)
    >>> noise = estimator.draw(rng, len(x))
    >>> plain = SGVB(model, 50, analytic_kl=False).value_and_grad(parameters, x, noise)
    >>> bool(estimator.value_and_grad(parameters, x, noise).value > plain.value)
    True
    """

    runs_ahead = False

    def __init__(self, model: Model, n_samples: int = 1) -> None:
        super().__init__(model, n_samples, analytic_kl=False)
        self._total = model.gradient()

    def value_and_grad(self, parameters: Parameters, x: Array, samples: Array) -> Result:
        """Return the mean of log 1/k sum_l w_l over the minibatch, in nats, and its gradient."""
        model, weight, terms = self.model, 1 / len(samples), Terms([], [])
        for piece in pieces(x, samples):
            (eps,) = piece.samples
            done = bound.forward(model, parameters, piece.x, eps, False, self._buffers, weight)
            shares = (self.n_samples * terms.add(done, piece)).astype(model.dtype).reshape(-1)  # 1 for equal weights
            for doutput in done.decoded.doutputs:
                doutput *= shares[:, None]
            self._backward(parameters, piece.x, eps, done, weight * shares)
            gradient = self._add(piece)
        value = terms.mean()
        return Result(value, value, gradient)

    def _add(self, piece: "Piece") -> Any:
        """Return the sum of the gradients of the pieces so far."""
        if piece.is_whole:
            return self._gradient
        if piece.rows.start == 0:
            self._total.vector[:] = 0
        self._total.vector += self._gradient.vector
        return self._total


class Samples(NamedTuple):
    """What the doubly reparameterized gradient holds constant. Row ``l * M + i`` belongs to datapoint i.

    Examples
    --------
    Two samples of one datapoint, the second with three times the weight of the first:

    >>> zero = np.zeros((2, 1))
    >>> samples = Samples(zero, zero, omega=np.array([0.25, 0.75]), slope=zero, elbo=-101.7)
    >>> float(samples.omega.sum())
    1.0
    """

    eps: Array  # (k * M, J), the noise
    z: Array  # (k * M, J)
    omega: Array  # (k * M,), the normalized weights
    slope: Array  # (k * M, J), d log w / dz
    elbo: float  # the mean of log 1/k sum_l w_l, in nats


class DoublyReparameterized(ImportanceWeighted):
    """The importance-weighted bound with the doubly reparameterized gradient of Tucker et al. (2019).

    For the decoder it is that of `ImportanceWeighted`. In the encoder's gradient, the part through the parameters of
    log q(z|x) itself, sum_l omega_l grad log q(z_l|x), has the form of a score-function estimator. It is also
    reparameterized; what remains is ``sum_l omega_l^2 d log w_l / dz_l dz_l / dphi``, the path through z alone. For one
    sample, this is the gradient that "sticks the landing" (Roeder, Wu and Duvenaud, 2017): zero where q is the
    posterior, for any noise.

    It needs a density of the noise with a derivative and without edges: see `model.Posterior`.

    Parameters
    ----------
    model : Model
    n_samples : int
        Samples z for each datapoint, the k of the paper.

    Examples
    --------
    >>> from npvae import backends
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"), "float64")
    >>> parameters, x = model.parameters(model.initial(rng, std=0.1)), rng.random((5, 3))
    >>> estimator = DoublyReparameterized(model, n_samples=50)
    >>> samples, _ = estimator.sample(parameters, x, np.arange(5), estimator.draw(rng, len(x)))
    >>> estimator.value_and_grad(parameters, x, samples).elbo == samples.elbo
    True
    """

    def sample(
        self, parameters: Parameters, x: Array, rows: Any, noise: Array, state: Any = None
    ) -> tuple[Samples, Any]:
        """Draw z, and compute the normalized weights and d log w / dz."""
        model, shape, terms = self.model, (self.n_samples, *x.shape[:1], noise.shape[1]), Terms([], [])
        z, slope = self._buffers("drawn", *shape), self._buffers("slope", *shape)
        omega = self._buffers("omega", *shape[:2])
        slope_of_noise = POSTERIORS[model.architecture.posterior].slope
        assert slope_of_noise is not None  # see the row of this estimator in `ESTIMATORS`
        for piece in pieces(x, noise):
            (eps,) = piece.samples
            done = bound.forward(model, parameters, piece.x, eps, False, self._buffers, 1.0)
            dz = self._buffers("dz", *eps.shape)
            model.decoder.backward(parameters, done.z, done.decoded, None, self._buffers, dz)
            sigma = np.exp(done.encoded.outputs[1] / 2)
            here, drawn = (self.n_samples, *sigma.shape), done.z.reshape(self.n_samples, *sigma.shape)
            z[:, piece.rows], omega[:, piece.rows] = drawn, terms.add(done, piece)
            slope[:, piece.rows] = dz.reshape(here) - drawn - slope_of_noise(eps).reshape(here) / sigma
        flat = z.reshape(noise.shape), omega.reshape(-1), slope.reshape(noise.shape)
        return Samples(noise, *flat, elbo=terms.mean()), state

    def value_and_grad(self, parameters: Parameters, x: Array, samples: Samples) -> Result:
        """Return the mean of ``sum_l omega_l log p(x|z_l) + omega_l^2 d log w_l / dz z(eps_l)`` and its gradient.

        The samples are held constant: theta acts through log p(x|z) alone, and phi through z(eps) = mu + sigma eps. The
        value is not an estimate of the bound.
        """
        model, buffers, value = self.model, self._buffers, 0.0
        for piece in pieces(x, *samples[:4]):
            eps, z, omega, slope = piece.samples
            encoded, decoded = model.encode(parameters, piece.x, buffers), model.decode(parameters, z, buffers)
            weights = omega / model.dtype.type(len(x))
            log_likelihood = model.log_likelihood(piece.x, decoded, weights, buffers)
            model.decoder.backward(parameters, z, decoded, self._gradient, buffers)
            path, _ = model.latent(encoded, eps, True, buffers)
            dz = (weights * omega)[:, None] * slope
            value += float(np.sum(weights * log_likelihood, dtype=float) + np.sum(dz * path, dtype=float))
            (mu, log_var), no_kl = encoded.outputs, buffers.full(0.0, len(piece.x))
            model.backend.gaussian_latent_backward(mu, log_var, eps, dz, True, no_kl, encoded.doutputs)
            model.encoder.backward(parameters, model.seen(piece.x, buffers), encoded, self._gradient, buffers)
            gradient = self._add(piece)
        return Result(value, samples.elbo, gradient)

    def places(self, parameters: Parameters, x: Array, samples: Samples) -> list:
        """List (name, array) of what is computed: see `interface.Estimator`."""
        weights = [("weight of the samples", samples.omega), ("derivative of log w by z", samples.slope)]
        return [*super().places(parameters, x, samples.eps), *weights]


class Piece(NamedTuple):
    """Some datapoints of a minibatch, with all their samples.

    Examples
    --------
    >>> piece = next(pieces(np.zeros((100, 784)), np.zeros((300 * 100, 2))))
    >>> piece.rows, piece.x.shape, piece.samples[0].shape
    (slice(0, 1, None), (1, 784), (300, 2))
    """

    rows: slice  # of the minibatch
    x: Array  # (m, D)
    samples: tuple[Array, ...]  # (k * m, ...) each
    is_whole: bool  # whether this is the whole minibatch


def pieces(x: Array, *samples: Array) -> Iterator[Piece]:
    """Yield a minibatch x (M, D), and arrays (k * M, ...) of its samples, in pieces.

    Their bits depend on M and k alone.

    Examples
    --------
    >>> x, noise = np.zeros((100, 784)), np.zeros((50 * 100, 20))
    >>> [len(piece.x) for piece in pieces(x, noise)]
    [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    """
    M, k = len(x), len(samples[0]) // len(x)
    size = max(max(ROWS, M) // k, 1)
    if size >= M:
        yield Piece(slice(0, M), x, samples, True)
        return
    for start in range(0, M, size):
        rows = slice(start, min(start + size, M))
        parts = (array.reshape(k, M, *array.shape[1:])[:, rows].reshape(-1, *array.shape[1:]) for array in samples)
        yield Piece(rows, x[rows], tuple(parts), False)
