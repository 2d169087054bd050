"""The variational autoencoder as a probabilistic model: q(z|x), p(x|z) and p(z) = N(0, I) on top of two networks.

What is estimated from it, and how its parameters change, is up to ``estimators`` and ``training``.
"""

from typing import NamedTuple

import numpy as np

from . import nn
from .backends.interface import Backend
from .distributions import Gumbel, Laplace, Logistic, Normal, Triangular, Uniform
from .likelihoods import LIKELIHOODS
from .parameters import Layout
from .weight_posterior import INITIAL_LOG_VAR, WeightPosterior


class Posterior(NamedTuple):
    """A family of q(z|x): the distribution of its noise, and the backends that compute it."""

    noise: object
    backends: tuple = ("reference", "cpu")


#: q(z|x) by name: location-scale families, each by its member with mean 0 and variance 1, whose draws are the noise.
#: z = mu + sigma * eps has the mean mu and the variance sigma^2 in all of them.
POSTERIORS = {
    "gaussian": Posterior(Normal(), ("reference", "cpu", "cuda")),
    "laplace": Posterior(Laplace(0.0, np.sqrt(1 / 2))),
    "logistic": Posterior(Logistic(0.0, np.sqrt(3) / np.pi)),
    "uniform": Posterior(Uniform(-np.sqrt(3), np.sqrt(3))),
    "triangular": Posterior(Triangular(0.0, np.sqrt(6))),
    "gumbel": Posterior(Gumbel(-np.euler_gamma * np.sqrt(6) / np.pi, np.sqrt(6) / np.pi)),
}


class Architecture(NamedTuple):
    """The settings that fix a model's arrays, and the family of q(z|x).

    With ``constant_log_var`` the log-variances of encoder and Gaussian decoder are biases alone, the same for every
    row: without hidden layers the model is then linear-Gaussian, and log p(x) is known in closed form.

    With ``random_weights`` the arrays whose names begin with it are random, and have a Gaussian posterior (full
    variational Bayes): "decoder" is the whole decoder.
    """

    n_features: int
    n_components: int
    hidden_layer_sizes: tuple = (500,)
    activation: str = "tanh"
    likelihood: str = "bernoulli"
    constant_log_var: bool = False
    posterior: str = "gaussian"
    random_weights: str | None = None


