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
        self.encoder = nn.mlp(
            "encoder", n_features, hidden, activation,
            [("mu", n_components, "identity", True), ("log_var", n_components, "identity", not constant)],
        )  # fmt: skip
        self.decoder = nn.mlp(
            "decoder", n_components, hidden[::-1], activation,
            [(head, n_features, f, head != "log_var" or not constant) for head, f in self.likelihood.heads],
        )  # fmt: skip
        self.layout = Layout(self.encoder.shapes() | self.decoder.shapes())

    def parameters(self, vector):
        """Copy a flat vector (P,) to the backend, as `Parameters`."""
        return self.layout.view(self.backend.asarray(np.array(vector), self.dtype))

    def encode(self, parameters, x, buffers):
        """q(z|x): x (M, D) to a `nn.Pass` whose outputs are mu and log_var (M, J)."""
        return nn.forward(self.backend, self.encoder, parameters, x, buffers)

    def decode(self, parameters, z, buffers):
        """p(x|z): z (R, J) to a `nn.Pass` whose outputs are the parameters of the likelihood, (R, D) each."""
        return nn.forward(self.backend, self.decoder, parameters, z, buffers)

    def encode_backward(self, parameters, encoded, doutputs, gradient, buffers):
        """From the gradients at mu and log_var (M, J) to those of the encoder's arrays."""
        nn.backward(self.backend, self.encoder, parameters, encoded, doutputs, gradient, buffers, need_dx=False)

    def decode_backward(self, parameters, decoded, doutputs, gradient, buffers):
        """From the gradients at the decoder's outputs to those of its arrays; returns the one at z (R, J)."""
        return nn.backward(self.backend, self.decoder, parameters, decoded, doutputs, gradient, buffers, need_dx=True)

    def layers(self, encoded, decoded):
        """List (name, values) of all layers, in the order of the computation."""
        return [
            (layer.name, values)
            for net, done in ((self.encoder, encoded), (self.decoder, decoded))
            for layer, values in zip(net.hidden + net.heads, done.hidden + done.outputs)
        ]

    def log_likelihood(self, x, outputs, scale, buffers):
        """Compute log p(x|z) and its gradient.

        Parameters
        ----------
        x (M, D); outputs: of `decode`, (L * M, D) each; scale: factor of the gradients

        Returns
        -------
        log_prob (L * M,) in nats; tuple of the gradients at the outputs
        """
        log_prob = buffers("log_likelihood", len(outputs[0]))
        doutputs = tuple(buffers(f"doutput{i}", *output.shape) for i, output in enumerate(outputs))
        density = getattr(self.backend, self.likelihood.log_prob)
        log_prob, *doutputs = density(x, *outputs, scale, (log_prob, *doutputs))
        return log_prob, doutputs

    def mean(self, outputs):
        """E[x|z] (R, D), from the outputs of `decode`, as a new NumPy array."""
        return self.likelihood.mean(self.backend.to_numpy(outputs[0]))
