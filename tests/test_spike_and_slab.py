"""Columns that hardly vary: their density, and a model that is that of the other columns."""

import itertools

import numpy as np
import pytest
import scipy.integrate

import npvae
from npvae.evaluation import quadrature
from npvae.preprocessing import SpikeAndSlab, fit_preprocessor
from npvae.table import survey

SETTINGS = {"n_components": 2, "hidden_layer_sizes": (6,), "learning_rate": 0.05, "max_epochs": 3, "dtype": "float64"}
N, HARDLY = 400, [1, 3, 4]


@pytest.fixture
def X(rng):
    """A column is constant, and two have 2 and 4 unusual values: the last number of rows that is not too many."""
    X = rng.standard_normal((N, 7)) @ rng.standard_normal((7, 7))
    X[:, 1], X[:, 3], X[:, 4] = 2, -5, 0
    X[[7, 9], 3] = [-4, -8]
    X[[7, 20, 30, 40], 4] = [1, 1, 1, 100]
    return X


def densities(X):
    return fit_preprocessor(survey(X), "gaussian")[0].fixed


@pytest.mark.parametrize("n_unusual", [0, 1, 5])
@pytest.mark.parametrize("size, n_rows", [(1.0, 500), (0.3, 5), (1e5, 30_000)])
def test_the_density_integrates_to_one(n_unusual, size, n_rows):
    density = SpikeAndSlab.of_column(0, 3.0, size, n_unusual, n_rows)
    ends = [std * s for std in (density.spike, density.slab) for s in (-40, -8, -3, 0, 3, 8, 40)]
    edges = 3 + np.unique([e for e in ends if abs(e) <= 40 * density.slab])
    total = sum(
        scipy.integrate.fixed_quad(lambda x: np.exp(density.log_prob(x)), a, b, n=60)[0]
        for a, b in itertools.pairwise(edges)
    )
    assert total == pytest.approx(1, abs=1e-9)


def test_the_rule(X):
    """The slab is as wide as unusual values are far, and the spike is the standard error of the mean of one more."""
    constant, two, four = densities(X)
    assert [density.column for density in (constant, two, four)] == HARDLY
    assert constant == (1, 2.0, 1 / (N + 1), 1.0, 1 / (N + 2))
    sizes = np.sqrt((1**2 + 3**2) / 2), np.sqrt((3 * 1**2 + 100**2) / 4)
    for density, value, size, r in zip((two, four), (-5, 0), sizes, (2, 4)):
        assert density.value == value
        np.testing.assert_allclose(density[2:], (size * np.sqrt(r + 1) / (N + 1), size, (r + 1) / (N + 2)), rtol=1e-12)


def test_more_unusual_values_are_learnt(X):
    X[50, 4] = 1
    assert [density.column for density in densities(X)] == HARDLY[:2]


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1e200])
def test_units_change_a_density_by_their_logarithm(X, scale):
    """Also where squares of the values over- or underflow. A constant column has no scale of its own."""
    for density, scaled in zip(densities(X)[1:], densities(X * scale)[1:]):
        values = X[:60, density.column]
        np.testing.assert_allclose(scaled.log_prob(values * scale), density.log_prob(values) - np.log(scale), rtol=1e-9)


def test_an_unforeseen_value_costs_what_the_rows_allow(X):
    """N equal values tell that others have a probability of about 1/N."""
    for density in densities(X):
        usual, other = density.log_prob(density.value + np.array([0, density.slab]))
        assert -2 * np.log(N) - 1 < other - usual < -np.log(N)


