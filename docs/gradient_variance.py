"""Measure the estimators on MNIST at three points of a training: data, tables and picture of gradient_variance.md.

With NPVAE_DATA set to a folder that holds MNIST: ``python docs/gradient_variance.py``. It takes fifteen minutes.
"""

import copy

import tables
from matplotlib.figure import Figure

import npvae
from npvae import datasets, evaluation

SETTINGS = {"n_components": 20, "hidden_layer_sizes": (500,), "learning_rate": 0.02}

#: Epochs of the training after which is measured.
POINTS = {"at the start": 0, "after 5 epochs": 5, "after 40 epochs": 40}


def models(X):
    """Yield (title, model): unfitted, and copies of one model on its way."""
    kept = {}

    def keep(epoch):
        kept[epoch.epoch] = copy.deepcopy(model.parameters_.vector)

    model = npvae.VAE(**SETTINGS, max_epochs=max(POINTS.values()), callbacks=(keep,))
    yield "at the start", npvae.VAE(**SETTINGS)
    model.fit(X)
    for title, epoch in POINTS.items():
        if epoch:
            model.parameters_.vector[...] = kept[epoch]
            yield title, model


def draw(results):
    """Plot the noise in the encoder's gradient against L, for M = 1 and 100, a column for each point of training."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, len(results), sharex=True, sharey="row")
    for column, (title, measurements) in enumerate(results.items()):
        for row, M in enumerate((1, 100)):
            ax = axes[row][column]
            for name in dict.fromkeys(m.estimator for m in measurements):
                chosen = [m for m in measurements if (m.estimator, m.batch_size, m.group) == (name, M, "encoder")]
                L, variances, errors = zip(*((m.n_samples, m.noise_variance, m.noise_variance_error) for m in chosen))
                ax.errorbar(L, variances, errors, marker="o", markersize=3, label=name)
            ax.set(
                xscale="log", yscale="log", title=f"{title}, M = {M}", xticks=(1, 2, 5, 10), xticklabels=(1, 2, 5, 10)
            )
            ax.grid(alpha=0.3)
        axes[1][column].set_xlabel("samples L for each datapoint")
    for row in axes:
        row[0].set_ylabel("variance of the encoder's gradient by noise")
    axes[0][-1].legend(fontsize=8)
    figure.savefig(tables.HERE / "gradient_variance.png", dpi=100)


def main(**options):
    """Measure, write the data files, draw, and put the tables where the page has them."""
    X = datasets.load_mnist().X_train
    results = {title: evaluation.gradient_variance(model, X, **options) for title, model in models(X)}
    for title, measurements in results.items():
        source = f"results/gradient-variance-{POINTS[title]}.csv"
        tables.save(source, [evaluation.Measurement._fields, *measurements])
    draw(results)
    tables.write(tables.HERE / "gradient_variance.md")


if __name__ == "__main__":
    main(repeats=60)
