"""The contents of a model file: a fitted VAE and the state of its training. ``modelfile`` reads and writes the file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from .evaluation.health import Health
from .model import Architecture, Model
from .preprocessing import Preprocessor, Scaling
from .training import Epoch, Progress, State

#: Prefixes of the names of the arrays of the estimator's and the optimizer's state in the file.
ESTIMATOR, OPTIMIZER = "estimator.", "optimizer."

#: Fitted attributes that are stored in the header unchanged; null if the model has no such attribute.
FITTED = (
    "n_features_in_",
    "feature_names_in_",
    "likelihood_",
    "learning_rate_",
    "seed_",
    "report_",
    "n_samples_seen_",
    "fingerprints_",
    "stopped_",
    "backend_",
)


def to_file(vae: Any) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Convert a fitted VAE to a JSON-serializable header and named arrays."""
    state, vector = vae.training_, vae.fitted_.model.backend.to_numpy(vae.parameters_.vector)
    in_json = {"callbacks": (), "dtype": vector.dtype.name}  # of settings that JSON cannot hold as they are
    settings = {name: in_json.get(name, value) for name, value in vae.get_params().items()}
    header = {
        "settings": _plain(settings),
        "fitted": _plain({name: getattr(vae, name, None) for name in FITTED}),
        "architecture": _plain(vae.architecture_._asdict()),
        "uint8_scale": vae.preprocessor_.uint8_scale,
        "history": _plain(vae.history_),
        "health": _plain(getattr(vae, "health_", None)),
        "progress": _plain(dataclasses.asdict(state.progress)),
        "optimizer": sorted(state.optimizer),
    }
    arrays = {"parameters": vector, "best": state.best}
    if not np.array_equal(state.parameters, vector):  # `vector` has the best validation bound; training ended elsewhere
        arrays["last"] = state.parameters
    arrays |= {ESTIMATOR + name: array for name, array in state.estimator.items()}
    arrays |= {OPTIMIZER + name: array for name, array in state.optimizer.items()}
    return header, arrays | vae.preprocessor_.scaling._asdict()


def from_file(kind: type, header: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> Any:
    """Make a fitted VAE of a header and named arrays.

    Parameters
    ----------
    kind : class of the result
    header, arrays : as from `to_file`

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        If the contents are incomplete or inconsistent.
    """
    vae = kind(**{name: _tuples(value) for name, value in header["settings"].items()})
    fitted = {"backend_": "cpu"} | {name: header["fitted"][name] for name in FITTED if name in header["fitted"]}
    if set(fitted) != set(FITTED):
        raise ValueError(f"it lacks {', '.join(sorted(set(FITTED) - set(fitted)))}")
    names = fitted.pop("feature_names_in_")
    vars(vae).update(fitted)
    if names is not None:
        vae.feature_names_in_ = np.array(names, dtype=object)
    if header["health"] is not None:
        vae.health_ = Health(*map(_tuples, header["health"]))
    architecture = {name: _tuples(value) for name, value in header["architecture"].items()}
    if "random" in architecture:  # its name before version 0.2
        architecture["random_weights"] = architecture.pop("random")
    vae.architecture_ = Architecture(**architecture)
    vae.notes_ = dict(header["notes"])
    vae.history_ = [Epoch(*epoch) for epoch in header["history"]]

    if missing := backends.missing(vae.backend):
        vae.report_.append(f"backend: auto instead of {vae.backend} ({missing})")
        vae.backend = "auto"
    layout = Model(vae.architecture_, backends.get("reference")).layout
    vector = _expect(arrays, "parameters", layout.size)
    vae.parameters_ = layout.view(np.array(vector))
    scaling = Scaling(*(_expect(arrays, name, vae.architecture_.n_features) for name in Scaling._fields))
    vae.preprocessor_ = Preprocessor(vae.architecture_.likelihood, scaling, float(header["uint8_scale"]))
    progress = dict(header["progress"])
    baseline = progress.pop("estimator", None)  # before version 0.2: a number, the only state of any estimator
    state = {name.removeprefix(ESTIMATOR): arrays[name] for name in arrays if name.startswith(ESTIMATOR)}
    if "optimizer" in header:
        optimizer = {name: OPTIMIZER + name for name in header["optimizer"]}
    else:  # before version 4 of the format: the array of any optimizer
        optimizer = {"squares": "squares"}
    vae.training_ = State(
        _expect(arrays, "last", len(vector)) if "last" in arrays else vector,
        {name: _expect(arrays, member, len(vector)) for name, member in optimizer.items()},
        _expect(arrays, "best", len(vector) if len(arrays["best"]) else 0),
        Progress(**progress),
        state if baseline is None else {"mean": np.array([float(baseline)])},
    )
    return vae


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


def _expect(arrays: Mapping[str, NDArray], name: str, length: int) -> NDArray:
    """Return a vector of floats of this length; ValueError if it is something else."""
    array = arrays[name]
    if array.shape != (length,) or array.dtype.kind != "f":
        raise ValueError(f"{name} is {array.dtype} {array.shape}; expected floats {(length,)}")
    return array
