"""Gradients checked by finite differences: of one's own function with `check_gradient`, of a model with `gradcheck`.

Two things are checked, each array by its name. The gradient in float64 must agree with central differences of the
value, the samples being frozen. The gradient in the precision that the model trains in, from the backend that it
trains on, must agree with the float64 gradient of the NumPy reference.

A gradient check cannot see a wrong bound that is differentiated correctly; tests against exact answers can.
"""

from typing import NamedTuple

import numpy as np

from . import backends
from .estimators import ESTIMATORS
from .model import Model
from .parameters import Buffers

#: Up to this many parameters each of them is moved by itself; beyond, each array along one random direction.
FULL_CHECK_SIZE = 2000

#: Largest disagreement with central differences in float64.
TOLERANCE = 1e-6

#: Length of the longest of the steps whose central differences are extrapolated.
LONGEST_STEP = 0.02


class ArrayCheck(NamedTuple):
    """The disagreement |g - n| / (|g| + |n|) of two gradients of one array, and the largest that passes."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self):
        return self.error <= self.tolerance  # False for NaN


class Report(NamedTuple):
    """The checks of all arrays: ``print(report)`` is a table that names the worst; ``report.passed`` sums it up."""

    differences: tuple  # of ArrayCheck: float64 gradient against central differences
    precision: tuple  # of ArrayCheck: the gradient that trains against the float64 reference

    @property
    def passed(self):
        return all(check.passed for check in self.differences + self.precision)

    @property
    def worst(self):
        """The check that is farthest beyond, or nearest to, its tolerance."""
        return max(
            self.differences + self.precision,
            key=lambda check: np.nan_to_num(check.error / check.tolerance, nan=np.inf),
        )

    def __str__(self):
        lines = []
        titles = "gradient against central differences", "gradient as trained against the float64 reference"
        for title, checks in zip(titles, (self.differences, self.precision)):
            lines += [f"{title}: |g - n| / (|g| + |n|)"] if checks else []
            for check in checks:
                verdict = "ok" if check.passed else "FAILED"
                lines.append(f"  {check.name:24} {check.error:9.2e}  {verdict} (at most {check.tolerance:.0e})")
        verdict = "passed" if self.passed else f"FAILED in {', '.join(self.failed)}"
        return "\n".join([*lines, f"{verdict}; worst: {self.worst.name} {self.worst.error:.2e}"])

    @property
    def failed(self):
        """Names of the arrays whose gradient is wrong."""
        return sorted({check.name for check in self.differences + self.precision if not check.passed})


def check_gradient(value_and_grad, parameters, *, full=None, random_state=0):
    """Compare a gradient with central differences of its value, array by array.

    Parameters
    ----------
    value_and_grad : callable, from Parameters to (value, gradient as Parameters); deterministic, in float64
    parameters : Parameters, float64; changed during the check and restored
    full : bool, optional
        Whether to move every parameter by itself (default: when there are at most 2000), or each array along one
        random direction.
    random_state : int, for the directions

    Returns
    -------
    tuple of ArrayCheck
    """
    rng = np.random.default_rng(random_state)
    full = parameters.vector.size <= FULL_CHECK_SIZE if full is None else full
    start, gradient = value_and_grad(parameters)
    gradient = {name: array.copy() for name, array in gradient.items()}

    def value():
        return value_and_grad(parameters)[0]

    checks = []
    for name, array in parameters.items():
        directions = _unit_directions(array) if full else [rng.choice((-1.0, 1.0), array.shape)]
        pairs = [(np.sum(gradient[name] * d), _central_difference(value, array, d)) for d in directions]
        analytic, numeric = np.reshape(pairs, (-1, 2)).T  # (0, 2) for an empty array
        # Differences of a value cannot resolve less than its rounding error over the step: it matters where a gradient
        # is smaller than the value by ten orders of magnitude, as in front of latents that went out of use.
        noise = np.finfo(float).eps * abs(start) * np.sqrt(array.size) / (LONGEST_STEP / 4)
        size = np.linalg.norm(analytic) + np.linalg.norm(numeric)
        tolerance = TOLERANCE + (noise / size if size > 0 else 0)
        checks.append(ArrayCheck(name, relative_error(analytic, numeric), tolerance))
    return tuple(checks)


def _unit_directions(array):
    for index in np.ndindex(array.shape):
        direction = np.zeros(array.shape)
        direction[index] = 1
        yield direction


def _central_difference(value, array, direction):
    """Derivative of value() along a direction at ``array``: central differences, extrapolated to a step of zero.

    Five steps, each half the one before, are extrapolated by ever more of them (Ridders, 1982). Of these estimates
    the one that differs least from its neighbours counts: long steps suffer from curvature, short ones from rounding.
    """
    start = array.copy()

    def difference(step):
        values = []
        for sign in (1, -1):
            array[...] = start + sign * step * direction
            values.append(value())
        return (values[0] - values[1]) / (2 * step)

    longest = LONGEST_STEP / np.sqrt(max(1, np.count_nonzero(direction)))  # the same length in every direction
    best, best_error, row = np.nan, np.inf, []
    for i in range(5):
        previous, row = row, [difference(longest / 2**i)]
        for j, before in enumerate(previous):
            row.append(row[j] + (row[j] - before) / (4 ** (j + 1) - 1))
            error = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - before))
            if error < best_error:
                best, best_error = row[j + 1], error
    array[...] = start
    return best


def relative_error(a, b):
    """|a - b| / (|a| + |b|) in Euclidean norms; 0 if both are zero, NaN if either is not finite."""
    size = np.linalg.norm(a) + np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / size) if size != 0 else 0.0


def compare_gradients(gradient, reference, n_terms, of_rows=()):
    """Compare a gradient in some precision with one in float64, array by array.

    Parameters
    ----------
    gradient, reference : Parameters
    n_terms : int, the terms of the longest sum in the computation: its rounding errors set the tolerance
    of_rows : list of Parameters
        Gradients of single datapoints, to tell the size of what was summed. Where datapoints cancel each other, as at
        the bias of standardized columns, the rounding errors are those of the terms, not of the small sum: float32 then
        says less about it, and the check in float64 must do.

    Returns
    -------
    tuple of ArrayCheck
    """
    rounding = float(np.finfo(gradient.vector.dtype).eps) * np.sqrt(n_terms) * 10
    checks = []
    for name, array in gradient.items():
        size = np.linalg.norm(array) + np.linalg.norm(reference[name])
        terms = np.mean([2 * np.linalg.norm(row[name]) for row in of_rows]) if of_rows else size
        tolerance = float(rounding * max(1, terms / size)) if size > 0 else rounding
        checks.append(ArrayCheck(name, relative_error(array.astype(float), reference[name]), tolerance))
    return tuple(checks)


def gradcheck(model, X, *, n_rows=10, full=None, random_state=0):
    """Check every gradient of a model on rows of X, on the backend it uses and in the precision it trains in.

    Parameters
    ----------
    model : VAE, fitted or not (then with the initial parameters that a fit to X would start from)
    X (N, D) : data; the first ``n_rows`` rows serve
    full : bool, optional
        Whether to move every parameter by itself; default: when there are at most 2000. Otherwise each array is moved
        along one random direction.
    random_state : int, for the noise and the directions

    Returns
    -------
    Report : ``print`` it; ``report.passed`` tells whether all arrays passed, ``report.failed`` which did not

    Raises
    ------
    ValueError, TypeError
        If X does not fit the model.
    """
    problem = gradient_problem(model, X, n_rows, random_state)
    differences = check_gradient(problem.exact, problem.parameters, full=full, random_state=random_state)
    _, reference = problem.reference(problem.parameters)
    _, gradient = problem.trained(problem.parameters)
    return Report(differences, compare_gradients(gradient, reference, problem.n_terms, problem.of_rows()))


class GradientProblem(NamedTuple):
    """Parameters in float64, three functions of them to (value, gradient), and what to measure those by."""

    parameters: object
    exact: object  # the model's backend in float64
    reference: object  # NumPy in float64
    trained: object  # the model's backend in the precision it trains in
    of_rows: object  # function without arguments: the reference gradients of single rows
    n_terms: int  # of the longest sum


def gradient_problem(model, X, n_rows, random_state):
    """Set up what `gradcheck` compares: the gradient on the first rows of X, computed in several ways."""
    architecture, data, vector, own = model.starting_point(X)
    rows = np.arange(min(n_rows, len(data.X)))
    numpy = backends.get("reference")
    parameters = Model(architecture, numpy).layout.view(vector)

    def parts(backend, dtype, rows):
        """Return a model, its estimator and the rows as it sees them."""
        inner = Model(architecture, backend, dtype)
        estimator = ESTIMATORS[model.estimator].make(inner, model.n_samples, len(data.X))
        return inner, estimator, inner.gather(data, rows, Buffers(backend, inner.dtype))

    def problem(backend, dtype, rows):
        """Return value and gradient for these rows as a function of Parameters."""
        inner, estimator, x = parts(backend, dtype, rows)
        # What is held constant comes from the reference, for all alike: the check is of the gradient, given that.
        _, exact, exact_x = parts(numpy, "float64", rows)
        noise = exact.draw(np.random.default_rng(random_state), len(rows))
        samples = _cast(exact.sample(parameters, exact_x, rows, noise)[0], inner)

        def value_and_grad(parameters):
            result = estimator.value_and_grad(inner.parameters(parameters.vector), x, samples)
            return result.value, inner.layout.view(backend.to_numpy(result.gradient.vector))

        return value_and_grad

    return GradientProblem(
        parameters,
        problem(own, "float64", rows),
        problem(numpy, "float64", rows),
        problem(own, model.dtype, rows),
        lambda: [problem(numpy, "float64", rows[i : i + 1])(parameters)[1] for i in rows],
        max(*architecture.hidden_layer_sizes, data.X.shape[1], model.n_samples * len(rows)),
    )


def _cast(samples, model):
    """Return an array, or a NamedTuple of arrays and numbers, in a model's precision and where it computes."""
    if isinstance(samples, tuple):
        return type(samples)(*(_cast(part, model) for part in samples))
    return samples if np.ndim(samples) == 0 else model.backend.asarray(samples, model.dtype)
