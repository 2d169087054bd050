"""All parameters of a model in one flat vector, with named views into it.

The optimizer, the finite differences and the model file see the vector; the layers see the views. Weights stand
before biases in the vector, so that a prior on the weights is a prior on its first part. What the names mean is up
to ``nn`` and ``model``.
"""

import math

import numpy as np


class Layout:
    """Where each named array stands in the flat vector.

    Parameters
    ----------
    shapes : dict of name -> shape
        A name ends in ``.W`` for a weight matrix and in ``.b`` for a bias.
    """

    def __init__(self, shapes):
        self.shapes = dict(sorted(shapes.items(), key=lambda item: not item[0].endswith(".W")))  # a stable sort
        self.slices, start = {}, 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        self.size = start
        self.n_weights = sum(math.prod(shape) for name, shape in self.shapes.items() if name.endswith(".W"))

    def view(self, vector):
        """Return `Parameters` that share the memory of ``vector`` (P,)."""
        return Parameters(self, vector)

    def initial(self, rng, std):
        """Draw initial values: weights from N(0, std^2), biases zero; float64 (P,), as a flat vector."""
        vector = np.zeros(self.size)
        vector[: self.n_weights] = std * rng.standard_normal(self.n_weights)
        return vector


class Parameters:
    """A flat vector and its named views: ``parameters.vector`` and ``parameters["encoder.mu.W"]``."""

    def __init__(self, layout, vector):
        self.layout, self.vector = layout, vector
        self._views = {name: vector[part].reshape(layout.shapes[name]) for name, part in layout.slices.items()}

    def __getitem__(self, name):
        return self._views[name]

    def __reduce__(self):
        # A copy's views are views of the copy's vector, which is on the host wherever this one is.
        vector = self.vector.copy_to_host() if hasattr(self.vector, "copy_to_host") else self.vector
        return Parameters, (self.layout, vector)

    def items(self):
        """Iterate over (name, view)."""
        return self._views.items()


class Buffers:
    """Scratch arrays by name, made on first use, so that a step allocates nothing once each has been made.

    A buffer belongs to one call of one thread: make a `Buffers` for a fit or for a scoring, and let it go after.
    """

    def __init__(self, backend, dtype):
        self._backend, self._dtype, self._made = backend, dtype, {}

    def __call__(self, name, *shape):
        """Return an uninitialised array of this shape; the last call of the same name and shape gave the same."""
        return self.get_or_make((name, shape), lambda: self._backend.empty(shape, self._dtype))

    def full(self, value, size):
        """Return an array (size,) of this number, such as a weight for each row; it must not be written to."""
        make = lambda: self._backend.asarray(np.full(size, value), self._dtype)
        return self.get_or_make(("full", value, size), make)

    def get_or_make(self, key, make):
        """Return what ``make()`` returned when this key was first asked for."""
        thing = self._made.get(key)
        if thing is None:
            thing = self._made[key] = make()
        return thing