@pytest.mark.parametrize("likelihood", ["gaussian", "mixed"])
@pytest.mark.parametrize("settings", [
    {"backend": "reference"}, {"backend": "cpu"}, {"backend": "reference", "estimator": "full-vb"},
], ids=lambda settings: "-".join(settings.values()))  # fmt: skip
def test_the_model_is_that_of_the_other_columns(X, likelihood, settings):
    """To the bit, and every log-density is the sum of the two."""
    if likelihood == "mixed":
        X[:, [0, 6]] = X[:, [0, 6]] > 0
    rest = np.ascontiguousarray(np.delete(X, HARDLY, axis=1))
    model, other = (npvae.VAE(**SETTINGS | settings).fit(data, X_valid=data[:50]) for data in (X, rest))
    assert model.likelihood_ == other.likelihood_ == likelihood and model.n_features_in_ == 7
    np.testing.assert_array_equal(model.parameters_.vector, other.parameters_.vector)
    fixed = sum(density.log_prob(X[:, density.column]) for density in densities(X))
    assert np.ptp(fixed) > 10
    np.testing.assert_allclose(model.score_samples(X), other.score_samples(rest) + fixed, rtol=1e-12)
    np.testing.assert_array_equal(model.transform(X), other.transform(rest))
    others = np.delete(np.arange(7), HARDLY)
    np.testing.assert_array_equal(model.reconstruct(X)[:, others], other.reconstruct(rest))
    for epoch, without in zip(model.history_, other.history_):
        assert epoch.elbo == pytest.approx(without.elbo + fixed.mean(), rel=1e-12)
        assert epoch.elbo_valid == pytest.approx(without.elbo_valid + fixed[:50].mean(), rel=1e-12)
    assert model.health_.elbo - model.health_.baseline == pytest.approx(
        other.health_.elbo - other.health_.baseline, rel=1e-9
    )
    z = np.zeros((3, 2))
    for row in (0, 7):
        value, expected = (m.fitted_.log_joint(data[row])(z)[0] for m, data in ((model, X), (other, rest)))
        np.testing.assert_allclose(value, expected + fixed[row], rtol=1e-12)
    if "estimator" not in settings:
        found, expected = quadrature(model, X[5:9], n_nodes=9), quadrature(other, rest[5:9], n_nodes=9)
        np.testing.assert_allclose(found.log_prob, expected.log_prob + fixed[5:9], rtol=1e-12)
        np.testing.assert_array_equal(found.divergence, expected.divergence)


def test_means_have_the_usual_values_there(X):
    model = npvae.VAE(**SETTINGS, backend="reference").fit(X)
    for means in (model.reconstruct(X), model.sample(4, mean=True), model.inverse_transform(np.ones((2, 2)))):
        assert means.shape[1] == 7
        np.testing.assert_array_equal(means[:, HARDLY], np.tile([2, -5, 0], (len(means), 1)))
    np.testing.assert_allclose(model.predictive_std(np.zeros((1, 2))), 0)


def test_uint8_rows_of_a_model_of_fractions(rng):
    """The unit of their type also counts in the columns that hardly vary."""
    pixels = rng.integers(0, 256, (N, 5), dtype=np.uint8)
    pixels[:, 2], pixels[3, 2] = 51, 255
    model = npvae.VAE(**SETTINGS, backend="reference", likelihood="gaussian").fit(pixels / 255)
    assert [density.column for density in model.preprocessor_.fixed] == [2]
    np.testing.assert_allclose(model.score_samples(pixels), model.score_samples(pixels / 255) - 5 * np.log(255))


@pytest.mark.parametrize("rows, left", [(1, [0, 1, 2]), (2, [0]), (300, [1])])
def test_one_column_is_left_to_learn(rows, left):
    """One row tells nothing; otherwise it is the column that varies most."""
    X = np.tile([3.0, 4.0, 5.0], (rows, 1))
    X[:2, 1] += rows == 300
    X[0, 2] += rows == 300
    preprocessor, _ = fit_preprocessor(survey(X), "gaussian")
    np.testing.assert_array_equal(preprocessor.order, left)
    model = npvae.VAE(**SETTINGS, backend="reference").fit(X)
    assert np.isfinite(model.score(X + 1)) and model.reconstruct(X).shape == X.shape


def test_one_real_column_is_left_beside_binary_ones(rng):
    X = np.c_[rng.integers(0, 2, (N, 3)), np.full((N, 2), 7.0)]
    model = npvae.VAE(**SETTINGS, backend="reference").fit(X)
    assert model.likelihood_ == "mixed" and [density.column for density in model.preprocessor_.fixed] == [4]
    np.testing.assert_allclose(model.reconstruct(X)[:, 3:], 7, atol=0.5)


def test_files(X, tmp_path):
    model = npvae.VAE(**SETTINGS, backend="reference").fit(X)
    model.save(tmp_path / "model.npz")
    loaded = npvae.load(tmp_path / "model.npz")
    assert loaded.preprocessor_.fixed == model.preprocessor_.fixed and len(loaded.preprocessor_.fixed) == 3
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    for fitted in (model, loaded):
        fitted.set_params(max_epochs=5).resume(X)
    np.testing.assert_array_equal(loaded.parameters_.vector, model.parameters_.vector)
    assert [epoch.elbo for epoch in loaded.history_] == [epoch.elbo for epoch in model.history_]


def test_any_number_of_chunks(X, monkeypatch):
    preprocessor, _ = fit_preprocessor(survey(X), "gaussian")
    expected = preprocessor.data(survey(X)).fixed
    monkeypatch.setattr("npvae.table.CHUNK", 7)
    np.testing.assert_array_equal(preprocessor.data(survey(X)).fixed, expected)
    assert expected.shape == (N,)
