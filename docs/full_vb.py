"""Full variational Bayes beside maximum a posteriori on 1000 images: train, and write full_vb.md's table and picture.

With NPVAE_DATA set to a folder that holds MNIST: ``python docs/full_vb.py``. It takes an hour and a half on two cores.
``python docs/full_vb.py RUN...`` trains but some of the runs (their names are in RUNS), and draws all that there are.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import npvae
from npvae import datasets

HERE = Path(__file__).parent
METHODS = {"MAP": "sgvb-b", "full VB": "full-vb"}

#: Name -> (hidden units, latents, method).
RUNS = {
    f"{hidden}-{method.split()[0].lower()}": (hidden, latents, method)
    for hidden, latents in ((100, 3), (500, 20))
    for method in METHODS
}
IMAGES, SAMPLES, LEARNING_RATE = 1000, 20_000_000, 0.02

#: Epochs after which there is a score.
POINTS = sorted({round(10**k) for k in np.arange(1, 4.31, 0.15)} | {SAMPLES // IMAGES})


def train(name):
    """Train one of the runs and write its curve: bounds a datapoint, KL divergence of the weights, in nats."""
    hidden, latents, method = RUNS[name]
    data = datasets.load_mnist()
    X = data.X_train[:IMAGES]
    model = npvae.VAE(
        latents, hidden_layer_sizes=(hidden,), estimator=METHODS[method], learning_rate=LEARNING_RATE,
        max_epochs=SAMPLES // IMAGES,
    )  # fmt: skip
    rows = [("samples", "training", "test", "weight_divergence")]

    def score(epoch):
        if epoch.epoch in POINTS:
            rows.append((epoch.samples_seen, model.score(X), model.score(data.X_test), model.weight_divergence()))
            print(name, *rows[-1], round(epoch.seconds), flush=True)
            with open(path_of(name), "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(rows)

    model.callbacks = (score,)
    model.fit(X)


def path_of(name):
    """Return the file of a run's curve."""
    return HERE / "results" / f"full-vb-{name}.csv"


def curve(name):
    """Return a run's curve as an array with named columns."""
    return np.genfromtxt(path_of(name), delimiter=",", names=True)


def table():
    """Return the best and the last point of each run as a table in Markdown."""
    lines = [
        "| hidden units, latents | method | samples | training | test | gap | D_KL of the weights | per datapoint |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (hidden, latents, method) in RUNS.items():
        points = curve(name)
        for what, point in (("best on test data", points[np.argmax(points["test"])]), ("last", points[-1])):
            samples, training, test, divergence = point
            lines.append(
                f"| {hidden}, {latents} | {method}, {what} | {samples:.3g} | {training:.1f} | {test:.1f} | "
                f"{training - test:.1f} | {divergence:.0f} | {divergence / IMAGES:.1f} |"
            )
    return "\n".join(lines)


def draw():
    """Plot the bounds and the divergence of the weights against the samples seen."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for name, (hidden, latents, method) in RUNS.items():
        (above, below), points = axes[:, 0 if hidden == 100 else 1], curve(name)
        color = "tab:orange" if method == "MAP" else "tab:blue"
        for part, style in (("training", "--"), ("test", "-")):
            above.plot(points["samples"], points[part], style, color=color, label=f"{method}, {part}")
        top = max(points["test"])
        above.set(xscale="log", title=f"{hidden} hidden units, {latents} latents", ylabel="bound in nats",
                  ylim=(top - 60, top + 60), xlabel="training samples seen")  # fmt: skip
        above.legend()
        if method != "MAP":
            below.plot(points["samples"], points["weight_divergence"] / IMAGES, color=color)
            below.set(xscale="log", yscale="log", xlabel="training samples seen",
                      ylabel="D_KL of the weights a datapoint, nats")  # fmt: skip
    figure.savefig(HERE / "full_vb.png", dpi=100)


def main(names):
    """Train, draw, and put the table where the page has it."""
    for name in names:
        train(name)
    if all(path_of(name).exists() for name in RUNS):
        draw()
        page = HERE / "full_vb.md"
        page.write_text(page.read_text().partition("<!-- table -->")[0] + "<!-- table -->\n\n" + table() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or RUNS)
