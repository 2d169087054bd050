"""Measure every estimator of log p(x): the data files, the tables and the picture of likelihood.md.

``python docs/likelihood.py``: on models where log p(x) is known. It takes a quarter of an hour.
``python docs/likelihood.py FOLDER``, with NPVAE_DATA set to a folder that holds MNIST: on the models in
``FOLDER/mnist-*-aevb.npz``, as ``npvae reproduce fig2`` and ``fig4`` train them. It takes two minutes for each.
"""

import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import tables
from matplotlib.figure import Figure

import npvae
from npvae import datasets
from npvae.backends.formulas import soft_floor
from npvae.evaluation import (
    METHODS,
    Estimates,
    LinearGaussian,
    annealed_importance_sampling,
    marginal,
    marginal_likelihood,
    sandwich,
)
from npvae.evaluation.appendix_d import DENSITIES
from npvae.plots import COLORS

LATENTS, ROWS, COLUMNS = range(1, 21), 50, 50

#: Test images; densities where annealing stands in for the truth; rows drawn from the model that say whether it may.
IMAGES, DENSITIES_OF_TRUTH, DRAWN = 25, 2000, 4

#: Columns of the data files: mean and root mean square of the errors in nats, mean standard error in nats, share of
#: rows that a diagnosis warns of; seconds for all rows, or processor time of one.
MEASURED = "method", "bias", "rms", "standard_error", "doubtful"
NAMES = "latents", *MEASURED, "seconds"
NAMES_OF_IMAGES = "latents", "training samples", *MEASURED, "CPU s a row"

#: Titles of the panels of the picture, and their data files.
PANELS = {
    "Linear-Gaussian models: log p(x) is known": "results/likelihood-exact.csv",
    "Models of MNIST: quadrature or long annealing as the truth": "results/likelihood-mnist.csv",
}


def exact_model(n_components, *, rows=ROWS, seed=0, **settings):
    """Return a VAE whose log p(x) is known, rows drawn from it, their exact log p(x), and the linear-Gaussian model.

    x = z W + b + noise with weights from N(0, 0.3^2). The encoder is the best one of its family: q(z|x) has the mean of
    the posterior, and in each dimension the variance given all others.
    """
    rng = np.random.default_rng([seed, n_components])
    scale, shift = rng.uniform(0.5, 2, COLUMNS), rng.normal(size=COLUMNS)
    fit = {"hidden_layer_sizes": (), "likelihood": "gaussian", "max_epochs": 1, "learning_rate": 0.01} | settings
    vae = npvae.VAE(n_components, **fit).fit(shift + scale * rng.standard_normal((100, COLUMNS)))
    parameters = vae.parameters_
    parameters["decoder.mu.W"][...] = 0.3 * rng.standard_normal((n_components, COLUMNS))
    parameters["decoder.mu.b"][...] = 0.1 * rng.standard_normal(COLUMNS)
    parameters["decoder.log_var.b"][...] = rng.uniform(-0.2, 0.2, COLUMNS)
    for part in "encoder", "decoder":
        parameters[f"{part}.log_var.W"][...] = 0
    arrays = (np.array(parameters[f"decoder.{name}"], float) for name in ("mu.W", "mu.b", "log_var.b"))
    W, b, head = arrays
    model = LinearGaussian(W, b, np.exp(soft_floor(head)))
    mean_of = lambda x: model.posterior(x)[0]
    zero, precision = mean_of(np.zeros((1, COLUMNS))), np.linalg.inv(model.posterior(b[None])[1])
    parameters["encoder.mu.W"][...] = mean_of(np.eye(COLUMNS)) - zero
    parameters["encoder.mu.b"][...] = zero[0]
    parameters["encoder.log_var.b"][...] = -np.log(np.diag(precision))
    noise = np.sqrt(model.variance) * rng.standard_normal((rows, COLUMNS))
    X = vae.preprocessor_.restore(rng.standard_normal((rows, n_components)) @ W + b + noise)
    data = vae.fitted_.data(X)
    exact = model.log_prob((data.X - data.scaling.shift) * data.scaling.scale) + data.log_jacobian
    return vae, X, exact, model


def first_set_again(vae, X, model, n_samples=50):
    """Estimate log p(x) as Appendix D does, from exact samples, but with those that q(z) was fitted to."""
    fitted, rng, values = vae.fitted_, np.random.default_rng(0), []
    data = fitted.data(X)
    mean, covariance = model.posterior((data.X - data.scaling.shift) * data.scaling.scale)
    for x, of_row in zip(X, mean):
        z = rng.multivariate_normal(of_row, covariance, n_samples)
        q, log_joint = DENSITIES["gaussian"], fitted.log_joint(x)
        log_q = q.log_prob(q.fit(z[:, None]), z[:, None])[:, 0]
        values.append(marginal_likelihood(log_q, log_joint(z)[0]))
    return Estimates(np.array(values), np.full(len(X), np.nan), {})


