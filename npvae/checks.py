"""Gradients checked by finite differences: of any function with `check_gradient`, of a model with `gradcheck`.

A model is checked twice, each array by its name. The gradient in float64 must agree with central differences of the
value, the samples being held constant. The gradient in the precision that the model trains in, from the backend that it
trains on, must agree with the float64 gradient of the NumPy reference.

By default both are done for minibatches of other sizes and with several samples for each datapoint, too, one size after
the other with the same estimator, as in training.

A gradient check cannot see a wrong bound that is differentiated correctly; tests against exact answers can.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from . import backends
from .conventions import check_choice, check_each, check_number, kind_of, real_array
from .estimators import ESTIMATORS
from .likelihoods import LIKELIHOODS
from .model import Model
from .parameters import Buffers, Parameters
from .sparse import TableLike

Array = npt.NDArray[np.float64]

#: Up to this many parameters each of them is moved by itself; beyond, each array along one random direction.
FULL_CHECK_SIZE = 2000

#: Largest disagreement with central differences in float64.
TOLERANCE = 1e-6

#: Length of the longest of the steps whose central differences are extrapolated; the shortest is a sixteenth of it.
LONGEST_STEP = 0.02

#: Rows of which every gradient is checked, array by array.
N_ROWS = 10

#: Sizes of the other minibatches: beyond 64 and 128 rows, not a multiple of what a kernel takes at once; and the last,
#: smaller one of an epoch, which comes after it.
SIZES = 131, 37

#: Where a model has one sample for each datapoint: so many, and the sizes of the minibatches then.
MORE_SAMPLES, THEIR_SIZES = 3, (29, 11)

#: Rounding errors of a model are measured so many times, and the largest are multiplied by `SAFETY`.
DRAWS, SAFETY = 3, 10.0

#: The name in a report of all parameters together.
TOGETHER = "all arrays"

#: The name in a report of parameters that are one array, without a name.
UNNAMED = "parameters"


class Entry(NamedTuple):
    """One entry of an array: where it is, its derivative as given and by central differences.

    Examples
    --------
    >>> print(ArrayCheck("W", error=0.2, tolerance=1e-6, entry=Entry((1, 2), 0.6, 0.4)))
    W                         2.00e-01  FAILED (at most 1e-06); at [1, 2]: gradient 0.6, by differences 0.4
    """

    place: tuple[int, ...]
    gradient: float
    difference: float


class ArrayCheck(NamedTuple):
    """The disagreement ``|g - n| / (|g| + |n|)`` of two gradients of one array, and the largest that passes.

    Attributes
    ----------
    name : str
        The array.
    error : float
        The disagreement, between 0 and 1; NaN if a gradient is not finite.
    tolerance : float
        The largest error that passes.
    entry : Entry or None
        Where the two gradients differ most, if every entry was moved by itself.
    where : str
        The minibatch, if it is not the first rows.

    Examples
    --------
    >>> ArrayCheck("W", error=1e-9, tolerance=1e-6).passed
    True
    >>> ArrayCheck("W", error=float("nan"), tolerance=1e-6).passed
    False
    """

    name: str
    error: float
    tolerance: float
    entry: Entry | None = None
    where: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is at most the tolerance."""
        return self.error <= self.tolerance  # False for NaN

    @property
    def below_rounding(self) -> bool:
        """Whether it passed only because the gradient is smaller than its rounding errors: no error is above 1."""
        return self.passed and self.tolerance >= 1

    def __str__(self) -> str:
        verdict = f"{'ok' if self.passed else 'FAILED'} (at most {self.tolerance:.0e})"
        if self.below_rounding:
            verdict = "not checked: the gradient is below rounding errors"
        line = f"{self.name:24} {self.error:9.2e}  {verdict}{f'; {self.where}' if self.where else ''}"
        if self.passed or self.entry is None:
            return line
        place, gradient, difference = self.entry
        where = f"at [{', '.join(map(str, place))}]: " if place else ""
        return f"{line}; {where}gradient {gradient:.6g}, by differences {difference:.6g}"


