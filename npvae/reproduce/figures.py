"""The figures of the paper: which models each needs, and how these are trained. Nothing is trained here.

A name such as "mnist-20-aevb" stands for the data set, the number of latents and the algorithm; "n1000-aevb" of Figure 3
for the number of training images and the algorithm.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..conventions import check_choice

#: What the paper calls the algorithms, and the estimator of each.
ALGORITHMS = {"aevb": "sgvb-b", "wake-sleep": "wake-sleep", "monte-carlo-em": "monte-carlo-em"}

#: The networks for each data set, and its likelihood.
DATASETS: dict[str, dict[str, Any]] = {
    "mnist": {"hidden_layer_sizes": (500,), "likelihood": "bernoulli"},
    "frey": {"hidden_layer_sizes": (200,), "likelihood": "sigmoid-gaussian"},
}

#: The protocol of the paper where it is not the default of `VAE`: of its three step sizes the one that is best here.
#: Several curves are trained at once, so each is computed on the CPU.
PROTOCOL: dict[str, Any] = {"learning_rate": 0.02, "backend": "cpu"}


class Curve(NamedTuple):
    """A model and the data that it is trained on."""

    dataset: str  # a name in `DATASETS`
    panel: str  # of the picture
    algorithm: str  # a name in `ALGORITHMS`
    settings: dict[str, Any]  # of `VAE`
    n_rows: int | None = None  # the first training rows; None: all


def _curve(dataset: str, n_components: int, algorithm: str, **changes: Any) -> Curve:
    settings = DATASETS[dataset] | PROTOCOL | {"n_components": n_components, "estimator": ALGORITHMS[algorithm]}
    title = {"mnist": "MNIST", "frey": "Frey Face"}[dataset]
    return Curve(dataset, f"{title}, {n_components} latents", algorithm, settings | changes)


def _curves(latents: dict[str, tuple[int, ...]], algorithms: tuple[str, ...]) -> dict[str, Curve]:
    return {
        f"{dataset}-{n_components}-{algorithm}": _curve(dataset, n_components, algorithm)
        for algorithm in algorithms
        for dataset, sizes in latents.items()
        for n_components in sizes
    }


#: The models of each figure by name, in the order in which they are trained.
FIGURES: dict[str, dict[str, Curve]] = {
    "fig2": _curves({"mnist": (20, 10, 3, 5, 200), "frey": (10, 2, 5, 20)}, ("aevb", "wake-sleep")),
}


def choose(figure: str, only: Iterable[str] | None = None) -> dict[str, Curve]:
    """Return the models of a figure by name, or those of them that are asked for.

    Raises
    ------
    ValueError
        If the figure has no model of that name; the message has the nearest one.

    Examples
    --------
    >>> list(choose("fig2", ["frey-2-aevb"]))
    ['frey-2-aevb']
    """
    curves = FIGURES[figure]
    names = list(curves if only is None else only)
    for name in names:
        check_choice("--only", name, curves)
    return {name: curves[name] for name in dict.fromkeys(names)}
