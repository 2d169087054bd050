"""Exercises that check themselves: verdicts on right, wrong, mistaken and odd answers."""

import numpy as np
import pytest

from npvae.exercises import Exercise


def squares(x):
    return x**2, np.sum(x**2)


X = np.array([1.0, 2.0, 3.0])


def exercise(**changes):
    """Return an exercise with two results, one an array and one a number."""
    arguments = {
        "solution": squares,
        "mistakes": {
            "it is doubled, not squared": lambda x: (2 * x, np.sum(x**2)),
            "the sum is a mean": lambda x: (x**2, np.mean(x**2)),
            "it is nan where x is 1": lambda x: (np.where(x == 1, np.nan, x**2), np.sum(x**2)),
        },
        "inputs": [(X,), (-X[:2],)],
        "expected": [(np.array([1.0, 4.0, 9.0]), 14.0), (np.array([1.0, 4.0]), 5)],
    }
    return Exercise(**arguments | changes)


@pytest.mark.parametrize(
    "attempt, verdict",
    [
        (squares, "right"),
        (lambda x: (list(x * x), float(x @ x)), "right"),
        (lambda x: None, "not written yet"),
        (lambda x: ..., "not written yet"),
        (lambda x: (x + x, x @ x), "not yet: it is doubled, not squared"),
        (lambda x: (x**2, (x**2).mean()), "not yet: the sum is a mean"),
        (lambda x: (np.where(x == 1, np.nan, x**2), x @ x), "not yet: it is nan where x is 1"),
        (lambda x: x**2, "not yet: expected 2 results: an array of shape (3,), a number, found an array of shape (3,)"),
        (lambda x: (0 * x, 0), "not yet: result 1 of 2, entry (2,), for [1. 2. 3.] it should be 9, not 0"),
        (lambda x: (abs(x) ** 3, x @ x), "not yet: result 1 of 2, entry (2,), for [1. 2. 3.] it should be 9, not 27"),
        (lambda x: (x * abs(x), x @ x), "not yet: result 1 of 2, entry (1,), for [-1. -2.] it should be 4, not -4"),
        (lambda x: (x**2, np.nan), "not yet: result 2 of 2, for [1. 2. 3.] it should be 14, not nan"),
        (lambda x: (x**2, np.inf), "not yet: result 2 of 2, for [1. 2. 3.] it should be 14, not inf"),
        (lambda x: "nine", "not yet: expected numbers, found 'nine'"),
        (lambda x: (x**2 + 1j, 14), "not yet: expected numbers, found (array([1.+1.j, 4.+1.j, 9.+1.j]), 14)"),
        (lambda x: x[5], "not yet: it raised IndexError: index 5 is out of bounds for axis 0 with size 3"),
        (lambda: 0, "not yet: it raised TypeError:"),
    ],
)
def test_verdicts(attempt, verdict):
    assert exercise()(attempt).startswith(verdict)
    if not verdict.endswith(":"):
        assert exercise()(attempt) == verdict


def test_an_attempt_cannot_change_the_question():
    def spoil(x):
        x *= 0
        return x, 0.0

    check = exercise()
    assert check(spoil) != "right"
    assert check(squares) == "right"
    assert X[2] == 3


def test_the_tolerance_is_relative_to_the_largest_entry():
    check = Exercise(solution=lambda: X, mistakes={}, inputs=[()], expected=[X])
    assert check(lambda: X + 2e-8) == "right"
    assert check(lambda: X + np.array([0, 0, 4e-8])) == "not yet: entry (2,), it should be 3, not 3"
    zero = Exercise(solution=lambda: 0.0, mistakes={}, inputs=[()], expected=[0.0])
    assert zero(lambda: 1e-300) != "right"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"solution": lambda x: (x, 0)}, "solution is not right: not yet: result 1 of 2"),
        ({"mistakes": {"none": squares}}, "mistakes\\['none'\\] is told 'right'"),
        (
            {"mistakes": {"zero": lambda x: (x, 0), "again": lambda x: (x, 0)}},
            "mistakes\\['again'\\] is told 'not yet: zero'",
        ),
        ({"mistakes": {"stub": lambda x: ...}}, "mistakes\\['stub'\\] is told 'not written yet'"),
        ({"inputs": [(X,)]}, "one entry for each call, found 1 and 2"),
        ({"inputs": [], "expected": []}, "found 0 and 0"),
    ],
)
def test_an_exercise_that_cannot_judge_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        exercise(**changes)
