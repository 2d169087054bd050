"""Checks of what was read from a file: numbers, texts, lists and records, put together as a table.

A check is a function of the name of an entry and its value, as JSON has it. It raises ValueError with the name, what
was found and what is expected. What the entries mean is up to the modules that have such a table.
"""

import math
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

Check = Callable[[str, Any], None]

#: The largest float.
MAX = sys.float_info.max


def integer(least: int = 0, most: float = math.inf) -> Check:
    """Return the check for an integer of a range.

    Examples
    --------
    >>> integer(1)("progress.epoch", 0)
    Traceback (most recent call last):
    ValueError: progress.epoch is 0; expected an integer of at least 1
    """
    upper = "" if most == math.inf else f" and at most {most}"

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            _refuse(name, value, f"an integer of at least {least}{upper}")

    return check


def real(least: float = -MAX, most: float = MAX, nan: bool = False) -> Check:
    """Return the check for a number of a range: by default any finite one. ``nan`` allows NaN, too.

    Examples
    --------
    >>> real()("progress.total", float("inf"))
    Traceback (most recent call last):
    ValueError: progress.total is inf; expected a finite number
    """
    if (least, most) == (-MAX, MAX):
        expected = "a finite number"
    else:
        expected = f"a number from {least:.3g} to {most:.3g}" if most < MAX else f"a number of at least {least:.3g}"

    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float) or not (least <= value <= most or (nan and value != value)):
            _refuse(name, value, expected)

    return check


def text(name: str, value: Any) -> None:
    """Check for a string.

    Examples
    --------
    >>> text("fitted.stopped_", "a callback stopped training")
    """
    if not isinstance(value, str):
        _refuse(name, value, "a string")


def flag(name: str, value: Any) -> None:
    """Check for true or false.

    Examples
    --------
    >>> flag("architecture.constant_log_var", True)
    """
    if not isinstance(value, bool):
        _refuse(name, value, "true or false")


def exactly(expected: Any, why: str) -> Check:
    """Return the check for one value, which something else in the file determines.

    Examples
    --------
    >>> exactly(5, ", as the architecture has")("fitted.n_features_in_", 4)
    Traceback (most recent call last):
    ValueError: fitted.n_features_in_ is 4; expected 5, as the architecture has
    """

    def check(name: str, value: Any) -> None:
        if type(value) is not type(expected) or value != expected:
            _refuse(name, value, f"{expected!r}{why}")

    return check


def optional(check: Check) -> Check:
    """Return the check that accepts null as well.

    Examples
    --------
    >>> optional(text)("fitted.stopped_", None)
    """
    return lambda name, value: None if value is None else check(name, value)


def many(check: Check, length: int | None = None, why: str = "") -> Check:
    """Return the check for a list, of any length or of this one, each of whose items passes a check.

    ``why`` says where the length comes from.

    Examples
    --------
    >>> many(text)("fitted.report_", ["likelihood: gaussian", 3])
    Traceback (most recent call last):
    ValueError: fitted.report_[1] is 3; expected a string
    """

    def check_all(name: str, value: Any) -> None:
        if not isinstance(value, list) or length not in (None, len(value)):
            _refuse(name, value, "a list" if length is None else f"a list of {length}{why}")
        for i, item in enumerate(value):
            check(f"{name}[{i}]", item)

    return check_all


def row(*checks: Check) -> Check:
    """Return the check for a list of as many items as there are checks, one for each.

    Examples
    --------
    >>> row(integer(), text)("fingerprint", [3, "<f8"])
    """

    def check_row(name: str, value: Any) -> None:
        many(lambda *_: None, len(checks))(name, value)
        for i, (check, item) in enumerate(zip(checks, value)):
            check(f"{name}[{i}]", item)

    return check_row


def record(checks: Mapping[str, Check], absent: Collection[str] = (), others: bool = False) -> Check:
    """Return the check for a record, with a check for each of its entries, in this order.

    Parameters
    ----------
    checks : mapping of name -> check
    absent : names that may be absent
    others : bool, whether the record may have entries of other names

    Examples
    --------
    >>> record({"seed": integer()})("fitted", {"sed": 1})
    Traceback (most recent call last):
    ValueError: fitted lacks seed
    """

    def check_record(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            _refuse(name, value, "a record")
        if lacking := [entry for entry in checks if entry not in value and entry not in absent]:
            raise ValueError(f"{name} lacks {', '.join(lacking)}")
        if not others and (unknown := [entry for entry in value if entry not in checks]):
            raise ValueError(f"{name} has {unknown[0]!r}; expected only {', '.join(checks)}")
        for entry, check in checks.items():
            if entry in value:
                check(f"{name}.{entry}", value[entry])

    return check_record


def _refuse(name: str, value: Any, expected: str) -> NoReturn:
    found = repr(value)
    raise ValueError(f"{name} is {found if len(found) < 80 else found[:76] + ' ...'}; expected {expected}")
