"""The estimator that users hold: shapes and units, scores, settings, and what is said about bad input."""

import copy
import logging
import pickle

import numpy as np
import pytest
from scipy.special import ndtri

import npvae
from npvae import datasets
from npvae.conventions import NotFittedError
from npvae.noise import keyed_uniform
from npvae.preprocessing import choose_likelihood
from npvae.table import survey

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "learning_rate": 0.05, "batch_size": 20, "max_epochs": 5}


@pytest.fixture
def X(rng):
    """Grey values."""
    return rng.integers(0, 256, (60, 6)) / 255


@pytest.fixture
def model(X):
    return npvae.VAE(**SMALL).fit(X)


def test_shapes_and_types(model, X):
    assert model.transform(X).shape == (60, 2)
    assert model.inverse_transform(np.zeros((7, 2))).shape == (7, 6)
    assert model.reconstruct(X).shape == (60, 6)
    assert model.sample(5).shape == (5, 6)
    assert model.score_samples(X).shape == (60,) and model.score_samples(X).dtype == float
    assert model.score(X) == pytest.approx(model.score_samples(X).mean(), rel=1e-12)
    assert model.n_features_in_ == 6 and model.likelihood_ == "bernoulli"


def test_reconstruction_is_the_decoder_at_the_posterior_mean(model, X):
    np.testing.assert_array_equal(model.reconstruct(X), model.inverse_transform(model.transform(X)))
    assert (model.reconstruct(X) > 0).all() and (model.reconstruct(X) < 1).all()


def test_samples_follow_their_seed(model):
    np.testing.assert_array_equal(model.sample(4), model.sample(4))
    np.testing.assert_array_equal(model.sample(4, random_state=1), model.sample(4, random_state=1))
    assert not np.array_equal(model.sample(4, random_state=1), model.sample(4, random_state=2))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_scores_depend_on_the_row_alone(rng, backend):
    """Not on the call, the other rows, their order or the batch; the same content gives the same score.

    The columns are as many as a vector register has numbers and some more: the sums of a single row must be those of a
    row of a batch, although its small arrays lie close together in memory.
    """
    X = rng.random((1100, 19))
    model = npvae.VAE(**SMALL | {"max_epochs": 1}, backend=backend).fit(X)
    scores, order = model.score_samples(X), rng.permutation(1100)
    rounding = {"rtol": 0, "atol": 0 if backend == "cpu" else 1e-5}  # NumPy's products differ with the batch
    np.testing.assert_array_equal(scores, model.score_samples(X))
    np.testing.assert_allclose(scores[order], model.score_samples(X[order]), **rounding)
    np.testing.assert_allclose(scores[:3], model.score_samples(X[:3]), **rounding)
    alone = [model.score_samples(X[i : i + 1]) for i in range(50)]
    np.testing.assert_allclose(scores[:50], np.concatenate(alone), **rounding)
    np.testing.assert_allclose(model.score_samples(np.repeat(X[:1], 9, axis=0)), scores[0], **rounding)


