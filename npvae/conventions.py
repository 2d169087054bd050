"""scikit-learn's conventions for estimators, without scikit-learn: settings, feature names, output as data frames.

scikit-learn is imported only in `Estimator.__sklearn_tags__`, which only scikit-learn calls.
"""

import dataclasses
import difflib
import html
import inspect
import sys
import warnings
from collections.abc import Collection, Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

#: The elements of an array that `short_repr` shows in full.
SHORT = 8


class NotFittedError(ValueError, AttributeError):
    """The model must be fitted before this method is called."""


def not_fitted(name: str) -> NotFittedError:
    """Return the `NotFittedError` of an estimator. If scikit-learn is loaded, it is also scikit-learn's error."""
    kinds = [NotFittedError]
    if "sklearn.exceptions" in sys.modules:
        kinds.append(sys.modules["sklearn.exceptions"].NotFittedError)
    kind = type("NotFittedError", tuple(kinds), {"__reduce__": lambda error: (not_fitted, (name,))})  # can be pickled
    return kind(f"this {name} is not fitted yet; call fit(X) first")


def did_you_mean(word: Any, known: Iterable[Any]) -> str:
    """Return a question that names the nearest of the known words, for the end of a message; "" if none is near.

    Case, hyphens and underscores do not count. A word that is a part of a single known one is near it as well.

    Examples
    --------
    >>> did_you_mean("n_component", ("n_components", "n_samples"))
    "; did you mean 'n_components'?"
    >>> did_you_mean("hidden", ("hidden_layer_sizes", "n_samples"))
    "; did you mean 'hidden_layer_sizes'?"
    >>> did_you_mean("wheel", ("n_components", "n_samples"))
    ''
    """
    if not isinstance(word, str):
        return ""
    plain = {_plain(name): name for name in known if isinstance(name, str)}
    near = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=0.7)  # "normal" is not near "uniform"
    if not near and len(_plain(word)) > 1:
        parts = [name for name in plain if _plain(word) in name]
        near = parts if len(parts) == 1 else []
    return f"; did you mean {plain[near[0]]!r}?" if near else ""


def _plain(word: str) -> str:
    return word.casefold().replace("-", "").replace("_", "").replace(" ", "")


