"""What scikit-learn expects of an estimator, without scikit-learn: settings, names of features, output as data frames.

That library is imported only where it asks for its own objects, and so is in use already.
"""

import inspect
import sys
import warnings

import numpy as np


class NotFittedError(ValueError, AttributeError):
    """A method needs a fitted model."""


def not_fitted(name):
    """Return the `NotFittedError` of an estimator; scikit-learn's as well, where that library is in use."""
    kinds = [NotFittedError]
    if "sklearn.exceptions" in sys.modules:
        kinds.append(sys.modules["sklearn.exceptions"].NotFittedError)
    kind = type("NotFittedError", tuple(kinds), {"__reduce__": lambda error: (not_fitted, (name,))})  # can be pickled
    return kind(f"this {name} is not fitted yet; call fit(X) first")


def check_choice(name, value, known):
    """Refuse a value that is not among the known ones."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")


def check_number(name, value, kind, least):
    """Refuse what is not a number of this kind (np.integer, np.floating) and at least ``least``."""
    types = (int, np.integer) if kind is np.integer else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, types) or not least <= value < np.inf:
        article = "an integer" if kind is np.integer else "a number"
        raise ValueError(f"{name} is {value!r}; expected {article} of at least {least}")


class Estimator:
    """Settings are the parameters of ``__init__``, each stored as given in the attribute of its name."""

    @classmethod
    def _settings(cls):
        return {name: p.default for name, p in inspect.signature(cls).parameters.items()}

    def get_params(self, deep=True):
        """Return the settings as a dict; ``deep`` makes no difference."""
        return {name: getattr(self, name) for name in self._settings()}

    def set_params(self, **params):
        """Change settings by name and return self; ValueError for unknown names."""
        known = self._settings()
        for name in params:
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(known)}")
        vars(self).update(params)
        return self

    def __repr__(self):
        defaults = self._settings()
        changed = (
            f"{name}={v!r}" for name, v in self.get_params().items() if v is not defaults[name] and v != defaults[name]
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self):
        """Tell scikit-learn what this estimator is: a transformer whose results have the type of its arithmetic."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            input_tags=InputTags(),
        )

    # Names of features ------------------------------------------------------------------------------------------------

    def _keep_feature_names(self, X):
        """Remember the names of the columns, if X has names that are all strings."""
        names = column_names(X)
        if names is not None:
            self.feature_names_in_ = names

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns that `transform` returns: vae0, vae1, ..."""
        self._check_fitted()
        prefix = type(self).__name__.lower()
        return np.array([f"{prefix}{i}" for i in range(self._n_features_out)], dtype=object)

    # Output as data frames --------------------------------------------------------------------------------------------

    def set_output(self, *, transform=None):
        """Choose what `transform` returns: "default" (an array), "pandas" or "polars"; None changes nothing."""
        if transform is not None:
            check_choice("transform", transform, ("default", "pandas", "polars"))
            self._sklearn_output_config = {"transform": transform}
        return self

    def _wrap(self, result, X):
        """Return what `transform` has computed as what was asked for, of this estimator or of scikit-learn."""
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


def column_names(X):
    """Return the names of a data frame's columns if all are strings, else None."""
    columns = getattr(X, "columns", None)
    if columns is None:
        return None
    names = np.asarray(list(columns), dtype=object)
    kinds = {isinstance(name, str) for name in names}
    if kinds == {True, False}:
        raise TypeError("X has columns whose names are strings and others; expected all strings, or none")
    return names if kinds == {True} else None


def compare_names(names, fitted, estimator):
    """Refuse other names of columns than those fitted to; warn if only one side has names, as scikit-learn does."""
    if names is None and fitted is None:
        return
    if fitted is None:
        message = f"X has feature names, but {estimator} was fitted without feature names"
        warnings.warn(message, stacklevel=_level_of_caller())
    elif names is None:
        message = f"X does not have valid feature names, but {estimator} was fitted with feature names"
        warnings.warn(message, stacklevel=_level_of_caller())
    elif len(names) != len(fitted) or np.any(names != fitted):
        same = "Feature names must be in the same order as they were in fit.\n" if set(names) == set(fitted) else ""
        raise ValueError(
            "The feature names should match those that were passed during fit.\n"
            + _difference("Feature names unseen at fit time:", names, fitted)
            + _difference("Feature names seen at fit time, yet now missing:", fitted, names)
            + same
        )


def _level_of_caller():
    """Return the level, for a warning in the calling function, of the first caller outside of this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    return level


def _difference(title, names, others):
    extra = sorted(set(names) - set(others))
    lines = [f"- {name}" for name in extra[:5]] + ["- ..."] * (len(extra) > 5)
    return "\n".join([title, *lines, ""]) if extra else ""
