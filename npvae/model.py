"""The variational autoencoder as a probabilistic model: q(z|x), p(x|z) and p(z) = N(0, I) on top of two networks.

What is estimated from it, and how its parameters change, is up to ``estimators`` and ``training``.
"""

from typing import NamedTuple

import numpy as np

from . import nn
from .backends import reference
from .parameters import Layout


class Likelihood(NamedTuple):
    """p(x|z): the decoder's heads (name, activation) in the order that the density takes them, and E[x|z]."""

    heads: tuple
    log_prob: str  # the function of a backend
    mean: object  # function of the first head's output


LIKELIHOODS = {
    "bernoulli": Likelihood((("logits", "identity"),), "bernoulli_log_prob", reference.sigmoid),
    "gaussian": Likelihood((("mu", "identity"), ("log_var", "floored")), "gaussian_log_prob", np.array),
    "sigmoid-gaussian": Likelihood((("mu", "sigmoid"), ("log_var", "floored")), "gaussian_log_prob", np.array),
}


class Architecture(NamedTuple):
    """The settings that fix a model's arrays.

    With ``constant_log_var`` the log-variances of encoder and Gaussian decoder are biases alone, the same for every
    row: without hidden layers the model is then linear-Gaussian, and log p(x) is known in closed form.
    """

    n_features: int
    n_components: int
    hidden_layer_sizes: tuple = (500,)
    activation: str = "tanh"
    likelihood: str = "bernoulli"
    constant_log_var: bool = False


class Model:
    """Encoder and decoder of one architecture, computed by one backend in one precision. Holds no parameters.

    Attributes
    ----------
    layout : Layout of the flat parameter vector. The names are ``encoder.hidden1.W``, ``encoder.mu.b``, ...
    """

    def __init__(self, architecture, backend, dtype="float32"):
        self.architecture, self.backend, self.dtype = architecture, backend, np.dtype(dtype)
        n_features, n_components, hidden, activation, likelihood, constant = architecture
        self.likelihood = LIKELIHOODS[likelihood]
        encoder = nn.mlp(
            "encoder", n_features, hidden, activation,
            [("mu", n_components, "identity", True), ("log_var", n_components, "identity", not constant)],
        )  # fmt: skip
        decoder = nn.mlp(
            "decoder", n_components, hidden[::-1], activation,
            [(head, n_features, f, head != "log_var" or not constant) for head, f in self.likelihood.heads],
        )  # fmt: skip
        self.layout = Layout(encoder.shapes() | decoder.shapes())
        network = getattr(backend, "Network", nn.Network)
        self.encoder, self.decoder = (network(mlp, self.layout, backend) for mlp in (encoder, decoder))

    def parameters(self, vector):
        """Copy a flat vector (P,) to the backend, as `Parameters`."""
        return self.layout.view(self.backend.asarray(np.array(vector), self.dtype))

    def gradient(self):
        """Return an uninitialised gradient: `Parameters`, or what the backend has in their place."""
        return self.backend.gradient(self.layout, self.dtype)

    def encode(self, parameters, x, buffers):
        """q(z|x): x (M, D) to a `nn.Pass` whose outputs are mu and log_var (M, J)."""
        return self.encoder.forward(parameters, x, buffers)

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

    def log_likelihood(self, x, decoded, scale, buffers):
        """Compute log p(x|z), and fill ``decoded.doutputs`` with the gradients of ``scale * sum(log p(x|z))``.

        Parameters
        ----------
        x (M, D); decoded : nn.Pass, of `decode`, with L * M rows; scale: factor of the gradients

        Returns
        -------
        log_prob (L * M,) in nats
        """
        log_prob = buffers("log_likelihood", len(decoded.outputs[0]))
        density = getattr(self.backend, self.likelihood.log_prob)
        return density(x, *decoded.outputs, scale, (log_prob, *decoded.doutputs))[0]

    def mean(self, outputs):
        """E[x|z] (R, D), from the outputs of `decode`, as a new NumPy array."""
        return self.likelihood.mean(self.backend.to_numpy(outputs[0]))