class Report(NamedTuple):
    """The checks of all arrays: ``print(report)`` is a table that names the worst; ``report.passed`` sums it up.

    Attributes
    ----------
    differences : tuple of ArrayCheck
        The float64 gradient against central differences.
    precision : tuple of ArrayCheck
        For a model, the gradient that trains against the float64 reference; else empty.
    minibatches : tuple of ArrayCheck
        For a model, both on other minibatches: all arrays together and the worst array, and each one that failed.

    Examples
    --------
    >>> report = Report((ArrayCheck("W", 1e-9, 1e-6), ArrayCheck("b", 0.3, 1e-6)))
    >>> report.passed, report.failed, report.worst.name
    (False, ['b'], 'b')
    >>> print(report)
    gradient against central differences: |g - n| / (|g| + |n|)
      W                         1.00e-09  ok (at most 1e-06)
      b                         3.00e-01  FAILED (at most 1e-06)
    FAILED in b; worst: b 3.00e-01
    """

    differences: tuple[ArrayCheck, ...]
    precision: tuple[ArrayCheck, ...] = ()
    minibatches: tuple[ArrayCheck, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all arrays passed."""
        return all(check.passed for checks in self for check in checks)

    @property
    def failed(self) -> list[str]:
        """Names of the arrays whose gradient is wrong."""
        return sorted({check.name for checks in self for check in checks if not check.passed})

    @property
    def worst(self) -> ArrayCheck:
        """The check with the largest error, measured by its tolerance."""
        return max((check for checks in self for check in checks), key=_badness)

    def __str__(self) -> str:
        lines = []
        titles = (
            "gradient against central differences",
            "gradient as trained against the float64 reference",
            "both on other minibatches, one after the other",
        )
        for title, checks in zip(titles, self, strict=True):
            lines += [f"{title}: |g - n| / (|g| + |n|)"] if checks else []
            lines += [f"  {check}" for check in checks]
        verdict = "passed" if self.passed else f"FAILED in {', '.join(self.failed)}"
        return "\n".join([*lines, f"{verdict}; worst: {self.worst.name} {self.worst.error:.2e}"])


def _badness(check: ArrayCheck) -> float:
    """Return the error in units of the tolerance; infinite if the error is NaN."""
    if math.isnan(check.error):
        return math.inf
    return check.error / check.tolerance if check.error else 0.0  # a tolerance of zero is allowed


def check_gradient(
    f: Callable[[Any], tuple[Any, Any]],
    parameters: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
    *,
    full: bool | None = None,
    tolerance: float = TOLERANCE,
    step: float = LONGEST_STEP,
    random_state: int = 0,
) -> Report:
    """Check the gradient of any function by central differences of its value, array by array.

    Parameters
    ----------
    f : callable
        Takes what ``parameters`` is, a dict of arrays or one array, in float64, and returns ``(value, gradient)``: a
        finite number, and a dict of arrays with the same names and shapes, or one array of the same shape. The same
        arguments must give the same value, so draw random numbers outside of ``f``. Each call is given copies, which
        it may overwrite. It is called at points up to ``step`` away from ``parameters``.
    parameters : dict of str to array, or one array
        Where to check the gradient; finite real numbers of any shape, scalars too. Integers and float32 are converted
        to float64: in float32, differences resolve only three digits. The arrays themselves are not changed.
    full : bool, optional
        Whether to move every parameter by itself, and so to name the entry that is wrong. By default, up to 2000
        parameters are; beyond that, each array is moved along one random direction.
    tolerance : float, default 1e-6
        The largest disagreement ``|g - n| / (|g| + |n|)``, in Euclidean norms, of the gradient g of an array and its
        central differences n. A larger one is for values that are only computed approximately, as by an iteration.
    step : float, default 0.02
        Length of the longest step; the differences at this step and at its half, quarter, eighth and sixteenth are
        extrapolated to zero (Ridders, 1982). A smaller one is for parameters that are themselves much smaller than 1,
        or near a point where ``f`` is not smooth.
    random_state : int, default 0
        Seed of the random directions.

    Returns
    -------
    Report
        ``print(report)`` is a table that names the worst array; ``report.passed`` tells whether all arrays passed,
        ``report.failed`` which did not, ``report.worst`` is the worst one.

    Raises
    ------
    TypeError
        If ``f`` is not callable; if parameters, value or gradient are not numbers of the kind described above; if
        ``f`` computes in float32.
    ValueError
        If there are no parameters, or some are not finite; if the value is not a finite number, or differs from call
        to call; if the gradient has other names or shapes than the parameters.

    Examples
    --------
    The log-density of a normal distribution N(mu, exp(log_var)) at five points, once with the 1/2 forgotten:

    >>> x = np.array([0.3, -1.2, 0.8, 2.0, -0.4])
    >>> def log_density(p):
    ...     residual = x - p["mu"]
    ...     square = np.sum(residual**2) / np.exp(p["log_var"])
    ...     value = -0.5 * (x.size * (np.log(2 * np.pi) + p["log_var"]) + square)
    ...     return value, {"mu": np.sum(residual) / np.exp(p["log_var"]), "log_var": square - x.size / 2}
    >>> report = check_gradient(log_density, {"mu": 0.5, "log_var": -0.2})
    >>> report.failed
    ['log_var']
    >>> print(report)  # doctest: +ELLIPSIS
    gradient against central differences: |g - n| / (|g| + |n|)
      mu                        ...  ok (at most 1e-06)
      log_var                   6.05e-01  FAILED (at most 1e-06); gradient 4.92613, by differences 1.21306
    FAILED in log_var; worst: log_var 6.05e-01

    One array instead of a dict:

    >>> check_gradient(lambda x: (np.sum(x**2), 2 * x), [1.0, 2.0]).passed
    True
    """
    if not callable(f):
        raise TypeError(f"f is {kind_of(f)}; expected a function that returns (value, gradient)")
    check_choice("full", full, (None, True, False))
    check_number("tolerance", tolerance, np.floating, 0)
    check_number("step", step, np.floating, 1e-9)  # below it, differences are rounding errors
    check_number("random_state", random_state, np.integer, 0)
    arrays = _float64_copies(parameters)
    value_and_grad = _on_dicts(f, unnamed=not isinstance(parameters, Mapping))
    first, second = (value_and_grad(arrays)[0] for _ in range(2))
    if not math.isfinite(first):
        raise ValueError(f"f returned the value {first} at the given parameters; expected a finite number")
    if not math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9):  # less may be rounding by another order of a sum
        raise ValueError(
            f"f returned the values {first!r} and {second!r} for the same parameters; expected the same value each "
            "time: draw random numbers outside of f"
        )
    checks = compare_with_differences(
        value_and_grad, arrays, full=full, tolerance=tolerance, step=step, random_state=random_state
    )
    return Report(checks)


def _float64_copies(parameters: Mapping[str, npt.ArrayLike] | npt.ArrayLike) -> dict[str, Array]:
    """Return the parameters as a dict of float64 copies, after checking that they are finite real numbers."""
    if not isinstance(parameters, Mapping):
        return {UNNAMED: _float64_copy(UNNAMED, parameters, "an array of real numbers, or a dict of such arrays")}
    if not parameters:
        raise ValueError("parameters is an empty dict; expected at least one array")
    for name in parameters:
        if not isinstance(name, str):
            raise TypeError(f"parameters has the name {name!r}; expected strings")
    return {name: _float64_copy(f"parameters[{name!r}]", array) for name, array in parameters.items()}


def _float64_copy(name: str, given: npt.ArrayLike, expected: str = "an array of real numbers") -> Array:
    array = real_array(name, given, expected).astype(np.float64)  # a copy even if it is float64 already
    check_each(name, array, np.isfinite(array), "finite numbers")
    return array


def _on_dicts(f: Callable[[Any], Any], unnamed: bool) -> Callable[[dict[str, Array]], tuple[float, dict[str, Array]]]:
    """Return f as a function from a dict to (value, dict), which checks what f returns; ``unnamed``: f takes an array.

    Each call is given copies of its own: a function that keeps or overwrites its argument does no harm.
    """

    def value_and_grad(arrays: dict[str, Array]) -> tuple[float, dict[str, Array]]:
        copies = {name: array.copy() for name, array in arrays.items()}
        result = f(copies[UNNAMED] if unnamed else copies)
        if not isinstance(result, tuple | list) or len(result) != 2:
            found = f"{len(result)} things" if isinstance(result, tuple | list) else f"an object {kind_of(result)}"
            raise TypeError(f"f returned {found}; expected a pair (value, gradient)")
        value, gradient = result
        return _checked_value(value), _checked_gradient({UNNAMED: gradient} if unnamed else gradient, arrays, unnamed)

    return value_and_grad


def _checked_value(given: Any) -> float:
    value = real_array("the value that f returned", given, "a real number")
    if value.ndim:
        raise ValueError(
            f"the value that f returned has the shape {value.shape}; expected a number, as a sum or a mean"
        )
    _refuse_low_precision("the value that f returned", value)
    return float(value)


def _checked_gradient(gradient: Any, arrays: dict[str, Array], unnamed: bool) -> dict[str, Array]:
    if not isinstance(gradient, Mapping):
        raise TypeError(f"the gradient that f returned is {kind_of(gradient)}; expected a dict, as the parameters are")
    missing, extra = (
        [name for name in arrays if name not in gradient],
        [name for name in gradient if name not in arrays],
    )
    if missing or extra:
        found = " and ".join(
            f"{what} {', '.join(map(repr, names))}" for what, names in (("lacks", missing), ("has", extra)) if names
        )
        raise ValueError(f"the gradient that f returned {found}; expected the names {', '.join(map(repr, arrays))}")
    checked = {}
    for name, array in arrays.items():
        title = "the gradient that f returned" if unnamed else f"the gradient by {name!r} that f returned"
        given = real_array(title, gradient[name])
        if given.shape != array.shape:
            raise ValueError(f"{title} has the shape {given.shape}; expected {array.shape}, as the parameters have")
        _refuse_low_precision(title, given)
        checked[name] = given.astype(np.float64)
    return checked


def _refuse_low_precision(name: str, array: npt.NDArray[Any]) -> None:
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        raise TypeError(
            f"{name} is {array.dtype}, whose rounding errors are too large for central differences; f is given "
            "float64 and is expected to compute in float64"
        )


class Rounding(NamedTuple):
    """Rounding errors of a value and of the arrays of its gradient (Euclidean norms), as measured.

    Examples
    --------
    >>> Rounding(value=1e-14, gradient={"W": 1e-15}).gradient["W"]
    1e-15
    """

    value: float
    gradient: Mapping[str, float]


class _Named(Protocol):
    """Arrays by name, such as a dict or `Parameters`."""

    def items(self) -> Iterable[tuple[str, Array]]:
        """Iterate over (name, array)."""


def compare_with_differences(
    value_and_grad: Callable[[Any], tuple[Any, Any]],
    parameters: _Named,
    *,
    full: bool | None = None,
    tolerance: float = TOLERANCE,
    step: float = LONGEST_STEP,
    random_state: int = 0,
    rounding: Rounding | None = None,
) -> tuple[ArrayCheck, ...]:
    """Compare a gradient with central differences of its value, array by array.

    What `check_gradient` and `gradcheck` have in common: trusts its arguments.

    Parameters
    ----------
    value_and_grad : callable
        From parameters to (value, gradient), the gradient being named as the parameters are.
    parameters : dict of arrays or Parameters, float64
        Moved in place during the check, and restored.
    full, tolerance, step, random_state
        As of `check_gradient`.
    rounding : Rounding, optional
        Of value and gradient in float64; by default, the value's is the least possible.

    Returns
    -------
    tuple of ArrayCheck

    Examples
    --------
    >>> checks = compare_with_differences(lambda p: (p["a"] ** 3, {"a": 3 * p["a"] ** 2}), {"a": np.array(0.7)})
    >>> checks[0].passed
    True
    """
    rng = np.random.default_rng(random_state)
    arrays = dict(parameters.items())
    full = sum(array.size for array in arrays.values()) <= FULL_CHECK_SIZE if full is None else full
    start, gradient = value_and_grad(parameters)
    gradient = {name: array.copy() for name, array in gradient.items()}

    def value() -> float:
        return value_and_grad(parameters)[0]

    checks = []
    for name, array in arrays.items():
        if full:
            analytic = gradient[name].ravel()
            numeric = np.array([_central_difference(value, array, d, step) for d in _unit_directions(array)], float)
        else:
            direction = rng.choice((-1.0, 1.0), array.shape)
            with np.errstate(invalid="ignore"):  # infinite entries may add up to NaN, which fails as well
                analytic = np.array([np.sum(gradient[name] * direction)])
            numeric = np.array([_central_difference(value, array, direction, step)])
        # Differences of a value cannot resolve less than its rounding error over the step: it matters where a gradient
        # is smaller than the value by ten orders of magnitude, as in front of latents that went out of use.
        noise = _noise(start, array.size, step, rounding)
        noise += 0.0 if rounding is None else SAFETY * rounding.gradient[name]
        size = np.linalg.norm(analytic) + np.linalg.norm(numeric)
        largest = float(tolerance + (noise / size if size > 0 else 0))
        entry = _worst_entry(analytic, numeric, array.shape) if full and array.size else None
        checks.append(ArrayCheck(name, relative_error(analytic, numeric), largest, entry))
    return tuple(checks)


def _noise(value: float, n: int, step: float, rounding: Rounding | None) -> float:
    """Return the error of differences along a direction of n entries that is due to the rounding of the value."""
    error, shortest = float(np.finfo(float).eps) * abs(value), step / 4
    if rounding is not None:  # of a model, which must not fail by rounding: all steps count, down to the shortest
        error, shortest = max(error, 4 * rounding.value), step / 16
    return error * float(np.sqrt(n)) / shortest


def _unit_directions(array: Array) -> Iterator[Array]:
    for index in np.ndindex(array.shape):
        direction = np.zeros(array.shape)
        direction[index] = 1
        yield direction


def _central_difference(value: Callable[[], float], array: Array, direction: Array, longest: float) -> float:
    """Derivative of value() along a direction at ``array``: central differences, extrapolated to a step of zero.

    Five steps, each half the one before, are extrapolated by ever more of them (Ridders, 1982). Of these estimates
    the one that differs least from its neighbours counts: long steps suffer from curvature, short ones from rounding.
    """
    start = array.copy()

    def difference(step: float) -> float:
        values = []
        for sign in (1, -1):
            array[...] = start + sign * step * direction
            values.append(value())
        return (values[0] - values[1]) / (2 * step)

    longest = longest / np.sqrt(max(1, int(np.count_nonzero(direction))))  # the same length in every direction
    best, best_error = np.nan, np.inf
    row: list[float] = []
    for i in range(5):
        previous, row = row, [difference(longest / 2**i)]
        for j, before in enumerate(previous):
            row.append(row[j] + (row[j] - before) / (4 ** (j + 1) - 1))
            error = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - before))
            if error < best_error:
                best, best_error = row[j + 1], error
    array[...] = start
    return best


def _worst_entry(gradient: Array, differences: Array, shape: tuple[int, ...]) -> Entry:
    """Return the entry with the largest difference; the first that is not finite, if there is one."""
    worst = int(np.argmax(np.nan_to_num(np.abs(gradient - differences), nan=np.inf)))
    place = tuple(map(int, np.unravel_index(worst, shape)))
    return Entry(place, float(gradient[worst]), float(differences[worst]))


def relative_error(a: Array, b: Array) -> float:
    """Return ``|a - b| / (|a| + |b|)`` in Euclidean norms; 0 if both are zero, NaN if either is not finite.

    Examples
    --------
    >>> relative_error(np.array([3.0, 0.0]), np.array([1.0, 0.0]))
    0.5
    """
    size = np.linalg.norm(a) + np.linalg.norm(b)
    if size == 0:
        return 0.0
    return float(np.linalg.norm(a - b) / size) if np.isfinite(size) else np.nan


def compare_gradients(
    gradient: Parameters,
    reference: Parameters,
    n_terms: int,
    of_rows: Iterable[Parameters] = (),
    rounding: Rounding | None = None,
) -> tuple[ArrayCheck, ...]:
    """Compare a gradient in some precision with one in float64, array by array.

    Parameters
    ----------
    gradient, reference : Parameters
        The two gradients.
    n_terms : int
        The terms of the longest sum in the computation: its rounding errors set the tolerance.
    of_rows : list of Parameters
        Gradients of single datapoints, to tell the size of what was summed. Where datapoints cancel each other, as at
        the bias of standardized columns, the rounding errors are those of the terms, not of the small sum: float32 then
        says less about it, and the check in float64 must do.
    rounding : Rounding, optional
        Errors that this precision makes in any case: where they are large, as behind saturated units, the gradient may
        differ by as much.

    Returns
    -------
    tuple of ArrayCheck

    Examples
    --------
    >>> from npvae.parameters import Layout
    >>> layout = Layout({"a.W": (2, 2)})
    >>> exact = layout.view(np.array([0.1, 0.2, 0.3, 0.4]))
    >>> rounded = layout.view(exact.vector.astype(np.float32))
    >>> compare_gradients(rounded, exact, n_terms=4)[0].passed
    True
    """
    of_rows = list(of_rows)
    precision = np.finfo(gradient.vector.dtype)
    relative = float(precision.eps) * np.sqrt(n_terms) * 10
    checks = []
    for name, array in gradient.items():
        size = np.linalg.norm(array) + np.linalg.norm(reference[name])
        terms = np.mean([2 * np.linalg.norm(row[name]) for row in of_rows]) if of_rows else size
        tolerance = float(relative * max(1, terms / size)) if size > 0 else float(relative)
        if size > 0:
            error = 0.0 if rounding is None else SAFETY * rounding.gradient[name]
            underflow = (
                float(precision.tiny) * n_terms * np.sqrt(array.size)
            )  # smaller numbers lose digits, or are zero
            tolerance += float((error + underflow) / size)
        checks.append(ArrayCheck(name, relative_error(array.astype(float), reference[name]), tolerance))
    return tuple(checks)


def gradcheck(
    model: Any, X: TableLike, *, n_rows: int | None = None, full: bool | None = None, random_state: int = 0
) -> Report:
    """Check every gradient of a model on rows of X, on the backend it uses and in the precision it trains in.

    By default, each array is checked on the first 10 rows, and all together on larger and smaller minibatches that
    follow each other, with more samples for each datapoint, too: some faults show only there. Where X has fewer rows
    than a minibatch, they are repeated.

    Parameters
    ----------
    model : VAE
        Fitted or not; if not, with the initial parameters that a fit to X would start from.
    X : array or sparse matrix (N, D)
        Data.
    n_rows : int, optional
        Check on this number of rows, the first of X, and on no other minibatch.
    full : bool, optional
        Whether to move every parameter by itself. By default, up to 2000 parameters are; beyond that, each array is
        moved along one random direction.
    random_state : int, default 0
        Seed of the noise and of the directions.

    Returns
    -------
    Report
        ``print(report)`` is a table that names the worst array; ``report.passed`` tells whether all arrays passed,
        ``report.failed`` which did not. A gradient that is smaller than the rounding errors of its computation, as
        behind saturated units, passes, and the table says so.

    Raises
    ------
    ValueError, TypeError
        If X does not fit the model.

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).random((10, 4))
    >>> report = npvae.gradcheck(npvae.VAE(2, hidden_layer_sizes=(3,), backend="reference"), X)
    >>> report.passed
    True
    >>> [check.name for check in report.differences][:2]
    ['encoder.hidden1.W', 'encoder.mu.W']
    """
    if not hasattr(model, "starting_point"):
        raise TypeError(f"model is {kind_of(model)}; expected a VAE")
    check_choice("full", full, (None, True, False))
    check_number("random_state", random_state, np.integer, 0)
    if n_rows is not None:
        check_number("n_rows", n_rows, np.integer, 1)
    start = model.starting_point(X)
    problem = _problem(model, start, N_ROWS if n_rows is None else n_rows, random_state)
    rounding, parameters = problem.rounding_exact(), problem.parameters
    differences = compare_with_differences(
        problem.exact, parameters, full=full, random_state=random_state, rounding=rounding
    )
    (_, reference), of_rows = problem.reference(parameters), problem.of_rows()
    _, gradient = problem.trained(parameters)
    precision = compare_gradients(gradient, reference, problem.n_terms, of_rows, problem.rounding_trained())
    others = () if n_rows is not None else tuple(_other_minibatches(model, start, of_rows, rounding, random_state))
    return Report(differences, precision, others)


#: From parameters to (value, gradient).
ValueAndGrad = Callable[[Parameters], tuple[float, Parameters]]


class GradientProblem(NamedTuple):
    """Parameters in float64, three functions of them to (value, gradient), and what to measure those by.

    Attributes
    ----------
    parameters : Parameters
    exact : callable
        The model's backend in float64.
    reference : callable
        NumPy in float64.
    trained : callable
        The model's backend in the precision it trains in.
    rounding_exact, rounding_trained : callable
        Without arguments; return the `Rounding` of float64, and of the precision it trains in.
    of_rows : callable
        Without arguments; returns the reference gradients of single rows.
    n_terms : int
        The number of terms of the longest sum.
    """

    parameters: Parameters
    exact: ValueAndGrad
    reference: ValueAndGrad
    trained: ValueAndGrad
    rounding_exact: Callable[[], Rounding]
    rounding_trained: Callable[[], Rounding]
    of_rows: Callable[[], list[Parameters]]
    n_terms: int


def gradient_problem(model: Any, X: npt.ArrayLike, n_rows: int, random_state: int) -> GradientProblem:
    """Set up what `gradcheck` compares: the gradient on the first rows of X, computed in several ways."""
    return _problem(model, model.starting_point(X), n_rows, random_state)


def _problem(model: Any, start: Any, n_rows: int, random_state: int) -> GradientProblem:
    rows = np.arange(min(n_rows, len(start.data.X)))
    sides, parameters = _Sides(model, start, model.n_samples, random_state), _parameters(start)
    exact, reference, trained = sides.exact(rows), sides.reference(rows), sides.trained(rows)
    single = _Sides(model, start, model.n_samples, random_state).reference

    def of_rows() -> list[Parameters]:
        """Return copies: the estimator overwrites its gradient."""
        gradients = (single(rows[i : i + 1])(parameters)[1] for i in rows)
        return [gradient.layout.view(gradient.vector.copy()) for gradient in gradients]

    return GradientProblem(
        parameters,
        exact,
        reference,
        trained,
        lambda: sides.rounding("float64", rows),
        lambda: sides.rounding(model.dtype, rows),
        of_rows,
        sides.n_terms(len(rows)),
    )


def _parameters(start: Any) -> Parameters:
    return Model(start.architecture, backends.get("reference")).layout.view(start.vector)


class _Sides:
    """The estimator of a model in several ways of computing: each is one estimator for all minibatches."""

    def __init__(self, model: Any, start: Any, n_samples: int, random_state: int) -> None:
        self.start, self.n_samples, self.random_state = start, n_samples, random_state
        self.parameters, self.make = _parameters(start), ESTIMATORS[model.estimator].make
        numpy = backends.get("reference")
        self.exact = self._side(start.backend, "float64")
        self.reference = self._side(numpy, "float64")
        self.trained = self._side(start.backend, model.dtype)

    def rounding(self, dtype: str, rows: npt.NDArray[np.integer]) -> Rounding:
        """Measure the rounding errors of a precision on these rows."""
        rng, numpy = np.random.default_rng([self.random_state, 1]), backends.get("reference")
        rounded = self._side(with_rounding(numpy, dtype, self.start.architecture, rng), "float64")(rows)
        value, gradient = self.reference(rows)(self.parameters)
        values, errors = [0.0], {name: [0.0] for name in gradient.layout.shapes}
        for _ in range(DRAWS):
            other, found = rounded(self.parameters)
            values.append(abs(other - value))
            for name, array in found.items():
                errors[name].append(float(np.linalg.norm(array - gradient[name])))
        return Rounding(max(values), {name: max(found) for name, found in errors.items()})

    def n_terms(self, n_rows: int) -> int:
        """Return the number of terms of the longest sum."""
        hidden, D = self.start.architecture.hidden_layer_sizes, self.start.data.X.shape[1]
        return max(*hidden, D, self.n_samples * n_rows)

    def _side(self, backend: Any, dtype: str) -> Callable[[npt.NDArray[np.integer]], ValueAndGrad]:
        inner = Model(self.start.architecture, backend, dtype, self.start.data.missing)
        estimator = self.make(inner, self.n_samples, len(self.start.data.X))

        def on(rows: npt.NDArray[np.integer]) -> ValueAndGrad:
            x, samples = (
                inner.gather(self.start.data, rows, Buffers(backend, inner.dtype)),
                _cast(self._fix(rows), inner),
            )

            def value_and_grad(parameters: Parameters) -> tuple[float, Parameters]:
                result = estimator.value_and_grad(inner.parameters(parameters.vector), x, samples)
                return result.value, inner.layout.view(backend.to_numpy(result.gradient.vector))

            return value_and_grad

        return on

    def _fix(self, rows: npt.NDArray[np.integer]) -> Any:
        """Return what is held constant. It comes from the reference, for all alike: the check is of the gradient."""
        numpy = backends.get("reference")
        model = Model(self.start.architecture, numpy, "float64", self.start.data.missing)
        estimator = self.make(model, self.n_samples, len(self.start.data.X))
        x = model.gather(self.start.data, rows, Buffers(numpy, model.dtype))
        noise = estimator.draw(np.random.default_rng(self.random_state), len(rows))
        return estimator.sample(self.parameters, x, rows, noise)[0]


def _cast(samples: Any, model: Model) -> Any:
    """Return an array, or a NamedTuple of arrays and numbers, in a model's precision and where it computes."""
    if isinstance(samples, tuple):
        return type(samples)(*(_cast(part, model) for part in samples))
    return samples if np.ndim(samples) == 0 else model.backend.asarray(samples, model.dtype)