def test_noise_of_scores_is_standard_normal_and_independent(rng):
    """A row's noise, and that of rows which differ in one pixel, look like independent standard normals."""
    x = np.zeros((2000, 784), np.float32)
    x[np.arange(2000), rng.integers(0, 784, 2000)] = rng.random(2000)
    eps = ndtri(keyed_uniform(x, 0, (2, 5)))
    assert eps.shape == (4000, 5)
    n = eps.size
    assert abs(eps.mean()) < 4 / np.sqrt(n) and abs(eps.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((eps**4).mean() - 3) < 4 * np.sqrt(96 / n)
    correlations = np.corrcoef(eps.T)[np.triu_indices(5, 1)], np.corrcoef(eps[:2000].T, eps[2000:].T)[:5, 5:]
    assert max(np.abs(c).max() for c in correlations) < 5 / np.sqrt(2000)
    assert not np.array_equal(ndtri(keyed_uniform(x, 1, (2, 5))), eps)
    np.testing.assert_array_equal(keyed_uniform(-x * 0, 0, (1, 3)), keyed_uniform(x * 0, 0, (1, 3)))  # -0.0 and 0.0


def test_mean_score_is_the_bound(rng, X):
    """The deterministic scores average to what fresh noise gives."""
    from npvae.estimators import SGVB

    model = npvae.VAE(**SMALL, dtype="float64", n_samples=50).fit(X)
    inner = model.fitted_.model
    estimator = SGVB(inner, 2000)
    value = estimator.value_and_grad(model.parameters_, X, estimator.draw(rng, 60)).value
    assert model.score(X) == pytest.approx(value, abs=0.05)


def test_gaussian_scores_are_in_nats_of_the_data_as_given(X):
    """Stretching the data by 10 lowers the density by 10 in each of the six dimensions."""
    X = X + np.linspace(0, 1, 6) * X[:, :1] * 5
    near, far = (npvae.VAE(**SMALL, likelihood="gaussian", dtype="float64").fit(data) for data in (X, 10 * X + 3))
    assert near.score(X) - far.score(10 * X + 3) == pytest.approx(6 * np.log(10), rel=1e-6)
    assert near.history_[-1].elbo - far.history_[-1].elbo == pytest.approx(6 * np.log(10), rel=1e-6)
    np.testing.assert_allclose(far.reconstruct(10 * X + 3), 10 * near.reconstruct(X) + 3, rtol=1e-6)


def test_pixels_stay_uint8():
    """No float copy of the data is made: the peak of a fit stays below the size of one."""
    import tracemalloc

    X = np.random.default_rng(0).integers(0, 256, (20_000, 784), dtype=np.uint8)
    model = npvae.VAE(2, hidden_layer_sizes=(8,), learning_rate=0.02, max_epochs=1)
    model.set_params(callbacks=(lambda epoch: True,)).fit(X[:200])  # compiles
    tracemalloc.start()
    model.fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.size  # a float32 copy would take four times that


def test_uint8_pixels_and_floats_are_the_same_data(rng):
    pixels = rng.integers(0, 256, (60, 6), dtype=np.uint8)
    model = npvae.VAE(**SMALL).fit(pixels)
    np.testing.assert_allclose(model.transform(pixels), model.transform(pixels / 255), atol=1e-6)
    assert model.reconstruct(pixels).max() <= 1


@pytest.mark.parametrize("fitted_to", ["uint8", "int64", "float64", "fractions"])
@pytest.mark.parametrize("likelihood", ["gaussian", "sigmoid-gaussian"])
def test_densities_are_in_nats_of_the_data_as_given(rng, likelihood, fitted_to):
    """Of the same pixels, uint8 and floats up to 255 have the same score, and floats in [0, 1] D log 255 more."""
    pixels = rng.integers(0, 256, (60, 6), dtype=np.uint8)
    X = pixels / 255 if fitted_to == "fractions" else pixels.astype(fitted_to)
    model = npvae.VAE(**SMALL, likelihood=likelihood, dtype="float64").fit(X)
    fractions = npvae.VAE(**SMALL, likelihood=likelihood, dtype="float64").fit(pixels / 255)
    shift = 0 if fitted_to == "fractions" else 6 * np.log(255)
    np.testing.assert_allclose(model.score_samples(X) + shift, fractions.score_samples(pixels / 255), rtol=1e-9)
    assert model.history_[-1].elbo + shift == pytest.approx(fractions.history_[-1].elbo)
    assert model.health_.baseline + shift == pytest.approx(fractions.health_.baseline)
    same = model.score_samples(pixels) - model.score_samples(X)  # read as pixels, also by a model of fractions
    np.testing.assert_allclose(same, -6 * np.log(255) if fitted_to == "fractions" else 0, atol=1e-9)
    unit = 1 if likelihood == "sigmoid-gaussian" or fitted_to == "fractions" else 255
    np.testing.assert_allclose(model.reconstruct(X), unit * fractions.reconstruct(pixels / 255), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["u1", "i8", "f8"])
def test_a_bernoulli_has_no_unit(rng, dtype):
    """With all parameters 0 each pixel costs log 2, divided by 255 or not."""
    pixels = rng.integers(0, 256, (60, 6)).astype(dtype)
    model = npvae.VAE(**SMALL, dtype="float64").fit(pixels)
    model.parameters_.vector[:] = 0
    np.testing.assert_allclose(model.score_samples(pixels), -6 * np.log(2), rtol=1e-12)


def test_uint8_of_a_model_fitted_to_larger_numbers(rng):
    """A model of floats or integers in 0 to 255 takes the same values as uint8 for what they are."""
    pixels = rng.integers(0, 256, (60, 6), dtype=np.uint8)
    model = npvae.VAE(**SMALL).fit(pixels.astype(float))
    np.testing.assert_array_equal(model.score_samples(pixels), model.score_samples(pixels.astype(float)))


def test_binary_uint8_is_not_divided(rng):
    binary = (rng.random((60, 6)) < 0.5).astype(np.uint8)
    model = npvae.VAE(**SMALL).fit(binary)
    np.testing.assert_array_equal(model.score_samples(binary), model.score_samples(binary.astype(float)))
    assert model.score(binary) < model.score(binary / 255.0)  # all black is another thing


@pytest.mark.parametrize(
    "X, expected, reason",
    [
        (np.array([[True, False]]), "bernoulli", "nothing but 0 and 1"),
        (np.array([[0.0, 1.0]]), "bernoulli", "nothing but 0 and 1"),
        (np.array([[0, 1]]), "bernoulli", "nothing but 0 and 1"),
        (np.array([[0, 1]], np.uint8), "bernoulli", "nothing but 0 and 1"),
        (np.array([[0, 200]], np.uint8), "bernoulli", "not a probability of the data"),
        (np.array([[0, 100]], np.uint8), "gaussian", "integers from 0 to 100: they are taken as counts"),
        (np.array([[0, 200]]), "gaussian", "integers from 0 to 200: they are taken as counts"),
        (np.array([[2 / 255, 1.0]]), "bernoulli", "not a probability of the data"),
        (np.array([[0.21, 1.0]]), "gaussian", "X lies in [0, 1], but"),
        (np.array([[-0.1, 0.5]]), "gaussian", "from -0.1 to 0.5"),
        (np.array([[0.5, 1.5]]), "gaussian", "from 0.5 to 1.5"),
    ],
)
def test_choice_of_likelihood(X, expected, reason):
    likelihood, why = choose_likelihood(survey(X))
    assert likelihood == expected and reason in why


@pytest.mark.parametrize("value", [0.1, -3.3, 7.25, 1e9, 0.0])
def test_constant_columns_are_named(rng, value):
    """Also where the value is not exact in binary, and its mean over rows is rounded."""
    X = rng.standard_normal((1000, 5))
    X[:, [1, 3]] = value
    model = npvae.VAE(**SMALL | {"max_epochs": 1}).fit(X)
    assert any("2 of 5 columns are constant (1, 3)" in line for line in model.report_)
    assert [density.column for density in model.preprocessor_.fixed] == [1, 3]
    np.testing.assert_array_equal(model.reconstruct(X)[:, 1], value)


def test_a_fit_is_quiet_unless_asked(X, capsys):
    npvae.VAE(**SMALL).fit(X)
    assert capsys.readouterr() == ("", "")


def test_a_fit_leaves_the_callers_things_alone(X):
    before = X.copy(), np.random.get_state()[1].copy(), logging.getLogger().handlers[:]  # noqa: NPY002
    npvae.VAE(**SMALL).fit(X)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert logging.getLogger().handlers == before[2]


def test_read_only_and_odd_arrays(X):
    frozen = X.copy()
    frozen.flags.writeable = False
    expected = npvae.VAE(**SMALL).fit(X).score(X)
    for same in (
        frozen,
        np.asfortranarray(X),
        X.tolist(),
        X.astype(object),
        X.astype(">f8"),
        np.repeat(X, 2, 0)[::2],
    ):
        assert npvae.VAE(**SMALL).fit(same).score(same) == expected
    half = X.astype("f2")
    scores = [npvae.VAE(**SMALL, likelihood="bernoulli").fit(same).score(same) for same in (half, half.astype(float))]
    assert scores[0] == scores[1]


def test_settings_are_scikit_learns(X):
    model = npvae.VAE(7, activation="sigmoid")
    assert model.get_params()["n_components"] == 7
    assert repr(model) == "VAE(n_components=7, activation='sigmoid')"
    assert model.set_params(n_components=3) is model and model.n_components == 3
    assert npvae.VAE(**SMALL).fit(X, None).n_features_in_ == 6  # y in second place
    with pytest.raises(ValueError, match="no parameter 'components'"):
        model.set_params(components=3)


def test_pickle_and_deepcopy(model, X):
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(copied.score_samples(X), model.score_samples(X))
        copied.parameters_.vector[:] = 7  # the views of a copy are views of its own vector
        assert copied.parameters_["encoder.mu.W"][0, 0] == 7 != model.parameters_["encoder.mu.W"][0, 0]


@pytest.mark.parametrize("changes", [{"n_components": 3}, {"hidden_layer_sizes": (9, 9)}, {"activation": "sigmoid"},
                                     {"dtype": "float64"}, {"likelihood": "gaussian"}])  # fmt: skip
def test_settings_changed_after_a_fit_wait_for_the_next(model, X, changes, tmp_path):
    before = model.score_samples(X)
    model.set_params(**changes)
    np.testing.assert_array_equal(model.score_samples(X), before)
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(npvae.load(tmp_path / "model.npz").score_samples(X), before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (30, 50)])
@pytest.mark.parametrize("settings", [{}, {"batch_size": 1}, {"hidden_layer_sizes": ()}, {"learning_rate": "auto"}])
def test_small_data(rng, shape, settings):
    """One row, one column, batches of one, no hidden layer, more columns than rows."""
    X = rng.standard_normal(shape)
    model = npvae.VAE(**SMALL | settings).fit(X)
    assert np.isfinite(model.score(X)) and model.transform(X).shape == (len(X), 2)


