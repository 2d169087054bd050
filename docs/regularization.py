"""Train models with 2 to 200 latent dimensions, and write the tables and the picture of regularization.md.

With NPVAE_DATA set to a folder that holds MNIST: ``python docs/regularization.py``. It takes ten minutes.
"""

from pathlib import Path

from matplotlib.figure import Figure

import npvae
from npvae import datasets

HERE = Path(__file__).parent
SIZES = (2, 5, 10, 20, 50, 100, 200)


def digits():
    """Return the generated digits, training and test data, and settings for them."""
    X, _ = datasets.make_digits(5000, random_state=0)
    return X[:4000], X[4000:], {"hidden_layer_sizes": (200,), "batch_size": 20, "learning_rate": 0.05, "max_epochs": 40}


def mnist():
    """Return MNIST and the paper's settings."""
    data = datasets.load_mnist()
    return data.X_train, data.X_test, {"hidden_layer_sizes": (500,), "learning_rate": 0.02, "max_epochs": 20}


def measure(X, X_test, settings):
    """Yield (latents, bound on training rows, bound on test data, active latents, their divergences, baseline)."""
    for size in SIZES:
        model = npvae.VAE(size, **settings).fit(X)
        health = model.health_
        kl = sorted(health.kl, reverse=True)
        yield size, health.elbo, model.score(X_test), sum(health.active), kl, health.baseline


def table(rows):
    """Return the measurements as a table in Markdown."""
    lines = [
        "| latents | bound, training | bound, test | active | divergence | of it in active ones |",
        "|---|---|---|---|---|---|",
    ]
    for size, train, test, active, kl, _ in rows:
        lines.append(f"| {size} | {train:.2f} | {test:.2f} | {active} | {sum(kl):.1f} | {sum(kl[:active]):.1f} |")
    return "\n".join([*lines, "", f"Independent pixels, fitted to the training rows: {rows[0][-1]:.2f} nats."])


def draw(results):
    """Plot bounds against the number of latents, and the divergence of each latent for the largest number."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, len(results))
    for column, (title, rows) in enumerate(results.items()):
        ax, below = axes[0][column], axes[1][column]
        for label, place in (("training", 1), ("test", 2)):
            ax.plot(SIZES, [row[place] for row in rows], marker="o", label=label)
        ax.set(xscale="log", title=title, xlabel="latent dimensions", ylabel="bound in nats")
        ax.set_xticks(SIZES, SIZES)
        ax.legend()
        for size, *_, kl, _ in rows:
            below.plot(range(1, size + 1), kl, marker=".", label=f"{size}")
        below.set(xscale="log", xlabel="latents, by divergence", ylabel="divergence from the prior in nats")
        below.legend(title="latents", fontsize=8)
    figure.savefig(HERE / "regularization.png", dpi=100)


def main():
    """Train, draw, and put the tables where the page has them."""
    results = {"generated digits": list(measure(*digits())), "MNIST": list(measure(*mnist()))}
    draw(results)
    tables = "\n\n".join(f"## {title[0].upper()}{title[1:]}\n\n{table(rows)}" for title, rows in results.items())
    page = HERE / "regularization.md"
    page.write_text(page.read_text().partition("<!-- tables -->")[0] + "<!-- tables -->\n\n" + tables + "\n")


if __name__ == "__main__":
    main()
