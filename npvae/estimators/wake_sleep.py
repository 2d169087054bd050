"""The wake-sleep algorithm (Hinton, Dayan, Frey and Neal, 1995), with which the paper compares.

It trains the decoder and the encoder with different objectives. The wake phase draws z ~ q(z|x) for the data x, and the
decoder learns to give these x and z a high log p(x, z). The sleep phase draws (x, z) from the model itself, a dream,
and the encoder learns to give the dreamed z a high log q(z|x). The wake phase alone follows the bound: the sleep phase
lowers the KL divergence of p(z|x) from q(z|x) on dreamed x, not that of q(z|x) from p(z|x) on the data.
"""

from typing import Any, NamedTuple

import numpy as np

from ..backends.interface import Array
from ..model import Model
from ..parameters import Buffers, Parameters
from .interface import Result


class Noise(NamedTuple):
    """The noise of a minibatch.

    Examples
    --------
    >>> noise = Noise(eps=np.zeros((100, 20)), z=np.zeros((100, 20)), x=np.zeros((100, 784)))  # M = 100, L = 1
    >>> noise.x.shape
    (100, 784)
    """

    eps: Array  # (L * M, J), of z ~ q(z|x)
    z: Array  # (L * M, J), the dreamed z ~ p(z)
    x: Array  # (L * M, D), of the dreamed x ~ p(x|z)


class Samples(NamedTuple):
    """What the gradient holds constant.

    Examples
    --------
    >>> samples = Samples(np.zeros((100, 20)), np.zeros((100, 20)), np.zeros((100, 784)), kl=25.0)
    >>> samples.dreamed_x.shape
    (100, 784)
    """

    z: Array  # (L * M, J), from q(z|x) of the data
    dreamed_z: Array  # (L * M, J), from p(z)
    dreamed_x: Array  # (L * M, D), from p(x|z) of the dreamed z; NaN where the row of the data has it
    kl: float  # mean KL divergence of q(z|x) from the prior, in nats


class WakeSleep:
    """The wake-sleep algorithm as an estimator.

    The methods are those of `interface.Estimator`. The value is mean(log p(x, z)) of the wake phase, a function of the
    decoder's parameters, plus mean(log q(z|x)) of the sleep phase, a function of the encoder's. It is not the bound.
    The result's ``elbo`` is: equation 7 with the z of the wake phase.

    Parameters
    ----------
    model : Model
        Whose q(z|x) is Gaussian.
    n_samples : int
        Samples z for each datapoint, the L of the paper, and as many dreams.

    Examples
    --------
    >>> from npvae import backends
    >>> from npvae.estimators import SGVB
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,)), backends.get("reference"), "float64")
    >>> parameters, x = model.parameters(model.initial(rng, std=0.1)), rng.random((5, 3))
    >>> estimator = WakeSleep(model)
    >>> noise = estimator.draw(rng, len(x))
    >>> samples, _ = estimator.sample(parameters, x, np.arange(5), noise)
    >>> result = estimator.value_and_grad(parameters, x, samples)
    >>> bool(np.isclose(result.elbo, SGVB(model).value_and_grad(parameters, x, noise.eps).elbo))
    True
    """

    State: Any = None
    updates_per_sample = 1
    runs_ahead = False

    def __init__(self, model: Model, n_samples: int = 1) -> None:
        self.model, self.n_samples = model, n_samples
        self._buffers, self._gradient = Buffers(model.backend, model.dtype), model.gradient()

    def draw(self, rng: np.random.Generator, n_rows: int) -> Noise:
        """Draw the noise of a minibatch. The next call overwrites it."""
        model, R = self.model, self.n_samples * n_rows
        _, J, D = sizes = R, model.architecture.n_components, model.architecture.n_features
        make = lambda: tuple(np.empty((R, columns), np.float32) for columns in (J, J, D))
        eps, z, x = self._buffers.get_or_make(("noise", sizes), make)
        model.noise(rng, eps)
        rng.standard_normal(out=z, dtype=np.float32)
        model.likelihood.noise(rng, x, model.architecture.n_binary)
        return Noise(*(model.backend.asarray(array, model.dtype) for array in (eps, z, x)))

    def sample(
        self, parameters: Parameters, x: Array, rows: Any, noise: Noise, state: Any = None
    ) -> tuple[Samples, Any]:
        """Draw z ~ q(z|x) for the data, and dream: draw x ~ p(x|z) for z ~ p(z)."""
        model, backend, buffers = self.model, self.model.backend, self._buffers
        z, kl = model.latent(model.encode(parameters, x, buffers), noise.eps, True, buffers)
        outputs = [backend.to_numpy(output) for output in model.decode(parameters, noise.z, buffers).outputs]
        dreamed_x = model.likelihood.drawn(backend.to_numpy(noise.x), outputs)
        if model.missing:  # the encoder learns from dreams with the same cells as the data
            dreamed_x[np.isnan(np.tile(backend.to_numpy(x), (self.n_samples, 1)))] = np.nan
        mean_kl = float(np.mean(backend.to_numpy(kl), dtype=float))
        return Samples(z, noise.z, backend.asarray(dreamed_x, model.dtype), mean_kl), state

    def value_and_grad(self, parameters: Parameters, x: Array, samples: Samples) -> Result:
        """Return mean(log p(x, z)) + mean(log q(dreamed z | dreamed x)) and its gradient, with the samples constant."""
        model, buffers, R = self.model, self._buffers, len(samples.z)
        weights = buffers.full(1 / R, R)
        decoded = model.decode(parameters, samples.z, buffers)
        log_joint = model.log_likelihood(x, decoded, weights, buffers)
        elbo = self._mean(log_joint) - samples.kl
        model.backend.add_log_prior(samples.z, log_joint, None)
        model.decoder.backward(parameters, samples.z, decoded, self._gradient, buffers)
        encoded = model.encode(parameters, samples.dreamed_x, buffers)
        (mu, log_var), out = encoded.outputs, (buffers("log_q", R), *encoded.doutputs)
        log_q, *_ = model.backend.gaussian_log_q(samples.dreamed_z, mu, log_var, weights, out)
        model.encoder.backward(parameters, model.seen(samples.dreamed_x, buffers), encoded, self._gradient, buffers)
        return Result(self._mean(log_joint) + self._mean(log_q), elbo, self._gradient)

    def _mean(self, values):
        return float(np.mean(self.model.backend.to_numpy(values), dtype=float))

    def places(self, parameters: Parameters, x: Array, samples: Samples) -> list:
        """List (name, array) of what is computed: see `interface.Estimator`."""
        model, wake, sleep = self.model, self._buffers, Buffers(self.model.backend, self.model.dtype)
        of_data = model.layers(model.encode(parameters, x, wake), model.decode(parameters, samples.z, wake))
        encoded = model.encode(parameters, samples.dreamed_x, sleep)
        of_dream = model.layers(encoded, model.decode(parameters, samples.dreamed_z, sleep))
        seen, dreamed = model.seen(x, wake), model.seen(samples.dreamed_x, sleep)
        return [("input", seen), *of_data, ("dreamed x", dreamed), *of_dream]
