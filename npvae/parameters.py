"""All parameters of a model in one flat vector, with a named view for each array.

The optimizer, the finite differences and the model file use the vector; the layers use the views. All weights come
before all biases, so that a prior on the weights is a prior on the first part of the vector. The names come from ``nn``
and ``model``.
"""

import math
from collections.abc import Callable, Hashable, ItemsView, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Layout:
    """The position of each named array in the flat vector.

    Parameters
    ----------
    shapes : dict of name -> shape
        A name ends in ``.W`` for a weight matrix and in ``.b`` for a bias.

    Attributes
    ----------
    shapes : dict of name -> shape, in the order of the vector: weights, then biases
    slices : dict of name -> slice of the vector
    size : int, the P below
    n_weights : int, how many elements of the vector are weights

    Examples
    --------
    >>> from npvae.parameters import Layout
    >>> layout = Layout({"mu.b": (2,), "mu.W": (3, 2)})
    >>> layout.slices
    {'mu.W': slice(0, 6, None), 'mu.b': slice(6, 8, None)}
    >>> layout.size, layout.n_weights
    (8, 6)
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(sorted(shapes.items(), key=lambda item: not item[0].endswith(".W")))  # a stable sort
        self.slices: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        self.size = start
        self.n_weights = sum(math.prod(shape) for name, shape in self.shapes.items() if name.endswith(".W"))

    def view(self, vector: Any) -> "Parameters":
        """Return `Parameters` that share the memory of ``vector`` (P,)."""
        return Parameters(self, vector)

    def initial(self, rng: np.random.Generator, std: float | str) -> NDArray[np.float64]:
        """Draw initial values: weights from N(0, std^2), zero biases.

        Parameters
        ----------
        rng : numpy.random.Generator
        std : float or "fan-in"
            "fan-in" is 1 / sqrt(I) for an array (I, O): the sums of I terms then start with a variance of about 1
            (LeCun, Bottou, Orr and Mueller, 1998).

        Returns
        -------
        vector (P,) float64
        """
        vector = np.zeros(self.size)
        vector[: self.n_weights] = rng.standard_normal(self.n_weights)
        if not isinstance(std, str):
            vector[: self.n_weights] *= std
            return vector
        for name, shape in self.shapes.items():
            if self.slices[name].start < self.n_weights:
                vector[self.slices[name]] /= np.sqrt(max(shape[0], 1))
        return vector


class Parameters:
    """A flat vector and its named views, which share memory.

    Parameters
    ----------
    layout : Layout
    vector : array (P,), on the host or on a device

    Examples
    --------
    >>> import numpy as np
    >>> from npvae.parameters import Layout, Parameters
    >>> parameters = Parameters(Layout({"mu.W": (3, 2), "mu.b": (2,)}), np.zeros(8))
    >>> parameters["mu.b"][:] = 1
    >>> parameters.vector
    array([0., 0., 0., 0., 0., 0., 1., 1.])
    """

    def __init__(self, layout: Layout, vector: Any) -> None:
        self.layout, self.vector = layout, vector
        self._views = {name: vector[part].reshape(layout.shapes[name]) for name, part in layout.slices.items()}

    def __getitem__(self, name: str) -> Any:
        return self._views[name]

    def __repr__(self) -> str:
        names = ", ".join(f"{name} {shape}" for name, shape in self.layout.shapes.items())
        return f"<Parameters: {self.layout.size} numbers {self.vector.dtype}; {names}>"

    def __reduce__(self) -> tuple:
        return Parameters, (self.layout, self.vector)  # the views of a copy share the memory of its vector

    def items(self) -> ItemsView[str, Any]:
        """Iterate over (name, view)."""
        return self._views.items()


class Buffers:
    """Scratch arrays by name and shape. Each is allocated once, on first use; later training steps allocate nothing.

    A `Buffers` is for one thread. Make one for a fit or a scoring, and drop it afterwards.

    Parameters
    ----------
    backend : Backend, which allocates
    dtype : of all arrays

    Examples
    --------
    >>> from npvae.backends import reference
    >>> from npvae.parameters import Buffers
    >>> buffers = Buffers(reference, "float32")
    >>> buffers("z", 100, 20) is buffers("z", 100, 20)
    True
    """

    def __init__(self, backend: Any, dtype: DTypeLike) -> None:
        self._backend, self._dtype = backend, dtype
        self._made: dict[Hashable, Any] = {}

    def __call__(self, name: str, *shape: int) -> Any:
        """Return the array of this name and shape; uninitialised when it is new."""
        return self.get_or_make((name, shape), lambda: self._backend.empty(shape, self._dtype))

    def full(self, value: float, size: int) -> Any:
        """Return an array (size,) filled with ``value``, such as equal weights for all rows. Do not write to it."""
        make = lambda: self._backend.asarray(np.full(size, value), self._dtype)
        return self.get_or_make(("full", value, size), make)

    def get_or_make(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the value stored under ``key``; the first call stores ``make()``."""
        thing = self._made.get(key)
        if thing is None:
            thing = self._made[key] = make()
        return thing