def check_keywords(function: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise TypeError if a keyword argument of a function is not one of ``known``, as Python does."""
    for name in given:
        if name not in known:
            near = did_you_mean(name, known)
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{near}")


def check_choice(name: str, value: Any, known: Any) -> None:
    """Raise ValueError if ``value`` is not one of ``known``."""
    if value not in known:
        listed = ", ".join(map(repr, known))
        raise ValueError(f"{name} is {value!r}; expected one of {listed}{did_you_mean(value, known)}")


def check_number(name: str, value: Any, kind: type, least: float) -> None:
    """Raise ValueError if ``value`` is not a finite number of this kind (np.integer, np.floating) >= ``least``."""
    types = (int, np.integer) if kind is np.integer else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, types) or not least <= value < np.inf:
        article = "an integer" if kind is np.integer else "a number"
        raise ValueError(f"{name} is {value!r}; expected {article} of at least {least}")


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError if ``value`` is not a finite number above 0."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.integer | np.floating)
        or not 0 < value < np.inf
    ):
        raise ValueError(f"{name} is {value!r}; expected a number above 0")


def check_seed(name: str, value: Any) -> None:
    """Raise ValueError if ``value`` is not an integer of at least 0; None and generators are allowed."""
    if value is not None and not isinstance(value, np.random.Generator):
        check_number(name, value, np.integer, 0)


def kind_of(thing: object) -> str:
    """Say what a thing is, for messages."""
    return "None" if thing is None else f"of type {type(thing).__name__}"


def short_repr(thing: Any) -> str:
    """Return the repr of a NamedTuple or a dataclass, with no more than the shape and type of large arrays.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> class Pair(NamedTuple):
    ...     x: NDArray
    ...     y: NDArray
    >>> print(short_repr(Pair(np.array([1, 2]), np.zeros((500, 20)))))
    Pair(x=array([1, 2]), y=<array (500, 20) float64>)
    """
    names = getattr(thing, "_fields", None) or [field.name for field in dataclasses.fields(thing)]
    parts = [f"{name}={_short(getattr(thing, name))}" for name in names]
    return f"{type(thing).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_short(item)}" for key, item in value.items()) + "}"
    if hasattr(value, "dtype") and np.ndim(value) and value.size > SHORT:
        return f"<array {value.shape} {value.dtype}>"
    return repr(value)


def real_array(name: str, given: Any, expected: str = "an array of real numbers") -> NDArray[Any]:
    """Return an array of integers or floats; TypeError if ``given`` is not one."""
    try:
        array = np.asarray(given)
    except ValueError:  # parts of different shapes
        raise TypeError(f"{name} is {kind_of(given)}, with parts of different shapes; expected {expected}") from None
    if array.dtype.kind not in "iuf":
        found = kind_of(given) if array.dtype == object else f"of type {array.dtype}"
        raise TypeError(f"{name} is {found}; expected {expected}")
    return array


def array_of_shape(name: str, given: Any, shape: tuple[int | str, ...], why: str = "") -> NDArray[Any]:
    """Return an array of integers or floats of a shape, whose letters stand for any number but 0.

    Nothing is broadcast. Raises TypeError if ``given`` is not such an array, ValueError if it has another shape.

    Examples
    --------
    >>> array_of_shape("log_q", [1.0, 2.0], ("L",)).shape
    (2,)
    >>> array_of_shape("log_q", [[1.0], [2.0]], ("L",))
    Traceback (most recent call last):
    ValueError: log_q has the shape (2, 1); expected (L,)
    """
    array = real_array(name, given)
    wrong = any(n != m if isinstance(m, int) else n == 0 for n, m in zip(array.shape, shape))
    if array.ndim != len(shape) or wrong:
        letters = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(f"{name} has the shape {array.shape}; expected {letters}{why}")
    return array


def check_each(name: str, array: NDArray[Any], right: NDArray[np.bool_], expected: str) -> None:
    """Raise ValueError that names the first element of an array which is not right."""
    wrong = np.argwhere(~right)
    if len(wrong):
        place = f" at {wrong[0].tolist()}" if array.ndim else ""
        raise ValueError(f"{name} is {array[tuple(wrong[0])]}{place}; expected {expected}")


def not_finite(name: str, result: NDArray[Any]) -> str | None:
    """Say which rows of a result hold numbers that are not finite; None if all are finite.

    Examples
    --------
    >>> not_finite("scores", np.array([-1.0, -np.inf, np.nan]))[:70]
    'scores is NaN or infinite in 2 of 3 rows, the first is row 1: the mode'
    """
    bad = np.flatnonzero(~np.isfinite(result).reshape(len(result), -1).all(axis=1))
    if not len(bad):
        return None
    return (
        f"{name} is NaN or infinite in {len(bad)} of {len(result)} rows, the first is row {bad[0]}: "
        "the model has diverged, or the row is too far from its training data"
    )


def warn_if_not_finite(name: str, result: NDArray[Any]) -> NDArray[Any]:
    """Warn of what `not_finite` finds, at the line that called this package; return the result."""
    if message := not_finite(name, result):
        warn(message, RuntimeWarning)
    return result


class SklearnEstimator:
    """Base class. The settings are the parameters of ``__init__``; each is stored, unchanged, as an attribute."""

    def __new__(cls, *arguments: Any, **settings: Any) -> Self:
        """Refuse a setting that is not there, and name the nearest one, which Python's own error does not."""
        known = inspect.signature(cls).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            check_keywords(cls.__name__, settings, known)
        return super().__new__(cls)

    @classmethod
    def _settings(cls) -> dict[str, Any]:
        """Return the default of each setting."""
        return {name: p.default for name, p in inspect.signature(cls).parameters.items()}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the settings as a dict. ``deep`` has no effect."""
        return {name: getattr(self, name) for name in self._settings()}

    def set_params(self, **params: Any) -> Self:
        """Change settings by name.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no setting of a name.
        """
        known = self._settings()
        for name in params:
            if name not in known:
                near = did_you_mean(name, known)
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(known)}{near}")
        vars(self).update(params)
        return self

    def __repr__(self) -> str:
        """Return the call that makes the estimator and, once it is fitted, a comment on each line of its summary."""
        return "\n".join([self._call(), *(f"# {name}: {text}" for name, text in self._summary())])

    def _repr_html_(self) -> str:
        """Return the same for a notebook: a table without colours of its own, for dark and light pages."""
        cell = '<td style="text-align: left; vertical-align: top; background: none">'
        rows = (
            f"<tr>{cell}{html.escape(name)}</td>{cell}{html.escape(text)}</td></tr>" for name, text in self._summary()
        )
        call = f'<pre style="white-space: pre-wrap; margin: 0">{html.escape(self._call())}</pre>'
        return f"<div>{call}<table>{''.join(rows)}</table></div>"

    def _call(self) -> str:
        """Return the call of the constructor, with the settings that differ from their defaults."""
        defaults = self._settings()
        changed = (
            f"{name}={v!r}" for name, v in self.get_params().items() if v is not defaults[name] and v != defaults[name]
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def _summary(self) -> Iterable[tuple[str, str]]:
        """Yield lines (name, text) about what was fitted; none before ``fit``. A subclass may define this."""
        return ()

    def __sklearn_tags__(self) -> Any:
        """Describe this estimator to scikit-learn: a transformer that takes sparse X, and may accept NaN."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            input_tags=InputTags(sparse=True, allow_nan=self._allows_nan),
        )

    # Names of features ------------------------------------------------------------------------------------------------

    def _check_fitted(self) -> None:
        """Raise `NotFittedError` before ``fit``. A subclass defines this."""
        raise NotImplementedError

    @property
    def _allows_nan(self) -> bool:
        """Whether X may have NaN. A subclass may redefine this."""
        return False

    @property
    def _n_features_out(self) -> int:
        """The number of columns that ``transform`` returns. A subclass defines this."""
        raise NotImplementedError

    def _keep_feature_names(self, X: Any) -> None:
        """Store the column names of X, if all of them are strings."""
        names = column_names(X)
        if names is not None:
            self.feature_names_in_ = names

    def get_feature_names_out(self, input_features: Any = None) -> NDArray:
        """Return the names of the columns that ``transform`` returns: vae0, vae1, ..."""
        self._check_fitted()
        prefix = type(self).__name__.lower()
        return np.array([f"{prefix}{i}" for i in range(self._n_features_out)], dtype=object)

    # Output as data frames --------------------------------------------------------------------------------------------

    def set_output(self, *, transform: str | None = None) -> Self:
        """Choose what ``transform`` returns: "default" (an array), "pandas" or "polars". None changes nothing."""
        if transform is not None:
            check_choice("transform", transform, ("default", "pandas", "polars"))
            self._sklearn_output_config = {"transform": transform}
        return self

    def _wrap(self, result: NDArray, X: Any) -> Any:
        """Convert the result of ``transform`` to the output chosen with `set_output`, or else in scikit-learn."""
        config = getattr(self, "_sklearn_output_config", {}).get("transform")
        if config is None and "sklearn" in sys.modules:
            config = sys.modules["sklearn"].get_config()["transform_output"]
        if config == "pandas":
            import pandas

            index = X.index if isinstance(X, pandas.DataFrame) else None
            return pandas.DataFrame(result, index=index, columns=self.get_feature_names_out())
        if config == "polars":
            import polars

            return polars.DataFrame(result, schema=list(self.get_feature_names_out()))
        return result