def runs_of(fitted):
    """Return the methods that a model allows, by name, with their defaults: functions of the rows."""
    latents = fitted.model.architecture.n_components

    def by_default(method):
        return lambda X: method.estimate(fitted, fitted.data(X), method.n_samples)

    runs = {name: by_default(method) for name, method in METHODS.items() if latents <= method.most_latents}
    of_appendix_d = METHODS["marginal"].n_samples
    return runs | {"marginal, kernel density": lambda X: marginal(fitted, fitted.data(X), of_appendix_d, "kernel")}


def doubtful(name, found):
    """Return the share of rows that a diagnosis of the method warns of."""
    limits = METHODS[name.partition(",")[0]].limits
    bad = [limits[of].exceeded(values) for of, values in found.diagnosis.items()]
    return np.any(bad, axis=0).mean() if bad else 0


def cells(*values):
    return [f"{value:.4g}" for value in values]


def measured(name, found, truth):
    """Return the cells of a method, in the columns `MEASURED`."""
    error = found.log_prob - truth
    rms = np.sqrt(np.mean(error**2))
    return [name, *cells(error.mean(), rms, found.error.mean(), doubtful(name, found))]


def measure(n_components):
    """Yield a row of the data file for each method."""
    vae, X, exact, model = exact_model(n_components)
    runs = runs_of(vae.fitted_) | {"marginal, first set again": lambda X: first_set_again(vae, X, model)}
    for name, run in runs.items():
        run(X[:1])  # compile
        began = time.perf_counter()
        found = run(X)
        seconds = time.perf_counter() - began
        yield n_components, *measured(name, found, exact), *cells(seconds)


def measure_on_images(path):
    """Yield a row of the data file for each method, on test images; the first is what stands in for the truth."""
    vae, test = npvae.load(path), datasets.load_mnist().X_test
    X = test[np.random.default_rng(0).choice(len(test), IMAGES, replace=False)]
    fitted, runs = vae.fitted_, runs_of(vae.fitted_)
    model = vae.n_components, vae.history_[-1].samples_seen
    other = replace(fitted, seed=fitted.seed + 1)  # its noise is independent of that of the default
    long = f"annealed, {DENSITIES_OF_TRUTH} densities"
    chains, densities = METHODS["annealed"].n_samples, {"n_densities": DENSITIES_OF_TRUTH}
    truth_by = "quadrature" if "quadrature" in runs else long
    runs[long] = lambda X: annealed_importance_sampling(other, fitted.data(X), chains, **densities)
    for method in "importance", "annealed":  # compile
        vae.log_likelihood(X[:1], method=method, n_samples=2)
    truth = None
    for name in (truth_by, *(name for name in runs if name not in ("quadrature", long))):
        began = time.process_time()
        found = runs[name](X)
        seconds = cells((time.process_time() - began) / len(X))
        if truth is None:
            truth = found.log_prob
            yield *model, name, "", "", *cells(found.error.mean(), doubtful(name, found)), *seconds
        else:
            yield *model, *measured(name, found, truth), *seconds
    if truth_by == long:
        gap = sandwich(fitted, DRAWN, chains, **densities).gap
        yield *model, "gap of the sandwich", *cells(gap.mean()), "", *cells(gap.std(ddof=1) / np.sqrt(DRAWN)), "", ""


def draw():
    """Plot the errors against the number of latents, from the data files: measured ones solid, stated ones dashed."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    for ax, (title, source) in zip(figure.subplots(1, 2), PANELS.items()):
        rows = tables.load(source)
        for (method, label), color in zip(tables.OF_LIKELIHOOD.items(), COLORS):
            of_method = [row for row in rows if row["method"] == method and row["rms"] != ""]
            if of_method:
                latents = [row["latents"] for row in of_method]
                ax.plot(latents, [row["rms"] for row in of_method], "o-", markersize=4, color=color, label=label)
                ax.plot(latents, [row["standard_error"] for row in of_method], "--", color=color)
        ax.plot([], [], "--", color="grey", label="stated by the method")
        ax.set(yscale="log", title=title, xlabel="latent dimensions", ylabel="RMS error of log p(x) in nats")
        ax.set_xticks(sorted({int(row["latents"]) for row in rows} & {1, 2, 3, 5, 10, 15, 20}))
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    figure.savefig(tables.HERE / "likelihood.png", dpi=100)


def main(folder=None):
    """Measure on exact models or, given a folder, on its models; write data file, picture, and tables of the page."""
    with warnings.catch_warnings(action="ignore"):
        if folder is None:
            rows = [row for n_components in LATENTS for row in measure(n_components)]
            tables.save("results/likelihood-exact.csv", [NAMES, *rows])
        else:
            rows = [row for path in Path(folder).glob("mnist-*-aevb.npz") for row in measure_on_images(path)]
            rows.sort(key=lambda row: row[0])
            tables.save("results/likelihood-mnist.csv", [NAMES_OF_IMAGES, *rows])
    draw()
    tables.write(tables.HERE / "likelihood.md")


if __name__ == "__main__":
    main(*sys.argv[1:])
