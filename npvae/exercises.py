"""Exercises that check themselves: say whether an answer is right, and name the mistake if it is a known one."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

#: The answers of a checker that do not say what is wrong.
RIGHT, NOT_WRITTEN = "right", "not written yet"


class Exercise:
    """A function that a reader is asked to write, with what is known of right and wrong answers.

    Call it with an attempt to get a sentence: "right", "not written yet" if the attempt returns None, or "not yet: "
    with what is wrong. An attempt that makes one of the known mistakes is told its name.

    Parameters
    ----------
    solution : function
        A right answer.
    mistakes : mapping from a sentence to a function
        Known mistakes, and functions that make them.
    inputs : sequence of tuples
        The arguments of each call. Attempts are given copies.
    expected : sequence
        The result of each call: an array, a number, or a tuple of these. It should come from elsewhere than from the
        solution: from a closed form, a numerical integral, or another library.
    rtol : float
        Relative tolerance. For an array, it is relative to the largest absolute value in it.

    Raises
    ------
    ValueError
        If the solution is not right, or a mistake cannot be told from the solution or from another mistake.

    Examples
    --------
    >>> def mean_square(x):
    ...     return np.mean(x**2)
    >>> check = Exercise(
    ...     solution=mean_square,
    ...     mistakes={"it is the square of the mean": lambda x: np.mean(x) ** 2},
    ...     inputs=[(np.array([1.0, 2.0, 3.0]),)],
    ...     expected=[14 / 3],
    ... )
    >>> check(lambda x: ...)
    'not written yet'
    >>> check(lambda x: np.mean(x) ** 2)
    'not yet: it is the square of the mean'
    >>> check(lambda x: np.sum(x**2) / 2)
    'not yet: for [1. 2. 3.] it should be 4.66667, not 7'
    >>> check(lambda x: x @ x / len(x))
    'right'
    """

    def __init__(
        self,
        *,
        solution: Callable[..., Any],
        mistakes: Mapping[str, Callable[..., Any]],
        inputs: Sequence[tuple],
        expected: Sequence[Any],
        rtol: float = 1e-8,
    ) -> None:
        if not inputs or len(inputs) != len(expected):
            raise ValueError(
                f"inputs and expected must have one entry for each call, found {len(inputs)} and {len(expected)}"
            )
        self.solution, self.mistakes, self.rtol = solution, dict(mistakes), rtol
        self.inputs, self.expected = list(inputs), [_parts(result) for result in expected]
        if (verdict := self(solution)) != RIGHT:
            raise ValueError(f"solution is not right: {verdict}")
        for what, mistake in self.mistakes.items():
            if (verdict := self(mistake)) != f"not yet: {what}":
                raise ValueError(f"mistakes[{what!r}] is told {verdict!r}")

    def __call__(self, attempt: Callable[..., Any]) -> str:
        """Judge an attempt.

        Parameters
        ----------
        attempt : function
            It takes the arguments that the exercise asks for.

        Returns
        -------
        verdict : str
        """
        results = []
        for arguments in self.inputs:
            try:
                result = _call(attempt, arguments)
            except Exception as error:  # whatever a learner's function raises is an answer to report
                return f"not yet: it raised {type(error).__name__}: {error}"
            if result is None or result is Ellipsis:
                return NOT_WRITTEN
            try:
                results.append(_parts(result))
            except (TypeError, ValueError):
                return f"not yet: expected numbers, found {result!r}"
        for found, right in zip(results, self.expected):
            if [part.shape for part in found] != [part.shape for part in right]:
                return f"not yet: expected {_shapes(right)}, found {_shapes(found)}"
        if all(map(self._equal, results, self.expected)):
            return RIGHT
        for what, mistake in self.mistakes.items():
            if all(map(self._equal, results, (_parts(_call(mistake, arguments)) for arguments in self.inputs))):
                return f"not yet: {what}"
        return f"not yet: {self._first_difference(results)}"

    def _equal(self, found: list, right: list) -> bool:
        return all(map(self._equal_parts, found, right))

    def _equal_parts(self, found: np.ndarray, right: np.ndarray) -> bool:
        finite = np.abs(right[np.isfinite(right)])
        atol = self.rtol * finite.max() if finite.size else 0
        return found.shape == right.shape and np.allclose(found, right, rtol=0, atol=atol, equal_nan=True)

    def _first_difference(self, results: list) -> str:
        for arguments, found, right in zip(self.inputs, results, self.expected):
            for i, (part, expected) in enumerate(zip(found, right)):
                if not self._equal_parts(part, expected):
                    distance = np.where(np.isnan(expected), np.isfinite(part), np.abs(part - expected))
                    where = np.unravel_index(np.argmax(np.nan_to_num(distance, nan=np.inf)), part.shape)
                    place = f"result {i + 1} of {len(right)}, " if len(right) > 1 else ""
                    place += f"entry {tuple(map(int, where))}, " if where else ""
                    given = f"for {', '.join(map(_shown, arguments))} " if arguments else ""
                    return f"{place}{given}it should be {expected[where]:.6g}, not {part[where]:.6g}"
        raise AssertionError("no difference")  # called only where there is one


def _call(function: Callable[..., Any], arguments: tuple) -> Any:
    """Call a function with copies of the arguments; what overflows in it is its own affair."""
    with np.errstate(all="ignore"):
        return function(*copy.deepcopy(arguments))


def _shown(argument: Any) -> str:
    """Return an argument as text, an array of more than a few numbers by its shape."""
    array = np.asarray(argument)
    return f"an array {array.shape}" if array.size > 6 else np.array2string(array, precision=3).replace("\n", "")


def _parts(result: Any) -> list[np.ndarray]:
    """Return the arrays of a result, which may be one array or number, or a tuple of these."""
    parts = [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]
    return [part.astype(np.float64, casting="same_kind") for part in parts]


def _shapes(parts: list[np.ndarray]) -> str:
    shapes = ["a number" if part.shape == () else f"an array of shape {part.shape}" for part in parts]
    return shapes[0] if len(shapes) == 1 else f"{len(shapes)} results: {', '.join(shapes)}"
