"""What a fitted model says of itself, line by line. Nothing is computed on data."""

import math
from collections.abc import Iterator
from typing import Any

#: Settings that the fit chooses where they are "auto"; the value is then in an attribute with a trailing underscore.
CHOSEN = ("likelihood", "learning_rate", "backend")


def describe(vae: Any) -> Iterator[tuple[str, str]]:
    """Yield (name, text) for each line of the summary of a fitted `VAE`.

    Examples
    --------
    >>> import numpy as np
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 4))
    >>> model = npvae.VAE(1, hidden_layer_sizes=(8,), learning_rate=0.02, max_epochs=1, backend="reference").fit(X)
    >>> for name, text in list(describe(model))[:4]:
    ...     print(f"{name}: {text}")
    fitted: to 50 rows of 4 columns, 1 epoch
    encoder: 4 -> 8 -> 1, tanh; q(z|x) gaussian
    decoder: 1 -> 8 -> 4, tanh; p(x|z) gaussian
    parameters: 146, float32
    """
    architecture, parameters = vae.architecture_, vae.parameters_
    history, health = list(vae.history_), getattr(vae, "health_", None)
    D, J, hidden = architecture.n_features, architecture.n_components, architecture.hidden_layer_sizes
    activation = f", {architecture.activation}" if hidden else ", linear"
    epochs, columns = history[-1].epoch if history else 0, vae.n_features_in_
    yield "fitted", f"to {vae.n_samples_seen_} rows of {columns} columns, {epochs} epoch{'s' * (epochs != 1)}"
    encoder = f"{_chain(D, *hidden, J)}{activation}; q(z|x) {architecture.posterior}"
    yield "encoder", encoder if architecture.has_encoder else "none"
    yield "decoder", f"{_chain(J, *reversed(hidden), D)}{activation}; p(x|z) {architecture.likelihood}"
    yield "parameters", f"{parameters.layout.size}, {parameters.vector.dtype}"
    if chosen := [name for name in CHOSEN if isinstance(getattr(vae, name), str) and getattr(vae, name) == "auto"]:
        yield "chosen for 'auto'", ", ".join(f"{name}={getattr(vae, f'{name}_')!r}" for name in chosen)
    yield from _bound(history, health)
    if getattr(vae, "stopped_", None):
        yield "stopped", vae.stopped_
    for warning in health.warnings if health else ():
        yield "warning", warning


def _bound(history: list[Any], health: Any) -> Iterator[tuple[str, str]]:
    """Yield the bound beside the baseline, how many latents are active, and the bounds of the last epoch."""
    if health:
        yield "bound", f"{health.elbo:.2f} nats on training data; independent columns {health.baseline:.2f}"
        yield "active latents", f"{sum(health.active)} of {len(health.active)}"
    if history and math.isnan(history[-1].elbo):
        yield "last epoch", f"no bound, value {history[-1].value:.2f} nats"
    elif history:
        valid = history[-1].elbo_valid
        validation = "" if math.isnan(valid) else f", on validation data {valid:.2f}"
        yield "last epoch", f"bound {history[-1].elbo:.2f} nats{validation}"


def _chain(*sizes: int) -> str:
    return " -> ".join(map(str, sizes))
