"""The contents of a model file: a fitted VAE and the state of its training. ``modelfile`` reads and writes the file.

What each entry may hold stands in two tables, `HEADER` and `arrays_of`. They are compared with every file that is read,
and with every one before it is written: what is written can be read.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import backends, schema
from .backends import formulas
from .conventions import check_positive
from .estimators import ESTIMATORS
from .evaluation.health import Health
from .likelihoods import LIKELIHOODS
from .model import POSTERIORS, Architecture, Model
from .optimizers import AVERAGE
from .preprocessing import BINARIZE, Binarization, Preprocessor, Scaling, SpikeAndSlab
from .settings import SETTINGS, OneOf
from .training import Epoch, Progress, State

#: Prefixes of the names of the arrays of the estimator's and the optimizer's state in the file.
ESTIMATOR, OPTIMIZER = "estimator.", "optimizer."

#: The least positive float.
TINY = math.ulp(0.0)


# What a file may hold -------------------------------------------------------------------------------------------------


def _generator(name: str, value: Any) -> None:
    """Check for the state of NumPy's default generator."""
    generator = np.random.PCG64()
    try:
        generator.state = value
        known = generator.state == value
    except Exception:  # NumPy raises many types of error for a wrong state
        known = False
    if not known:
        raise ValueError(f"{name} is {value!r:.60}; expected the state of a PCG64 generator")


def _fixed(header: Mapping[str, Any]) -> schema.Check:
    """Return the check for the columns that are not in x, rows as `SpikeAndSlab`."""
    n_features, likelihood = (header["architecture"][name] for name in ("n_features", "likelihood"))
    width, below_one = schema.real(TINY), math.nextafter(1, 0)

    def check(name: str, value: Any) -> None:
        last = n_features + len(value) - 1 if isinstance(value, list) else 0
        schema.many(schema.row(schema.integer(0, last), schema.real(), width, width, schema.real(TINY, below_one)))(
            name, value
        )
        columns = [row[0] for row in value]
        if columns != sorted(set(columns)) or (columns and LIKELIHOODS[likelihood].unit_interval):
            raise ValueError(f"{name} is {value!r:.60}; expected increasing columns, where columns are standardized")

    return check


def _binary_columns(header: Mapping[str, Any]) -> schema.Check:
    """Return the check for the numbers of the binary columns, which only data of several kinds has."""
    built, fixed = header["architecture"], [row[0] for row in header["fixed"]]
    of_range = schema.many(schema.integer(0, _n_columns(header) - 1), built["n_binary"], AS_BUILT)

    def check(name: str, value: Any) -> None:
        of_range(name, value)
        is_mixed, n = built["likelihood"] == "mixed", len(value)
        if value != sorted({*value} - {*fixed}) or (n > 0) != is_mixed or n == built["n_features"]:
            raise ValueError(
                f"{name} is {value!r:.60}; expected increasing numbers, none of them fixed, for the likelihood "
                "'mixed' alone"
            )

    return check


def _binarize(header: Mapping[str, Any]) -> schema.Check:
    """Return the check for how grey values are binarized: of a density they are not."""
    density = LIKELIHOODS[header["architecture"]["likelihood"]].density
    return schema.exactly("none", ", of a density") if density else OneOf(BINARIZE).check


def _n_columns(header: Mapping[str, Any]) -> int:
    """Return the number of columns of the data."""
    return header["architecture"]["n_features"] + len(header["fixed"])


#: Why the architecture, which stands in the same file, allows no other value or length.
AS_BUILT = ", as in the architecture"

#: The check for what `preprocessing.fingerprints` returns for a dataset.
FINGERPRINT = schema.row(schema.integer(1), schema.integer(1), schema.text, schema.integer(0, 2**32 - 1))

#: The least value in an array of the state of an optimizer, by name.
LEAST = {name: -np.inf for update in formulas.UPDATES.values() for name in update.arrays}
LEAST |= {"squares": 0.0, "second_moment": 0.0, AVERAGE: -np.inf}

