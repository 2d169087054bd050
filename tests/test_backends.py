"""The compiled backends against the reference: every function, on odd shapes, in both precisions.

The reference itself is held against SciPy and exact answers in ``test_distributions`` and ``test_exact``.
"""

import inspect
import re

import numpy as np
import pytest
import scipy.stats

from npvae import backends, nn
from npvae.backends import formulas, interface, reference
from npvae.optimizers import Optimizer, UpdateRule
from npvae.parameters import Buffers, Layout
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
@pytest.mark.parametrize("activation", formulas.ACTIVATIONS)
@pytest.mark.parametrize(
    "M, I, hidden, heads",
    [
        (1, 1, (), [(1, True)]),
        (3, 4, (), [(5, True), (2, False), (3, True)]),
        (7, 13, (17,), [(5, False), (3, True)]),
        (33, 40, (9, 21), [(6, True), (7, True), (1, True)]),
        (300, 5, (90,), [(31, True), (8, False)]),
    ],
)
def test_networks(rng, dtype, activation, M, I, hidden, heads):
    heads = [(f"head{i}", O, activation, reads) for i, (O, reads) in enumerate(heads)]
    mlp = nn.mlp("net", I, hidden, activation, heads)
    layout = Layout(mlp.shapes())
    vector, x = normal(rng, "float64", layout.size) / 4, normal(rng, "float64", M, I)
    doutputs = [normal(rng, "float64", M, O) for _, O, _, _ in heads]
    results = []  # layers, outputs, gradient of the parameters and of the inputs
    for backend, network, kind in ((reference, nn.Network, "float64"), (cpu, cpu.Network, dtype)):
        net, buffers, parameters = (
            network(mlp, layout, backend),
            Buffers(backend, kind),
            layout.view(vector.astype(kind)),
        )
        gradient, dx = backend.gradient(layout, kind), np.full((M, I), np.nan, kind)
        gradient.vector[...] = 0  # where no data flow, there is none
        for with_dx in (None, dx):  # twice: what the first pass leaves behind must not matter
            done = net.forward(parameters, x.astype(kind), buffers)
            for place, values in zip(done.doutputs, doutputs):
                place[...] = values
            net.backward(parameters, x.astype(kind), done, gradient, buffers, with_dx)
        results.append((*done.hidden, *done.outputs, gradient.vector, dx))
    for expected, actual in zip(*results):
        assert_close(actual, expected, dtype, 4 * M)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", formulas.ACTIVATIONS)
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_layers(rng, dtype, activation, wanted):
    """One layer, on the compiled backend, with or without the gradients of the weights and of the inputs."""
    arrays = [normal(rng, dtype, *shape) for shape in ((7, 5), (5, 4), (4,), (7, 4))]
    exact = [array.astype(float) for array in arrays]
    results = []
    for backend, (inputs, weights, biases, dy) in ((cpu, arrays), (reference, exact)):
        y = backend.dense(inputs, weights, biases, activation)
        dW, db = (np.full(a.shape, np.nan, a.dtype) if wanted[0] else None for a in (weights, biases))
        dx = np.full(inputs.shape, 0.5, inputs.dtype) if wanted[1] else None
        backend.dense_backward(inputs, weights, y, dy, activation, (dW, db, dx, True))
        results.append([array for array in (y, dW, db, dx) if array is not None])
    for actual, expected in zip(*results):
        assert_close(actual, expected, dtype, 8)


def test_an_unknown_activation_is_refused(rng):
    x, W, b = rng.random((3, 2)), rng.random((2, 4)), rng.random(4)
    for backend in (reference, cpu):
        with pytest.raises(ValueError, match="activation is 'relu'; expected one of 'identity', 'tanh'"):
            backend.dense(x, W, b, "relu")


@pytest.mark.parametrize("network", ["layers", "compiled"])
def test_a_network_without_gradients_of_weights(rng, network):
    """The gradient at the inputs is the same, and nothing else is computed."""
    mlp = nn.mlp("net", 3, (4, 5), "tanh", [("a", 2, "identity", True), ("b", 2, "identity", False)])
    layout = Layout(mlp.shapes())
    backend, kind = (reference, nn.Network) if network == "layers" else (cpu, cpu.Network)
    net, parameters, x = (
        kind(mlp, layout, backend),
        layout.view(normal(rng, "float64", layout.size)),
        rng.random((6, 3)),
    )
    results = []
    for gradient in (backend.gradient(layout, "float64"), None):
        buffers, dx = Buffers(backend, "float64"), np.empty((6, 3))
        done = net.forward(parameters, x, buffers)
        for place in done.doutputs:
            place[...] = np.arange(place.size).reshape(place.shape)
        net.backward(parameters, x, done, gradient, buffers, dx)
        results.append(dx)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("analytic_kl", [True, False])