def test_memory_maps_are_read_in_place(tmp_path, X):
    mapped = np.memmap(tmp_path / "X", float, "w+", shape=X.shape)
    mapped[:] = X
    np.testing.assert_array_equal(npvae.VAE(**SMALL).fit(mapped).score_samples(mapped),
                                  npvae.VAE(**SMALL).fit(X).score_samples(X))  # fmt: skip


def test_any_integer_is_a_seed(X):
    assert np.isfinite(npvae.VAE(**SMALL, random_state=2**70 + 1).fit(X).score(X))


def test_random_state_none_is_a_new_seed_each_time(X):
    first, second = (npvae.VAE(**SMALL, random_state=None).fit(X) for _ in range(2))
    assert first.seed_ != second.seed_
    assert first.score(X) == first.score(X)


BAD_DATA = [
    (np.zeros(5), ValueError, r"X has shape \(5,\); expected a 2-D array"),
    (np.zeros((2, 2, 2)), ValueError, "expected a 2-D array"),
    (np.zeros((0, 5)), ValueError, "at least one row"),
    (np.zeros((5, 0)), ValueError, r"0 feature\(s\) \(shape=\(5, 0\)\)"),
    ([["a", "b"]], TypeError, "expected real numbers"),
    (np.array([["a", 1.0]], object), TypeError, "objects that are not numbers"),
    (np.zeros((2, 2), complex), ValueError, "complex128; expected real numbers"),
    (
        np.array([[0.0, np.nan], [np.inf, 1.0]]),
        ValueError,
        r"2 NaN or infinite values, the first one \(nan\) in row 0, c",
    ),
]