#: Fitted attributes that are stored in the header unchanged; null if the model has no such attribute. From the header,
#: whose earlier sections have passed, to the check of each.
FITTED: dict[str, Callable[[Mapping[str, Any]], schema.Check]] = {
    "n_features_in_": lambda header: schema.exactly(_n_columns(header), AS_BUILT),
    "feature_names_in_": lambda header: schema.optional(schema.many(schema.text, _n_columns(header), AS_BUILT)),
    "likelihood_": lambda header: schema.exactly(header["architecture"]["likelihood"], AS_BUILT),
    "learning_rate_": lambda header: check_positive,
    "seed_": lambda header: schema.integer(),
    "report_": lambda header: schema.many(schema.text),
    "n_samples_seen_": lambda header: schema.integer(1),
    "fingerprints_": lambda header: schema.optional(schema.row(FINGERPRINT, schema.optional(FINGERPRINT))),
    "stopped_": lambda header: schema.optional(schema.text),
    "backend_": lambda header: OneOf(backends.BACKENDS).check,
    "dtype_in_": lambda header: OneOf(("float16", "float32", "float64", np.dtype(np.longdouble).name)).check,
}

#: The sections of the header, in the order of their checks. From the header, whose earlier sections have passed, to the
#: check of each.
HEADER: dict[str, Callable[[Mapping[str, Any]], schema.Check]] = {
    "architecture": lambda header: schema.record(
        {
            "n_features": schema.integer(1),
            "n_components": schema.integer(1),
            "hidden_layer_sizes": schema.many(schema.integer(1)),
            "activation": OneOf(formulas.HIDDEN).check,
            "likelihood": OneOf(LIKELIHOODS).check,
            "constant_log_var": schema.flag,
            "posterior": OneOf(POSTERIORS).check,
            "random_weights": OneOf((), also=tuple(spec.random_weights for spec in ESTIMATORS.values())).check,
            "n_binary": schema.integer(),
            "has_encoder": schema.flag,
        }
    ),
    # A setting that is absent is newer than the file, and has its default. Others may be those of a subclass.
    "settings": lambda header: schema.record(
        {name: setting.kind.check for name, setting in SETTINGS.items()}, absent=SETTINGS, others=True
    ),
    "fixed": _fixed,
    "fitted": lambda header: schema.record({name: make(header) for name, make in FITTED.items()}),
    "units": lambda header: schema.row(schema.real(TINY, 1), schema.real(TINY, 1)),  # as in `Preprocessor`
    "binary_columns": _binary_columns,
    "binarize": _binarize,
    "history": lambda header: schema.many(
        schema.row(  # as `Epoch`: without encoder there is no bound; there may be no validation bound, or no value
            schema.integer(1),
            schema.integer(),
            schema.real(nan=not header["architecture"]["has_encoder"]),
            schema.real(-np.inf, np.inf, nan=True),
            schema.real(0),
            schema.real(nan=True),
        )
    ),
    "health": lambda header: schema.optional(
        schema.row(  # as `Health`
            schema.real(),
            schema.real(),
            schema.many(schema.real(), header["architecture"]["n_components"], AS_BUILT),
            schema.many(schema.flag, header["architecture"]["n_components"], AS_BUILT),
            schema.real(0, 1),
            schema.many(schema.text),
        )
    ),
    "progress": lambda header: schema.record(  # as `Progress`
        {
            "accumulate_only": schema.integer(),
            "counter": schema.row(schema.integer(0, 2**63 - 1), schema.exactly(-1, ", since no step has failed")),
            "epoch": schema.integer(1),
            "seen": schema.integer(0, header["fitted"]["n_samples_seen_"]),
            "total": schema.real(nan=not header["architecture"]["has_encoder"]),
            "total_value": schema.real(),
            "order": schema.optional(_generator),
            "rng": _generator,
            "samples_seen": schema.integer(),
            "seconds": schema.real(0),
            "best_bound": schema.real(-np.inf),
            "since_best": schema.integer(),
            "best": schema.text,
            "begun": schema.integer(),
        }
    ),
    "optimizer": lambda header: schema.many(OneOf(LEAST).check),  # the names of its arrays
    "notes": lambda header: schema.record({}, others=True),
}


class Member(NamedTuple):
    """What an array of the file may hold, besides that its numbers are finite.

    Examples
    --------
    >>> Member((3,), least=0.0).check("squares", np.array([1.0, -1.0, 2.0]))
    Traceback (most recent call last):
    ValueError: squares is -1.0 at 1; expected numbers of at least 0
    """

    shape: tuple[int, ...]
    least: float = -np.inf
    required: bool = True
    may_be_empty: bool = False

    def check(self, name: str, array: NDArray) -> None:
        """Raise ValueError if the array has another shape or type, or a number below the least."""
        if self.may_be_empty and array.shape == (0,):
            return
        if array.shape != self.shape or array.dtype.kind != "f":
            raise ValueError(f"{name} is {array.dtype} {array.shape}; expected floats {self.shape}{AS_BUILT}")
        if float(array.min()) < self.least:
            at = int(np.argmin(array))
            raise ValueError(f"{name} is {array[at]} at {at}; expected numbers of at least {self.least:.3g}")


