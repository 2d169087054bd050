"""The variational autoencoder as a probabilistic model: q(z|x), p(x|z) and p(z) = N(0, I), from two networks.

``estimators`` compute the bound and its gradient from these parts, and ``training`` updates the parameters.
"""

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import nn
from .backends.interface import Array, Backend
from .conventions import array_of_shape
from .distributions import Gumbel, Laplace, Logistic, Normal, Triangular, Uniform
from .inference import LogJoint
from .likelihoods import LIKELIHOODS
from .noise import key_of_content
from .parameters import Buffers, Layout, Parameters
from .preprocessing import Data
from .weight_posterior import INITIAL_LOG_VAR, WeightPosterior


class Posterior(NamedTuple):
    """A family of q(z|x): the distribution of the noise eps, and the backends that can compute it.

    Examples
    --------
    >>> from npvae.model import POSTERIORS
    >>> float(POSTERIORS["uniform"].noise.log_prob(2.0))  # the noise lies between -sqrt(3) and sqrt(3)
    -inf
    """

    noise: Any  # a distribution with mean 0 and variance 1
    backends: tuple[str, ...] = ("reference", "cpu")
    slope: Callable[[Array], Array] | None = None  # derivative of log p(eps); None where the support has ends


#: Scales of these distributions with variance 1.
_LOGISTIC, _GUMBEL = math.sqrt(3) / math.pi, math.sqrt(6) / math.pi

#: Families of q(z|x) by name. All are location-scale families: z = mu + sigma * eps, where the noise eps is drawn from
#: the member with mean 0 and variance 1. So z has mean mu and variance sigma^2 in every family.
POSTERIORS = {
    "gaussian": Posterior(Normal(), ("reference", "cpu", "cuda"), slope=np.negative),
    "laplace": Posterior(Laplace(0.0, np.sqrt(1 / 2)), slope=lambda eps: -math.sqrt(2) * np.sign(eps)),
    "logistic": Posterior(Logistic(0.0, _LOGISTIC), slope=lambda eps: -np.tanh(eps / (2 * _LOGISTIC)) / _LOGISTIC),
    "uniform": Posterior(Uniform(-np.sqrt(3), np.sqrt(3))),
    "triangular": Posterior(Triangular(0.0, np.sqrt(6))),
    "gumbel": Posterior(
        Gumbel(-np.euler_gamma * np.sqrt(6) / np.pi, _GUMBEL),
        slope=lambda eps: np.expm1(-eps / _GUMBEL - np.euler_gamma) / _GUMBEL,
    ),
}


#: What needs q(z|x) says this of a model that has none.
NO_ENCODER = (
    "the model has no encoder, and so no q(z|x), no bound, no codes and no reconstructions: its estimator trains the "
    "decoder alone. What needs none: sample, inverse_transform, impute, denoise, super_resolve, fitted_.log_joint, "
    "log_likelihood by 'marginal' or 'annealed'"
)


class Architecture(NamedTuple):
    """The settings that determine a model's arrays, and the family of q(z|x).

    Parameters
    ----------
    n_features : int, the D of x
    n_components : int, the J of the latent space
    hidden_layer_sizes : tuple of int, of the encoder; the decoder has them in reverse order
    activation : str, of the hidden layers
    likelihood : a name in `likelihoods.LIKELIHOODS`
    constant_log_var : bool
        True: the log-variances of encoder and Gaussian decoder are biases, the same for every row. Without hidden
        layers the model is then linear-Gaussian, and log p(x) has a closed form.
    posterior : a name in ``POSTERIORS``
    random_weights : str or None
        Prefix of the names of the arrays that are random and have a Gaussian posterior (full variational Bayes). For
        example, "decoder" selects the whole decoder.
    n_binary : int
        Number of binary columns, for a likelihood with several kinds of columns. They are the first ones.
    has_encoder : bool
        False: the model is p(x|z) and p(z) alone, without q(z|x), and has no arrays of an encoder.

    Examples
    --------
    >>> from npvae.model import Architecture
    >>> Architecture(n_features=784, n_components=20).likelihood
    'bernoulli'
    """

    n_features: int
    n_components: int
    hidden_layer_sizes: tuple[int, ...] = (500,)
    activation: str = "tanh"
    likelihood: str = "bernoulli"
    constant_log_var: bool = False
    posterior: str = "gaussian"
    random_weights: str | None = None
    n_binary: int = 0
    has_encoder: bool = True