def with_rounding(backend: Any, dtype: str, architecture: Any, rng: np.random.Generator) -> Any:
    """Return a NumPy backend whose layers and densities have random errors, as large as rounding makes them.

    Behind a saturated unit the derivative of its activation, 1 - y^2 for example, consists of rounding errors of y, and
    so does the gradient. No bound of the error knows that; computing with such errors shows it.

    Parameters
    ----------
    backend : Backend
        The reference.
    dtype : "float32" or "float64"
        The precision whose rounding errors they are.
    architecture : Architecture
        Whose likelihood is meant.
    rng : numpy.random.Generator

    Examples
    --------
    >>> from npvae.backends import reference
    >>> from npvae.model import Architecture
    >>> rounding = with_rounding(reference, "float32", Architecture(3, 2), np.random.default_rng(0))
    >>> one = np.ones((1, 1))
    >>> bool(0 < abs(rounding.dense(one, one, np.zeros(1), "tanh") - np.tanh(1)) < 1e-6)
    True
    """
    precision = np.finfo(dtype)

    def errors(size: Array) -> Array:
        """Draw errors up to eps times a size, of one sign in a column: a saturated unit has the same in all rows."""
        sizes = precision.eps * size + precision.tiny
        return sizes * rng.choice((-1.0, 1.0), np.shape(size)[-1]) * rng.random(np.shape(size))

    def dense(x: Array, W: Array, b: Array, activation: str, out: Array | None = None) -> Array:
        y = backend.dense(x, W, b + errors(np.abs(x) @ np.abs(W) + np.abs(b)), activation, out)  # b of each row
        y += errors(np.abs(y))
        return y

    def dense_backward(x: Array, W: Array, y: Array, dy: Array, activation: str, gradients: tuple) -> None:
        backend.dense_backward(x, W, y, dy, activation, gradients)
        if (dx := gradients[2]) is not None:
            dx += errors(np.abs(dy) @ np.abs(W.T))

    likelihood = LIKELIHOODS[architecture.likelihood]
    name = likelihood.log_prob

    def density(x: Array, *arguments: Any) -> Any:
        result = getattr(backend, name)(x, *arguments)
        weights = arguments[len(likelihood.heads)]
        for doutput in result[1:]:
            doutput += errors(np.broadcast_to(weights[:, None], doutput.shape))
        return result

    return SimpleNamespace(**vars(backend) | {"dense": dense, "dense_backward": dense_backward, name: density})