@pytest.mark.parametrize("X, error, message", BAD_DATA)
def test_bad_data(X, error, message):
    with pytest.raises(error, match=message):
        npvae.VAE(**SMALL).fit(X)


@pytest.mark.parametrize("likelihood", ["bernoulli", "sigmoid-gaussian"])
def test_data_outside_the_unit_interval(X, likelihood):
    outside = X.copy()
    outside[3, 4], outside[5, 2] = 3, -0.5
    message = rf"X has values from -0.5 to 3, by 2 outside \[0, 1\] in column 4; the {likelihood} likelihood expects"
    with pytest.raises(ValueError, match=message + ".*or fit with likelihood='gaussian'"):
        npvae.VAE(**SMALL, likelihood=likelihood).fit(outside)


def test_a_density_takes_what_the_training_data_did_not_have(X):
    """New rows beyond the range of the fit have a score, a code and a reconstruction; also those for validation."""
    new = X * 1.5 - 0.25
    for likelihood in ("gaussian", "sigmoid-gaussian"):
        model = npvae.VAE(**SMALL, likelihood=likelihood).fit(X, X_valid=new)
        for answer in (model.score_samples(new), model.transform(new), model.reconstruct(new)):
            assert np.isfinite(answer).all()
        assert model.partial_fit(new).score(new) > -1e6


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_what_is_outside_by_rounding_is_clipped_with_a_warning(model, X, dtype):
    exact = X.astype(dtype)
    exact[0] = 1
    for excess in (5e-7, np.finfo(dtype).eps):
        near = exact.copy()
        near[0, 3] += excess
        for call in (model.score_samples, model.transform, model.reconstruct):
            with pytest.warns(UserWarning, match=r"X has values up to .* outside \[0, 1\]: they are clipped"):
                np.testing.assert_array_equal(call(near), call(exact))
        assert near.max() > 1  # the caller's array is unchanged
        with pytest.warns(UserWarning, match="clipped"):
            assert npvae.VAE(**SMALL).fit(near).likelihood_ == "bernoulli"
    near[0, 3] = 1 + 2e-6
    with pytest.raises(ValueError, match="by 2.*e-06 outside"):
        model.score(near)