class Model:
    """Encoder and decoder of one architecture, computed by one backend in one precision.

    A `Model` holds no parameters: methods take them as an argument. Results of methods that take ``buffers`` are
    stored there, and the next call with the same number of rows overwrites them.

    Parameters
    ----------
    architecture : Architecture
    backend : Backend
    dtype : "float32" or "float64"
    missing : bool
        Whether x may have NaN: cells that are not observed. p(x|z) is then that of the observed cells, and q(z|x) what
        the encoder makes of x with 0 in the others (Nazabal et al., 2020). Without such cells it is slower, and changes
        nothing.

    Attributes
    ----------
    layout : Layout of the flat parameter vector. The names are ``encoder.hidden1.W``, ``encoder.mu.b``, ...
    likelihood : Likelihood, the row of p(x|z)
    posterior : distribution of the noise of q(z|x)
    divergence_of_noise : float
        KL divergence of one element of the noise from N(0, 1), in nats.
    weight_posterior : WeightPosterior of the arrays that are random
    encoder, decoder : nn.Network, or the backend's own; the encoder is None in a model without one

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.backends import reference
    >>> from npvae.model import Architecture, Model
    >>> from npvae.parameters import Buffers
    >>> model = Model(Architecture(3, 2, hidden_layer_sizes=()), reference, "float64")
    >>> parameters = model.parameters(np.zeros(model.layout.size))  # so p(x_d = 1 | z) = 1/2
    >>> buffers = Buffers(reference, "float64")
    >>> x, z = np.ones((1, 3)), np.zeros((1, 2))
    >>> log_joint, dz = model.log_joint(parameters, x, z, buffers)
    >>> bool(np.isclose(log_joint[0], 3 * np.log(1 / 2) - np.log(2 * np.pi)))  # log p(x|z) + log N(0; 0, I)
    True
    """

    def __init__(
        self, architecture: Architecture, backend: Backend, dtype: DTypeLike = "float32", missing: bool = False
    ) -> None:
        self.architecture, self.backend, self.dtype, self.missing = architecture, backend, np.dtype(dtype), missing
        n_features, n_components, hidden, activation, likelihood, constant, posterior, random_weights, B = architecture[
            :9
        ]
        self.likelihood, self.posterior = LIKELIHOODS[likelihood], POSTERIORS[posterior].noise
        # Noise and N(0, 1) have the same mean and variance: their KL divergence is the difference of their entropies.
        self.divergence_of_noise = float(Normal().entropy() - self.posterior.entropy())
        heads = [("mu", n_components, "identity", True), ("log_var", n_components, "identity", not constant)]
        encoder = nn.mlp("encoder", n_features, hidden, activation, heads)
        sizes = {"all": n_features, "binary": B, "real": n_features - B}
        heads = [(name, sizes[of], f, name != "log_var" or not constant) for name, f, of in self.likelihood.heads]
        decoder = nn.mlp("decoder", n_components, hidden[::-1], activation, heads)
        shapes = (encoder.shapes() if architecture.has_encoder else {}) | decoder.shapes()
        is_random = () if random_weights is None else (random_weights,)
        self.weight_posterior = WeightPosterior({n: shapes[n] for n in shapes if n.startswith(is_random)}, backend)
        self.layout = Layout(shapes | self.weight_posterior.log_var_shapes())
        network = backend.Network or nn.Network
        self.encoder: Any = network(encoder, self.layout, backend) if architecture.has_encoder else None
        self.decoder = network(decoder, self.layout, backend)

    def __repr__(self) -> str:
        return f"<Model: {self.architecture} on {self.backend.__name__.rpartition('.')[2]} in {self.dtype}>"

    def initial(self, rng: np.random.Generator, std: float | str) -> NDArray[np.float64]:
        """Draw initial values.

        Weights are drawn from N(0, std^2), or as `Layout.initial` says. Biases are zero, and random weights start with
        a standard deviation of 0.01.

        Returns
        -------
        vector (P,) float64
        """
        vector = self.layout.initial(rng, std)
        parameters = self.layout.view(vector)
        for name in self.weight_posterior.log_var_shapes():
            parameters[name][...] = INITIAL_LOG_VAR
        return vector

    def parameters(self, vector: NDArray) -> Parameters:
        """Return a copy of a flat vector (P,) as `Parameters` of the backend, in this model's precision."""
        return self.layout.view(self.backend.asarray(np.array(vector), self.dtype))

    def gradient(self) -> Any:
        """Return new `Parameters` to hold a gradient; a backend may use its own class for them."""
        return self.backend.gradient(self.layout, self.dtype)

    def gather(self, data: Data, rows: NDArray, buffers: Buffers, keys: NDArray | None = None) -> Array:
        """Return the rows (M,) of the data as a minibatch x (M, D), scaled, in this model's precision.

        It has NaN where a cell is not observed.

        Where the data is binarized, ``keys`` (M,) of 64 bits decide how; by default they are those of the content of
        each row, and its binarization is the same each time.
        """
        x = self.take(data, rows, buffers("x", len(rows), data.X.shape[1]))
        if data.binarization is not None:
            if keys is None:
                keys = key_of_content(self.backend.to_numpy(x), data.binarization.seed)
            self.backend.binarize(x, keys, x)
        return x

    def take(self, data: Data, rows: NDArray, out: Array) -> Array:
        """Copy rows (M,) of the data to ``out`` (M, D), scaled; NaN where a cell is not observed. See `gather`."""
        X, places = (data.X, rows) if data.mask is None else (data.values(rows), np.arange(len(rows)))
        return self.backend.gather(X, places, data.scaling, out)

    def encode(self, parameters: Parameters, x: Array, buffers: Buffers) -> Any:
        """Compute q(z|x) of x (M, D): an `nn.Pass` with the outputs mu and log_var, (M, J) each.

        Raises
        ------
        ValueError
            If the model has no encoder.
        """
        if self.encoder is None:
            raise ValueError(NO_ENCODER)
        return self.encoder.forward(parameters, self.seen(x, buffers), buffers)

    def seen(self, x: Array, buffers: Buffers) -> Array:
        """Return what the encoder sees of x (M, D), which its backward pass needs, too: 0 where a cell is not observed.

        That is the mean of the column where columns are standardized.
        """
        return self.backend.fill_missing(x, buffers("seen", *x.shape)) if self.missing else x

    def noise(self, rng: np.random.Generator, out: NDArray) -> NDArray:
        """Draw the noise of q(z|x) into ``out`` (L * M, J) float32, and return it."""
        if isinstance(self.posterior, Normal):
            return rng.standard_normal(out=out, dtype=np.float32)
        # Uniform numbers of 22 bits: with more, rounding to float32 could put the noise on the edge of the support.
        out[...] = self.posterior.icdf((rng.integers(0, 2**22, out.shape) + 0.5) * 2.0**-22)
        return out

    @property
    def latent_on_backend(self) -> bool:
        """Whether `latent` is computed by the backend alone: it states the formulas of the Gaussian posterior."""
        return isinstance(self.posterior, Normal)

    def latent(self, encoded: Any, eps: Array, analytic_kl: bool, buffers: Buffers) -> tuple[Array, Array]:
        """Draw z = mu + sigma * eps by reparameterization, with the KL divergence of q(z|x) from p(z).

        The KL divergence is E[log q(z|x)] - E[log p(z)]. The second term depends on the mean and the variance of z
        only. The first is E[log p(eps)] - sum(log sigma). So every family has the KL divergence of a Gaussian plus a
        constant, the KL divergence of its noise from N(0, I), and the gradients of a Gaussian.

        Parameters
        ----------
        encoded : nn.Pass, from `encode`
        eps (L * M, J) : the noise
        analytic_kl : bool
            True: kl is the KL divergence in closed form. False: log q(z|x) - log p(z) of each sample.

        Returns
        -------
        z (L * M, J)
        kl (M,) in closed form, or (L * M,), in nats
        """
        mu, log_var = encoded.outputs
        out = buffers("z", *eps.shape), buffers("kl", len(mu if analytic_kl else eps))
        z, kl = self.backend.gaussian_latent(mu, log_var, eps, analytic_kl, out)
        if not self.latent_on_backend:
            if analytic_kl:
                kl += eps.shape[1] * self.divergence_of_noise
            else:
                kl += (self.posterior.log_prob(eps) - Normal().log_prob(eps)).sum(axis=1)
        return z, kl

    def decode(self, parameters: Parameters, z: Array, buffers: Buffers) -> Any:
        """Compute p(x|z) of z (R, J): an `nn.Pass` whose outputs are the parameters of the likelihood.

        They are (R, D) each, or have the columns of a kind.
        """
        return self.decoder.forward(parameters, z, buffers)

    def layers(self, encoded: Any, decoded: Any) -> list[tuple[str, Array]]:
        """List (name, output) of all layers in the order of computation, from the passes of encoder and decoder."""
        return [
            (layer.name, values)
            for network, done in ((self.encoder, encoded), (self.decoder, decoded))
            if network is not None
            for layer, values in zip(network.mlp.hidden + network.mlp.heads, done.hidden + done.outputs)
        ]

    def log_likelihood(self, x: Array, decoded: Any, weights: Array, buffers: Buffers) -> Array:
        """Compute log p(x|z) of the observed cells, and fill ``decoded.doutputs`` with gradients.

        They are those of ``sum(weights * log p(x|z))``.

        Parameters
        ----------
        x (M, D)
        decoded : nn.Pass, from `decode`, of L * M rows
        weights (L * M,)
        buffers : Buffers

        Returns
        -------
        log_prob (L * M,) in nats
        """
        log_prob = buffers("log_likelihood", len(decoded.outputs[0]))
        density = getattr(self.backend, self.likelihood.log_prob)
        return density(x, *decoded.outputs, weights, (log_prob, *decoded.doutputs), self.missing)[0]

    def log_joint(
        self, parameters: Parameters, x: Array, z: Array, buffers: Buffers | None = None, gradient: bool = True
    ) -> tuple[Array, Array | None]:
        """Compute log p(x, z) = log p(x|z) + log p(z) of many z, and its gradient with respect to z.

        Computes no gradient of a parameter.

        Parameters
        ----------
        parameters : Parameters
        x (M, D)
        z (L * M, J) : row ``l * M + i`` belongs to datapoint i
        buffers : Buffers, optional
            Hold the results, which the next call with the same buffers overwrites; by default they are new arrays.
        gradient : bool, whether to compute the gradient

        Returns
        -------
        log_joint (L * M,), in nats
        dz (L * M, J), or None without gradient

        Examples
        --------
        With all parameters zero, each of two pixels has probability 1/2 whatever z is, and only log p(z) varies:

        >>> from npvae import backends
        >>> model = Model(Architecture(2, 1, ()), backends.get("reference"), "float64")
        >>> parameters, x, z = model.parameters(np.zeros(model.layout.size)), np.ones((1, 2)), np.array([[0.0], [2.0]])
        >>> log_joint, dz = model.log_joint(parameters, x, z)
        >>> float(np.round(log_joint[0] - log_joint[1], 12)), dz[:, 0].tolist()
        (2.0, [0.0, -2.0])
        """
        buffers = Buffers(self.backend, self.dtype) if buffers is None else buffers
        decoded, dz = self.decode(parameters, z, buffers), buffers("dz", *z.shape) if gradient else None
        log_joint = self.log_likelihood(x, decoded, buffers.full(1.0, len(z)), buffers)
        if dz is not None:
            self.decoder.backward(parameters, z, decoded, None, buffers, dz)
        self.backend.add_log_prior(z, log_joint, dz)
        return log_joint, dz

    def log_density(self, parameters: Parameters, x: Array, buffers: Buffers | None = None) -> LogJoint:
        """Return the function z -> log p(x, z), with its gradient with respect to z, that samplers call.

        Parameters
        ----------
        parameters : Parameters
        x (M, D) : on the backend; do not overwrite it while the function is in use
        buffers : Buffers, optional
            For the computation, in one thread; by default each thread that calls the function has its own.

        Returns
        -------
        callable
            Takes z (L * M, J), where row ``l * M + i`` belongs to datapoint i. Returns new float64 arrays on the host,
            (L * M,) in nats and (L * M, J).

        Examples
        --------
        >>> from npvae import backends
        >>> model = Model(Architecture(2, 1, ()), backends.get("reference"))
        >>> log_density = model.log_density(model.parameters(np.zeros(model.layout.size)), np.ones((1, 2), np.float32))
        >>> log_density(np.array([[0.0], [2.0]]))[1].tolist()
        [[0.0], [-2.0]]
        """
        local = threading.local()
        M, J = len(x), self.architecture.n_components

        def function(z):
            z = array_of_shape("z", z, ("R", J), f", since the model has {J} latent dimensions")
            if len(z) % M:
                raise ValueError(f"z has {len(z)} rows; expected a multiple of {M}, as many for each datapoint")
            z = self.backend.asarray(z, self.dtype)
            here = buffers or vars(local).setdefault("buffers", Buffers(self.backend, self.dtype))
            result = self.log_joint(parameters, x, z, here)
            log_joint, dz = (np.array(self.backend.to_numpy(array), float) for array in result)
            return log_joint, dz

        return function

    def mean(self, outputs: tuple) -> NDArray:
        """Return E[x|z] (R, D) from the outputs of `decode`, as a new NumPy array."""
        return self.likelihood.mean([self.backend.to_numpy(output) for output in outputs])
