"""The figures of the paper: which models each needs, how these are trained and scored. Nothing is trained here.

A name such as "mnist-20-aevb" stands for data set, number of latents and algorithm; "n1000-aevb" of Figure 3 for number
of training images and algorithm. A name means the same model in each figure.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..conventions import did_you_mean
from ..vae import VAE
from .marginal import log_likelihood

#: What the paper calls the algorithms, and the estimator of each.
ALGORITHMS = {"aevb": "sgvb-b", "wake-sleep": "wake-sleep", "monte-carlo-em": "monte-carlo-em"}


class Images(NamedTuple):
    """A data set of the paper, with the networks and the likelihood for it."""

    title: str
    shape: tuple[int, int]
    settings: dict[str, Any]


DATASETS = {
    "mnist": Images("MNIST", (28, 28), {"hidden_layer_sizes": (500,), "likelihood": "bernoulli", "init_std": "fan-in"}),
    "frey": Images("Frey Face", (28, 20), {"hidden_layer_sizes": (200,), "likelihood": "sigmoid-gaussian"}),
}

#: The protocol of the paper where it is not the default of `VAE`: of its three step sizes the one that is best here on
#: training data, after the first samples. The small networks of Figure 3 learn best with the largest. The paper does
#: not say how its weights start: the better of two ways, on training data. Several models are trained at once: each on
#: the CPU, unless a backend is asked for.
PROTOCOL: dict[str, Any] = {"learning_rate": 0.02, "backend": "cpu"}


class Curve(NamedTuple):
    """A model, the data that it is trained on, and the curve that shows its training."""

    dataset: str  # a name in `DATASETS`
    panel: str  # title of its part of the picture
    algorithm: str  # a name in `ALGORITHMS`
    settings: dict[str, Any]  # of `VAE`
    n_rows: int | None = None  # the first training rows; None: all
    score: Callable[[VAE, NDArray], float] | None = None  # nats a row, computed afterwards; None: the lower bound
    per_decade: int = 10  # points for each power of ten of training samples


class Figure(NamedTuple):
    """What a figure shows."""

    about: str
    curves: dict[str, Curve]  # by name, in the order in which they are trained
    picture: str  # a name in `drawing.PICTURES`


def _of_sizes(algorithm: str, **latents: tuple[int, ...]) -> dict[str, Curve]:
    """Return the models of an algorithm with these numbers of latents, for each data set."""
    return {
        f"{dataset}-{n}-{algorithm}": Curve(
            dataset,
            f"{DATASETS[dataset].title}, {n} latents",
            algorithm,
            DATASETS[dataset].settings | PROTOCOL | {"n_components": n, "estimator": ALGORITHMS[algorithm]},
        )
        for dataset, sizes in latents.items()
        for n in sizes
    }


def _of_rows(n_rows: int) -> dict[str, Curve]:
    """Return the models of Figure 3 that are trained on so many images."""
    small = {"n_components": 3, "hidden_layer_sizes": (100,), "learning_rate": 0.1, "init_std": 0.1}
    small = DATASETS["mnist"].settings | PROTOCOL | small
    return {
        f"n{n_rows}-{algorithm}": Curve(
            "mnist",
            f"{n_rows} training images",
            algorithm,
            small | {"estimator": estimator},
            n_rows,
            log_likelihood,
            per_decade=5,
        )
        for algorithm, estimator in ALGORITHMS.items()
    }


_SIZES = {"mnist": (20, 10, 3, 5, 200), "frey": (10, 2, 5, 20)}

FIGURES = {
    "fig2": Figure(
        "the lower bound while training, for several numbers of latents",
        _of_sizes("aevb", **_SIZES) | _of_sizes("wake-sleep", **_SIZES),
        "curves",
    ),
    "fig3": Figure(
        "log p(x) while training, for two numbers of training images", _of_rows(1000) | _of_rows(50000), "curves"
    ),
    "fig4": Figure("what two latents have learnt", _of_sizes("aevb", mnist=(2,), frey=(2,)), "manifolds"),
    "fig5": Figure("samples of models with 2 to 20 latents", _of_sizes("aevb", mnist=(2, 5, 10, 20)), "samples"),
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
    curves = FIGURES[figure].curves
    names = list(curves if only is None else only)
    for name in names:
        if name not in curves:
            near = did_you_mean(name, curves)
            raise ValueError(f"--only {name}: {figure} has no such model; expected some of {', '.join(curves)}{near}")
    return {name: curves[name] for name in dict.fromkeys(names)}
