"""Rows of likelihoods: each is complete, and its mean, draws and baseline are those of its density."""

import numpy as np
import pytest
import scipy.stats

import npvae
from npvae.backends import formulas, interface
from npvae.backends.formulas import MIN_LOG_VAR
from npvae.likelihoods import LIKELIHOODS
from npvae.preprocessing import choose_likelihood
from npvae.table import survey

R, D, B = 40_000, 5, 2
SMALL = {"n_components": 2, "hidden_layer_sizes": (6,), "learning_rate": 0.05, "max_epochs": 3, "backend": "reference"}


def width(head):
    return {"all": D, "binary": B, "real": D - B}[head.columns]


def binary_columns(row):
    """Return how many of D columns are binary."""
    return {"bernoulli_log_prob": D, "gaussian_log_prob": 0, "mixed_log_prob": B}[row.log_prob]


def outputs_of(row, rng):
    """Return outputs of a decoder, the same for all R rows: each head's activation of some numbers."""
    return [
        np.tile(
            formulas.activation(head.activation).function(rng.standard_normal(width(head))).astype(np.float32), (R, 1)
        )
        for head in row.heads
    ]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_row_is_complete(name):
    row = LIKELIHOODS[name]
    assert row.log_prob in interface.FUNCTIONS
    assert all(head.activation in formulas.ACTIVATIONS for head in row.heads)
    assert row.floor is None or row.heads[row.floor].activation == "soft_floor"


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_have_the_mean_and_the_variance_of_the_density(rng, name):
    row = LIKELIHOODS[name]
    outputs, n_binary = outputs_of(row, rng), binary_columns(row)
    mean = row.mean(outputs)[0]
    variance = mean * (1 - mean)
    if n_binary < D:
        variance[n_binary:] = np.exp(outputs[row.floor][0])
    draws = row.draw(rng, outputs)
    assert draws.shape == (R, D) and draws.dtype == np.float32
    assert set(np.unique(draws[:, :n_binary])) <= {0, 1}
    error = np.sqrt(variance / R)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * error)
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.05)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_baseline_is_the_best_of_independent_columns(rng, name):
    row = LIKELIHOODS[name]
    n_binary = binary_columns(row)
    X = np.concatenate([rng.random((500, n_binary)) < 0.3, rng.random((500, D - n_binary))], axis=1)
    mean, variance = X.mean(axis=0), X.var(axis=0)
    exact = scipy.stats.bernoulli(mean[:n_binary]).logpmf(X[:, :n_binary]).sum(axis=1).mean()
    exact += scipy.stats.norm(mean[n_binary:], X.std(axis=0)[n_binary:]).logpdf(X[:, n_binary:]).sum(axis=1).mean()
    assert row.baseline(mean, variance, n_binary).sum() == pytest.approx(exact, rel=1e-12)


def test_a_constant_column_has_the_floor_for_a_variance():
    best = LIKELIHOODS["gaussian"].baseline(np.zeros(1), np.zeros(1), 0)
    assert best == pytest.approx(scipy.stats.norm(0, np.exp(MIN_LOG_VAR / 2)).logpdf(0), rel=1e-12)


# Columns of several kinds ---------------------------------------------------------------------------------------------


@pytest.fixture
def table(rng):
    """Two latent numbers, three real and two binary columns, in no order."""
    Z = rng.standard_normal((300, 2))
    real = Z @ rng.standard_normal((2, 3)) * [1, 20, 0.1] + [0, 5, 100] + 0.1 * rng.standard_normal((300, 3))
    binary = rng.random((300, 2)) < 1 / (1 + np.exp(-3 * Z))
    return np.c_[real[:, 0], binary[:, 0], real[:, 1], binary[:, 1], real[:, 2]]