def _other_minibatches(
    model: Any, start: Any, of_rows: list[Parameters], rounding: Rounding, random_state: int
) -> Iterator[ArrayCheck]:
    """Yield the checks on minibatches of other sizes, and with several samples for each datapoint."""
    settings = [(int(model.n_samples), SIZES)]
    if model.n_samples == 1:
        settings.append((MORE_SAMPLES, THEIR_SIZES))
    for L, sizes in settings:
        sides = _Sides(model, start, L, random_state)
        for M in sizes:
            where, parameters = f"{M} rows, L = {L}", sides.parameters
            rows = np.arange(M) % len(start.data.X)
            exact, reference, trained = sides.exact(rows), sides.reference(rows), sides.trained(rows)
            together = compare_together(exact, parameters, random_state=random_state, rounding=rounding)
            each = () if together.passed else compare_with_differences(exact, parameters, full=False, rounding=rounding)
            (_, found), measured = trained(parameters), sides.rounding(model.dtype, rows)
            precision = compare_gradients(found, reference(parameters)[1], sides.n_terms(M), of_rows, measured)
            failed = [check for check in (*each, *precision) if not check.passed]
            # Where the arrays one by one tell which failed, that all of them together did says nothing more.
            shown = failed if any(check in each for check in failed) else [together, *failed]
            shown += [] if failed else [max(precision, key=_badness)]
            yield from (check._replace(where=where) for check in shown)