class Model:
    """Encoder and decoder of one architecture, computed by one backend in one precision. Holds no parameters.

    Parameters
    ----------
    architecture : Architecture
    backend : Backend
    dtype : "float32" or "float64"

    Attributes
    ----------
    layout : Layout of the flat parameter vector. The names are ``encoder.hidden1.W``, ``encoder.mu.b``, ...
    weight_posterior : WeightPosterior of the arrays that are random
    """

    def __init__(self, architecture: Architecture, backend: Backend, dtype="float32"):
        self.architecture, self.backend, self.dtype = architecture, backend, np.dtype(dtype)
        n_features, n_components, hidden, activation, likelihood, constant, posterior, random_weights = architecture
        self.likelihood, self.posterior = LIKELIHOODS[likelihood], POSTERIORS[posterior].noise
        encoder = nn.mlp(
            "encoder", n_features, hidden, activation,
            [("mu", n_components, "identity", True), ("log_var", n_components, "identity", not constant)],
        )  # fmt: skip
        decoder = nn.mlp(
            "decoder", n_components, hidden[::-1], activation,
            [(head, n_features, f, head != "log_var" or not constant) for head, f in self.likelihood.heads],
        )  # fmt: skip
        shapes = encoder.shapes() | decoder.shapes()
        is_random = () if random_weights is None else (random_weights,)
        self.weight_posterior = WeightPosterior({n: shapes[n] for n in shapes if n.startswith(is_random)}, backend)
        self.layout = Layout(shapes | self.weight_posterior.log_var_shapes())
        network = backend.Network or nn.Network
        self.encoder, self.decoder = (network(mlp, self.layout, backend) for mlp in (encoder, decoder))

    def initial(self, rng, std):
        """Draw initial values as a flat vector (P,): see `Layout.initial`; random weights start near their means."""
        vector = self.layout.initial(rng, std)
        parameters = self.layout.view(vector)
        for name in self.weight_posterior.log_var_shapes():
            parameters[name][...] = INITIAL_LOG_VAR
        return vector

    def parameters(self, vector):
        """Copy a flat vector (P,) to the backend, as `Parameters`."""
        return self.layout.view(self.backend.asarray(np.array(vector), self.dtype))

    def gradient(self):
        """Return a place for a gradient: `Parameters`, or what the backend has in their place."""
        return self.backend.gradient(self.layout, self.dtype)

    def gather(self, data, rows, buffers):
        """Return rows (M,) of a `preprocessing.Data` as the minibatch x (M, D), scaled, in this precision."""
        return self.backend.gather(data.X, rows, data.scaling, buffers("x", len(rows), data.X.shape[1]))

    def encode(self, parameters, x, buffers):
        """q(z|x): x (M, D) to a `nn.Pass` whose outputs are mu and log_var (M, J)."""
        return self.encoder.forward(parameters, x, buffers)

    def noise(self, rng, out):
        """Draw the noise of q(z|x) into an array (L * M, J) float32, and return it."""
        if self.architecture.posterior == "gaussian":
            return rng.standard_normal(out=out, dtype=np.float32)
        # Uniform numbers of 22 bits: with more, float32 could round the noise to the end of a support.
        out[...] = self.posterior.icdf((rng.integers(0, 2**22, out.shape) + 0.5) * 2.0**-22)
        return out

    def latent(self, encoded, eps, analytic_kl, buffers):
        """Reparameterize q(z|x): z = mu + sigma * eps, with the KL divergence of q(z|x) from p(z).

        A Gaussian differs from any other family of the same mean and variance by what the noise alone decides: log q is
        log p(eps) - log sigma, and E[log p(z)] a matter of mean and variance. So the divergence is that of a Gaussian
        and a number, on average the divergence of eps from N(0, I), and the gradients are those of a Gaussian.

        Parameters
        ----------
        encoded : nn.Pass, of `encode`; eps (L * M, J)
        analytic_kl : bool, whether kl is the divergence in closed form or log q(z|x) - log p(z) of each sample

        Returns
        -------
        z (L * M, J); kl (M,) or (L * M,), in nats
        """
        rows = len(encoded.outputs[0]) if analytic_kl else len(eps)
        z, kl = self.backend.gaussian_latent(
            *encoded.outputs, eps, analytic_kl, (buffers("z", *eps.shape), buffers("kl", rows))
        )
        if self.architecture.posterior != "gaussian":
            if analytic_kl:
                kl += eps.shape[1] * self.divergence_of_noise
            else:
                kl += (self.posterior.log_prob(eps) - Normal().log_prob(eps)).sum(axis=1)
        return z, kl

    @property
    def divergence_of_noise(self):
        """D_KL of one number of noise from N(0, 1), in nats: they have mean and variance in common."""
        return float(Normal().entropy() - self.posterior.entropy())

    def decode(self, parameters, z, buffers):
        """p(x|z): z (R, J) to a `nn.Pass` whose outputs are the parameters of the likelihood, (R, D) each."""
        return self.decoder.forward(parameters, z, buffers)

    def layers(self, encoded, decoded):
        """List (name, values) of all layers, in the order of the computation."""
        return [
            (layer.name, values)
            for mlp, done in ((self.encoder.mlp, encoded), (self.decoder.mlp, decoded))
            for layer, values in zip(mlp.hidden + mlp.heads, done.hidden + done.outputs)
        ]

    def log_likelihood(self, x, decoded, weights, buffers):
        """Compute log p(x|z), and fill ``decoded.doutputs`` with the gradients of ``sum(weights * log p(x|z))``.

        Parameters
        ----------
        x (M, D); decoded : nn.Pass, of `decode`, with L * M rows; weights (L * M,)

        Returns
        -------
        log_prob (L * M,) in nats
        """
        log_prob = buffers("log_likelihood", len(decoded.outputs[0]))
        density = getattr(self.backend, self.likelihood.log_prob)
        return density(x, *decoded.outputs, weights, (log_prob, *decoded.doutputs))[0]

    def log_joint(self, parameters, x, z, buffers, gradient=True):
        """Compute log p(x, z) = log p(x|z) + log p(z) of many z, and its gradient by z.

        Parameters
        ----------
        parameters : Parameters; x (M, D); z (L * M, J): row ``l * M + i`` belongs to datapoint i
        gradient : bool, whether the gradient is wanted; no gradient of a parameter is computed

        Returns
        -------
        log_joint (L * M,), in nats; dz (L * M, J), or None. The next call overwrites them.
        """
        decoded, dz = self.decode(parameters, z, buffers), buffers("dz", *z.shape)
        log_joint = self.log_likelihood(x, decoded, buffers.full(1.0, len(z)), buffers)
        if gradient:
            self.decoder.backward(parameters, z, decoded, None, buffers, dz)
        self.backend.add_log_prior(z, log_joint, dz)
        return log_joint, dz if gradient else None

    def mean(self, outputs):
        """E[x|z] (R, D), from the outputs of `decode`, as a new NumPy array."""
        return self.likelihood.mean(self.backend.to_numpy(outputs[0]))
