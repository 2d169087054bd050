"""Measure the uses of a trained model: the data files and the picture of uses.md.

``python docs/uses.py pictures FOLDER``, with NPVAE_DATA set to a folder that holds MNIST: test images are filled in,
denoised and enlarged with the models ``FOLDER/mnist-*-aevb.npz``, which ``npvae reproduce fig2 --samples 1e7`` trains.
``python docs/uses.py anomalies FOLDER``: images that are not digits are ranked by a model of digits.
``python docs/uses.py tables``: tables with holes, filled in by a model that is trained on them.
scikit-learn must be installed. Each takes five to fifteen minutes of one core.
"""

import sys
import time
from pathlib import Path

import numpy as np
import tables
from matplotlib.figure import Figure
from scipy.ndimage import zoom
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.metrics import roc_auc_score

import npvae
from npvae import datasets

#: Test images, and how many of them are shown with so many draws.
IMAGES, SHOWN, DRAWS, SHAPE = 200, 8, 3, (28, 28)

#: Strengths of the noise, and how many pixels of a picture are one of the smaller picture, in each direction.
SIGMAS, FACTOR = (0.3, 0.5), 4

#: The imputers of scikit-learn have so many training images: they take longer with more.
FEW, FEWER_LATENTS, NEAREST = 5000, (5, 10), (1, 10)
IMPUTERS = {
    "KNNImputer": KNNImputer(n_neighbors=10),
    "IterativeImputer": IterativeImputer(random_state=0),
}

#: Tables, shares of their cells that are missing, seeds.
LOADERS = {"wine": load_wine, "diabetes": load_diabetes, "breast_cancer": load_breast_cancer}
SHARES, SEEDS = (0.1, 0.3, 0.5), range(2)

#: Images of each kind that are ranked.
RANKED = 100

PICTURES, TABLES, ANOMALIES = (f"results/uses-{name}.csv" for name in ("pictures", "tables", "anomalies"))
RANKS = "images", "bound", "log p(x)", "area, bound", "area, log p(x)"
NAMES = "task", "method", "rms", "seconds"


def holes(rng, X):
    """Return what is missing in each picture, by task: a half, or a share of all pixels."""
    lower = np.arange(X.shape[1]) >= X.shape[1] // 2
    shares = {"random half": 0.5, "80 % of the pixels": 0.8}
    return {"lower half": np.tile(lower, (len(X), 1))} | {name: rng.random(X.shape) < p for name, p in shares.items()}


def nearest(given, X, k):
    """Return the mean of the k training images that are nearest to what is given of each row: NaN is not given."""
    seen, values = (~np.isnan(given)).astype(np.float32), np.nan_to_num(given).astype(np.float32)
    distance = seen @ (X**2).T - 2 * values @ X.T  # squared, but for a number of the row
    return X[np.argpartition(distance, k, axis=1)[:, :k]].mean(axis=1)


def regressions(given, X):
    """Return what a regression of each pixel on fifty others makes of the holes, fitted to training images."""
    imputer = IterativeImputer(n_nearest_features=50, max_iter=5, random_state=0)
    return imputer.fit_transform(np.vstack([X, given]))[len(X) :]


def compare(rows, task, methods, X, where):
    """Append a row for each method: its error where it counts. Return what the first one found."""
    results = []
    for name, method in methods.items():
        started = time.perf_counter()
        results.append(method())
        seconds = time.perf_counter() - started
        rows.append([task, name, f"{np.sqrt(np.mean((results[-1] - X)[where] ** 2)):.4f}", f"{seconds:.1f}"])
        print(*rows[-1], flush=True)
    return results[0]