def arrays_of(n_parameters: int, n_features: int, optimizer: Iterable[str]) -> dict[str, Member]:
    """Return the table of the arrays, from the names of those of the optimizer. The estimator's state may have others.

    Examples
    --------
    >>> [name for name, member in arrays_of(100, 5, ["squares"]).items() if member.required]
    ['parameters', 'best', 'shift', 'scale', 'optimizer.squares']
    """
    return {
        "parameters": Member((n_parameters,)),
        "best": Member((n_parameters,), may_be_empty=True),
        "last": Member((n_parameters,), required=False),
        "shift": Member((n_features,)),
        "scale": Member((n_features,), least=TINY),
        ESTIMATOR + "mean": Member((1,), required=False),
        ESTIMATOR + "step_size": Member((1,), least=TINY, required=False),
    } | {OPTIMIZER + name: Member((n_parameters,), least=LEAST[name]) for name in optimizer}


def check(header: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
    """Compare the contents of a file with the tables.

    Raises
    ------
    ValueError
        If they cannot be those of a fitted model. The message names the entry or the array.

    Examples
    --------
    >>> check({"architecture": {"n_features": 0}}, {})
    Traceback (most recent call last):
    ValueError: architecture lacks n_components, hidden_layer_sizes, activation, likelihood, constant_log_var, \
posterior, random_weights, n_binary, has_encoder
    """
    for name, section in HEADER.items():
        if name not in header:
            raise ValueError(f"it lacks {name}")
        section(header)(name, header[name])
    progress = header["progress"]
    schema.integer(0, progress["counter"][0])("progress.begun", progress["begun"])
    layout = Model(_architecture(header), backends.get("reference")).layout
    table = arrays_of(layout.size, header["architecture"]["n_features"], header["optimizer"])
    if lacking := [name for name, member in table.items() if member.required and name not in arrays]:
        raise ValueError(f"it lacks the array {lacking[0]}")
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} holds {np.sum(~np.isfinite(array))} NaN or infinite numbers; expected none")
        if name in table:
            table[name].check(name, array)
    dtype = header["settings"].get("dtype", arrays["parameters"].dtype)
    if arrays["parameters"].dtype != dtype:
        raise ValueError(f"settings.dtype is {dtype!r}; expected {arrays['parameters'].dtype}, as the parameters have")


# Writing and reading --------------------------------------------------------------------------------------------------


