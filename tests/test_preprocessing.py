"""How often data is looked at before training, and what one look finds."""

import warnings

import numpy as np
import pytest

import npvae
from npvae import table
from npvae.preprocessing import fit_preprocessor
from npvae.table import survey


class Counted(np.ndarray):
    """An array that counts how many of its elements are read: by slices, and by reductions of the whole."""

    reads = 0

    def __getitem__(self, key):
        part = np.asarray(super().__getitem__(key))
        Counted.reads += part.size
        return part

    def take(self, *arguments, **named):
        part = np.asarray(super().take(*arguments, **named))
        Counted.reads += part.size
        return part

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        Counted.reads += sum(part.size for part in inputs if isinstance(part, Counted))
        plain = [part.view(np.ndarray) if isinstance(part, Counted) else part for part in inputs]
        return getattr(ufunc, method)(*plain, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        Counted.reads += sum(part.size for part in args if isinstance(part, Counted))
        plain = [part.view(np.ndarray) if isinstance(part, Counted) else part for part in args]
        return function(*plain, **kwargs)


class Stop(Exception):
    """Raised before the first step."""


DATA = {
    "pixels": lambda rng: rng.integers(0, 256, (25_000, 6), dtype=np.uint8),
    "bits": lambda rng: (rng.random((25_000, 6)) < 0.3).astype(float),
    "unit interval": lambda rng: rng.random((25_000, 6)),
    "grey": lambda rng: rng.integers(0, 256, (25_000, 6)) / 255,
    "real": lambda rng: rng.standard_normal((25_000, 6)),
    "integers": lambda rng: rng.integers(-9, 9, (25_000, 6)),
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("call", ["VAE", "fit"])
def test_fit_looks_at_the_data_at_most_twice_before_the_first_step(rng, monkeypatch, kind, call):
    """All checks, the likelihood and the scaling: one pass, and another one where columns are standardized."""
    X, read = DATA[kind](rng).view(Counted), []
    monkeypatch.setattr(table, "_asarray", lambda X, name: X)

    def stop(*arguments):
        read.append(Counted.reads / X.size)
        raise Stop

    monkeypatch.setattr(npvae.training.Trainer, "step", stop)
    Counted.reads, settings = 0, {"learning_rate": 0.02, "backend": "reference"}
    with pytest.raises(Stop):
        npvae.VAE(2, **settings).fit(X) if call == "VAE" else npvae.fit(X, **settings, verbose=False)
    standardized = kind in ("unit interval", "real", "integers")
    # And the rows of the fingerprint. `fit` looks once to choose the likelihood, and takes its two parts twice.
    assert 1 <= read[0] < (2.1 if standardized else 1.1) + (2 if call == "fit" else 0)


def test_counted_sees_each_way_to_look(rng):
    X = rng.random((10, 4)).view(Counted)
    for look in (
        lambda: X.max(),
        lambda: np.sum(X),
        lambda: X[:],
        lambda: X - 1,
        lambda: np.isin(X, 0),
        lambda: X.take(np.arange(10), axis=0),
    ):
        Counted.reads = 0
        look()
        assert Counted.reads >= 40


@pytest.mark.parametrize("rows", [1, 9_999, 10_000, 10_001, 23_000])
def test_moments_of_any_number_of_chunks(rng, rows):
    """Against NumPy's in extended precision; a constant column has a deviation of exactly zero."""
    X = rng.standard_normal((rows, 4)) * [1, 1e-3, 1e200, 0] + [1e6, 5, 0, 0.1]
    preprocessor, notices = fit_preprocessor(survey(X), "gaussian")
    exact = X.astype(np.longdouble)
    deviation = np.sqrt(((exact - exact.mean(axis=0)) ** 2).mean(axis=0))
    scale = np.where(deviation == 0, 1, deviation)
    columns = preprocessor.order  # one row does not tell which columns are constant
    mean = exact.mean(axis=0).astype(float)[columns]
    np.testing.assert_allclose(preprocessor.scaling.shift, mean, rtol=1e-13, atol=1e187)
    np.testing.assert_allclose(1 / preprocessor.scaling.scale, scale[columns].astype(float), rtol=1e-9)
    assert [density.column for density in preprocessor.fixed] == ([] if rows == 1 else [3])
    assert rows == 1 or "(3)" in notices[0]


def test_a_survey_finds_ends_and_bits(rng):
    X = rng.integers(-5, 5, (30_000, 3))
    found = survey(X)
    np.testing.assert_array_equal([found.low, found.high], [X.min(axis=0), X.max(axis=0)])
    assert not found.is_binary and survey(X > 0).is_binary and survey((X > 0).astype(np.float32)).is_binary
    X = (X > 0).astype(float)
    X[29_999, 2] = 0.5
    assert not survey(X).is_binary


def test_columns_that_vary_by_next_to_nothing_are_refused(rng):
    X = rng.standard_normal((20, 3)) * [1, 1, 1e-312]
    with pytest.raises(ValueError, match="X varies by less than a float can resolve in column 2"):
        npvae.VAE(1, backend="reference").fit(X)


@pytest.mark.parametrize(
    "column, constant",
    {
        "rounding of a sum": (lambda a: (a + 0.7) - a, True),
        "rounding of a product": (lambda a: (a * 0.1) / a, True),
        "far from zero": (lambda a: -1e9 + 1e-8 * a, True),
        "float32": (lambda a: ((a + 0.7) - a).astype(np.float32), True),
        "float16": (lambda a: (8 + 1e-3 * a).astype(np.float16), True),
        "a trillionth": (lambda a: 1 + 1e-12 * a, False),
        "float32, a millionth": (lambda a: (1 + 1e-6 * a).astype(np.float32), False),
        "around zero": (lambda a: 1e-300 * (a - 0.5), False),
        "integers": (lambda a: 10**15 + (a < 0.5).astype(int), False),
    }.values(),
)
def test_a_column_constant_but_for_rounding_is_constant(rng, column, constant):
    a = rng.random(300)
    X = np.c_[a.astype(column(a).dtype) if column(a).dtype.kind == "f" else np.arange(300), column(a)]
    preprocessor, notices = fit_preprocessor(survey(X), "gaussian")
    assert len(preprocessor.fixed) == constant
    if constant:  # values that differ by rounding alone have the density of the usual one, nearly
        found = preprocessor.fixed[0].log_prob(X[:, 1])
        assert preprocessor.fixed[0].slab == 1 and np.ptp(found) < 1 and found.mean() > 2
    assert any("1 of 2 columns are constant (1)" in notice for notice in notices) == constant


@pytest.mark.parametrize("size, named", [(10, True), (100, True), (1e5, False)])
def test_a_column_that_varies_by_few_rounding_errors_is_named(rng, size, named):
    """What is left of a calculation with numbers of this size; beyond that, nothing tells it from measurements."""
    a = size * rng.random(300)
    _, notices = fit_preprocessor(survey(np.c_[a, (a + 0.7) - a]), "gaussian")
    assert any("1 of 2 columns vary by few rounding errors of their size (1)" in notice for notice in notices) == named


def test_pixels_of_another_type_than_in_training(rng):
    """Of type uint8 they are always divided by 255; of other types they are what they were in training, with a word."""
    pixels = rng.integers(0, 256, (40, 6))
    of_bytes = npvae.VAE(1, hidden_layer_sizes=(3,), learning_rate=0.02, max_epochs=1, backend="reference")
    of_bytes.fit(pixels.astype(np.uint8))
    with pytest.raises(ValueError, match="Divide these pixels by 255, or fit"):
        of_bytes.score(pixels)
    with warnings.catch_warnings(action="error"):
        assert of_bytes.score(pixels / 255) == of_bytes.score(pixels.astype(np.uint8))
        of_levels = npvae.VAE(**of_bytes.get_params()).fit(pixels)
        assert of_levels.score(pixels) == of_levels.score(pixels.astype(np.uint8))
        of_levels.score(np.zeros((1, 6)))
    with pytest.warns(UserWarning, match="X lies in .0, 1., and is divided by 255 as the training data was"):
        of_levels.score(pixels / 255)


@pytest.mark.parametrize("shape", [(30, 28, 28), (30, 28, 28, 1), (30, 2, 2, 2, 2)])
def test_images_are_told_how_to_become_rows(shape):
    with pytest.raises(ValueError, match=r"X.reshape\(len\(X\), -1\) makes a row of each of the 30 images"):
        npvae.VAE(1).fit(np.zeros(shape))


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform"])
def test_none_is_not_data(method):
    with pytest.raises(TypeError, match="X is None; expected an array"):
        getattr(npvae.VAE(1), method)(None)
