"""The command ``gradcheck``: checks every gradient of a model, or of all likelihoods and estimators."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import TOLERANCE, Report, gradcheck
from ..estimators import ESTIMATORS, available
from ..likelihoods import LIKELIHOODS
from ..settings import SETTINGS
from ..vae import VAE
from .options import (
    Commands,
    add_command,
    add_dataset,
    add_settings,
    chosen_settings,
    given_settings,
    load_dataset,
    load_model,
)

#: Rows of the data that are looked at: as many as the largest minibatch of a check, about.
N_ROWS = 150


def add_commands(commands: Commands) -> None:
    """Add ``gradcheck``."""
    check = add_command(
        commands,
        "gradcheck",
        run_gradcheck,
        "check every gradient by finite differences, on minibatches of several sizes; status 1 if one is wrong",
        "gradcheck mnist.npz --dataset mnist",
    )
    check.add_argument(
        "model",
        type=Path,
        nargs="?",
        help="a model file; default: all likelihoods and estimators, each with all parameters of a small net and with "
        "each array of a net of the settings given",
    )
    add_dataset(check, default="digits", option=True)
    add_settings(check)


def run_gradcheck(arguments: argparse.Namespace) -> int:
    """Check one model, or all likelihoods and estimators on two sizes of net; return the exit status."""
    if arguments.model and given_settings(arguments):
        raise ValueError(f"{arguments.model} has its own settings; give either a model or settings")
    model = load_model(arguments.model) if arguments.model else None
    X = load_dataset(arguments, model).X_test[:N_ROWS]
    models = [(arguments.model, model, X)] if model else models_to_check(arguments, X)
    reports = {}
    for title, model, rows in models:
        report = reports[title] = gradcheck(model, rows)
        print(f"{title}: {summary(report)}" if report.passed else f"{title}:\n{report}")
    passed = sum(report.passed for report in reports.values())
    checks = [check for report in reports.values() for check in report.differences]
    errors = [check.error for check in checks if check.tolerance < 2 * TOLERANCE]  # not of vanishing gradients
    largest = f"{max(errors):.2e}" if errors else "none, all gradients vanish"
    print(f"{passed} of {len(reports)} models passed; largest error in float64: {largest}")
    return 0 if passed == len(reports) else 1


def summary(report: Report) -> str:
    """Return the line of a model that passed; it says how many gradients were too small to be checked."""
    vanish = sum(check.below_rounding for checks in report for check in checks)
    note = f"; {vanish} not checked, below rounding errors" if vanish else ""
    return f"passed, worst {report.worst.name} {report.worst.error:.1e}{note}"


def models_to_check(arguments: argparse.Namespace, X: np.ndarray) -> Iterator[tuple[str, VAE, np.ndarray]]:
    """Yield (title, VAE, data) for each likelihood and estimator, with a small net and with the net of the settings.

    An option restricts them to one likelihood or estimator. Likelihoods of data in [0, 1] are left out if the data is
    not, and so are estimators that do not go with the posterior or the backend.

    Parameters
    ----------
    arguments : argparse.Namespace
    X : array (N, D)
    """
    settings = chosen_settings(arguments)
    middle = X.shape[1] // 2
    nets: tuple[tuple[str, dict[str, Any], np.ndarray], ...] = (
        ("all parameters of a small net", {"n_components": 3, "hidden_layer_sizes": (5, 4)}, X[:, middle : middle + 8]),
        ("each array of the full net", {}, X),
    )
    posterior, backend = (getattr(arguments, name) or SETTINGS[name].default for name in ("posterior", "backend"))
    estimators = available(posterior, backend)
    in_unit_interval = X.dtype == np.uint8 or (X.min() >= 0 and X.max() <= 1)
    grey = (arguments.binarize or SETTINGS["binarize"].default) == "none"
    likelihoods = [
        name
        for name, row in LIKELIHOODS.items()
        if (in_unit_interval or not row.unit_interval) and (grey or not row.density)
    ]
    for likelihood in (arguments.likelihood,) if arguments.likelihood else likelihoods:
        for estimator in (arguments.estimator,) if arguments.estimator else estimators:
            for size, net, columns in nets:
                samples = max(2, ESTIMATORS[estimator].fewest_samples)  # means over samples are checked, too
                chosen = {"n_samples": samples} | settings | net | {"likelihood": likelihood, "estimator": estimator}
                yield f"{likelihood}, {estimator}, {size}", VAE(**chosen), _suited(columns, likelihood)


def _suited(X: np.ndarray, likelihood: str) -> np.ndarray:
    """Return the data, for columns of several kinds with every second column as 0 and 1."""
    if likelihood != "mixed":
        return X
    return np.where(np.arange(X.shape[1]) % 2, X.mean(axis=0) < X, X.astype(float))