def log_p_x(model, X, side=60):
    """log p(x) of each row, by quadrature over a latent plane."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(side)
    Z = np.stack(np.meshgrid(nodes, nodes), axis=2).reshape(-1, 2)
    log_weights = np.log(np.outer(weights, weights)).ravel() - np.log(2 * np.pi)
    found = []
    for x in X:
        log_joint = model.fitted_.log_joint(x)(Z)[0]
        prior = scipy.stats.norm.logpdf(Z).sum(axis=1)
        found.append(scipy.special.logsumexp(log_joint - prior + log_weights))
    return np.array(found)


def test_columns_of_two_kinds_sum_and_integrate_to_one(table):
    """p(x) sums to one over the binary columns, and integrates to one over a real one: in the units of the data."""
    X = table[:, [1, 2, 3]]
    model = npvae.VAE(**SMALL, likelihood="mixed", dtype="float64").fit(X)
    real, step = np.linspace(X[:, 1].min() - 150, X[:, 1].max() + 150, 801, retstep=True)
    grid = np.array([(a, x, b) for a in (0, 1) for x in real for b in (0, 1)], float)
    total = np.exp(log_p_x(model, grid, side=30)).sum() * step
    assert total == pytest.approx(1, abs=1e-6)


def test_the_bound_is_that_of_its_kinds(table):
    """With the weights of the decoder zero, the columns are independent: each has its own density."""
    model = npvae.VAE(**SMALL, dtype="float64").fit(table)
    assert model.likelihood_ == "mixed" and "2 of 5 columns of X hold nothing but 0 and 1" in model.report_[0]
    for _, array in model.parameters_.items():
        array[...] = 0
    expected = scipy.stats.norm(table.mean(0), table.std(0)).logpdf(table)
    expected[:, [1, 3]] = np.log(0.5)
    found = model.score_samples(table)
    log_var = formulas.activation("soft_floor").function(0.0)  # a head at 0 has nearly the log-variance 0
    np.testing.assert_allclose(found, expected.sum(axis=1), atol=20 * abs(log_var))
    reconstruction = model.reconstruct(table)
    np.testing.assert_allclose(reconstruction[:, [1, 3]], 0.5)
    np.testing.assert_allclose(reconstruction[:, [0, 2, 4]], np.tile(table.mean(0)[[0, 2, 4]], (300, 1)))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_mixed_table_is_learnt_and_kept(table, tmp_path, backend):
    model = npvae.VAE(**SMALL | {"max_epochs": 60, "backend": backend}).fit(table)
    assert model.health_.elbo > model.health_.baseline + 1 and not model.health_.warnings
    assert np.corrcoef(model.reconstruct(table)[:, 1], table[:, 1])[0, 1] > 0.5
    assert ((model.sample(50)[:, [1, 3]] > 0) & (model.sample(50)[:, [1, 3]] < 1)).all()
    model.save(tmp_path / "m.npz")
    again = npvae.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(again.score_samples(table), model.score_samples(table))
    np.testing.assert_array_equal(again.reconstruct(table), model.reconstruct(table))
    longer = npvae.VAE(**SMALL | {"backend": backend}).fit(table)
    resumed = npvae.VAE(**SMALL | {"backend": backend}, callbacks=[lambda epoch: epoch.epoch == 2]).fit(table)
    resumed.set_params(callbacks=()).resume(table)
    np.testing.assert_array_equal(resumed.parameters_.vector, longer.parameters_.vector)


@pytest.mark.parametrize("estimator", ["sgvb-a", "sgvb-b", "score-function-leave-one-out", "full-vb"])
def test_gradients_of_a_mixed_table(table, estimator):
    settings = SMALL | {"estimator": estimator, "n_samples": 2, "likelihood": "mixed", "backend": "cpu"}
    assert npvae.gradcheck(npvae.VAE(**settings), table[:20]).passed


def test_binary_columns_have_values_between_0_and_1(table):
    model = npvae.VAE(**SMALL).fit(table)
    for value, message in ((1.5, "by 0.5 outside .* in column 3; the mixed likelihood"), (-2, "by 2 outside")):
        wrong = table.copy()
        wrong[7, 3] = value
        with pytest.raises(ValueError, match=message):
            model.score(wrong)
    wrong = table.copy()
    wrong[:, 0] *= 100  # a real column may have any value
    assert np.isfinite(model.score(wrong))
    with pytest.warns(UserWarning, match="clipped"):
        np.testing.assert_array_equal(
            model.score_samples(np.where(table == 1, 1 + 1e-7, table)), model.score_samples(table)
        )
    with pytest.warns(UserWarning, match="the values of column 2 are"):
        model.partial_fit(table * [1, 1, 1000, 1, 1])


@pytest.mark.parametrize("columns", [[0, 2, 4], [1, 3]])
def test_mixed_needs_columns_of_both_kinds(table, columns):
    with pytest.raises(ValueError, match=r"likelihood is 'mixed', but . of . columns of X have the values 0 and 1"):
        npvae.VAE(**SMALL, likelihood="mixed").fit(table[:, columns])


def test_rare_counts_are_not_binary(rng):
    """Among integers from 0 on: a column that happens to hold 0 and 1, but not one with many of each."""
    counts, rows = rng.poisson(9, (400, 4)), np.arange(400)
    counts[0] = 0
    few, half, small = rows < 3, rows < 100, rows % 3
    for table, expected in (
        (np.c_[counts, few], "gaussian"),
        (np.c_[counts, half], "mixed"),
        (np.c_[counts, half, small], "gaussian"),
        (np.c_[counts, half, 5 * small], "mixed"),
        (np.c_[counts + 0.5, few, small], "mixed"),
        (np.c_[counts, np.zeros(400)], "gaussian"),  # a constant is not binary
        (np.c_[counts + 0.5, np.ones(400)], "gaussian"),
    ):
        assert choose_likelihood(survey(table))[0] == expected
