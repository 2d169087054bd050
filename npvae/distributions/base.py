"""What all distributions share: parameters, the public methods, and where their arguments become arrays.

A family implements the methods with a leading underscore (``_log_prob``, ``_rsample``, ``_gradients``); they are given
float64 arrays. The public methods of the classes below convert their arguments and call them.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..conventions import short_repr

FloatArray = NDArray[np.float64]

#: The shape of an array of samples.
Shape = int | Sequence[int]


class Parameter:
    """A parameter of a distribution, as a field of a dataclass: takes any array-like, holds a float or a float64 array.

    ``Parameter()`` is required, ``Parameter(1.0)`` has a default. All values must be finite numbers and, with
    ``above``, greater than it; with ``infinite``, infinity is accepted too. (A descriptor-typed field: what the
    constructor accepts is the type of ``__set__``, what the formulas see is that of ``__get__``.)

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Scaled:
    ...     scale: Parameter = Parameter(1.0, above=0.0)
    >>> Scaled(), Scaled([1, 2])
    (Scaled(scale=1.0), Scaled(scale=array([1., 2.])))
    >>> Scaled([1, -2])
    Traceback (most recent call last):
    ...
    ValueError: scale contains -2.0; expected finite numbers above 0
    """

    def __init__(self, *default: float, above: float = -np.inf, infinite: bool = False) -> None:
        self.default, self.above, self.infinite = default, above, infinite

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> FloatArray:
        if instance is not None:
            return vars(instance)[self.name]
        if not self.default:  # dataclass asks for the default; this says that there is none
            raise AttributeError(self.name)
        return self.default[0]  # type: ignore[return-value]

    def __set__(self, instance: object, value: ArrayLike) -> None:
        if value is None:
            raise ValueError(f"{self.name} is None; expected numbers")
        array = np.array(value, float)  # a copy: what was checked stays so
        wrong = ~((array > self.above) & (np.isfinite(array) | (np.isposinf(array) & self.infinite)))
        if np.any(wrong):
            kind = f"{'' if self.infinite else 'finite '}number" + "s" * (array.ndim > 0)
            limit = "" if self.above == -np.inf else f" above {self.above:g}"
            article = "" if array.ndim else "a "
            raise ValueError(
                f"{self.name} {'contains' if array.ndim else 'is'} {float(array[wrong].flat[0])!r}; "
                f"expected {article}{kind}{limit}"
            )
        vars(instance)[self.name] = array if array.ndim else float(array)  # a float is readable when printed


class Distribution:
    """A family with a log-density or log-probability."""

    def __init_subclass__(cls) -> None:
        """Give each family a short repr: before `dataclass` does, which keeps the one that it finds."""
        cls.__repr__ = short_repr  # type: ignore[method-assign]

    @np.errstate(all="ignore")
    def log_prob(self, x: ArrayLike) -> FloatArray:
        """Return the log-density (discrete: log-probability) of x in nats; -inf outside the support, NaN at NaN.

        It is -inf as well where the exact value is below what float64 holds, as that of Normal() at 1e200.

        Parameters
        ----------
        x : array that broadcasts with the parameters; vectors lie along the last axis

        Returns
        -------
        array, a value for each element of x, or for each vector

        Examples
        --------
        >>> from npvae.distributions import Exponential
        >>> Exponential(rate=2.0).log_prob([-1.0, 0.0, 1.0]).round(3)
        array([  -inf,  0.693, -1.307])
        """
        x = np.asarray(x, float)
        value, unknown = self._log_prob(x), self._is_nan(x)
        return np.where(unknown, np.nan, value) if np.any(unknown) else value

    def _is_nan(self, x: FloatArray) -> NDArray[np.bool_]:
        """Where log_prob is NaN because x is: a value for each value of log_prob, or one that broadcasts."""
        return np.isnan(x)

    def _log_prob(self, x: FloatArray) -> FloatArray:
        raise NotImplementedError


class Reparameterized(Distribution):
    """A family whose samples are differentiable functions of noise, z = g(eps) (section 2.4).

    The noise is uniform on (0, 1), a number for each sample, unless the family says otherwise.
    """

    def draw(self, rng: np.random.Generator, shape: Shape) -> FloatArray:
        """Draw noise eps for samples of this shape.

        Examples
        --------
        >>> import numpy as np
        >>> from npvae.distributions import Exponential
        >>> Exponential().draw(np.random.default_rng(0), (2, 3)).shape
        (2, 3)
        """
        return uniform(rng, shape)

    @np.errstate(all="ignore")
    def rsample(self, eps: ArrayLike) -> FloatArray:
        """Return the samples z = g(eps) of noise from `draw`.

        Examples
        --------
        >>> from npvae.distributions import Normal
        >>> Normal(loc=1.0, scale=2.0).rsample([-1.0, 0.0, 1.0])
        array([-1.,  1.,  3.])
        """
        return self._rsample(np.asarray(eps, float))

    @np.errstate(all="ignore")
    def pullback(self, eps: ArrayLike, dz: ArrayLike) -> dict[str, FloatArray]:
        """Return the derivatives of a function of the samples with respect to each parameter (the chain rule).

        Parameters
        ----------
        eps : noise from `draw`
        dz : array of the samples' shape, derivatives of the function at the samples ``rsample(eps)``

        Returns
        -------
        dict of name -> array, the derivative through each sample, not summed

        Examples
        --------
        The mean of z^2 over two samples, whose derivative at each sample is z:

        >>> from npvae.distributions import Normal
        >>> q, eps = Normal(1.0, 2.0), [-1.0, 1.0]
        >>> q.pullback(eps, q.rsample(eps))
        {'loc': array([-1.,  3.]), 'scale': array([1., 3.])}
        """
        return self._pullback(np.asarray(eps, float), np.asarray(dz, float))

    def _rsample(self, eps: FloatArray) -> FloatArray:
        raise NotImplementedError

    def _pullback(self, eps: FloatArray, dz: FloatArray) -> dict[str, FloatArray]:
        raise NotImplementedError


class Univariate(Reparameterized):
    """A family of scalars."""

    def __post_init__(self) -> None:
        check_shapes(self)

    @np.errstate(all="ignore")
    def gradients(self, eps: ArrayLike) -> dict[str, FloatArray]:
        """Return the derivatives of ``rsample(eps)`` with respect to each parameter, by name.

        Where one number of noise makes one sample, the derivative with respect to the noise comes too, as ``"eps"``.

        Examples
        --------
        >>> from npvae.distributions import Normal
        >>> Normal(loc=1.0, scale=2.0).gradients([-1.0, 1.0])
        {'eps': array([2., 2.]), 'loc': array([1., 1.]), 'scale': array([-1.,  1.])}
        """
        return self._gradients(np.asarray(eps, float))

    def log_prob_noise(self, eps: ArrayLike) -> FloatArray:
        """Return the log-density of the noise in nats, element by element: 0 for uniform noise in (0, 1).

        Examples
        --------
        >>> from npvae.distributions import Exponential
        >>> Exponential().log_prob_noise([0.2, 0.9])
        array([0., 0.])
        """
        return log_uniform(eps)

    def _gradients(self, eps: FloatArray) -> dict[str, FloatArray]:
        raise NotImplementedError

    def _pullback(self, eps: FloatArray, dz: FloatArray) -> dict[str, FloatArray]:
        # Where dz is 0, the product is, also if the gradient exceeds float64.
        return {
            name: np.where((dz == 0) & np.isinf(gradient), 0.0, dz * gradient)[()]
            for name, gradient in self._gradients(eps).items()
            if name != "eps"
        }


def uniform(rng: np.random.Generator, shape: Shape) -> FloatArray:
    """Draw numbers from the open interval (0, 1): many an inverse distribution function is infinite at the ends.

    Examples
    --------
    >>> import numpy as np
    >>> uniform(np.random.default_rng(0), 2).round(3)
    array([0.637, 0.27 ])
    """
    return (rng.integers(0, 2**52, shape).astype(float) + 0.5) * 2.0**-52


def log_uniform(eps: ArrayLike) -> FloatArray:
    """Return the log-density of numbers that are uniform on (0, 1): 0 inside, -inf outside, NaN at NaN.

    Examples
    --------
    >>> log_uniform([0.5, 1.5])
    array([  0., -inf])
    """
    eps = np.asarray(eps, float)
    return np.where((eps < 0) | (eps > 1), -np.inf, np.where(np.isnan(eps), np.nan, 0.0))


def if_probability(p: FloatArray, value: FloatArray) -> FloatArray:
    """Return the value where 0 <= p <= 1, else NaN.

    Examples
    --------
    >>> import numpy as np
    >>> if_probability(np.array([0.5, 1.5]), np.array([1.0, 2.0]))
    array([ 1., nan])
    """
    inside = (p >= 0) & (p <= 1)
    return value if np.all(inside) else np.where(inside, value, np.nan)


def check_shapes(distribution: object) -> None:
    """Raise ValueError if the parameters of a distribution do not broadcast.

    Examples
    --------
    >>> from npvae.distributions import Normal
    >>> Normal([0.0, 1.0], [1.0, 2.0, 3.0])
    Traceback (most recent call last):
    ...
    ValueError: loc has shape (2,), scale has shape (3,); expected shapes that broadcast
    """
    shapes = {name: np.shape(value) for name, value in vars(distribution).items()}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        found = ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
        raise ValueError(f"{found}; expected shapes that broadcast") from None


def check_order(low: FloatArray, high: FloatArray) -> None:
    """Raise ValueError if low is not below high.

    Examples
    --------
    >>> check_order(2.0, 1.0)
    Traceback (most recent call last):
    ...
    ValueError: low is 2.0, high is 1.0; expected low below high
    """
    low, high = np.broadcast_arrays(low, high)
    wrong = ~(low < high)
    if np.any(wrong):
        raise ValueError(
            f"low is {float(low[wrong].flat[0])!r}, high is {float(high[wrong].flat[0])!r}; expected low below high"
        )


def elementwise(function: Callable[..., FloatArray], *arrays: ArrayLike) -> FloatArray:
    """Apply a function of columns (n, 1), with a value a row, to the elements of broadcast arrays.

    It lets the densities and KL divergences of the backends, which sum over the columns, be used for single elements.

    Examples
    --------
    >>> elementwise(lambda x, y: (x * y).sum(axis=1), [1.0, 2.0], 3.0)
    array([3., 6.])
    """
    broadcast = np.broadcast_arrays(*(np.asarray(array, float) for array in arrays))
    return function(*(array.reshape(-1, 1) for array in broadcast)).reshape(broadcast[0].shape)
