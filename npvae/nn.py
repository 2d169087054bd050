"""Multilayer perceptrons: forward and backward passes over the layers of a backend.

A network is a description, without state: a chain of hidden layers, and heads which all read the last of them. Its
arrays are looked up by name in the `Parameters` of a model; what the heads mean is up to ``model``.
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


class Pass(NamedTuple):
    """What a forward pass leaves for the backward pass."""

    inputs: object  # (M, I)
    hidden: tuple  # of (M, H)
    outputs: tuple  # of (M, O), a head each


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


def forward(backend, net, parameters, x, buffers):
    """Compute all layers: x (M, I) to a `Pass`."""
    M, h, hidden = len(x), x, []
    for layer in net.hidden:
        h = _dense(backend, layer, parameters, h, buffers(layer.name, M, layer.n_outputs))
        hidden.append(h)
    outputs = tuple(
        _dense(backend, head, parameters, h[:, : head.n_inputs], buffers(head.name, M, head.n_outputs))
        for head in net.heads
    )
    return Pass(x, tuple(hidden), outputs)


def _dense(backend, layer, parameters, x, out):
    W, b = parameters[layer.name + ".W"], parameters[layer.name + ".b"]
    return backend.dense(x, W, b, layer.activation, out)


def backward(backend, net, parameters, done, doutputs, gradient, buffers, need_dx):
    """From the gradients at the outputs to those of all parameters and, if asked for, of the inputs.

    Parameters
    ----------
    done : Pass, of `forward`
    doutputs : sequence of (M, O), a head each; overwritten
    gradient : Parameters, overwritten where this network's arrays stand
    need_dx : bool

    Returns
    -------
    dx (M, I), or None
    """

    def layer_backward(layer, x, y, dy, dx, accumulate=False):
        W, dW, db = parameters[layer.name + ".W"], gradient[layer.name + ".W"], gradient[layer.name + ".b"]
        backend.dense_backward(x[:, : layer.n_inputs], W, y, dy, layer.activation, (dW, db, dx, accumulate))

    # Place of the gradient at what each hidden layer, and finally the heads, read.
    reads = (done.inputs, *done.hidden)
    dreads = [
        buffers(f"d {layer.name}", *x.shape) if need_dx or x is not done.inputs else None
        for layer, x in zip((*net.hidden, net.heads[0]), reads)
    ]

    accumulate = False
    for head, y, dy in zip(net.heads, done.outputs, doutputs):
        has_inputs = head.n_inputs > 0
        layer_backward(head, reads[-1], y, dy, dreads[-1] if has_inputs else None, accumulate)
        accumulate = accumulate or has_inputs
    for i in reversed(range(len(net.hidden))):
        layer_backward(net.hidden[i], reads[i], reads[i + 1], dreads[i + 1], dreads[i])
    return dreads[0]
