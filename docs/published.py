"""The likelihoods that others publish for MNIST: 2 x 200 tanh units, 50 latents, pixels drawn anew as 0 or 1.

``python docs/published.py train vae FOLDER`` trains the variational autoencoder, ``train iwae FOLDER`` the importance
weighted one, with a checkpoint in the folder every few minutes; where there is one, it continues from it, to the same
bits. A number after the folder is that of the epochs, also of a training that has begun: the step size then decays to
zero at its end. ``python docs/published.py score vae FOLDER`` computes log p(x) of the test images by importance
sampling, with a 5 after the folder of every fifth image. Both write results/published-*.csv, and read MNIST from
NPVAE_DATA. On a core of its own the first training takes an hour, an epoch of the second twice as long, and a score ten
minutes.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import tables

import npvae
from npvae import datasets
from npvae.evaluation.health import ACTIVE

#: Burda, Grosse and Salakhutdinov (2016) have this network, and -86.76 nats for the test images.
SETTINGS = {
    "n_components": 50, "hidden_layer_sizes": (200, 200), "likelihood": "bernoulli", "binarize": "dynamic",
    "optimizer": "adam", "learning_rate": 1e-3, "schedule": "cosine", "weight_prior": 0.0, "init_std": "fan-in",
    "max_epochs": 1200, "backend": "cpu",
}  # fmt: skip

#: What differs between the models, by name.
MODELS: dict[str, dict] = {"vae": {}, "iwae": {"estimator": "iwae", "n_samples": 5, "max_epochs": 600}}

#: Seconds between checkpoints; epochs between two points of the curve; samples of a row of the score.
EVERY, POINTS, SAMPLES = 120, 25, 5000

SCORES = "results/published-score.csv"
NAMES = "epoch", "samples", "elbo_train", "elbo_test", "seconds"
SCORE = "model", "training samples", "test images", "bound", "log p(x)", "standard error over images", "active latents"


def images():
    """Return the 60000 images to train on, as others have done, and the 10000 to test."""
    data = datasets.load_mnist()
    return np.concatenate([data.X_train, data.X_valid]), data.X_test


def train(name, folder, max_epochs=None):
    """Train a model, or continue a training; write a line of the curve every few epochs."""
    path, curve, (X, X_test) = folder / "model.npz", folder / "curve.csv", images()
    settings = SETTINGS | MODELS[name]
    model = npvae.load(path) if path.exists() else npvae.VAE(**settings)
    rows = kept(curve, model.training_.progress.epoch) if path.exists() else []

    def score(epoch):
        if epoch.epoch % POINTS == 0 or epoch.epoch in (1, 2, 5, 10, model.max_epochs):
            bounds = (f"{bound:.3f}" for bound in (epoch.elbo, model.score(X_test)))
            rows.append([epoch.epoch, epoch.samples_seen, *bounds, f"{epoch.seconds:.0f}"])
            write(curve, rows)
            print(*rows[-1], flush=True)

    model.set_params(callbacks=(score,), max_epochs=int(max_epochs or settings["max_epochs"]))
    (model.resume if path.exists() else model.fit)(X, checkpoint=path, checkpoint_every=EVERY)
    tables.save(f"results/published-{name}-curve.csv", [NAMES, *rows])
    tables.write(tables.HERE / "results.md")


def kept(curve, epoch):
    """Return the lines of a curve that belong to epochs before this one: those after it are trained again."""
    if not curve.exists():
        return []
    with open(curve, newline="", encoding="utf-8") as file:
        return [row for row in list(csv.reader(file))[1:] if int(row[0]) < epoch]


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([NAMES, *rows])


def score(name, folder, every=1):
    """Write the bound and log p(x) of every so many test images; the training need not be over."""
    model, X = npvae.load(folder / "model.npz"), images()[1][:: int(every)]
    samples, values = model.training_.progress.samples_seen, model.log_likelihood(X, n_samples=SAMPLES)
    error, active = values.std() / np.sqrt(len(X)), np.sum(model.transform(X).var(axis=0) > ACTIVE)
    row = name, samples, len(X), f"{model.score(X):.2f}", f"{values.mean():.2f}", f"{error:.2f}", active
    path = tables.HERE / SCORES
    others = list(csv.reader(path.read_text("utf-8").splitlines()))[1:] if path.exists() else []
    tables.save(SCORES, [SCORE, *(other for other in others if other[0] != name), row])
    tables.write(tables.HERE / "results.md")
    print(*zip(SCORE, row), sep="\n")


if __name__ == "__main__":
    {"train": train, "score": score}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
