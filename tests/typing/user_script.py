"""A short program as a user would write it. mypy checks it, and `tests/test_user_script.py` runs it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import npvae


def main(path: Path) -> npvae.VAE:
    """Fit, score, transform, sample, save, load and check a gradient; return the model that was loaded."""
    X: NDArray[np.uint8] = (np.random.default_rng(0).random((40, 6)) < 0.5).astype(np.uint8)
    model = npvae.VAE(n_components=2, hidden_layer_sizes=(5,), max_epochs=2, backend="reference").fit(X)
    nats: float = model.score(X)
    rows: NDArray[np.floating] = model.score_samples(X)
    Z: NDArray[np.floating] = model.transform(X)
    drawn: NDArray[np.floating] = model.sample(3)
    filled: NDArray[np.floating] = model.impute(np.where(X > 0, X, np.nan))
    codes: NDArray[np.floating] = model.encode(X).mean
    assert filled.shape == (40, 6) and np.array_equal(codes, Z)
    assert np.isclose(nats, rows.mean()) and Z.shape == (40, 2) and drawn.shape == (3, 6)
    model.save(path)
    loaded: npvae.VAE = npvae.load(path)
    assert loaded.score(X) == nats
    report = npvae.check_gradient(square, {"w": np.ones(3)})
    assert report.passed, str(report)
    return loaded


def square(arrays: dict[str, NDArray[np.float64]]) -> tuple[float, dict[str, NDArray[np.float64]]]:
    """Return sum(w^2) and its gradient."""
    return float(np.sum(arrays["w"] ** 2)), {"w": 2 * arrays["w"]}


if __name__ == "__main__":
    main(Path("model.npz"))
