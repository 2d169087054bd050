"""The arrays of a model: their names, shapes and places in the flat vector; log p(x, z) with its gradient by z."""

import numpy as np
import pytest

from npvae.distributions import Bernoulli, Normal
from npvae.likelihoods import LIKELIHOODS
from npvae.parameters import Buffers


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


def test_weights_scaled_by_their_inputs(make_model):
    """The same draws for any scale; a layer without inputs has no weights."""
    layout = make_model(likelihood="gaussian", constant_log_var=True)[0].layout
    plain, scaled = (layout.view(layout.initial(np.random.default_rng(0), std)) for std in (1.0, "fan-in"))
    for name, shape in layout.shapes.items():
        if name.endswith(".W"):
            np.testing.assert_allclose(scaled[name], plain[name] / np.sqrt(max(shape[0], 1)), rtol=1e-15)
    assert not scaled.vector[layout.n_weights :].any()


def test_heads_without_inputs(make_model):
    model, _ = make_model(likelihood="gaussian", constant_log_var=True)
    assert model.layout.shapes["encoder.log_var.W"] == (0, 3) and model.layout.shapes["decoder.log_var.W"] == (0, 7)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("L", [1, 3])
def test_log_joint(make_model, rng, backend, likelihood, L):
    """log p(x|z) + log p(z) of many rows, against the densities by themselves; its gradient by differences."""
    model, parameters = make_model(backend, likelihood=likelihood)
    x, z, buffers = rng.random((4, 7)), rng.standard_normal((L * 4, 3)), Buffers(backend, "float64")
    value, dz = (np.array(array) for array in model.log_joint(parameters, x, z, buffers))
    outputs = model.decode(parameters, z, Buffers(backend, "float64")).outputs
    rows = np.tile(x, (L, 1))
    expected, B = Normal().log_prob(z).sum(axis=1), {"bernoulli": 7, "mixed": 2}.get(likelihood, 0)
    if B > 0:
        expected += Bernoulli(outputs[0]).log_prob(rows[:, :B]).sum(axis=1)
    if B < 7:
        mu, log_var = outputs[-2:]
        expected += Normal(mu, np.exp(log_var / 2)).log_prob(rows[:, B:]).sum(axis=1)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    only, none = model.log_joint(parameters, x, z, buffers, gradient=False)
    np.testing.assert_array_equal(only, value)
    assert none is None
    direction = rng.standard_normal(z.shape)
    near, far = (
        (model.log_joint(parameters, x, z + h * direction, Buffers(backend, "float64"))[0]
         - model.log_joint(parameters, x, z - h * direction, Buffers(backend, "float64"))[0])
        for h in (1e-3, 2e-3)
    )  # fmt: skip
    np.testing.assert_allclose((dz * direction).sum(axis=1), (8 * near - far) / 12e-3, rtol=1e-7, atol=1e-8)


def test_log_joint_computes_no_gradient_of_a_weight(make_model, rng, monkeypatch):
    """Not even in a place that nobody reads: the decoder is not given one."""
    model, parameters = make_model()
    gradients = []
    backward = model.decoder.backward
    monkeypatch.setattr(
        model.decoder, "backward", lambda *arguments: (gradients.append(arguments[3]), backward(*arguments))
    )
    model.log_joint(parameters, rng.random((4, 7)), rng.standard_normal((4, 3)), Buffers(model.backend, "float64"))
    assert gradients == [None]
