"""The arrays of a model: their names, shapes and places in the flat vector."""

import numpy as np
import pytest

from npvae.model import LIKELIHOODS


def test_names_and_shapes(make_model):
    """The decoder mirrors the encoder; every head reads the last hidden layer."""
    model, _ = make_model(n_features=7, n_components=3, hidden_layer_sizes=(6, 5), likelihood="gaussian")
    weights = {name: shape for name, shape in model.layout.shapes.items() if name.endswith(".W")}
    assert weights == {
        "encoder.hidden1.W": (7, 6),
        "encoder.hidden2.W": (6, 5),
        "encoder.mu.W": (5, 3),
        "encoder.log_var.W": (5, 3),
        "decoder.hidden1.W": (3, 5),
        "decoder.hidden2.W": (5, 6),
        "decoder.mu.W": (6, 7),
        "decoder.log_var.W": (6, 7),
    }
    biases = {name: shape for name, shape in model.layout.shapes.items() if name.endswith(".b")}
    assert biases == {name[:-1] + "b": shape[1:] for name, shape in weights.items()}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_weights_stand_before_biases(make_model, rng, likelihood):
    """A prior on the weights is one on the first part of the vector; initial biases are zero."""
    model, parameters = make_model(likelihood=likelihood)
    layout = model.layout
    parameters.vector[: layout.n_weights], parameters.vector[layout.n_weights :] = 1, 2
    for name, view in parameters.items():
        assert (view == (1 if name.endswith(".W") else 2)).all(), name
    initial = layout.initial(rng, 0.1)
    assert not initial[layout.n_weights :].any()
    assert np.std(initial[: layout.n_weights]) == pytest.approx(0.1, rel=0.2)


def test_heads_without_inputs(make_model):
    model, _ = make_model(likelihood="gaussian", constant_log_var=True)
    assert model.layout.shapes["encoder.log_var.W"] == (0, 3) and model.layout.shapes["decoder.log_var.W"] == (0, 7)