def pictures(folder):
    """Measure what a model of MNIST, simple rules and imputers make of test images; draw the model's answers."""
    model, data = npvae.load(folder / "mnist-20-aevb.npz"), datasets.load_mnist()
    smaller = {f"npvae, {n} latents": npvae.load(folder / f"mnist-{n}-aevb.npz") for n in FEWER_LATENTS}
    rng, X, train = np.random.default_rng(0), data.X_test[:IMAGES] / 255, np.float32(data.X_train / 255)
    everywhere, rows, drawn = np.ones_like(X, bool), [], {}
    for task, mask in holes(rng, X).items():
        given = np.where(mask, np.nan, X)
        found = compare(rows, task, filling(model, smaller, given, train), X, mask)
        drawn[task] = given, *model.impute(given[:SHOWN], n_draws=DRAWS), found
    for sigma in SIGMAS:
        task, noisy = f"noise of {sigma}", X + sigma * rng.standard_normal(X.shape)
        drawn[task] = noisy, compare(rows, task, denoising(model, noisy, sigma, train), X, everywhere)
    height, width = (size // FACTOR for size in SHAPE)
    task, small = f"{height} x {width} pixels", X.reshape(-1, height, FACTOR, width, FACTOR).mean(axis=(2, 4))
    large = small.repeat(FACTOR, axis=1).repeat(FACTOR, axis=2).reshape(len(X), -1)
    drawn[task] = large, compare(rows, task, enlarging(model, small, large), X, everywhere)
    tables.save(PICTURES, [NAMES, *rows])
    draw(X, drawn).savefig(tables.HERE / "uses.png", dpi=100)


def filling(model, smaller, given, train):
    """Return the methods that fill in the holes of images, by name."""
    knn, few, mean = IMPUTERS["KNNImputer"], train[:FEW], train.mean(axis=0)
    filled = np.where(np.isnan(given), mean, given)
    return {
        "npvae": lambda: model.impute(given),
        **{name: lambda other=other: other.impute(given) for name, other in smaller.items()},
        "one pass": lambda: model.reconstruct(filled),
        "mean picture": lambda: filled,
        **neighbours(given, train),
        "KNNImputer": lambda: knn.fit(few).transform(given),
        "IterativeImputer": lambda: regressions(given, few),
    }


def denoising(model, noisy, sigma, train):
    """Return the methods that remove noise, by name."""
    return {
        "npvae": lambda: model.denoise(noisy, sigma=sigma),
        "one pass": lambda: model.reconstruct(np.clip(noisy, 0, 1)),
        "as given, in [0, 1]": lambda: np.clip(noisy, 0, 1),
        **neighbours(noisy, train),
    }


def enlarging(model, small, large):
    """Return the methods that make a picture of a small one, by name; large has its pixels as blocks."""
    smooth = np.array([zoom(image, FACTOR, order=3, mode="nearest", grid_mode=True) for image in small])
    return {
        "npvae": lambda: model.super_resolve(small.reshape(len(small), -1), SHAPE, FACTOR),
        "one pass": lambda: model.reconstruct(large),
        "blocks": lambda: large,
        "cubic splines": lambda: np.clip(smooth.reshape(large.shape), 0, 1),
    }


def neighbours(given, train):
    """Return the means of the nearest training images, by name."""
    return {f"mean of the {k} nearest": lambda k=k: nearest(given, train, k) for k in NEAREST}


def draw(X, drawn):
    """Draw each task: the images, what was given of them, draws of the model if there are any, and its means."""
    figure = Figure(figsize=(SHOWN, sum(1 + len(images) for images in drawn.values())), layout="constrained")
    parts = figure.subfigures(len(drawn), height_ratios=[1 + len(images) for images in drawn.values()])
    for part, (task, images) in zip(parts, drawn.items()):
        part.suptitle(task)
        lines = X, *images
        for axes, image in zip(part.subplots(len(lines), SHOWN).T, range(SHOWN)):
            for ax, line in zip(axes, lines):
                ax.set_facecolor("tab:blue")
                ax.imshow(line[image].reshape(SHAPE), cmap="gray", vmin=0, vmax=1)
                ax.set(xticks=[], yticks=[])
    return figure


def anomalies(folder):
    """Rank images that are not upright digits among those that are, by the bound and by log p(x)."""
    model, X = npvae.load(folder / "mnist-20-aevb.npz"), datasets.load_mnist().X_test[: 2 * RANKED] / 255
    usual, X = np.split(X, 2)
    pictures, rng = X.reshape(-1, *SHAPE), np.random.default_rng(0)
    kinds = {
        "digits": usual,
        "upside down": pictures[:, ::-1],
        "a quarter turn": np.rot90(pictures, axes=(1, 2)),
        "halves of two digits": np.concatenate([pictures[:, :14], np.roll(pictures, 1, axis=0)[:, 14:]], axis=1),
        "a tenth of the pixels inverted": np.abs(X - (rng.random(X.shape) < 0.1)),
        "half as bright": X / 2,
        "black": np.zeros_like(X),
    }
    scores, rows = [], []
    for name, images in kinds.items():
        images = images.reshape(X.shape)
        bounds, values = model.score_samples(images), model.log_likelihood(images, method="annealed")
        scores.append((bounds, values))
        ranks = [area(one, usual) for one, usual in zip(scores[-1], scores[0])] if rows else ["", ""]
        rows.append([name, *(f"{score.mean():.1f}" for score in scores[-1]), *ranks])
        print(*rows[-1], flush=True)
    tables.save(ANOMALIES, [RANKS, *rows])


def area(unusual, usual):
    """Return the area under the ROC curve: the share of pairs in which the unusual row has the lower score."""
    return f"{roc_auc_score(np.repeat([1, 0], [len(unusual), len(usual)]), -np.concatenate([unusual, usual])):.3f}"


def with_holes():
    """Fill in tables: the error of each method in the units of a column's standard deviation, mean over the seeds."""
    rows = []
    for name, load in LOADERS.items():
        X = load(return_X_y=True)[0]
        X = (X - X.mean(axis=0)) / X.std(axis=0)
        for share in SHARES:
            errors = {}
            for seed in SEEDS:
                mask = np.random.default_rng(seed).random(X.shape) < share
                given, each = np.where(mask, np.nan, X), []
                compare(each, f"{name}, {100 * share:.0f} %", methods_for(given, seed), X, mask)
                for task, method, *numbers in each:
                    errors.setdefault((task, method), []).append([float(number) for number in numbers])
            rows += [[*key, *(f"{mean:.3f}" for mean in np.mean(values, axis=0))] for key, values in errors.items()]
    tables.save(TABLES, [NAMES, *rows])


def methods_for(given, seed):
    """Return the methods that fill in a table, each of which is trained on it."""
    return {
        "npvae": lambda: npvae.fit(given, missing="model", random_state=seed, verbose=False).impute(given),
        **{name: lambda imputer=imputer: imputer.fit_transform(given) for name, imputer in IMPUTERS.items()},
        "mean of the column": lambda: np.where(np.isnan(given), np.nanmean(given, axis=0), given),
    }


if __name__ == "__main__":
    {"pictures": pictures, "anomalies": anomalies, "tables": with_holes}[sys.argv[1]](*map(Path, sys.argv[2:]))
    tables.write(tables.HERE / "uses.md")