@pytest.mark.parametrize("M, J, L", [(1, 1, 1), (5, 3, 4), (9, 20, 1)])
def test_gaussian_latent(rng, dtype, analytic_kl, M, J, L):
    mu, log_var, eps, dz = (normal(rng, dtype, *shape) for shape in ((M, J), (M, J), (L * M, J), (L * M, J)))
    weights = normal(rng, dtype, M if analytic_kl else L * M)
    exact = [a.astype(float) for a in (mu, log_var, eps, dz)]
    for actual, expected in zip(
        cpu.gaussian_latent(mu, log_var, eps, analytic_kl), reference.gaussian_latent(*exact[:3], analytic_kl)
    ):
        assert_close(actual, expected, dtype, J * L)
    for actual, expected in zip(
        cpu.gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, weights),
        reference.gaussian_latent_backward(*exact, analytic_kl, weights.astype(float)),
    ):
        assert_close(actual, expected, dtype, L)


def test_log_ratios_are_those_of_the_densities(rng, backend):
    """A value a row: log q(z_l|x) - log p(z_l), by SciPy's normal density."""
    mu, log_var, eps = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)), rng.standard_normal((8, 3))
    z, log_ratio = backend.gaussian_latent(mu, log_var, eps, False)
    log_q = scipy.stats.norm(np.tile(mu, (2, 1)), np.exp(np.tile(log_var, (2, 1)) / 2)).logpdf(z)
    np.testing.assert_allclose(log_ratio, (log_q - scipy.stats.norm.logpdf(z)).sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M, J, L", [(1, 1, 1), (5, 3, 4)])
def test_gaussian_log_q(rng, dtype, M, J, L):
    z, mu, log_var = (normal(rng, dtype, *shape) for shape in ((L * M, J), (M, J), (M, J)))
    weights = normal(rng, dtype, L * M)
    expected = reference.gaussian_log_q(*(a.astype(float) for a in (z, mu, log_var, weights)))
    by_scipy = scipy.stats.norm(np.tile(mu, (L, 1)), np.exp(np.tile(log_var, (L, 1)) / 2.0)).logpdf(z).sum(axis=1)
    assert_close(cpu.gaussian_log_q(z, mu, log_var, weights)[0], by_scipy, dtype, 8 * J)
    for actual, exact in zip(cpu.gaussian_log_q(z, mu, log_var, weights), expected):
        assert_close(actual, exact, dtype, J * L)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_log_prior(rng, backend, dtype):
    z, log_prob, dz = (normal(rng, dtype, *shape) for shape in ((6, 3), (6,), (6, 3)))
    expected = log_prob + scipy.stats.norm.logpdf(z.astype(float)).sum(axis=1), dz.astype(float) - z
    backend.add_log_prior(z, log_prob, dz)
    for actual, exact in zip((log_prob, dz), expected):
        assert_close(actual, exact, dtype, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M, D, L", [(1, 2, 1), (5, 37, 3)])
def test_log_probs(rng, dtype, M, D, L):
    x = rng.random((M, D)).astype(dtype)
    first, second = (3 * normal(rng, dtype, L * M, D) for _ in range(2))
    weights = normal(rng, dtype, L * M)
    B = D // 2
    mixed = np.array(first[:, :B]), np.array(first[:, B:]), np.array(second[:, B:])
    densities = {"bernoulli_log_prob": (first,), "gaussian_log_prob": (first, second), "mixed_log_prob": mixed}
    for name, parameters in densities.items():
        arguments = x, *parameters, weights
        expected = getattr(reference, name)(*(a.astype(float) for a in arguments))
        for actual, exact in zip(getattr(cpu, name)(*arguments, (None,) * len(expected)), expected):
            assert_close(actual, exact, dtype, D)
        ones = getattr(reference, name)(x.astype(float), *parameters, np.ones(L * M))
        for weighted, gradient in zip(expected[1:], ones[1:]):  # each row's gradient times its weight
            np.testing.assert_allclose(weighted, weights[:, None].astype(float) * gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["bernoulli_log_prob", "gaussian_log_prob"])
def test_log_probs_stay_finite_and_keep_nan(backend, likelihood):
    """Large logits neither overflow nor lose the linear part; a NaN is not turned into a number."""
    x, one = np.array([[1.0, 0.0]], np.float32), np.ones(1, np.float32)
    parameter = np.array([[-200.0, 300.0]], np.float32)
    if likelihood == "bernoulli_log_prob":
        log_prob, gradient = backend.bernoulli_log_prob(x, parameter, one)
        assert log_prob[0] == -500 and gradient.tolist() == [[1, -1]]
        assert np.isnan(backend.bernoulli_log_prob(x, parameter * np.nan, one)[0]).all()
    else:
        nan = np.array([[np.nan, 0.0]], np.float32)
        assert np.isnan(backend.gaussian_log_prob(x, nan, x, one)[0]).all()


@pytest.mark.parametrize(
    "kind", ["uint8", "float32", "float64", "float16", ">f4", "int32", "bool", "fortran", "strided"]
)
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


def optimizer(name, backend, dtype, n_weights, n_biases, **rule):
    """Return (parameters, gradient, state, rule), ready for a step of a backend; all arrays zero."""
    layout = Layout({"layer.W": (n_weights,), "layer.b": (n_biases,)})
    parameters, gradient = layout.view(np.zeros(layout.size, dtype)), backend.gradient(layout, dtype)
    rule = {"weight_decay": 0.5, "accumulate_only": 1, "n_weights": n_weights, "step_size": 0.1} | rule
    rule = UpdateRule(**rule)
    return parameters, gradient, Optimizer(name, backend, rule, layout.size, dtype).state, rule


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", formulas.UPDATES)
@pytest.mark.parametrize("averaging", [False, True])
def test_steps(rng, dtype, name, averaging):
    start, ascent = normal(rng, dtype, 10_000), normal(rng, dtype, 10_000)
    results = []
    for backend, kind in ((cpu, dtype), (reference, "float64")):
        settings = {"schedule": "cosine", "n_steps": 4, "averaging": averaging}
        parameters, gradient, state, rule = optimizer(name, backend, kind, 6_001, 3_999, **settings)
        parameters.vector[...] = start
        for factor in (1, -2, 3):
            gradient.vector[...] = factor * ascent
            backend.step(name, parameters, gradient, state, rule)
        assert set(state.arrays) == {*formulas.UPDATES[name].arrays, *(["average"] if averaging else [])}
        results.append([parameters.vector, *state.arrays.values()])
        assert state.counter.tolist() == [3, -1]
    for found, expected in zip(*results):
        assert_close(found, expected, dtype, 4)


def test_adagrad_by_hand(backend):
    """Two parameters, three steps, one that only accumulates; the second parameter is a bias, without a prior."""
    parameters, gradient, state, rule = optimizer("adagrad", backend, "float64", 1, 1)
    parameters.vector[...] = 2
    gradient.vector[...] = 4, 3
    backend.step("adagrad", parameters, gradient, state, rule)
    assert parameters.vector.tolist() == [2, 2] and state.arrays["squares"].tolist() == [9, 9]  # 4 - 0.5 * 2 = 3
    gradient.vector[...] = 5, 4
    backend.step("adagrad", parameters, gradient, state, rule)
    np.testing.assert_allclose(parameters.vector, 2 + 0.1 * 4 / 5, rtol=1e-9)  # sqrt(3^2 + 4^2) = 5


@pytest.mark.parametrize("name", formulas.UPDATES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])  # the square of the last is not finite
def test_steps_keep_the_last_good_parameters(backend, name, bad):
    """After a gradient that is not finite nothing changes any more, and the step is recorded."""
    parameters, gradient, state, rule = optimizer(name, backend, "float64", 4000, 1000, accumulate_only=0)
    gradient.vector[...] = 1
    backend.step(name, parameters, gradient, state, rule)
    good = parameters.vector.copy()
    for value in (bad, bad, 1):
        gradient.vector[...] = 1
        gradient.vector[3500] = value
        backend.step(name, parameters, gradient, state, rule)
    np.testing.assert_array_equal(parameters.vector, good)
    assert good.all() and state.counter.tolist() == [2, 2]


@pytest.mark.parametrize("place", ["x", "head0.W", "head0.b", "d head0", "d head1"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_network_tells_that_its_gradient_is_not_finite(rng, place, bad):
    mlp = nn.mlp("net", 3, (4,), "tanh", [("head0", 5, "identity", True), ("head1", 2, "identity", True)])
    layout = Layout(mlp.shapes())
    parameters, gradient = layout.view(normal(rng, "float32", layout.size)), cpu.gradient(layout, "float32")
    net, x, buffers = cpu.Network(mlp, layout), normal(rng, "float32", 6, 3), Buffers(cpu, "float32")
    for spoil in (False, True, False):
        arrays = {"x": x, "head0.W": parameters["net.head0.W"], "head0.b": parameters["net.head0.b"]}
        saved = {name: array.copy() for name, array in arrays.items()}
        if spoil and place in arrays:
            arrays[place].flat[1] = bad
        done = net.forward(parameters, x, buffers)
        for i, output in enumerate(done.doutputs):
            output[...] = done.outputs[i]
            if spoil and place == f"d head{i}":
                output[2, 1] = bad
        with np.errstate(all="ignore"):
            net.backward(parameters, x, done, gradient, buffers)
            finite = bool(np.all(np.isfinite(gradient.vector**2)))
        assert gradient.finite[net][0] == (not spoil) and finite >= (not spoil)
        for name, array in saved.items():
            arrays[name][...] = array


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend is 'gpu'; expected one of 'reference', 'cpu', 'cuda'"):
        backends.get("gpu")


def test_backends_have_the_same_functions():
    """Whatever the layers above may call exists in each backend, with the same arguments as in the interface."""
    for name in interface.FUNCTIONS:
        _, *expected = inspect.signature(getattr(interface.Backend, name)).parameters
        for backend in (reference, cpu):
            assert list(inspect.signature(getattr(backend, name)).parameters) == expected, (backend, name)
    assert reference.Network is None and reference.Runner is None
    for name in ("Network", "Runner"):
        for method, expected in inspect.getmembers(getattr(interface, name), inspect.isfunction):
            if not method.startswith("_"):
                found = inspect.signature(getattr(getattr(cpu, name), method)).parameters
                assert list(found) == list(inspect.signature(expected).parameters), method


def test_cuda_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(backends.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"backend is 'cuda', but the package numba-cuda is not installed; pip inst"):
        backends.get("cuda")


def test_cuda_says_that_numpy_is_too_new(monkeypatch):
    """For numba-cuda, which would say so at the first kernel."""

    def fail(name):
        raise AttributeError("module 'numpy' has no attribute 'row_stack'")

    monkeypatch.setattr(backends, "import_module", fail)
    assert re.match(
        r"numba-cuda cannot work with NumPy \d.* \(module 'numpy' has no attribute 'row_stack'\); pip install "
        r'"numpy<2.5"',
        backends.unfit_for_cuda(),
    )


def test_auto_takes_a_gpu_for_large_work_alone(monkeypatch):
    monkeypatch.setattr(backends, "missing_for_cuda", lambda: None)
    assert backends.choose(1e8, 1e14) == "cuda"
    assert backends.choose(1e6, 1e14) == backends.choose(1e8, 1e12) == "cpu"
    monkeypatch.setattr(backends, "missing_for_cuda", lambda: "there is none")
    assert backends.choose(1e8, 1e14) == "cpu"


def test_a_network_refuses_arrays_that_its_jobs_would_misread(rng):
    mlp = nn.mlp("net", 3, (4,), "tanh", [("y", 2, "identity", True)])
    layout = Layout(mlp.shapes())
    parameters, x = layout.view(normal(rng, "float32", layout.size)), normal(rng, "float32", 6, 3)
    net, buffers = cpu.Network(mlp, layout), Buffers(cpu, "float32")
    done, gradient = net.forward(parameters, x, buffers), cpu.gradient(layout, "float32")
    for wrong in (x.astype(float), x[:, :2], np.zeros((6, 4), "f4")):
        with pytest.raises(TypeError, match="x has the"):
            net.forward(parameters, wrong, buffers)
    for dx in (np.zeros((6, 3)), np.zeros((3, 6), "f4").T):
        with pytest.raises(TypeError, match="and another array"):
            net.backward(parameters, x, done, gradient, buffers, dx)