def as_given(X: Any, result: NDArray) -> Any:
    """Return numbers for each cell of a table X as X is: as a data frame with its columns and index, or as they are."""
    if (pandas := sys.modules.get("pandas")) and isinstance(X, pandas.DataFrame):
        return pandas.DataFrame(result, index=X.index, columns=X.columns)
    if (polars := sys.modules.get("polars")) and isinstance(X, polars.DataFrame):
        return polars.DataFrame(result, schema=X.columns)
    return result


def column_names(X: Any) -> NDArray | None:
    """Return the column names of a data frame if they are strings; None if they are not, or if X has no columns.

    Raises
    ------
    TypeError
        If some are strings and some are not.
    """
    columns = getattr(X, "columns", None)
    if columns is None:
        return None
    names = np.asarray(list(columns), dtype=object)
    kinds = {isinstance(name, str) for name in names}
    if kinds == {True, False}:
        raise TypeError("X has columns whose names are strings and others; expected all strings, or none")
    return names if kinds == {True} else None


def compare_names(names: NDArray | None, fitted: NDArray | None, estimator: str) -> None:
    """Compare column names with those of the fit, as scikit-learn does.

    Raises ValueError if they differ, and warns if only one of the two has names.
    """
    if names is None and fitted is None:
        return
    if fitted is None:
        warn(f"X has feature names, but {estimator} was fitted without feature names")
    elif names is None:
        warn(f"X does not have valid feature names, but {estimator} was fitted with feature names")
    elif len(names) != len(fitted) or np.any(names != fitted):
        same = "Feature names must be in the same order as they were in fit.\n" if set(names) == set(fitted) else ""
        raise ValueError(
            "The feature names should match those that were passed during fit.\n"
            + _difference("Feature names unseen at fit time:", names, fitted)
            + _difference("Feature names seen at fit time, yet now missing:", fitted, names)
            + same
        )


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, with the line outside of this package that has led to the warning."""
    frame, level = sys._getframe(0), 1
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _difference(title: str, names: NDArray, others: NDArray) -> str:
    """List the names that are not among the others, at most five; an empty string if there are none."""
    extra = sorted(set(names) - set(others))
    lines = [f"- {name}" for name in extra[:5]] + ["- ..."] * (len(extra) > 5)
    return "\n".join([title, *lines, ""]) if extra else ""