@pytest.mark.parametrize("given", ["f2", "f4", "f8", "g", ">f4", ">f8", "i4", "u1", "?"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "sigmoid-gaussian"])
def test_what_comes_out_has_the_floating_type_of_what_went_in(rng, likelihood, dtype, given):
    X, Z = (rng.random((60, 6)) < 0.5).astype(given), rng.standard_normal((3, 2)).astype(given)
    model = npvae.VAE(**SMALL | {"max_epochs": 1}, likelihood=likelihood, dtype=dtype).fit(X)
    expected = np.dtype(given).newbyteorder("=") if np.dtype(given).kind == "f" else np.dtype(dtype)
    answers = model.transform(X), model.reconstruct(X), model.inverse_transform(Z), model.predictive_std(Z)
    assert [answer.dtype for answer in (*answers, model.sample(2))] == [expected] * 5
    assert model.score_samples(X).dtype == float


def pixels_of_digits(rng, n_rows=40):
    return npvae.datasets.make_digits(n_rows, random_state=int(rng.integers(99)))[0]


@pytest.mark.parametrize(
    "make, expected",
    {
        "uint8": (lambda X: X, "pixels of 8 bits"),
        "int64": (lambda X: X.astype(int), "pixels of 8 bits"),
        "float64": (lambda X: X.astype(float), "pixels of 8 bits"),
        "float32 fractions": (lambda X: X.astype("f4") / 255, "multiples of 1/255"),
        "float16 fractions": (lambda X: X.astype("f2") / np.float16(255), "multiples of 1/255"),
        "by the reciprocal": (lambda X: X.astype("f4") * np.float32(1 / 255), "multiples of 1/255"),
        "float32, then float64": (lambda X: (X / 255).astype("f4").astype(float), "multiples of 1/255"),
        "blurred": (lambda X: (X[:, ::2] * 0.7 + X[:, 1::2] * 0.3) / 255, "mostly near 0 or 1"),
        "levels 0 to 16": (lambda X: X // 16, None),
        "counts": (lambda X: np.random.default_rng(0).poisson(90, X.shape), None),
        "counts as uint8": (lambda X: np.random.default_rng(0).poisson(60, X.shape).astype("u1"), None),
        "a table with 255": (lambda X: np.c_[np.arange(256), np.random.default_rng(0).poisson(3, (256, 5))], None),
        "scaled": (lambda X: np.random.default_rng(0).random(X.shape), None),
        "amounts, scaled": (lambda X: np.random.default_rng(0).lognormal(0, 3, (99, 5)) / 1e5, None),
        "thirds": (lambda X: np.random.default_rng(0).integers(0, 4, (40, 5)) / 3, None),
        "fifths": (lambda X: np.random.default_rng(0).integers(0, 6, (40, 5)) / 5, None),
        "seventeenths": (lambda X: np.random.default_rng(0).integers(0, 18, (40, 5)) / 17, None),
    }.values(),
)  # fmt: skip
def test_pixels_are_told_from_tables(rng, make, expected):
    likelihood, reason = choose_likelihood(survey(make(pixels_of_digits(rng))))
    assert likelihood == ("gaussian" if expected is None else "bernoulli") and (expected or "standardized") in reason


@pytest.mark.parametrize("dtype", ["i2", "i8", "f4", "f8"])
def test_levels_of_any_type_are_pixels_as_uint8_is(rng, dtype):
    pixels = pixels_of_digits(rng)
    settings = SMALL | {"max_epochs": 1}
    models = [npvae.VAE(**settings).fit(X) for X in (pixels, pixels.astype(dtype))]
    for given in (pixels, pixels.astype(dtype)):
        np.testing.assert_array_equal(models[1].score_samples(given), models[0].score_samples(pixels))
    assert models[1].reconstruct(pixels.astype(dtype)).max() <= 1
    assert any("divided by 255" in line for line in models[1].report_)


def test_small_uint8_is_divided_only_with_a_word(rng):
    X = rng.integers(0, 17, (60, 6), dtype=np.uint8)
    assert npvae.VAE(**SMALL).fit(X).likelihood_ == "gaussian"
    report = npvae.VAE(**SMALL, likelihood="bernoulli").fit(X).report_
    assert any("divided by 255, but its largest value is 16: if 16 is white, fit X / 16" in line for line in report)


def test_grey_values_that_a_bernoulli_cannot_learn_are_named(rng):
    """A table in [0, 1]: its likelihood is named as the cause, not the training."""
    X = rng.standard_normal((300, 2)) @ rng.standard_normal((2, 8))
    X = 0.45 + 0.1 * (X - X.min(0)) / np.ptp(X, axis=0)
    warnings = npvae.VAE(**SMALL | {"max_epochs": 20}, likelihood="bernoulli").fit(X).health_.warnings
    assert any("the likelihood is Bernoulli, and X has values between 0 and 1" in warning for warning in warnings)
    assert not any("training too short" in warning for warning in warnings)
    binary = npvae.VAE(**SMALL).fit(rng.random((60, 6)) < 0.5).health_.warnings
    assert not any("likelihood is Bernoulli" in warning for warning in binary)


def test_data_unlike_that_of_the_fit(model, X):
    for method in (model.transform, model.score, model.reconstruct):
        with pytest.raises(ValueError, match="X has 5 features, but VAE is expecting 6"):
            method(X[:, :5])
    with pytest.raises(ValueError, match="expected n_components = 2"):
        model.inverse_transform(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="X_valid has 5 features"):
        npvae.VAE(**SMALL).fit(X, X_valid=X[:, :5])
    with pytest.raises(ValueError, match=r"values from .* to 2, by 1 outside"):
        model.score(X.round() * 2)


def test_a_refused_fit_loses_nothing(model, X):
    before = model.score(X)
    with pytest.raises(ValueError, match="X holds 1 NaN"):
        model.fit(np.where(np.arange(60)[:, None] + np.arange(6) == 0, np.nan, X))
    with pytest.raises(ValueError, match="X_valid has 5"):
        model.fit(X, X_valid=X[:, :5])
    with pytest.raises(ValueError, match="backend is 'gpu'"):
        model.set_params(backend="gpu").fit(X)
    assert model.set_params(backend="auto").score(X) == before


def test_unfitted(X):
    for method, argument in (("transform", X), ("score", X), ("sample", 3), ("inverse_transform", X), ("save", "x")):
        with pytest.raises(NotFittedError, match=r"not fitted yet; call fit\(X\) first"):
            getattr(npvae.VAE(), method)(argument)


def test_frey_like_data_with_sigmoid_gaussian(rng):
    frames = rng.integers(0, 256, (80, 30), dtype=np.uint8)
    model = npvae.VAE(**SMALL, likelihood="sigmoid-gaussian").fit(frames)
    assert model.reconstruct(frames).min() > 0 and model.reconstruct(frames).max() < 1
    assert np.isfinite(model.score(frames))


def test_real_mnist_learns(mnist):
    """A thousand steps on the real thing, beyond what knowing the mean of each pixel gives (-206 nats)."""
    model = npvae.VAE(10, hidden_layer_sizes=(200,), learning_rate=0.02, max_epochs=2).fit(mnist.X_train[:20_000])
    assert model.score(mnist.X_test[:2000]) > -160


def test_datasets_can_be_trained_on():
    X, _ = datasets.make_digits(100, random_state=0)
    assert npvae.VAE(**SMALL | {"max_epochs": 1}).fit(X).likelihood_ == "bernoulli"


@pytest.mark.slow(reason="trains for several seconds")
def test_two_latents_separate_most_digits():
    """The label of a test image is mostly that of its fifteen neighbours in a plane of latents; by chance 0.1."""
    (X, y), (X_test, y_test) = datasets.make_digits(4000, random_state=0), datasets.make_digits(500, random_state=1)
    model = npvae.VAE(2, hidden_layer_sizes=(200,), batch_size=20, learning_rate=0.05, max_epochs=25).fit(X)
    Z, Z_test = model.transform(X), model.transform(X_test)
    nearest = np.argsort(((Z_test[:, None] - Z) ** 2).sum(axis=2), axis=1)[:, :15]
    predicted = [np.bincount(labels).argmax() for labels in y[nearest]]
    assert np.mean(predicted == y_test) > 0.65


def test_auto_backend_looks_at_the_work(X, monkeypatch):
    """At the operations of a step and of the whole training; what a GPU cannot do stays on the CPU."""
    seen = []
    monkeypatch.setattr(npvae.backends, "choose", lambda step, run: seen.append((step, run)) or "cpu")
    n, d = X.shape
    model = npvae.VAE(**SMALL | {"batch_size": 20, "max_epochs": 3}).fit(X)
    n_weights = d * 8 + 2 * 8 * 2 + 2 * 8 + 8 * d
    assert seen == [(6 * 20 * n_weights, 6 * 20 * n_weights * 3 * n / 20)] and model.backend_ == "cpu"
    assert npvae.VAE(**SMALL, estimator="full-vb").fit(X).backend_ == "cpu" and len(seen) == 1
    assert npvae.VAE(**SMALL, backend="reference").fit(X).backend_ == "reference" and len(seen) == 1