def compare_together(
    value_and_grad: ValueAndGrad, parameters: Parameters, *, random_state: int = 0, rounding: Rounding | None = None
) -> ArrayCheck:
    """Compare a gradient with central differences along one random direction in all arrays, which takes ten values.

    Arrays with a large gradient are moved less, so that each contributes as much to the derivative, with the same sign:
    a fault in one of them shows, and none cancels another.

    Parameters
    ----------
    value_and_grad : callable
        From parameters to (value, gradient).
    parameters : Parameters, float64
        Moved in place during the check, and restored.
    random_state : int, default 0
        Seed of the direction.
    rounding : Rounding, optional
        As of `compare_with_differences`.

    Returns
    -------
    ArrayCheck
        Of "all arrays".

    Examples
    --------
    >>> from npvae.parameters import Layout
    >>> layout = Layout({"a.W": (2, 2), "a.b": (2,)})
    >>> def f(p):
    ...     return np.sum(np.exp(p.vector)), layout.view(np.exp(p.vector))
    >>> compare_together(f, layout.view(np.linspace(0, 1, 6))).passed
    True
    """
    value, gradient = value_and_grad(parameters)
    direction = np.random.default_rng(random_state).choice((-1.0, 1.0), gradient.vector.shape)
    views = gradient.layout.view(direction)
    along = {name: float(np.sum(array * views[name])) for name, array in gradient.items()}
    if not all(map(math.isfinite, (value, *along.values()))):
        return ArrayCheck(TOGETHER, np.nan, TOLERANCE)
    largest = max(map(abs, along.values()))
    least = min((abs(a) for a in along.values() if abs(a) >= 1e-3 * largest), default=0.0)
    for name, a in along.items():
        views[name][...] *= (-1 if a < 0 else 1) * (least / abs(a) if abs(a) > least else 1)
    analytic = np.array([np.sum(gradient.vector * direction)])
    numeric = np.array(
        [_central_difference(lambda: value_and_grad(parameters)[0], parameters.vector, direction, LONGEST_STEP)]
    )
    noise = _noise(value, direction.size, LONGEST_STEP, rounding)
    size = np.linalg.norm(analytic) + np.linalg.norm(numeric)
    return ArrayCheck(TOGETHER, relative_error(analytic, numeric), float(TOLERANCE + (noise / size if size > 0 else 0)))
