"""Rows of likelihoods: each is complete, and its mean, draws and baseline are those of its density."""

import numpy as np
import pytest
import scipy.stats

from npvae.backends import formulas, interface
from npvae.backends.formulas import MIN_LOG_VAR
from npvae.likelihoods import LIKELIHOODS

R, D = 40_000, 3


def outputs_of(row, rng):
    """Return outputs of a decoder, the same for all R rows: each head's activation of some numbers."""
    return [
        np.tile(formulas.activation(f).function(rng.standard_normal(D)).astype(np.float32), (R, 1))
        for _, f in row.heads
    ]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_row_is_complete(name):
    row = LIKELIHOODS[name]
    assert row.log_prob in interface.FUNCTIONS
    assert all(activation in formulas.ACTIVATIONS for _, activation in row.heads)
    assert row.floor is None or row.heads[row.floor][1] == "soft_floor"


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_have_the_mean_and_the_variance_of_the_density(rng, name):
    row = LIKELIHOODS[name]
    outputs = outputs_of(row, rng)
    mean = row.mean(outputs[0])[0]
    variance = mean * (1 - mean) if len(outputs) == 1 else np.exp(outputs[1][0])
    draws = row.draw(rng, outputs)
    assert draws.shape == (R, D) and draws.dtype == np.float32
    if len(outputs) == 1:
        assert set(np.unique(draws)) == {0, 1}
    error = np.sqrt(variance / R)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * error)
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.05)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_baseline_is_the_best_of_independent_columns(rng, name):
    row = LIKELIHOODS[name]
    X = (rng.random((500, D)) < 0.3).astype(float) if len(row.heads) == 1 else rng.random((500, D))
    mean, variance = X.mean(axis=0), X.var(axis=0)
    density = (
        scipy.stats.bernoulli(mean).logpmf if len(row.heads) == 1 else scipy.stats.norm(mean, X.std(axis=0)).logpdf
    )
    assert row.baseline(mean, variance) == pytest.approx(density(X).sum(axis=1).mean(), rel=1e-12)


def test_a_constant_column_has_the_floor_for_a_variance():
    best = LIKELIHOODS["gaussian"].baseline(np.zeros(1), np.zeros(1))
    assert best == pytest.approx(scipy.stats.norm(0, np.exp(MIN_LOG_VAR / 2)).logpdf(0), rel=1e-12)