def to_file(vae: Any, notes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Convert a fitted VAE to a JSON-serializable header and named arrays.

    Raises
    ------
    ValueError
        If the file could not be read again, for example because a setting has been changed to what no fit accepts.
    """
    state, vector = vae.training_, vae.fitted_.model.backend.to_numpy(vae.parameters_.vector)
    in_json = {"callbacks": (), "dtype": vector.dtype.name}  # of settings that JSON cannot hold as they are
    settings = {name: in_json.get(name, value) for name, value in vae.get_params().items()}
    header = {
        "settings": _plain(settings),
        "fitted": _plain({name: getattr(vae, name, None) for name in FITTED}),
        "architecture": _plain(vae.architecture_._asdict()),
        "units": [vae.preprocessor_.uint8_unit, vae.preprocessor_.unit],
        "binary_columns": _plain(vae.preprocessor_.binary_columns),
        "fixed": _plain(vae.preprocessor_.fixed),
        "binarize": "none" if vae.preprocessor_.binarization is None else vae.preprocessor_.binarization.kind,
        "history": _plain(vae.history_),
        "health": _plain(getattr(vae, "health_", None)),
        "progress": _plain(dataclasses.asdict(state.progress)),
        "optimizer": sorted(state.optimizer),
        "notes": notes,
    }
    arrays = {"parameters": vector, "best": state.best}
    if not np.array_equal(state.parameters, vector):  # `vector` has the best validation bound; training ended elsewhere
        arrays["last"] = state.parameters
    arrays |= {ESTIMATOR + name: array for name, array in state.estimator.items()}
    arrays |= {OPTIMIZER + name: array for name, array in state.optimizer.items()}
    arrays |= vae.preprocessor_.scaling._asdict()
    check(header, arrays)
    return header, arrays


def from_file(kind: type, header: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> Any:
    """Make a fitted VAE of a header and named arrays.

    Parameters
    ----------
    kind : class of the result
    header, arrays : as from `modelfile.load`

    Raises
    ------
    ValueError
        If the contents cannot be those of a fitted model: see `check`.
    """
    header, arrays = _as_now(header, arrays)
    check(header, arrays)
    if unknown := [name for name in header["settings"] if name not in inspect.signature(kind).parameters]:
        raise ValueError(f"settings has {unknown[0]!r}, which is not a setting of {kind.__name__}")
    vae = kind(**{name: _tuples(value) for name, value in header["settings"].items()})
    fitted = dict(header["fitted"])
    names = fitted.pop("feature_names_in_")
    vars(vae).update(fitted)
    if names is not None:
        vae.feature_names_in_ = np.array(names, dtype=object)
    if header["health"] is not None:
        vae.health_ = Health(*map(_tuples, header["health"]))
    vae.architecture_ = _architecture(header)
    vae.notes_ = dict(header["notes"])
    vae.history_ = [Epoch(*epoch) for epoch in header["history"]]

    if missing := backends.missing(vae.backend):
        vae.report_.append(f"backend: auto instead of {vae.backend} ({missing})")
        vae.backend = "auto"
    vector = arrays["parameters"]
    vae.parameters_ = Model(vae.architecture_, backends.get("reference")).layout.view(np.array(vector))
    scaling, (uint8_unit, unit) = Scaling(arrays["shift"], arrays["scale"]), header["units"]
    vae.preprocessor_ = Preprocessor(
        vae.architecture_.likelihood,
        scaling,
        uint8_unit,
        unit,
        tuple(header["binary_columns"]),
        tuple(SpikeAndSlab(*row) for row in header["fixed"]),
        None if header["binarize"] == "none" else Binarization(header["binarize"], vae.seed_),
    )
    vae.training_ = State(
        arrays.get("last", vector),
        {name: arrays[OPTIMIZER + name] for name in header["optimizer"]},
        arrays["best"],
        Progress(**header["progress"]),
        {name.removeprefix(ESTIMATOR): array for name, array in arrays.items() if name.startswith(ESTIMATOR)},
    )
    return vae


def _as_now(header: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Give the entries of earlier versions their present names. What is not as they had it is left to `check`."""
    header = {name: dict(value) if isinstance(value, dict) else value for name, value in header.items()}
    arrays = dict(arrays)
    architecture, fitted, progress = (header.get(name) for name in ("architecture", "fitted", "progress"))
    if isinstance(architecture, dict):
        if "random" in architecture:  # before version 0.2
            architecture["random_weights"] = architecture.pop("random")
        architecture.setdefault("n_binary", 0)
        architecture.setdefault("has_encoder", True)
    if isinstance(fitted, dict):
        fitted.setdefault("backend_", "cpu")
        fitted.setdefault("dtype_in_", getattr(arrays.get("parameters"), "dtype", np.dtype(float)).name)
    if "uint8_scale" in header:
        header["units"] = [header.pop("uint8_scale"), 1.0]
    header.setdefault("binary_columns", [])
    header.setdefault("binarize", "none")
    if header["version"] < 5:  # these columns are in x, and their densities in the parameters
        header["fixed"] = []
    if "optimizer" not in header and "squares" in arrays:  # before version 4 of the format: the array of any optimizer
        header["optimizer"] = ["squares"]
        arrays[OPTIMIZER + "squares"] = arrays.pop("squares")
    if isinstance(progress, dict):
        progress.setdefault("best", "")
        progress.setdefault("begun", 0)
        progress.setdefault("total_value", 0.0)
    if isinstance(header.get("history"), list):
        header["history"] = [
            [*epoch, math.nan] if isinstance(epoch, list) and len(epoch) == 5 else epoch for epoch in header["history"]
        ]
    if isinstance(progress, dict) and "estimator" in progress:  # before version 0.2: the state of any estimator
        mean = progress.pop("estimator")
        schema.optional(schema.real())("progress.estimator", mean)
        if mean is not None:
            arrays[ESTIMATOR + "mean"] = np.array([float(mean)])
    return header, arrays


def _architecture(header: Mapping[str, Any]) -> Architecture:
    return Architecture(**{name: _tuples(value) for name, value in header["architecture"].items()})


def _plain(value: Any) -> Any:
    """Convert NumPy scalars, arrays, tuples and dicts to types that JSON has."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list | np.ndarray) else value


def _tuples(value: Any) -> Any:
    """Convert a list, which JSON has made of a tuple, to a tuple."""
    return tuple(value) if isinstance(value, list) else value
