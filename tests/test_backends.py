"""The compiled backends against the reference: every function, on odd shapes, in both precisions.

The reference itself is held against SciPy and exact answers in ``test_distributions`` and ``test_exact``.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from npvae import backends
from npvae.backends import reference
from npvae.preprocessing import Scaling

cpu = backends.get("cpu")
DTYPES = ("float32", "float64")


def assert_close(actual, expected, dtype, terms=1):
    """Equal within the rounding of sums of so many terms, relative to the largest value."""
    expected = np.asarray(expected)
    tolerance = 8 * np.finfo(dtype).eps * np.sqrt(terms) * max(1, np.abs(expected).max())
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def normal(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("M, I, O", [(1, 1, 1), (3, 0, 5), (7, 13, 17), (33, 40, 9)])
def test_dense(rng, dtype, activation, M, I, O):
    x, W, b, dy = (normal(rng, dtype, *shape) for shape in ((M, I), (I, O), (O,), (M, O)))
    y = cpu.dense(x, W, b, activation)
    exact = reference.dense(*(a.astype(float) for a in (x, W, b)), activation)
    assert_close(y, exact, dtype, I + 2)

    results = {}
    for name, backend, kind in (("cpu", cpu, dtype), ("reference", reference, "float64")):
        gradients = [np.empty((I, O), kind), np.empty(O, kind), np.ones((M, I), kind), True]
        arrays = [a.astype(kind) for a in (x, W, y, dy)]
        backend.dense_backward(*arrays, activation, gradients)
        results[name] = gradients[:3]
    for actual, expected, terms in zip(results["cpu"], results["reference"], (M, M, O)):
        if expected.size:
            assert_close(actual, expected, dtype, terms + 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("analytic_kl", [True, False])
@pytest.mark.parametrize("M, J, L", [(1, 1, 1), (5, 3, 4), (9, 20, 1)])
def test_gaussian_latent(rng, dtype, analytic_kl, M, J, L):
    mu, log_var, eps, dz = (normal(rng, dtype, *shape) for shape in ((M, J), (M, J), (L * M, J), (L * M, J)))
    exact = [a.astype(float) for a in (mu, log_var, eps, dz)]
    for actual, expected in zip(
        cpu.gaussian_latent(mu, log_var, eps, analytic_kl), reference.gaussian_latent(*exact[:3], analytic_kl)
    ):
        assert_close(actual, expected, dtype, J * L)
    for actual, expected in zip(
        cpu.gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, 0.3),
        reference.gaussian_latent_backward(*exact, analytic_kl, 0.3),
    ):
        assert_close(actual, expected, dtype, L)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M, D, L", [(1, 1, 1), (5, 37, 3)])
def test_log_probs(rng, dtype, M, D, L):
    x = rng.random((M, D)).astype(dtype)
    first, second = (3 * normal(rng, dtype, L * M, D) for _ in range(2))
    for name, parameters in (("bernoulli_log_prob", (first,)), ("gaussian_log_prob", (first, second))):
        expected = getattr(reference, name)(x.astype(float), *(p.astype(float) for p in parameters), 0.7)
        for actual, exact in zip(getattr(cpu, name)(x, *parameters, 0.7, (None,) * len(expected)), expected):
            assert_close(actual, exact, dtype, D)


@pytest.mark.parametrize("likelihood", ["bernoulli_log_prob", "gaussian_log_prob"])
def test_log_probs_stay_finite_and_keep_nan(backend, likelihood):
    """Large logits neither overflow nor lose the linear part; a NaN is not turned into a number."""
    x = np.array([[1.0, 0.0]], np.float32)
    parameter = np.array([[-200.0, 300.0]], np.float32)
    if likelihood == "bernoulli_log_prob":
        log_prob, gradient = backend.bernoulli_log_prob(x, parameter, 1.0)
        assert log_prob[0] == -500 and gradient.tolist() == [[1, -1]]
        assert np.isnan(backend.bernoulli_log_prob(x, parameter * np.nan, 1.0)[0]).all()
    else:
        nan = np.array([[np.nan, 0.0]], np.float32)
        assert np.isnan(backend.gaussian_log_prob(x, nan, x, 1.0)[0]).all()


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "int32", "bool", "fortran", "strided"])
def test_gather(rng, kind):
    X = rng.integers(0, 2 if kind == "bool" else 256, (11, 6))
    X = {"fortran": np.asfortranarray(X), "strided": np.repeat(X, 2, axis=1)[:, ::2]}.get(kind, X)
    X = X if kind in ("fortran", "strided") else X.astype(kind)
    scaling = Scaling(rng.standard_normal(6), rng.random(6) + 0.5)
    rows = np.array([3, 3, 0, 10])
    expected = (X[rows].astype(float) - scaling.shift) * scaling.scale
    for backend in (reference, cpu):
        for dtype in DTYPES:
            assert_close(backend.gather(X, rows, scaling, np.empty((4, 6), dtype)), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", ["adagrad_step", "sgd_step"])
def test_steps(rng, dtype, step):
    size = 10_000  # more than two blocks
    start, gradient = normal(rng, dtype, size), normal(rng, dtype, size)
    rule = SimpleNamespace(step_size=0.1, weight_decay=0.5, accumulate_only=1, n_weights=6_000)
    results = []
    for backend, kind in ((cpu, dtype), (reference, "float64")):
        state = SimpleNamespace(squares=np.zeros(size, kind), counter=np.array([0, -1]))
        parameters = start.astype(kind)
        for factor in (1, -2, 3):
            getattr(backend, step)(parameters, factor * gradient.astype(kind), state, rule)
        results.append(parameters)
        assert state.counter.tolist() == [3, -1]
    assert_close(results[0], results[1], dtype, 4)


def test_adagrad_by_hand(backend):
    """Two parameters, three steps, one that only accumulates; the second parameter is a bias, without a prior."""
    state = SimpleNamespace(squares=np.zeros(2), counter=np.array([0, -1]))
    rule = SimpleNamespace(step_size=0.1, weight_decay=0.5, accumulate_only=1, n_weights=1)
    parameters = np.array([2.0, 2.0])
    backend.adagrad_step(parameters, np.array([4.0, 3.0]), state, rule)
    assert parameters.tolist() == [2, 2] and state.squares.tolist() == [9, 9]  # 4 - 0.5 * 2 = 3
    backend.adagrad_step(parameters, np.array([5.0, 4.0]), state, rule)
    np.testing.assert_allclose(parameters, 2 + 0.1 * 4 / 5, rtol=1e-9)  # sqrt(3^2 + 4^2) = 5


@pytest.mark.parametrize("step", ["adagrad_step", "sgd_step"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_steps_keep_the_last_good_parameters(backend, step, bad):
    """After a gradient that is not finite nothing changes any more, and the step is recorded."""
    state = SimpleNamespace(squares=np.zeros(5000), counter=np.array([0, -1]))
    rule = SimpleNamespace(step_size=0.1, weight_decay=0.0, accumulate_only=0, n_weights=5000)
    parameters, gradient = np.ones(5000), np.ones(5000)
    getattr(backend, step)(parameters, gradient.copy(), state, rule)
    good = parameters.copy()
    gradient[4500] = bad
    for _ in range(2):
        getattr(backend, step)(parameters, gradient.copy(), state, rule)
    getattr(backend, step)(parameters, np.ones(5000), state, rule)
    np.testing.assert_array_equal(parameters, good)
    assert state.counter.tolist() == [2, 2]


@pytest.mark.parametrize("place", [0, 4095, 4096, 9999])
def test_all_finite(backend, place):
    array = np.full(10_000, 1e38, np.float32)
    assert backend.all_finite(array)
    for bad in (np.nan, np.inf, -np.inf):
        array[place] = bad
        assert not backend.all_finite(array)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend is 'gpu'; expected one of 'reference', 'cpu', 'auto'"):
        backends.get("gpu")


def test_backends_have_the_same_functions():
    """Whatever the layers above may call exists in each backend, with the same arguments."""
    import inspect

    for name, function in vars(reference).items():
        if (
            inspect.isfunction(function)
            and not name.startswith("_")
            and name not in ("sigmoid", "softplus", "count_step")
        ):
            signature = inspect.signature(getattr(cpu, name))
            assert list(signature.parameters) == list(inspect.signature(function).parameters), name
