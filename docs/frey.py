"""The test bound of Frey Face at 1e6 training samples, with five seeds: writes results/frey-seeds.csv.

With NPVAE_DATA set to a folder that holds Frey Face: ``python docs/frey.py``. It takes five minutes on one core.
"""

import tables

import npvae
from npvae import datasets
from npvae.cli.options import DATASET_SETTINGS

SEEDS, LAST = range(5), 20


def train(seed):
    """Train as `npvae train frey --seed` does; return the test bounds after each of the last epochs."""
    data, settings, rows = datasets.load_frey_face(), DATASET_SETTINGS["frey"], []

    def score(epoch):
        if epoch.epoch > model.max_epochs - LAST:
            rows.append((seed, epoch.epoch, epoch.samples_seen, f"{model.score(data.X_test):.3f}"))

    model = npvae.VAE(**settings, random_state=seed, callbacks=(score,))
    model.set_params(patience=model.max_epochs).fit(data.X_train)
    return rows


def main():
    """Train with each seed, write the data file, and put the tables where the page has them."""
    rows = [row for seed in SEEDS for row in train(seed)]
    tables.save("results/frey-seeds.csv", [("seed", "epoch", "samples", "elbo_test"), *rows])
    tables.write(tables.HERE / "results.md")


if __name__ == "__main__":
    main()
