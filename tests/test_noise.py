"""Random numbers of keys: compiled and in NumPy they have the same bits, and so have all results made of them."""

import tracemalloc

import numpy as np
import pytest
from scipy.special import expit, ndtri

import npvae
from npvae import backends, noise
from npvae.backends import hashing
from npvae.backends.formulas import MIN_LOG_VAR
from npvae.noise import RowNoise, hashed, key_of, key_of_content, uniform

#: All that is special about floats: zeros, tiny ones (in float64 zero as float32), large ones, infinite ones, and NaN.
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1e-50, -1e-50, 1e38, -1e300, np.inf, -np.inf, np.nan, -np.nan]


def rows(rng, dtype, M, D):
    """Return rows (M, D) of ordinary numbers, of which a third are special, among them NaN of other bits."""
    with np.errstate(over="ignore"):
        x = np.where(rng.random((M, D)) < 1 / 3, rng.choice(SPECIAL, (M, D)), rng.normal(size=(M, D))).astype(dtype)
    integers = x.view(f"u{x.itemsize}")
    integers[np.isnan(x)] ^= rng.integers(0, 2**20, np.isnan(x).sum(), integers.dtype)  # the low bits are free
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 0), (7, 5), (40, 33), (5, 784)])
def test_compiled_hashes_have_the_bits_of_numpy(rng, dtype, shape):
    x, multipliers = rows(rng, dtype, *shape), rng.integers(0, 2**64, shape[1], np.uint64)
    expected, before = hashed(x, multipliers), x.copy()
    np.testing.assert_array_equal(hashing.hashed(x, multipliers), expected)
    assert expected.dtype == np.uint64 and x.tobytes() == before.tobytes()


@pytest.mark.parametrize("M", [1, 4, 100])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (30, 3)])
@pytest.mark.parametrize("first", [0, 7, 2**40])
def test_compiled_uniform_numbers_have_the_bits_of_numpy(rng, M, shape, first):
    keys = np.append(rng.integers(0, 2**64, M, np.uint64), np.array([0, 2**64 - 1], np.uint64))
    numbers = uniform(keys, first, shape)
    np.testing.assert_array_equal(hashing.uniform(keys, first, shape), numbers)
    assert numbers.shape == (shape[0] * len(keys), shape[1]) and numbers.min() > 0 and numbers.max() < 1


def test_a_key_depends_on_the_numbers_and_not_on_how_they_are_stored(rng):
    """What the compiled version does not take is computed by NumPy."""
    x = rows(rng, np.float32, 30, 12)
    keys, read_only = key_of_content(x, 5), x.copy()
    read_only.flags.writeable = False
    others = read_only, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.astype(">f4"), x.astype(np.float64)
    for same in others:
        np.testing.assert_array_equal(key_of_content(same, 5), keys)
    assert len(hashing.hashed.signatures) <= 2  # it was compiled for two types, in one way each
    half = rng.normal(size=(6, 3)).astype(np.float16)
    np.testing.assert_array_equal(key_of_content(half, 5), key_of_content(half.astype(np.float32), 5))


def test_rows_of_many_go_on_where_they_stopped(rng):
    x = rng.random((6, 3), np.float32)
    one, other = RowNoise(x, 3), RowNoise(x, 3)
    parts = np.concatenate([one.uniform((L, 4)) for L in (1, 3, 2)])
    np.testing.assert_array_equal(parts, other.uniform((6, 4)))


KINDS = {
    "gaussian": {},
    "float64": {"dtype": "float64"},
    "samples": {"n_samples": 20},
    "missing": {"missing": "model"},
    "binarized": {"binarize": "dynamic", "likelihood": "bernoulli"},
    "laplace": {"posterior": "laplace"},
    "random weights": {"estimator": "full-vb"},
}


@pytest.mark.filterwarnings("ignore:importance")  # so few samples
@pytest.mark.parametrize("kind", KINDS)
def test_results_have_the_same_bits_without_a_compiler(rng, monkeypatch, kind):
    X = rng.normal(size=(61, 9))
    if kind == "binarized":
        X = np.round(255 * expit(X)).astype(np.uint8)
    if kind == "missing":
        X[rng.random(X.shape) < 0.1] = np.nan
    settings = {"hidden_layer_sizes": (5,), "learning_rate": 0.02, "max_epochs": 2, "backend": "cpu"}
    model, calls = npvae.VAE(2, **settings | KINDS[kind]).fit(X), []

    def results():
        codes, sample = model.encode(X), model.sample_posterior(X, 3)
        importance = model.log_likelihood(X[:3], n_samples=50, return_std=True)
        return [model.score_samples(X), *codes, sample, *importance, model.reconstruct(X), model.sample(20)]

    compiled = results()
    monkeypatch.setattr(noise, "_compiled", lambda function, array: calls.append(function) or function)
    for found, expected in zip(results(), compiled):
        assert found.tobytes() == expected.tobytes()
    assert {hashed, uniform} <= set(calls)


