"""Train models with 2 to 200 latent dimensions: data files, tables and picture of regularization.md.

With NPVAE_DATA set to a folder that holds MNIST: ``python docs/regularization.py``. It takes ten minutes.
"""

import tables
from matplotlib.figure import Figure

import npvae
from npvae import datasets

SIZES = (2, 5, 10, 20, 50, 100, 200)


def digits():
    """Generated digits, training and test data, and settings for them."""
    X, _ = datasets.make_digits(5000, random_state=0)
    return X[:4000], X[4000:], {"hidden_layer_sizes": (200,), "batch_size": 20, "learning_rate": 0.05, "max_epochs": 40}


def mnist():
    """MNIST, training and test data, and the paper's settings."""
    data = datasets.load_mnist()
    return data.X_train, data.X_test, {"hidden_layer_sizes": (500,), "learning_rate": 0.02, "max_epochs": 20}


DATA = (digits, mnist)

#: Columns of the data files.
NAMES = "latents", "training", "test", "active", "divergence", "of_active", "baseline"


def measure(X, X_test, settings):
    """Yield a row of the data file, and the divergence of each latent from the prior, for each number of latents."""
    for size in SIZES:
        model = npvae.VAE(size, **settings).fit(X)
        health = model.health_
        kl, active = sorted(health.kl, reverse=True), sum(health.active)
        yield (size, health.elbo, model.score(X_test), active, sum(kl), sum(kl[:active]), health.baseline), kl


def draw(results):
    """Plot bounds against the number of latents, and the divergence of each latent."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, len(results))
    for (ax, below), (data, measured) in zip(axes.T, results.items()):
        for label, place in (("training", 1), ("test", 2)):
            ax.plot(SIZES, [row[place] for row, _ in measured], marker="o", label=label)
        ax.set(xscale="log", title=data.__doc__.split(",")[0], xlabel="latent dimensions", ylabel="bound in nats")
        ax.set_xticks(SIZES, SIZES)
        ax.legend()
        for size, (_, kl) in zip(SIZES, measured):
            below.plot(range(1, size + 1), kl, marker=".", label=f"{size}")
        below.set(xscale="log", xlabel="latents, by divergence", ylabel="divergence from the prior in nats")
        below.legend(title="latents", fontsize=8)
    figure.savefig(tables.HERE / "regularization.png", dpi=100)


def main():
    """Train, write the data files and the picture, and put the tables where the page has them."""
    results = {data: list(measure(*data())) for data in DATA}
    for data, measured in results.items():
        tables.save(f"results/regularization-{data.__name__}.csv", [NAMES, *(row for row, _ in measured)])
    draw(results)
    tables.write(tables.HERE / "regularization.md")


if __name__ == "__main__":
    main()
