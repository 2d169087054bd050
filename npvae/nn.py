"""Multilayer perceptrons: forward and backward passes over the layers of a backend.

A network is a chain of hidden layers, and heads which all read the last of them. Its arrays are looked up by name in
the `Parameters` of a model; what the heads mean is up to ``model``. A backend may have a ``Network`` of its own, which
computes the same in fewer calls.
"""

from typing import NamedTuple


class Layer(NamedTuple):
    """``f(x W + b)``, with W (n_inputs, n_outputs) under the name ``<name>.W`` and b under ``<name>.b``."""

    name: str
    n_inputs: int
    n_outputs: int
    activation: str


class MLP(NamedTuple):
    """Hidden layers in a chain, and the heads on top of the last; a head with no inputs is its bias alone."""

    hidden: tuple
    heads: tuple

    def shapes(self):
        """Return the shape of every array by name."""
        shapes = {}
        for layer in self.hidden + self.heads:
            shapes[layer.name + ".W"] = (layer.n_inputs, layer.n_outputs)
            shapes[layer.name + ".b"] = (layer.n_outputs,)
        return shapes


def mlp(name, n_inputs, hidden_layer_sizes, activation, heads):
    """Describe a network.

    Parameters
    ----------
    name : str, prefix of the names of its arrays
    n_inputs : int
    hidden_layer_sizes : tuple of int; may be empty: the heads then read the inputs
    activation : str, of the hidden layers
    heads : list of (name, n_outputs, activation, has_inputs)
    """
    hidden = []
    for i, size in enumerate(hidden_layer_sizes):
        hidden.append(Layer(f"{name}.hidden{i + 1}", n_inputs, size, activation))
        n_inputs = size
    return MLP(
        tuple(hidden),
        tuple(Layer(f"{name}.{head}", n_inputs if has_inputs else 0, size, f) for head, size, f, has_inputs in heads),
    )


class Pass(NamedTuple):
    """A forward pass, and where the backward pass finds the gradients at its outputs."""

    hidden: tuple  # of (M, H)
    outputs: tuple  # of (M, O), a head each
    doutputs: tuple  # like outputs; whoever differentiates what they mean fills them


class Network:
    """An `MLP` computed layer by layer.

    Parameters
    ----------
    mlp : MLP
    layout : Layout of the parameter vector that holds its arrays
    backend : module with ``dense`` and ``dense_backward``
    """

    def __init__(self, mlp, layout, backend):
        self.mlp, self.backend = mlp, backend

    def forward(self, parameters, x, buffers):
        """Compute all layers: x (M, I) to a `Pass`."""
        M, h, hidden = len(x), x, []
        for layer in self.mlp.hidden:
            h = self._dense(layer, parameters, h, buffers(layer.name, M, layer.n_outputs))
            hidden.append(h)
        outputs = tuple(
            self._dense(head, parameters, h, buffers(head.name, M, head.n_outputs)) for head in self.mlp.heads
        )
        doutputs = tuple(buffers(f"d {head.name}", M, head.n_outputs) for head in self.mlp.heads)
        return Pass(tuple(hidden), outputs, doutputs)

    def _dense(self, layer, parameters, x, out):
        W, b = parameters[layer.name + ".W"], parameters[layer.name + ".b"]
        return self.backend.dense(_inputs(layer, x), W, b, layer.activation, out)

    def backward(self, parameters, x, done, gradient, buffers, dx=None):
        """From the gradients at the outputs to those of all parameters, and at the inputs.

        Parameters
        ----------
        x (M, I): the input of the forward pass
        done : Pass, of `forward`, with doutputs filled; overwritten
        gradient : Parameters, overwritten where this network's arrays stand; None if their gradients are not wanted
        dx (M, I): where the gradient at the inputs goes; None if it is not wanted
        """
        # Place of the gradient at what each hidden layer, and finally the heads, read.
        reads = (x, *done.hidden)
        dreads = [dx, *(buffers(f"d {layer.name}", *h.shape) for layer, h in zip(self.mlp.hidden, done.hidden))]

        def layer_backward(layer, i, y, dy, accumulate=False):
            W, dW, db = parameters[layer.name + ".W"], None, None
            if gradient is not None:
                dW, db = gradient[layer.name + ".W"], gradient[layer.name + ".b"]
            gradients = dW, db, dreads[i] if layer.n_inputs else None, accumulate
            self.backend.dense_backward(_inputs(layer, reads[i]), W, y, dy, layer.activation, gradients)

        accumulate = False
        for head, y, dy in zip(self.mlp.heads, done.outputs, done.doutputs):
            layer_backward(head, -1, y, dy, accumulate)
            accumulate = accumulate or head.n_inputs > 0
        for i in reversed(range(len(self.mlp.hidden))):
            layer_backward(self.mlp.hidden[i], i, reads[i + 1], dreads[i + 1])


def _inputs(layer, x):
    """Return x, or no columns of it for a head that is its bias alone."""
    return x if layer.n_inputs else x[:, :0]
