"""Codes, filling in, denoising and super-resolution as users call them: shapes, units, limits, and bad input."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import npvae
from npvae.conditional import uses
from npvae.conventions import NotFittedError

SETTINGS = {"hidden_layer_sizes": (5,), "learning_rate": 0.05, "max_epochs": 3, "backend": "reference"}

pytestmark = pytest.mark.filterwarnings("ignore:.*split R-hat:UserWarning")  # of few samples


@pytest.fixture(scope="module")
def tables():
    """A table of each kind."""
    rng = np.random.default_rng(0)
    mixed = np.column_stack([rng.random((80, 2)) < 0.4, 10 * rng.standard_normal((80, 3)) + 5, np.full(80, 3.0)])
    return {
        "bernoulli": (rng.random((80, 6)) < 0.4).astype(float),
        "gaussian": 10 * rng.standard_normal((80, 6)) + 5,
        "sigmoid-gaussian": rng.random((80, 6)),
        "mixed": mixed[:, [2, 0, 5, 3, 1, 4]],
    }


@pytest.fixture(scope="module")
def models(tables):
    return {name: npvae.VAE(2, likelihood=name, **SETTINGS).fit(X) for name, X in tables.items()}


LIKELIHOODS = ("bernoulli", "gaussian", "sigmoid-gaussian", "mixed")
FEW = {"n_samples": 128}


def with_holes(X, share=0.4, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)


# Codes ----------------------------------------------------------------------------------------------------------------


def test_codes(models, tables):
    model, X = models["gaussian"], tables["gaussian"]
    mean, std = model.encode(X)
    np.testing.assert_array_equal(mean, model.transform(X))
    np.testing.assert_allclose(std, np.exp(model.fitted_.encode(model.fitted_.data(X))[1] / 2))
    z = model.sample_posterior(X[:5], 4000)
    assert z.shape == (4000, 5, 2)
    assert stats.kstest(((z - mean[:5]) / std[:5]).ravel(), "norm").pvalue > 1e-3
    np.testing.assert_allclose(model.sample_posterior(X[3:5], 4000), z[:, 3:5], rtol=1e-5)
    assert not np.array_equal(model.sample_posterior(X[:5], 1), model.sample_posterior(X[:5], 1, random_state=1))


def test_codes_of_another_family(tables):
    model = npvae.VAE(2, posterior="uniform", **SETTINGS).fit(tables["gaussian"])
    mean, std = model.encode(tables["gaussian"][:3])
    u = (model.sample_posterior(tables["gaussian"][:3], 3000) - mean) / std
    expected = stats.uniform(-np.sqrt(3), 2 * np.sqrt(3))
    assert abs(u).max() < np.sqrt(3) * (1 + 1e-5) and stats.kstest(u.ravel(), expected.cdf).pvalue > 1e-3


def test_codes_as_data_frames(tables):
    frame = pd.DataFrame(tables["gaussian"], columns=list("abcdef"), index=np.arange(80) + 7)
    model = npvae.VAE(2, **SETTINGS).fit(frame).set_output(transform="pandas")
    for code in model.encode(frame):
        assert list(code.columns) == ["vae0", "vae1"] and list(code.index) == list(frame.index)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_are_of_the_model(models, name):
    """x has the mean and the variance of p(x): those of E[x|z], and of p(x|z)."""
    x, means = models[name].sample(20_000), models[name].sample(20_000, mean=True)
    np.testing.assert_array_less(abs(x.mean(axis=0) - means.mean(axis=0)), 5 * x.std(axis=0) / np.sqrt(10_000) + 1e-9)
    assert (x.std(axis=0) >= means.std(axis=0)).all()
    if name == "bernoulli":
        assert set(np.unique(x)) == {0, 1}


def test_samples_with_random_weights(tables):
    """Rows take turns with the draws of the weights."""
    model = npvae.VAE(2, estimator="full-vb", **SETTINGS).fit(tables["gaussian"])
    model.parameters_["decoder.mu.W.log_var"][...] = 0
    model.parameters_["decoder.log_var.b"][...] = -4
    x, fitted = model.sample(2000), model.fitted_
    decoded = list(fitted.decode(fitted.generator("sample").standard_normal((2000, 2))))
    error = lambda shift: np.mean([((x - decoded[(i + shift) % 10])[i::10] ** 2).mean() for i in range(10)])
    assert x.shape == (2000, 6) and error(0) < 0.8 * error(1)


def test_the_line_between_two_codes(models, tables):
    model, (x1, x2) = models["gaussian"], tables["gaussian"][:2]
    line = model.interpolate(x1, x2, steps=3)
    z = model.transform(tables["gaussian"][:2])
    np.testing.assert_allclose(line, model.inverse_transform(np.array([z[0], z.mean(axis=0), z[1]])), rtol=1e-5)
    assert line.dtype == x1.dtype and model.interpolate(x1.astype("f4"), x2).dtype == np.float32
    with pytest.raises(ValueError, match=r"x2 has the shape \(1, 6\); expected one datapoint"):
        model.interpolate(x1, x2[None])
    with pytest.raises(ValueError, match="steps is 1; expected an integer of at least 2"):
        model.interpolate(x1, x2, 1)
    with pytest.raises(ValueError, match="x1 has 5 features"):
        model.interpolate(x1[:5], x2)


# Filling in -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_what_is_there_stays(models, tables, name):
    model, X = models[name], tables[name][:20]
    holes = with_holes(X)
    there = ~np.isnan(holes)
    before = holes.copy()
    filled, std = model.impute(holes, return_std=True, **FEW)
    draws = model.impute(holes, n_draws=3, **FEW)
    baseline = model.impute(holes, method="one-pass")
    np.testing.assert_array_equal(holes, before)
    for answer in (filled, *draws, baseline):
        assert np.isfinite(answer).all() and answer.dtype == X.dtype
        np.testing.assert_array_equal(answer[there], X[there])
    assert draws.shape == (3, 20, 6) and (std[there] == 0).all() and (std[~there] > 0).all()
    if name == "bernoulli":
        assert set(np.unique(draws)) == {0, 1} and ((filled >= 0) & (filled <= 1)).all()
    if name == "mixed":
        assert set(np.unique(draws[:, :, [1, 4]])) == {0, 1}
        np.testing.assert_array_equal(filled[:, 2], 3.0)


def test_nothing_to_fill_in(models, tables):
    """The same bits, and the same type."""
    for name, X in tables.items():
        for ask in (models[name].impute, lambda X, m=models[name]: m.denoise(X, sigma=0)):
            answer = ask(X)
            assert answer is not X and answer.dtype == X.dtype
            np.testing.assert_array_equal(answer, X)
        answer, std = models[name].impute(X, return_std=True)
        np.testing.assert_array_equal(answer, X)
        assert (std == 0).all()
        assert models[name].impute(X[:5], n_draws=2).shape == (2, 5, 6)
    bits = tables["bernoulli"].astype(np.uint8)
    answer = models["bernoulli"].impute(bits)
    assert answer.dtype == np.uint8 and np.array_equal(answer, bits)


def test_a_row_of_holes_is_one_of_the_prior(models, tables):
    model = models["gaussian"]
    x = model.sample(20_000)
    draws = model.impute(np.full((1, 6), np.nan), n_draws=4000)[:, 0]
    for d in range(6):
        assert stats.ks_2samp(draws[:, d], x[:, d]).pvalue > 1e-4
    mean, std = model.impute(np.full((1, 6), np.nan), return_std=True, n_samples=4000)
    np.testing.assert_allclose(mean[0], x.mean(axis=0), atol=4 * x.std() / np.sqrt(4000))
    np.testing.assert_allclose(std[0], x.std(axis=0), rtol=0.05)


def test_a_column_of_holes(models, tables):
    holes = tables["gaussian"][:10].copy()
    holes[:, 3] = np.nan
    assert np.isfinite(models["gaussian"].impute(holes, **FEW)).all()


def test_data_frames_keep_columns_and_index(tables):
    frame = pd.DataFrame(with_holes(tables["mixed"]), columns=list("abcdef"), index=np.arange(80) + 7)
    model = npvae.VAE(2, **SETTINGS).fit(pd.DataFrame(tables["mixed"], columns=list("abcdef")))
    filled, std = model.impute(frame, return_std=True, **FEW)
    noisy = model.denoise(frame, sigma=0.1, **FEW)
    for answer in (filled, std, noisy, model.impute(frame, method="one-pass")):
        assert isinstance(answer, pd.DataFrame)
        assert list(answer.columns) == list("abcdef") and list(answer.index) == list(frame.index)
    np.testing.assert_array_equal(filled.to_numpy(), model.impute(frame.set_axis(range(80)), **FEW).to_numpy())
    with pytest.raises(ValueError, match="must be in the same order"):
        model.impute(frame[list("bacdef")])


def test_pixels_of_bytes_are_filled_in_by_a_mask(rng):
    X = rng.integers(0, 256, (60, 6), dtype=np.uint8)
    model = npvae.VAE(2, **SETTINGS).fit(X)
    mask = rng.random(X.shape) < 0.3
    filled = model.impute(np.ma.masked_array(X, mask), **FEW)
    assert filled.dtype == np.float32 and filled.max() > 1  # in the units of X
    np.testing.assert_array_equal(filled[~mask], X[~mask])
    as_floats = model.impute(np.where(mask, np.nan, X / 255), **FEW)
    np.testing.assert_allclose(filled, 255 * as_floats, rtol=1e-4)


def test_other_types_of_floats(models, tables):
    for dtype in ("float16", "float32", ">f8"):
        holes = with_holes(tables["gaussian"][:5]).astype(dtype)
        filled = models["gaussian"].impute(holes, **FEW)
        assert filled.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(filled[~np.isnan(holes)], holes[~np.isnan(holes)])


def test_a_model_without_encoder(tables):
    model = npvae.VAE(2, estimator="monte-carlo-em", **SETTINGS).fit(tables["gaussian"])
    holes = with_holes(tables["gaussian"][:5])
    assert np.isfinite(model.impute(holes, **FEW)).all() and np.isfinite(model.denoise(holes, sigma=1, **FEW)).all()
    for ask in (model.encode, model.sample_posterior, lambda X: model.interpolate(X[0], X[1])):
        with pytest.raises(ValueError, match="the model has no encoder"):
            ask(tables["gaussian"][:5])
    with pytest.raises(ValueError, match="the model has no encoder"):
        model.impute(holes, method="one-pass")


def test_doubtful_rows_are_named(tables, monkeypatch):
    """The number of a row is that in X, not among the rows with holes."""
    model = npvae.VAE(2, **SETTINGS).fit(tables["gaussian"])
    X = tables["gaussian"][:10].copy()
    X[7, :5] = np.nan
    monkeypatch.setitem(uses.LIMITS, "effective sample size", uses.Limit("below", 1e9, "take more"))
    message = "impute: the effective sample size is below 1e.09 in 1 of 1 rows, the worst is row 7 with .*: take more"
    with pytest.warns(UserWarning, match=message):
        model.impute(X)


# Denoising ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_noise_is_removed(models, name, rng):
    """Of data of the model: the answer is nearer than what was given, by what its standard deviation says."""
    model = models[name]
    X = model.sample(300).astype(float)
    sigma = np.where(X.std(axis=0) > 0, X.std(axis=0), 1)
    noisy = X + sigma * rng.standard_normal(X.shape)
    answer, std = model.denoise(noisy, sigma=sigma, return_std=True, **FEW)
    error, moves = answer - X, X.std(axis=0) > 0
    assert ((error**2).mean(axis=0) < 0.8 * sigma**2).all()
    assert abs((error[:, moves] ** 2).mean(axis=0) / (std[:, moves] ** 2).mean(axis=0) - 1).max() < 0.3
    draws = model.denoise(noisy[:50], sigma=sigma, n_draws=40, **FEW)
    np.testing.assert_allclose(draws.mean(axis=0), answer[:50], atol=6 * sigma.max() / np.sqrt(40))


def test_salt_and_pepper_is_removed(models, rng):
    model = models["bernoulli"]
    X = model.sample(400)
    replaced = rng.random(X.shape) < 0.3
    noisy = np.where(replaced, rng.random(X.shape) < 0.5, X)
    answer, std = model.denoise(noisy, salt_and_pepper=0.3, return_std=True, **FEW)
    assert ((answer - X) ** 2).mean() < 0.9 * ((noisy - X) ** 2).mean()
    assert abs(((answer - X) ** 2).mean() / (std**2).mean() - 1) < 0.1
    unknown = model.denoise(noisy[:5], salt_and_pepper=1.0, n_samples=2000)
    np.testing.assert_allclose(unknown, np.tile(model.sample(5000, mean=True).mean(axis=0), (5, 1)), atol=0.02)
    np.testing.assert_array_equal(model.denoise(noisy, salt_and_pepper=0.0), noisy)


def test_noise_of_levels(rng):
    """Strengths are in the units of X: 255 times those of the same pixels in [0, 1]."""
    X = rng.integers(0, 256, (60, 6)).astype(float)
    model = npvae.VAE(2, likelihood="bernoulli", **SETTINGS).fit(X)
    fractions = npvae.VAE(2, likelihood="bernoulli", **SETTINGS).fit(X / 255)
    noisy = X[:8] + 60 * rng.standard_normal((8, 6))
    found, expected = model.denoise(noisy, sigma=60, **FEW), fractions.denoise(noisy / 255, sigma=60 / 255, **FEW)
    assert (found > 1).any()
    np.testing.assert_allclose(found, 255 * expected, rtol=0.05, atol=5)


# Super-resolution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "sigmoid-gaussian"])
def test_averages_of_pictures_are_those_given(name, rng):
    """Pictures of 4 x 6 grey pixels, and of 2 x 4 pixels in three colours."""
    X = rng.random((60, 24))
    X = (X < 0.5).astype(float) if name == "bernoulli" else X
    model = npvae.VAE(2, likelihood=name, **SETTINGS).fit(X)
    grey = lambda X: X.reshape(-1, 2, 2, 3, 2).mean(axis=(2, 4)).reshape(-1, 6)
    colours = lambda X: X.reshape(-1, 1, 2, 2, 2, 3).mean(axis=(2, 4)).reshape(-1, 6)
    for smaller, shape in (grey, (4, 6)), (colours, (2, 4, 3)):
        small = smaller(X[:7])
        answer, std = model.super_resolve(small, shape, 2, return_std=True, **FEW)
        assert answer.shape == (7, 24) and (std > 0).any()
        np.testing.assert_allclose(smaller(answer), small, atol=1e-6)
        draws = model.super_resolve(small, shape, 2, n_draws=3, **FEW)
        assert draws.shape == (3, 7, 24)
        np.testing.assert_allclose(smaller(draws), np.tile(small, (3, 1)), atol=1e-6)
    np.testing.assert_allclose(model.super_resolve(X[:7], (4, 6), 1, **FEW), X[:7], atol=1e-6)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda m, X: m.impute(X[:, :5]), "X has 5 features"),
        (lambda m, X: m.impute(X, method="one"), "method is 'one'; expected one of 'chains', 'one-pass'"),
        (lambda m, X: m.impute(X, n_draws=0), "n_draws is 0; expected an integer of at least 1"),
        (lambda m, X: m.impute(X, n_draws=2, return_std=True), "expected one of the two"),
        (lambda m, X: m.impute(X, n_samples=10), "n_samples is 10; expected an integer of at least 128"),
        (lambda m, X: m.impute(X, random_state=-1), "random_state is -1; expected an integer of at least 0"),
        (lambda m, X: m.impute(X * np.inf), "X holds .* infinite value"),
        (lambda m, X: m.impute(X, method="one-pass", n_draws=2), "method is 'one-pass', which has no draws"),
        (lambda m, X: m.denoise(X), "sigma is None, and salt_and_pepper is None; expected one of the two"),
        (lambda m, X: m.denoise(X, sigma=1, salt_and_pepper=0.1), "expected one of the two"),
        (lambda m, X: m.denoise(X, sigma=-0.1), "sigma is -0.1; expected finite numbers of at least 0"),
        (lambda m, X: m.denoise(X, sigma=np.nan), "sigma is nan; expected finite numbers of at least 0"),
        (
            lambda m, X: m.denoise(X, sigma=[1, 2]),
            r"sigma has the shape \(2,\); expected a number, or one",
        ),
        (lambda m, X: m.denoise(X[:, :5], sigma=1), "X has 5 features"),
        (lambda m, X: m.denoise(X, salt_and_pepper=1.1), "salt_and_pepper is 1.1; expected a probability"),
        (lambda m, X: m.denoise(X, salt_and_pepper=-1), "salt_and_pepper is -1; expected a number of at least 0"),
        (lambda m, X: m.denoise(X, salt_and_pepper=0.1), r"extremes is None; expected \(low, high\)"),
        (
            lambda m, X: m.denoise(X, salt_and_pepper=0.1, extremes=(1, 0)),
            r"extremes is \(1, 0\); expected",
        ),
        (lambda m, X: m.denoise(X, salt_and_pepper=0.1, extremes=(0, np.nan)), r"extremes is \(0, nan\); expected"),
        (lambda m, X: m.denoise(X, salt_and_pepper=0.1, extremes=1), r"extremes is 1; expected \(low, high\)"),
        (lambda m, X: m.super_resolve(X[:, :1], "2x3", 2), "image_shape is '2x3'; expected"),
        (lambda m, X: m.super_resolve(X[:, :1], 6, 2), "image_shape is 6; expected"),
        (lambda m, X: m.super_resolve(X[:, :1], (-2, -3), 1), r"image_shape is \(-2, -3\); expected"),
        (lambda m, X: m.super_resolve(X[:, :1], (2.0, 3.0), 1), r"image_shape is \(2.0, 3.0\); expected"),
        (lambda m, X: m.super_resolve(X[:, :1], (2, 3), 2), "factor is 2; expected one that divides .* 2 and 3"),
        (lambda m, X: m.super_resolve(X[:, :1], (2, 2), 2), r"image_shape is \(2, 2\); expected .* of 6 numbers"),
        (lambda m, X: m.super_resolve(X[:, :1], (2, 3), 0), "factor is 0; expected an integer of at least 1"),
        (lambda m, X: m.super_resolve(X[:, :5], (2, 3), 1), "X has 5 features"),
    ],
)
def test_bad_input(models, tables, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(models["gaussian"], with_holes(tables["gaussian"]))


def test_what_is_no_number(models, tables):
    with pytest.raises(TypeError, match="sigma is of type <U1; expected an array of real numbers"):
        models["gaussian"].denoise(tables["gaussian"], sigma="a")
    with pytest.raises(TypeError, match="extremes is of type <U1; expected an array of real numbers"):
        models["gaussian"].denoise(tables["gaussian"], salt_and_pepper=0.1, extremes=("a", "b"))


def test_averages_outside_of_the_range(models):
    with pytest.raises(ValueError, match="X has averages by 0.5 outside of the range of the pixels"):
        models["bernoulli"].super_resolve([[1.5] * 6], (2, 3), 1)


def test_averages_of_levels(rng):
    """They are in the units of X: 255 times those of the same pixels in [0, 1]."""
    X = rng.integers(0, 256, (60, 8)).astype(float)
    model = npvae.VAE(2, likelihood="bernoulli", **SETTINGS).fit(X)
    small = X[:5].reshape(5, 2, 2, 2).mean(axis=(1, 3))
    answer = model.super_resolve(small, (2, 4), 2, **FEW)
    np.testing.assert_allclose(answer.reshape(5, 2, 2, 2).mean(axis=(1, 3)), small, rtol=1e-5)


def test_large_blocks(rng):
    """The sum of all pixels; more of them than a float can count are refused."""
    X = (rng.random((60, 49)) < 0.1).astype(float)
    model = npvae.VAE(2, likelihood="bernoulli", **SETTINGS).fit(X)
    for mean in 0.0, 1 / 49, 0.5, 1.0:
        assert model.super_resolve([[mean]], (7, 7), 7, **FEW).mean() == pytest.approx(mean, abs=1e-6)
    model = npvae.VAE(2, likelihood="bernoulli", **SETTINGS).fit((rng.random((60, 1024)) < 0.1).astype(float))
    with pytest.raises(ValueError, match="factor is 32; expected one of at most 31 for binary pixels"):
        model.super_resolve([[0.5]], (32, 32), 32)


def test_noise_of_next_to_nothing(models):
    """The limit is a table without noise: also for binary cells, whose evidence is then beyond all bounds."""
    for name in "bernoulli", "mixed":
        X = models[name].sample(5)
        np.testing.assert_allclose(models[name].denoise(X, sigma=1e-9, **FEW), X, atol=1e-6)
    holes = with_holes(models["bernoulli"].sample(30).astype(float))
    filled = models["bernoulli"].impute(holes, n_samples=1000)
    np.testing.assert_allclose(models["bernoulli"].denoise(holes, sigma=1e-9, n_samples=1000), filled, atol=0.04)


def test_rows_and_models_without_a_density(tables):
    model = npvae.VAE(2, **SETTINGS).fit(tables["gaussian"])
    far = tables["gaussian"][:4].copy()
    far[2, :2] = 1e200, np.nan
    with pytest.warns(
        UserWarning, match="impute: the effective sample size is below 20 in 1 of 1 rows, .* row 2 with 0"
    ):
        model.impute(far)
    model.parameters_.vector[...] = np.nan
    holes = tables["gaussian"][:4].copy()
    holes[2:, 1] = np.nan
    for wanted in {}, {"n_draws": 2}, {"return_std": True}:
        with pytest.warns((RuntimeWarning, UserWarning)) as warnings:
            model.impute(holes, **wanted)
        assert "impute is NaN or infinite in 2 of 4 rows, the first is row 2" in str(warnings[-1].message)


def test_columns_of_several_kinds_are_no_picture(models):
    with pytest.raises(ValueError, match="the likelihood is 'mixed'; expected pictures"):
        models["mixed"].super_resolve([[0.5] * 6], (2, 3), 1)


def test_values_outside_of_the_unit_interval_are_refused_where_they_are_data(models):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        models["bernoulli"].impute([[np.nan, 2, 0, 1, 0, 1]])
    assert np.isfinite(models["bernoulli"].denoise([[np.nan, 2, -1, 1, 0, 1]], sigma=0.5)).all()


def test_random_weights_are_refused(tables):
    model = npvae.VAE(2, estimator="full-vb", **SETTINGS).fit(tables["gaussian"])
    with pytest.raises(ValueError, match="the model has random weights .'decoder'"):
        model.impute(with_holes(tables["gaussian"]))


def test_before_fit():
    for ask in ("impute", "denoise", "encode", "sample_posterior"):
        with pytest.raises(NotFittedError):
            getattr(npvae.VAE(), ask)([[np.nan, 1.0]])


def test_progress_is_shown(models, tables, capsys, monkeypatch):
    monkeypatch.setattr("npvae.progress.OFTEN", 0.0)
    monkeypatch.setattr("npvae.conditional.inference.MOST_ROWS", 5)
    model = npvae.VAE(2, **SETTINGS).fit(tables["gaussian"])
    model.impute(with_holes(tables["gaussian"][:15], 0.9), **FEW)
    assert capsys.readouterr().err == ""
    model.verbose = True
    model.impute(with_holes(tables["gaussian"][:15], 0.9), **FEW)
    assert "filling in: 5 of 15 rows, " in capsys.readouterr().err
