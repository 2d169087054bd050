"""Full variational Bayes beside maximum a posteriori on 1000 images: train, and write full_vb.md's tables and picture.

With NPVAE_DATA set to a folder that holds MNIST: ``python docs/full_vb.py``. It takes two hours on two cores.
``python docs/full_vb.py RUN...`` trains but some of the runs (their names are in RUNS), and draws all that there are.
"""

import sys

import numpy as np
import tables
from matplotlib.figure import Figure
from scipy.special import logsumexp

import npvae
from npvae import datasets
from npvae.fitted import generator
from npvae.parameters import Buffers

METHODS = {"MAP": "sgvb-b", "full VB": "full-vb"}
IMAGES, SAMPLES, LEARNING_RATE = 1000, 20_000_000, 0.02

#: Runs of other seeds than 0 end here: the test bounds have passed their maximum.
SAMPLES_OF_OTHER_SEEDS = 2_000_000
SEEDS = {100: range(3), 500: range(1)}

#: Name -> (hidden units, latents, method, seed).
RUNS = {
    f"{hidden}-{method.split()[0].lower()}" + f"-seed{seed}" * (seed > 0): (hidden, latents, method, seed)
    for hidden, latents in ((100, 3), (500, 20))
    for seed in SEEDS[hidden]
    for method in METHODS
}

#: Epochs after which there is a score, and those after which log p(x) is estimated too, for the runs in EVIDENCE.
POINTS = sorted({round(10**k) for k in np.arange(1, 4.31, 0.15)} | {SAMPLES // IMAGES})
EVIDENCE, EVIDENCE_POINTS = ("100-map", "100-full"), (891, SAMPLES // IMAGES)

#: For log p(x): images of each kind, samples from the prior, how many are decoded together, and draws of the weights.
EVIDENCE_IMAGES, PRIOR_SAMPLES, BATCH, WEIGHT_DRAWS = 300, 200_000, 2000, 5


def train(name):
    """Train one of the runs and write its curve: bounds a datapoint, KL divergence of the weights, in nats."""
    hidden, latents, method, seed = RUNS[name]
    data = datasets.load_mnist()
    X, X_test = data.X_train[:IMAGES], data.X_test
    model = npvae.VAE(
        latents, hidden_layer_sizes=(hidden,), estimator=METHODS[method], learning_rate=LEARNING_RATE,
        max_epochs=(SAMPLES_OF_OTHER_SEEDS if seed else SAMPLES) // IMAGES, random_state=seed,
    )  # fmt: skip
    rows = [("samples", "training", "test", "weight_divergence")]
    evidence = [("samples", "bound_training", "log_p_training", "bound_test", "log_p_test")]

    def score(epoch):
        if epoch.epoch in POINTS or epoch.epoch == model.max_epochs:
            rows.append((epoch.samples_seen, model.score(X), model.score(X_test), model.weight_divergence()))
            print(name, *rows[-1], round(epoch.seconds), flush=True)
            tables.save(source(name), rows)
        if name in EVIDENCE and epoch.epoch in EVIDENCE_POINTS:
            row = [epoch.samples_seen]
            for images in (X[:EVIDENCE_IMAGES], X_test[:EVIDENCE_IMAGES]):
                row += [model.score(images), log_evidence(model.fitted_, images)]
            evidence.append(row)
            print(name, *row, flush=True)
            tables.save(source(name, "-evidence"), evidence)

    model.callbacks = (score,)
    model.fit(X)


def log_evidence(fitted, X):
    """Estimate the mean of log p(x) over the rows, in nats: log mean_s p(x|z_s), z_s ~ p(z).

    Where weights are random, it is the mean over some draws of them, as a score is.
    """
    model, data = fitted.model, fitted.data(X)
    x = np.array(model.gather(data, np.arange(len(X)), Buffers(model.backend, model.dtype)))
    rng, buffers, found = generator(fitted.seed, "evidence"), Buffers(model.backend, model.dtype), []
    for drawn in model.weight_posterior.draws(fitted.parameters, fitted.seed, WEIGHT_DRAWS):
        total = np.full(len(x), -np.inf)
        for _ in range(PRIOR_SAMPLES // BATCH):
            z = rng.standard_normal((BATCH, model.architecture.n_components)).astype(model.dtype)
            (logits,) = model.decode(drawn, z, buffers).outputs
            log_likelihood = x @ logits.T - np.logaddexp(0, logits).sum(axis=1, dtype=float)
            total = np.logaddexp(total, logsumexp(log_likelihood, axis=1))
        found.append(np.mean(total) - np.log(PRIOR_SAMPLES))
    return float(np.mean(found))


def source(name, what=""):
    """Return the data file of a run's curve, or of its log p(x)."""
    return f"results/full-vb-{name}{what}.csv"


def draw():
    """Plot the bounds and the divergence of the weights against the samples seen."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for name, (hidden, latents, method, seed) in RUNS.items():
        if seed:
            continue
        (above, below), points = axes[:, 0 if hidden == 100 else 1], tables.load(source(name))
        column = {key: np.array([point[key] for point in points]) for key in points[0]}
        color = "tab:orange" if method == "MAP" else "tab:blue"
        for part, style in (("training", "--"), ("test", "-")):
            above.plot(column["samples"], column[part], style, color=color, label=f"{method}, {part}")
        top = max(column["test"])
        above.set(xscale="log", title=f"{hidden} hidden units, {latents} latents", ylabel="bound in nats",
                  ylim=(top - 60, top + 60), xlabel="training samples seen")  # fmt: skip
        above.legend()
        if method != "MAP":
            below.plot(column["samples"], column["weight_divergence"] / IMAGES, color=color)
            below.set(xscale="log", yscale="log", xlabel="training samples seen",
                      ylabel="D_KL of the weights a datapoint, nats")  # fmt: skip
    figure.savefig(tables.HERE / "full_vb.png", dpi=100)


def main(names):
    """Train, draw, and put the tables where the page has them."""
    for name in names:
        train(name)
    if all((tables.HERE / source(name)).exists() for name in RUNS):
        draw()
        tables.write(tables.HERE / "full_vb.md")


if __name__ == "__main__":
    main(sys.argv[1:] or RUNS)
