"""Multilayer perceptrons: forward and backward passes, layer by layer.

A network is a chain of hidden layers with one or more heads. All heads read the last hidden layer. The arrays of a
layer are looked up by name in the `Parameters` of the model, and ``model`` says what the heads mean. The arithmetic of
a layer is the backend's. A backend may also have its own ``Network``, which computes the same in fewer calls.
"""

from typing import Any, NamedTuple

from .backends.interface import Array, Backend
from .parameters import Buffers, Layout, Parameters


class Layer(NamedTuple):
    """A dense layer ``f(x W + b)``; its arrays are ``<name>.W`` (n_inputs, n_outputs) and ``<name>.b`` (n_outputs,).

    Examples
    --------
    >>> from npvae.nn import Layer
    >>> Layer("encoder.mu", 500, 20, "identity").n_outputs
    20
    """

    name: str
    n_inputs: int
    n_outputs: int
    activation: str


class MLP(NamedTuple):
    """The layers of a network. A head with 0 inputs is a bias: its output is the same for every row.

    Examples
    --------
    >>> from npvae.nn import MLP, Layer
    >>> MLP((), (Layer("encoder.mu", 5, 2, "identity"),)).shapes()
    {'encoder.mu.W': (5, 2), 'encoder.mu.b': (2,)}
    """

    hidden: tuple[Layer, ...]
    heads: tuple[Layer, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every array by name."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.hidden + self.heads:
            shapes[layer.name + ".W"] = (layer.n_inputs, layer.n_outputs)
            shapes[layer.name + ".b"] = (layer.n_outputs,)
        return shapes


def mlp(
    name: str,
    n_inputs: int,
    hidden_layer_sizes: tuple[int, ...],
    activation: str,
    heads: list[tuple[str, int, str, bool]],
) -> MLP:
    """Describe a network.

    Parameters
    ----------
    name : str, prefix of the names of all its arrays
    n_inputs : int
    hidden_layer_sizes : tuple of int
        When it is empty, the heads read the inputs.
    activation : str, of the hidden layers
    heads : list of (name, n_outputs, activation, has_inputs)

    Returns
    -------
    MLP

    Examples
    --------
    >>> from npvae.nn import mlp
    >>> encoder = mlp("encoder", 784, (500,), "tanh", [("mu", 20, "identity", True)])
    >>> [layer.name for layer in encoder.hidden + encoder.heads]
    ['encoder.hidden1', 'encoder.mu']
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
    """The results of a forward pass, with space for the gradients at its outputs.

    ``doutputs`` starts uninitialised. Whoever computes a function of the outputs writes its gradient there, and the
    backward pass reads it.

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.nn import Pass
    >>> done = Pass(hidden=(), outputs=(np.ones((4, 2)),), doutputs=(np.empty((4, 2)),))
    >>> done.doutputs[0][:] = 2 * done.outputs[0]  # the gradient of sum(outputs^2)
    """

    hidden: tuple  # of arrays (M, H), one for each hidden layer
    outputs: tuple  # of arrays (M, O), one for each head
    doutputs: tuple  # like outputs


class Network:
    """An `MLP` computed layer by layer.

    Parameters
    ----------
    mlp : MLP
    layout : Layout of the parameter vector that holds its arrays; only the networks of backends need it
    backend : Backend

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.backends import reference
    >>> from npvae.nn import Network, mlp
    >>> from npvae.parameters import Buffers, Layout
    >>> head = mlp("net", 3, (), "tanh", [("y", 1, "identity", True)])
    >>> layout = Layout(head.shapes())
    >>> network, buffers = Network(head, layout, reference), Buffers(reference, "float64")
    >>> parameters, gradient = layout.view(np.array([1.0, 2.0, 3.0, 0.5])), layout.view(np.zeros(4))
    >>> x = np.ones((1, 3))
    >>> done = network.forward(parameters, x, buffers)
    >>> done.outputs[0]  # 1 + 2 + 3 + 0.5
    array([[6.5]])
    >>> done.doutputs[0][:] = 1
    >>> network.backward(parameters, x, done, gradient, buffers)
    >>> gradient.vector
    array([1., 1., 1., 1.])
    """

    def __init__(self, mlp: MLP, layout: Layout, backend: Backend) -> None:
        self.mlp, self.backend = mlp, backend

    def forward(self, parameters: Parameters, x: Array, buffers: Buffers) -> Pass:
        """Compute all layers.

        Parameters
        ----------
        parameters : Parameters
        x (M, I)
        buffers : Buffers, for all results: the next forward pass of M rows overwrites them

        Returns
        -------
        Pass
        """
        M, h, hidden = len(x), x, []
        for layer in self.mlp.hidden:
            h = self._dense(layer, parameters, h, buffers(layer.name, M, layer.n_outputs))
            hidden.append(h)
        first, *others = self.mlp.heads
        outputs = []
        for head in others:
            with self.backend.beside():
                outputs.append(self._dense(head, parameters, h, buffers(head.name, M, head.n_outputs)))
        outputs.insert(0, self._dense(first, parameters, h, buffers(first.name, M, first.n_outputs)))
        self.backend.wait()
        doutputs = tuple(buffers(f"d {head.name}", M, head.n_outputs) for head in self.mlp.heads)
        return Pass(tuple(hidden), tuple(outputs), doutputs)

    def _dense(self, layer: Layer, parameters: Parameters, x: Array, out: Array) -> Array:
        W, b = parameters[layer.name + ".W"], parameters[layer.name + ".b"]
        return self.backend.dense(_inputs(layer, x), W, b, layer.activation, out)

    def backward(
        self,
        parameters: Parameters,
        x: Array,
        done: Any,
        gradient: Any,
        buffers: Buffers,
        dx: Array | None = None,
    ) -> None:
        """Backpropagate the gradients at the outputs to the parameters and to the inputs.

        Parameters
        ----------
        parameters : Parameters, as in `forward`
        x (M, I) : as in `forward`
        done : Pass, from `forward`, with ``doutputs`` filled; overwrites ``doutputs``
        gradient : Parameters or None
            Overwrites the arrays of this network. None: no gradient of a parameter is computed.
        buffers : Buffers
        dx : array (M, I) or None
            Overwritten with the gradient at x. None: it is not computed.
        """
        # Entry i is the input of hidden layer i; the last entry is the input of the heads.
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


def _inputs(layer: Layer, x: Array) -> Array:
    """Return x, or zero columns of it for a head that is only a bias."""
    return x if layer.n_inputs else x[:, :0]
