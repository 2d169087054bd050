"""What a fitted model says of itself: against exact answers, and the warnings it gives."""

import numpy as np
import pytest
import scipy.stats

import npvae
from npvae.evaluation.health import examine
from npvae.preprocessing import SpikeAndSlab
from npvae.training import Epoch

SMALL = {"n_components": 2, "hidden_layer_sizes": (10,), "learning_rate": 0.05, "max_epochs": 3, "dtype": "float64"}


def test_bernoulli_baseline_and_divergence(rng):
    X = (rng.random((700, 6)) < [0.1, 0.5, 0.9, 0.3, 0, 1]).astype(float)  # two batches, two columns that are certain
    model = npvae.VAE(**SMALL).fit(X)
    health, mean = model.health_, X.mean(axis=0)
    assert health.baseline == pytest.approx(scipy.stats.bernoulli.logpmf(X, mean).sum(axis=1).mean(), rel=1e-9)
    assert health.elbo == pytest.approx(model.score(X), rel=1e-12) and health.at_floor == 0
    mu, log_var = model.fitted_.encode(model.fitted_.data(X))
    kl = 0.5 * (mu**2 + np.exp(log_var) - log_var - 1).mean(axis=0)
    np.testing.assert_allclose(health.kl, kl, rtol=1e-9)
    assert health.active == tuple(mu.var(axis=0) > 0.01)


def test_gaussian_baseline_is_in_nats_of_the_data_as_given(rng):
    X = rng.standard_normal((300, 4)) * [1, 20, 0.01, 3] + [0, 100, 0, 1]
    X[:, 3] = 7  # constant
    health = npvae.VAE(**SMALL).fit(X).health_
    expected = scipy.stats.norm.logpdf(X[:, :3], X[:, :3].mean(axis=0), X[:, :3].std(axis=0)).sum(axis=1).mean()
    assert health.baseline == pytest.approx(expected + SpikeAndSlab.of_column(3, 7, 1, 0, 300).log_prob(7), rel=1e-9)


def low_rank(rng, rows, columns):
    return rng.standard_normal((rows, 2)) @ rng.standard_normal((2, columns)) + 0.3 * rng.standard_normal(
        (rows, columns)
    )


TABLES = {
    "raw scales": lambda rng: low_rank(rng, 500, 6) * [1, 1e4, 1e-3, 50, 1, 7] + [0, 1e5, 0, -20, 3, 1],
    "counts": lambda rng: rng.poisson(np.exp(low_rank(rng, 500, 8) / 2 + 1)),
    "30 rows": lambda rng: low_rank(rng, 30, 6),
    "a constant column": lambda rng: np.c_[low_rank(rng, 300, 5), np.full(300, 3.0)],
    "more columns than rows": lambda rng: low_rank(rng, 40, 60),
    "booleans": lambda rng: low_rank(rng, 500, 12) > 0,
}


#: Those whose fits take longest.
LONG = ("raw scales", "a constant column", "booleans")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in TABLES]
)
def test_fit_ends_above_independent_columns(rng, name):
    """Each with `npvae.fit` and no setting; the model that it leaves is worth having."""
    X = TABLES[name](rng)
    model = npvae.fit(X, verbose=False)
    assert model.health_.elbo > model.health_.baseline + 0.1 and sum(model.health_.active) >= 1
    lags = "lags" if len(X) < 50 else "floor"  # too few rows to hold some out: the average of the iterates is kept
    assert not [warning for warning in model.health_.warnings if "floor" not in warning and lags not in warning]


@pytest.mark.parametrize("columns", [1, 5])
def test_where_nothing_can_be_learnt_it_says_so(rng, columns, capsys):
    model = npvae.fit(rng.random((200, columns)) < 0.3, max_epochs=20)
    assert any("no better than independent columns" in warning for warning in model.health_.warnings)
    assert "warning: no better than independent columns" in capsys.readouterr().err


def test_warnings(rng):
    """Each from a model made for it."""
    X = np.repeat(rng.standard_normal((20, 2)), 3, axis=1)  # columns that determine each other
    model = npvae.VAE(2, hidden_layer_sizes=(20,), learning_rate=0.1, max_epochs=400).fit(X)
    look = lambda history: examine(model.fitted_, model.fitted_.data(X), history)
    falling = [Epoch(i, i, bound, np.nan, 0.0) for i, bound in enumerate([-3.0, -2.0, -9.0])]
    assert any("fell from -3.00 to -9.00" in warning for warning in look(falling).warnings)
    assert not any("fell" in warning for warning in look(falling[:2]).warnings)
    model.parameters_["decoder.log_var.b"][...] = -50
    model.parameters_["decoder.log_var.W"][...] = 0
    clipped = look([])
    assert clipped.at_floor == 1 and any("100% of the decoder's variances" in warning for warning in clipped.warnings)
    for name in ("encoder.mu.W", "encoder.mu.b"):
        model.parameters_[name][...] = 0
    assert any("collapsed" in warning for warning in look([]).warnings) and not any(look([]).active)


def test_it_can_be_read_and_is_kept(rng, tmp_path):
    model = npvae.VAE(**SMALL).fit(rng.standard_normal((50, 3)))
    text = str(model.health_)
    assert f"bound {model.health_.elbo:.2f} nats" in text and "of 2 latent dimensions active" in text
    model.save(tmp_path / "model.npz")
    assert npvae.load(tmp_path / "model.npz").health_ == model.health_


@pytest.mark.parametrize("log_var", [-2000.0, 1500.0])
def test_any_variance_of_q_is_examined(rng, log_var):
    """Although its standard deviation is zero, or infinite, in float64."""
    X = rng.standard_normal((40, 4))
    settings = {"hidden_layer_sizes": (5,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    model = npvae.VAE(2, **settings, dtype="float64").fit(X)
    model.parameters_["encoder.log_var.W"][...], model.parameters_["encoder.log_var.b"][...] = 0, log_var
    with np.errstate(all="ignore"):
        kl = examine(model.fitted_, model.fitted_.data(X), model.history_).kl
    assert kl == ((np.inf, np.inf) if log_var > 0 else pytest.approx([(-1 - log_var) / 2] * 2, rel=1e-2))


def test_an_unlucky_last_step_is_said(rng):
    """A bound below the best epoch's by more than the stated amount; not one within it."""
    X = low_rank(rng, 400, 6)
    model = npvae.VAE(**SMALL).fit(X)
    scores = model.score_samples(X)
    amount = 1 + 3 * scores.std() / 20
    for above, said in ((amount + 0.01, True), (amount - 0.01, False)):
        history = [Epoch(i + 4, 0, scores.mean() + shift, np.nan, 0.0) for i, shift in enumerate((-9, above, -1))]
        warnings = examine(model.fitted_, model.fitted_.data(X), history).warnings
        assert any("epoch 5 had" in warning and "unlucky" in warning for warning in warnings) == said