def test_a_score_is_its_formula(rng):
    """Equation 7 written out in NumPy, with the noise of a row from its content: the same bits."""
    X = rng.normal(size=(600, 6)).astype(np.float32)
    settings = {"hidden_layer_sizes": (5,), "learning_rate": 0.02, "max_epochs": 2, "backend": "reference"}
    model = npvae.VAE(2, n_samples=3, random_state=4, **settings).fit(X)
    fitted = model.fitted_
    data, p = fitted.data(X), dict(fitted.parameters.items())
    scores, B = [], 500 // 3  # rows of a batch: NumPy's products may differ with it in the last bit
    for part in (X[start : start + B] for start in range(0, len(X), B)):
        x = backends.get("reference").gather(part, np.arange(len(part)), data.scaling, np.empty_like(part))
        multipliers = key_of(4, np.arange(6)) | np.uint64(1)
        keys = noise.mix((x + np.float32(0)).view(np.uint32).astype(np.uint64) @ multipliers)
        numbers = np.arange(6, dtype=np.uint64).reshape(3, 1, 2)
        bits = noise.mix(keys[:, None] + numbers) >> np.uint64(12)
        eps = ndtri((bits + 0.5) * 2.0**-52).astype(np.float32)
        h = np.tanh(x @ p["encoder.hidden1.W"] + p["encoder.hidden1.b"])
        mu, log_var = (h @ p[f"encoder.{name}.W"] + p[f"encoder.{name}.b"] for name in ("mu", "log_var"))
        kl = 0.5 * np.sum(mu**2 + np.expm1(log_var) - log_var, axis=1)
        z = mu + np.exp(log_var / 2) * eps
        h = np.tanh(z.reshape(-1, 2) @ p["decoder.hidden1.W"] + p["decoder.hidden1.b"])
        heads = [h @ p[f"decoder.{name}.W"] + p[f"decoder.{name}.b"] for name in ("mu", "log_var")]
        above = heads[1] - MIN_LOG_VAR
        log_var = (MIN_LOG_VAR + (np.maximum(above, 0) + np.log1p(np.exp(-abs(above))))).astype(np.float32)
        squared = (np.tile(x, (3, 1)) - heads[0]) ** 2 * np.exp(-log_var)
        log_p = -0.5 * np.sum(np.log(2 * np.pi) + log_var + squared, axis=1).astype(np.float32)
        scores.append(log_p.reshape(3, -1).mean(axis=0, dtype=float) - kl)
    np.testing.assert_array_equal(model.score_samples(X), np.concatenate(scores) + data.offset)


def test_draws_of_codes_are_their_formula(rng):
    """The noise of equal rows is told apart by how many came before, those of other batches too."""
    X = rng.normal(size=(1100, 3)).astype(np.float32)
    X[1050] = X[700] = X[2]
    settings = {"hidden_layer_sizes": (5,), "learning_rate": 0.02, "max_epochs": 2, "backend": "cpu"}
    model = npvae.VAE(2, random_state=4, **settings).fit(X)
    fitted, codes = model.fitted_, model.encode(X)
    x = np.concatenate([np.array(x) for _, x, _ in fitted.batches(fitted.data(X))])
    before = np.zeros(1100)
    before[[700, 1050]] = 1, 2
    eps = ndtri(RowNoise(np.column_stack([x, before]), 4).uniform((3, 2))).reshape(3, 1100, 2)
    z = fitted.sample_posterior(fitted.data(X), 3, 4)
    np.testing.assert_array_equal(z, codes.mean + codes.std * eps)
    assert len(np.unique(z[0, [2, 700, 1050]], axis=0)) == 3


def test_results_take_little_more_memory_than_themselves(rng):
    """Nothing is held for all rows and columns, or for all draws of the weights, but the result."""
    X = rng.integers(0, 2, (6000, 100)).astype(np.uint8)
    settings = {"hidden_layer_sizes": (5,), "learning_rate": 0.02, "max_epochs": 1, "backend": "cpu"}
    plain, random = (npvae.VAE(2, estimator=name, **settings).fit(X) for name in ("sgvb-b", "full-vb"))
    Z, cells = plain.transform(X), 4 * X.size  # bytes of float32
    for function, argument, most in (
        (plain.score_samples, X, 0.7),
        (plain.sample_posterior, X, 0.7),
        (plain.inverse_transform, Z, 1.7),
        (random.inverse_transform, Z, 3.7),  # the sum, the next array, and what they are divided into
    ):
        function(argument)
        tracemalloc.start()
        function(argument)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most * cells, (function.__qualname__, peak / cells)
