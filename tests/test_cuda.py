"""The CUDA backend, on a GPU or in Numba's simulator: each function against the reference, and a VAE that trains on it.

In the simulator a kernel of a few hundred threads takes a tenth of a second: shapes are small there, though odd, and
larger than a tile. On a device the sizes of the paper's model are added.
"""

import inspect
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

import npvae
from npvae import backends
from npvae.backends import formulas, interface, reference
from npvae.optimizers import Optimizer, UpdateRule
from npvae.parameters import Buffers, Layout
from npvae.preprocessing import Scaling

MISSING = backends.missing_for_cuda()
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        MISSING is not None, reason=f"{MISSING}; NUMBA_ENABLE_CUDASIM=1 runs these tests in a simulator"
    ),
]

if MISSING is None:
    from npvae.backends import cuda, cuda_graph, cuda_kernels, cuda_launch, cuda_product

    SIMULATED = cuda_kernels.SIMULATED
else:
    SIMULATED = True

#: (rows, inputs, outputs) of layers.
SHAPES = [(5, 7, 3), (1, 9, 6), (9, 2, 5)] + ([] if SIMULATED else [(100, 784, 500), (100, 500, 784), (1000, 20, 500)])
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


@pytest.fixture(params=["forward", "backward"] if SIMULATED else ["device"], autouse=True)
def order(request, monkeypatch):
    """The order in which the simulator runs the blocks of a grid: no result may depend on it."""
    if request.param == "backward":
        from numba.cuda.simulator import kernel

        backwards = lambda *shape: reversed(list(np.ndindex(*shape)))
        monkeypatch.setattr(kernel, "np", SimpleNamespace(**vars(np) | {"ndindex": backwards}))


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


def on_device(dtype, *arrays):
    return [cuda.asarray(array, dtype) for array in arrays]


def check(found, expected, dtype):
    """Compare results of the device with the reference's, which are in float64."""
    for one, other in zip(found, expected):
        size = np.abs(other).max() if other.size else 0
        np.testing.assert_allclose(cuda.to_numpy(one), other, atol=TOLERANCE[dtype.name] * max(1, size), rtol=0)


def normal(rng, dtype, *shape):
    """Draw numbers that both precisions hold exactly."""
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


#: The steps of the product, each with the place of its tiles in the table.
STEPS = (
    [(step, place) for step, tiles in cuda_product.TILES.items() for place in range(len(tiles))] if not MISSING else []
)


@pytest.mark.parametrize("step, place", STEPS)
@pytest.mark.parametrize("shape", [(5, 10, 9), (4, 0, 5), *SHAPES[3:]])
def test_each_step_of_the_product_equals_the_first(rng, monkeypatch, dtype, shape, step, place):
    """And NumPy, in the three forms of a layer: forward, and the gradients at its weights and, added, at its inputs."""
    monkeypatch.setitem(cuda_product.PRODUCTS[step], dtype, [cuda_product.PRODUCTS[step][dtype][place]])
    M, K, N = shape
    a, b, bias, before = (normal(rng, float, *s) for s in ((M, K), (K, N), (N,), (M, N)))
    b /= np.sqrt(max(1, K))
    with_bias, sums = {"bias": cuda.asarray(bias, dtype), "code": formulas.code("tanh")}, cuda.asarray(bias, dtype)
    for transposed, start, options, expected in (
        ((False, False), np.full((M, N), np.nan), with_bias, np.tanh(a @ b + bias)),
        ((True, False), np.full((M, N), np.nan), {"column_sums": sums}, a @ b),
        ((False, True), before, {"accumulate": True}, before + a @ b),
    ):
        factors = [x for pair in zip((a, b), transposed) for x in (in_memory(*pair, dtype), pair[1])]
        found, first = (cuda.asarray(start, dtype) for _ in range(2))
        if step != "naive":
            cuda_product.product(*factors, first, **options, step="naive")
        sums[:] = cuda.asarray(bias, dtype)
        cuda_product.product(*factors, found, **options, step=step)
        check([found, sums], [expected, b.sum(axis=0) if "column_sums" in options else bias], dtype)
        if step != "naive":
            check([found], [cuda.to_numpy(first).astype(float)], dtype)


@pytest.mark.parametrize("shape, size", [((12, 5), 6), ((24, 5), 10), ((18, 12), 6)])
def test_the_tiles_are_those_that_take_the_least_time(shape, size):
    """With three processors. Two turns of the small tiles take longer than one of the large, but not than two."""
    kernels = [(time, cuda_product.Kernel(None, 1, (size, size))) for time, size in ((1.5, 6), (1.0, 10))]
    assert cuda_product._fastest(kernels, *shape, 3).tile == (size, size)


def in_memory(factor, is_transposed, dtype):
    """Return a factor of a product on the device, transposed if asked for, even if it has no elements."""
    factor = factor.T if is_transposed else factor
    if factor.size:
        return cuda.asarray(factor, dtype)
    room = cuda.asarray(np.ones([max(1, size) for size in factor.shape]), dtype)
    return room[: factor.shape[0], : factor.shape[1]]


@pytest.mark.parametrize("shape, activation", [*zip(SHAPES, formulas.ACTIVATIONS), ((6, 3, 5), "soft_floor")])
def test_layer(rng, dtype, shape, activation):
    """Forward, and backward with the gradients that are wanted: at the weights, at the inputs, or both."""
    M, I, O = shape
    x, W, b, dy = (normal(rng, float, *s) for s in ((M, I), (I, O), (O,), (M, O)))
    W /= np.sqrt(I)
    y = reference.dense(x, W, b, activation)
    found = cuda.dense(*on_device(dtype, x, W, b), activation)
    check([found], [y], dtype)

    for weights, inputs, accumulate in ((1, 1, False), (1, 1, True), (1, 0, False), (0, 1, True)):
        shapes = W.shape if weights else None, b.shape if weights else None, x.shape if inputs else None
        expected = [None if s is None else np.ones(s) for s in shapes]
        got = [None if s is None else cuda.asarray(np.ones(s), dtype) for s in shapes]
        expected_dy, (device_dy,) = dy.copy(), on_device(dtype, dy)
        reference.dense_backward(x, W, y, expected_dy, activation, (*expected, accumulate))
        cuda.dense_backward(*on_device(dtype, x, W, y), device_dy, activation, (*got, accumulate))
        check([device_dy], [expected_dy], dtype)
        check(*([array for array in arrays if array is not None] for arrays in (got, expected)), dtype)


def test_an_unknown_activation_is_nan(dtype):
    """And not the identity; by name it is refused."""
    x, W, b = on_device(dtype, np.ones((2, 3)), np.ones((3, 2)), np.ones(2))
    for code in (-1, len(formulas.ACTIVATIONS)):
        out, (y, dy) = cuda.empty((2, 2), dtype), on_device(dtype, np.ones((2, 2)), np.ones((2, 2)))
        cuda_product.product(x, False, W, False, out, b, code)
        cuda_launch.launch(cuda_kernels.delta, 1, 4, cuda_launch.flat(dy), cuda_launch.flat(y), code)
        assert np.isnan(cuda.to_numpy(out)).all() and np.isnan(cuda.to_numpy(dy)).all()
    with pytest.raises(ValueError, match="activation is 'relu'; expected one of 'identity', 'tanh'"):
        cuda.dense(x, W, b, "relu")


LATENT_SHAPES = [(3, 5, 1), (2, 3, 3)] + ([] if SIMULATED else [(100, 200, 2)])


@pytest.mark.parametrize("analytic_kl", [True, False])
@pytest.mark.parametrize("shape", LATENT_SHAPES)
def test_latent_layer(rng, dtype, shape, analytic_kl):
    M, J, L = shape
    mu, log_var, eps, dz = (normal(rng, float, *s) for s in ((M, J), (M, J), (L * M, J), (L * M, J)))
    arguments, weights = (mu, log_var, eps), normal(rng, float, M if analytic_kl else L * M)
    found = cuda.gaussian_latent(*on_device(dtype, *arguments), analytic_kl)
    check(found, reference.gaussian_latent(*arguments, analytic_kl), dtype)
    found = cuda.gaussian_latent_backward(*on_device(dtype, *arguments, dz), analytic_kl, *on_device(dtype, weights))
    check(found, reference.gaussian_latent_backward(*arguments, dz, analytic_kl, weights), dtype)


@pytest.mark.parametrize("shape", LATENT_SHAPES)
def test_densities_of_latents(rng, dtype, shape):
    """log q(z|x) of samples held constant, with its gradients, and log p(z) added in place."""
    M, J, L = shape
    z, mu, log_var = (normal(rng, float, *s) for s in ((L * M, J), (M, J), (M, J)))
    arguments = z, mu, log_var, normal(rng, float, L * M)
    check(cuda.gaussian_log_q(*on_device(dtype, *arguments)), reference.gaussian_log_q(*arguments), dtype)
    expected = normal(rng, float, L * M), normal(rng, float, L * M, J)
    found = on_device(dtype, *expected)
    cuda.add_log_prior(*on_device(dtype, z), *found)
    reference.add_log_prior(z, *expected)
    check(found, expected, dtype)


@pytest.mark.parametrize("shape", [(3, 6, 1), (2, 9, 2)] + ([] if SIMULATED else [(100, 784, 2)]))
def test_likelihoods(rng, dtype, shape):
    M, D, L = shape
    x, outputs = rng.random((M, D)).astype(np.float32).astype(float), [normal(rng, float, L * M, D) for _ in range(2)]
    outputs[0][0, :2] = 90, -90  # far out a sigmoid must not overflow
    weights = normal(rng, float, L * M)
    found = cuda.bernoulli_log_prob(*on_device(dtype, x, outputs[0], weights))
    check(found, reference.bernoulli_log_prob(x, outputs[0], weights), dtype)
    found = cuda.gaussian_log_prob(*on_device(dtype, x, outputs[1], outputs[1], weights))
    check(found, reference.gaussian_log_prob(x, outputs[1], outputs[1], weights), dtype)
    parts = np.array(outputs[0][:, :2]), *(np.array(output[:, 2:]) for output in outputs)
    found = cuda.mixed_log_prob(*on_device(dtype, x, *parts, weights))
    check(found, reference.mixed_log_prob(x, *parts, weights), dtype)


@pytest.mark.parametrize("shape", [(3, 6, 2)] + ([] if SIMULATED else [(100, 784, 2)]))
def test_likelihoods_of_observed_cells(rng, dtype, shape):
    """And what the encoder sees of a row; drawn pixels stay unobserved."""
    M, D, L = shape
    x, outputs = rng.random((M, D)).astype(np.float32).astype(float), [normal(rng, float, L * M, D) for _ in range(2)]
    x[rng.random((M, D)) < 0.4], x[0, :3], x[1] = np.nan, (0.5, np.nan, 0.25), np.nan
    weights = normal(rng, float, L * M)
    parts = np.array(outputs[0][:, :2]), *(np.array(output[:, 2:]) for output in outputs)
    for name, parameters in ("bernoulli", outputs[:1]), ("gaussian", outputs), ("mixed", parts):
        density, expected = (getattr(backend, f"{name}_log_prob") for backend in (cuda, reference))
        found = density(*on_device(dtype, x, *parameters, weights), missing=True)
        check(found, expected(x, *parameters, weights, missing=True), dtype)
    (on,) = on_device(dtype, x)
    check([cuda.fill_missing(on, cuda.empty(x.shape, dtype))], [np.nan_to_num(x, nan=0.0)], dtype)
    drawn = cuda.to_numpy(cuda.binarize(on, rng.integers(2**64, size=M, dtype=np.uint64), on))
    np.testing.assert_array_equal(np.isnan(drawn), np.isnan(x))


@pytest.mark.parametrize("limit", [1.0, 1e3])
def test_clipping(rng, dtype, limit):
    layout = Layout({"a.W": (30, 20), "a.b": (20,)})
    host, found = (backend.gradient(layout, dtype) for backend in (reference, cuda))
    host.vector[:] = normal(rng, float, layout.size)
    found.vector[:] = cuda.asarray(host.vector, dtype)
    for backend, gradient in ((reference, host), (cuda, found)):
        backend.clip_norm(gradient, limit)
    check([found.vector], [host.vector], dtype)


@pytest.mark.parametrize("X_dtype", [np.uint8, np.float32, np.float64, np.int64])
def test_gather(rng, dtype, X_dtype):
    X, rows = rng.integers(0, 200, (7, 5)).astype(X_dtype), np.array([6, 0, 3])
    scaling = Scaling(rng.random(5), rng.random(5) / 255)
    found = cuda.gather(X, rows, scaling, cuda.empty((3, 5), dtype))
    check([found], [reference.gather(X, rows, scaling, np.empty((3, 5)))], dtype)


def test_binarize(rng, dtype):
    """The same bits as on every backend."""
    x, keys = np.clip(rng.random((3, 5)) * 1.4 - 0.2, 0, 1).astype(dtype), rng.integers(2**64, size=3, dtype=np.uint64)
    found = cuda.binarize(cuda.asarray(x, dtype), keys, cuda.empty((3, 5), dtype))
    np.testing.assert_array_equal(cuda.to_numpy(found), reference.binarize(x, keys, np.empty_like(x)))


@pytest.mark.parametrize("name", formulas.UPDATES)
@pytest.mark.parametrize("bad", [None, np.nan, np.inf, 1e200])
def test_updates(rng, dtype, name, bad):
    """Steps that only accumulate, steps, one that is not finite, and one after it, which must change nothing."""
    layout, rule = Layout({"W": (3, 2), "a.W": (1, 3), "a.b": (4,)}), UpdateRule(0.1, 0.05, 1, 9, "linear", 9, 0, True)
    start = normal(rng, float, layout.size)
    states = []
    for backend, kind in ((reference, np.dtype(float)), (cuda, dtype)):
        parameters, gradient = layout.view(backend.asarray(start.copy(), kind)), backend.gradient(layout, kind)
        optimizer, draws = Optimizer(name, backend, rule, layout.size, kind), np.random.default_rng(0)
        for step in range(4):
            vector = normal(draws, float, layout.size)
            if bad is not None and step == 2:
                vector[5] = bad if kind == np.float64 or not np.isfinite(bad) else 1e30  # its square overflows
            gradient.vector[:] = backend.asarray(vector, kind)
            done = optimizer.step(parameters, gradient)
            assert done == (bad is None or step < 2)
        counter = backend.to_numpy(optimizer.state.counter).tolist()
        states.append(([parameters.vector, *optimizer.state.arrays.values()], counter))
    assert states[0][1] == states[1][1] == ([4, -1] if bad is None else [3, 3])
    check(states[1][0], states[0][0], dtype)


@pytest.mark.parametrize("name", formulas.UPDATES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of overflow, in the simulator
def test_a_step_that_overflows_in_one_place_is_taken_nowhere(dtype, name):
    layout, largest = Layout({"a.W": (3, 4), "b.W": (2,)}), np.finfo(dtype).max
    parameters, gradient = layout.view(cuda.asarray(np.ones(14), dtype)), cuda.gradient(layout, dtype)
    optimizer = Optimizer(name, cuda, UpdateRule(largest / 4, 0.0, 0, 14), 14, dtype)
    before = np.ones(14, dtype)
    before[13] = largest
    parameters.vector[:] = cuda.asarray(before, dtype)
    for number in (3.9, 0.0):
        gradient.vector[:] = cuda.asarray(np.full(14, number), dtype)
        assert not optimizer.step(parameters, gradient)
        np.testing.assert_array_equal(cuda.to_numpy(parameters.vector), before)
        assert np.isnan(cuda.to_numpy(gradient.vector)).sum() == (number > 0)
    assert cuda.to_numpy(optimizer.state.counter).tolist() == [1, 1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of overflow, in the simulator
def test_the_array_whose_update_overflows_is_named(once, X):
    model = npvae.VAE(**SMALL | {"learning_rate": 3e38}, weight_prior=1e18, backend="cuda")
    with pytest.raises(npvae.training.NonFiniteError, match=r"step 1: the update of encoder\.hidden1\.W is not finite"):
        model.fit(X)
    assert np.isfinite(model.score(X))


# A VAE on the device --------------------------------------------------------------------------------------------------

SMALL = {"n_components": 2, "hidden_layer_sizes": (3,), "learning_rate": 0.05, "batch_size": 4, "max_epochs": 1}


@pytest.fixture
def X(rng):
    return rng.integers(0, 256, (9, 4), dtype=np.uint8)


@pytest.fixture
def once(order, request, monkeypatch):
    """Whole trainings run in one order of the blocks only, and in the simulator with the product without barriers.

    A barrier takes the simulator 10 ms. One of these tests has the product in use.
    """
    if "backward" in request.node.name:
        pytest.skip("in the other order of blocks")
    if SIMULATED:
        monkeypatch.setattr(cuda_product, "IN_USE", "naive")


@pytest.mark.parametrize(
    "estimator, likelihood",
    [
        ("sgvb-a", "bernoulli"),
        ("sgvb-b", "gaussian"),
        ("score-function-running", "gaussian"),
        ("score-function-leave-one-out", "bernoulli"),
        ("wake-sleep", "bernoulli"),
    ],
)
def test_training_equals_the_references(once, X, monkeypatch, estimator, likelihood):
    """An epoch of two whole minibatches and a smaller one; the same order of rows, the same noise.

    The score function waits for each step, since it looks at the values of its samples.
    """
    if estimator == "sgvb-b":
        monkeypatch.setattr(cuda_product, "IN_USE", "registers")
    settings = SMALL | {"dtype": "float64", "estimator": estimator, "likelihood": likelihood, "n_samples": 2}
    found, expected = (npvae.VAE(**settings, backend=name).fit(X) for name in ("cuda", "reference"))
    np.testing.assert_allclose(found.parameters_.vector, expected.parameters_.vector, rtol=1e-8, atol=1e-12)
    for name, array in expected.training_.optimizer.items():
        np.testing.assert_allclose(found.training_.optimizer[name], array, rtol=1e-8)
    assert found.history_[0].elbo == pytest.approx(expected.history_[0].elbo, rel=1e-10)
    assert found.training_.progress.counter == expected.training_.progress.counter
    np.testing.assert_allclose(found.score_samples(X), expected.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(found.transform(X), expected.transform(X), rtol=1e-9)
    assert isinstance(found.parameters_.vector, np.ndarray)


@pytest.mark.parametrize("kind", ["NaN", "masked bytes"])
def test_training_with_holes_equals_the_references(once, X, kind):
    hidden = np.arange(X.size).reshape(X.shape) % 5 == 1
    given = np.where(hidden, np.nan, X) if kind == "NaN" else np.ma.MaskedArray(X, hidden)
    settings = SMALL | {"dtype": "float64", "likelihood": "gaussian", "missing": "model"}
    found, expected = (npvae.VAE(**settings, backend=name).fit(given) for name in ("cuda", "reference"))
    np.testing.assert_allclose(found.parameters_.vector, expected.parameters_.vector, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.score_samples(given), expected.score_samples(given), rtol=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_decay_and_average_equal_the_references(once, X, optimizer, tmp_path, monkeypatch):
    """The device finds the size of a step from its number, also of two steps that are launched together.

    An epoch is resumed where the decay was.
    """
    monkeypatch.setattr(cuda_graph, "CHUNK", 2)
    settings = SMALL | {"dtype": "float64", "optimizer": optimizer, "learning_rate": 0.01, "max_epochs": 3}
    settings |= {"schedule": "cosine", "averaging": "polynomial"}
    found, expected = (npvae.VAE(**settings, backend=name).fit(X, X_valid=X[:4]) for name in ("cuda", "reference"))
    np.testing.assert_allclose(found.parameters_.vector, expected.parameters_.vector, rtol=1e-8, atol=1e-12)
    for name, array in expected.training_.optimizer.items():
        np.testing.assert_allclose(found.training_.optimizer[name], array, rtol=1e-8, atol=1e-14)
    assert found.report_[-1] == expected.report_[-1]
    stopped = npvae.VAE(**settings, backend="cuda", callbacks=(lambda epoch: epoch.epoch == 2,)).fit(X, X_valid=X[:4])
    stopped.save(tmp_path / "model.npz")
    resumed = npvae.load(tmp_path / "model.npz").resume(X, X_valid=X[:4])
    np.testing.assert_array_equal(resumed.parameters_.vector, found.parameters_.vector)
    for name, array in found.training_.optimizer.items():
        np.testing.assert_array_equal(resumed.training_.optimizer[name], array)


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_binarized_rows(once, rng, kind, monkeypatch):
    """A run of steps draws the same pixels as the steps of another backend, also where rows are copied in chunks."""
    X, settings = rng.random((12, 5)), SMALL | {"likelihood": "bernoulli", "binarize": kind}
    expected = npvae.VAE(**settings, backend="reference").fit(X)
    vectors = [npvae.VAE(**settings, backend="cuda").fit(X).parameters_.vector]
    monkeypatch.setattr(cuda_graph, "CHUNK", 1)
    monkeypatch.setattr(cuda_graph, "SHARE", 0)
    monkeypatch.setattr(cuda_graph, "MOST", 2)
    vectors.append(npvae.VAE(**settings, backend="cuda").fit(X).parameters_.vector)
    np.testing.assert_array_equal(vectors[1], vectors[0])
    check([vectors[0]], [expected.parameters_.vector], np.dtype("f4"))
    grey = npvae.VAE(**settings | {"binarize": "none"}, backend="reference").fit(X)
    assert not np.allclose(vectors[0], grey.parameters_.vector, rtol=1e-3)


class Captured:
    """What a `Runner` may use of an estimator."""

    def __init__(self, estimator):
        self.noise_shape, self.draw_into, self.passes = estimator.noise_shape, estimator.draw_into, estimator.passes


def test_a_runner_takes_its_algorithm_from_the_estimator(once, X, monkeypatch):
    """It needs three methods of it, and what they return, and nothing else."""
    whole = npvae.VAE(**SMALL, backend="cuda").fit(X)
    monkeypatch.setattr(cuda, "Runner", lambda estimator, *rest: cuda_graph.Runner(Captured(estimator), *rest))
    captured = npvae.VAE(**SMALL, backend="cuda").fit(X)
    np.testing.assert_array_equal(captured.parameters_.vector, whole.parameters_.vector)


@pytest.mark.parametrize("likelihood", ["bernoulli", "sigmoid-gaussian"])
def test_log_joint(once, make_model, rng, dtype, likelihood):
    """log p(x, z) and its gradient by z, without a gradient of any weight."""
    x, z, results = normal(rng, float, 2, 7) / 4, normal(rng, float, 6, 3), []
    _, parameters = make_model(likelihood=likelihood)
    for backend, kind in ((cuda, dtype), (reference, float)):
        model, _ = make_model(backend, kind, likelihood=likelihood)
        arrays = backend.asarray(x, kind), backend.asarray(z, kind)
        results.append(model.log_joint(model.parameters(parameters.vector), *arrays, Buffers(backend, kind)))
    check(*results, dtype)


def test_data_that_does_not_fit_is_copied_as_needed(once, X, monkeypatch):
    """In the same order, to the same bits; also where a run has many chunks."""
    monkeypatch.setattr(cuda_graph, "CHUNK", 1)
    resident = npvae.VAE(**SMALL, backend="cuda").fit(X)
    monkeypatch.setattr(cuda_graph, "SHARE", 0)
    monkeypatch.setattr("npvae.backends.cuda_graph.MOST", 1)
    streamed = npvae.VAE(**SMALL, backend="cuda").fit(X)
    np.testing.assert_array_equal(streamed.parameters_.vector, resident.parameters_.vector)


def test_resumed_to_the_same_bits(once, X, tmp_path):
    """And after a file, a pickle, and with validation data."""
    whole = npvae.VAE(**SMALL | {"max_epochs": 2}, backend="cuda").fit(X, X_valid=X[:3])
    part = npvae.VAE(**SMALL, backend="cuda").fit(X, X_valid=X[:3])
    part.save(tmp_path / "m.npz")
    part = pickle.loads(pickle.dumps(npvae.load(tmp_path / "m.npz")))
    part.set_params(max_epochs=2).resume(X, X_valid=X[:3])
    np.testing.assert_array_equal(part.parameters_.vector, whole.parameters_.vector)


def test_resumed_inside_an_epoch(once, X, monkeypatch):
    """From a checkpoint after its first step."""
    monkeypatch.setattr("npvae.backends.cuda_graph.MOST", 1)
    kept = []
    model = npvae.VAE(**SMALL, backend="cuda")
    model.fit(X, checkpoint=lambda model: kept.append(pickle.dumps(model)), checkpoint_every=0)
    part = pickle.loads(kept[1])
    assert part.training_.progress.seen == 4
    np.testing.assert_array_equal(part.resume(X).parameters_.vector, model.parameters_.vector)


@pytest.mark.skipif(SIMULATED, reason="the simulator has no graphs")
def test_steps_are_captured_and_give_the_same_bits(X, monkeypatch):
    steps, fits = [], []
    monkeypatch.setattr(cuda_graph, "CHUNK", 2)
    monkeypatch.setattr(cuda_graph.Step, "prepare", _remember(cuda_graph.Step.prepare, steps))
    for capture in (cuda_graph.captured, lambda launches: None):
        monkeypatch.setattr(cuda_graph, "captured", capture)
        fits.append(npvae.VAE(**SMALL | {"max_epochs": 3}, backend="cuda").fit(X).parameters_.vector)
    assert any(step._graphs.keys() == {1, 2} and all(step._graphs.values()) for step in steps)
    np.testing.assert_array_equal(*fits)


class Builder:
    """A graph builder that knows which of its branches have not been waited for."""

    def __init__(self):
        self.open = []

    def split(self, count):
        self.open.append(Builder())
        return self, self.open[-1]

    def join(self, first, *branches):
        assert first is self and list(branches) == self.open
        self.open = []


@pytest.mark.skipif(not SIMULATED, reason="a device takes no other builders")
def test_what_is_launched_beside_is_waited_for(once, X, monkeypatch):
    """The gradients of the weights and the next minibatch: they are there before they are used."""
    builder, beside = Builder(), []
    readers = [*cuda_kernels.UPDATES.values(), *cuda_kernels.NORM.values()]

    def launch(kernel, grid, block, *arguments):
        if cuda_launch._launching.stream in builder.open:
            beside.append(kernel)
        assert kernel not in readers or not builder.open
        kernel[grid, block](*arguments)

    for module in (cuda, cuda_launch, cuda_product):
        monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(cuda_graph, "launching_on", lambda stream: cuda_launch.launching_on(builder))
    monkeypatch.setattr(cuda_graph, "CHUNK", 2)
    npvae.VAE(**SMALL | {"max_epochs": 2}, clip_norm=1.0, backend="cuda").fit(X)
    assert set(beside) == {cuda_product.PRODUCTS["naive"][np.dtype("f4")][0][1].function, cuda_kernels.gather}
    assert not builder.open


def _remember(method, instances):
    def remembering(self, *arguments):
        instances.append(self)
        return method(self, *arguments)

    return remembering


@pytest.mark.skipif(SIMULATED, reason="too many blocks for the simulator")
def test_many_rows(rng):
    """More of them than a grid has room for in its second dimension."""
    X, scaling = rng.integers(0, 256, (70_000, 3), dtype=np.uint8), Scaling(np.zeros(3), np.ones(3))
    check(
        [cuda.gather(X, np.arange(len(X)), scaling, cuda.empty(X.shape, "float32"))], [X.astype(float)], np.dtype("f4")
    )
    mu, log_var, eps, dz = (rng.standard_normal(X.shape) for _ in range(4))
    weights = rng.standard_normal(len(X))
    found = cuda.gaussian_latent_backward(
        *on_device(np.dtype("f4"), mu, log_var, eps, dz), True, cuda.asarray(weights, "f4")
    )
    check(found, reference.gaussian_latent_backward(mu, log_var, eps, dz, True, weights), np.dtype("f4"))


def test_gradcheck(once, X):
    sizes = () if SIMULATED else (50, 20)
    model = npvae.VAE(1, hidden_layer_sizes=sizes, likelihood="bernoulli", backend="cuda")
    report = npvae.gradcheck(model, X, n_rows=3, full=False)
    assert report.passed, str(report)


@pytest.mark.filterwarnings("ignore:the values of column")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of overflow, in the simulator
def test_divergence_stops_at_the_step_of_the_reference(once, X):
    """With the parameters before it, though steps after it were already on their way."""
    X = X.astype(np.float32)
    X[6] = 1e30
    settings = SMALL | {"batch_size": 2, "likelihood": "gaussian", "learning_rate": 0.5}
    found = []
    for name in ("reference", "cuda"):
        model = npvae.VAE(**settings, backend=name)
        preprocessed = npvae.VAE(**settings, backend="reference").fit(np.ones((4, 4)) * np.arange(4)[:, None])
        model.__dict__.update({k: v for k, v in vars(preprocessed).items() if k.endswith("_")})
        with pytest.raises(npvae.training.NonFiniteError) as error, np.errstate(all="ignore"):
            model.partial_fit(X)
        found.append((error.value.step, model.parameters_.vector))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)


def test_what_does_not_run_there_is_named(once, X):
    for name in ("full-vb", "iwae", "iwae-dreg"):
        with pytest.raises(
            ValueError, match=f"estimator is '{name}' and posterior is 'gaussian'; expected one of 'sgvb-a'"
        ):
            npvae.VAE(**SMALL, estimator=name, backend="cuda").fit(X)
    with pytest.raises(ValueError, match="'sgvb-b' and posterior is 'laplace'; .* 'gaussian' on the backend 'cuda'"):
        npvae.VAE(**SMALL, posterior="laplace", backend="cuda").fit(X)
    for settings in ({"posterior": "laplace"}, {"estimator": "full-vb"}):
        model = npvae.VAE(**SMALL, **settings, backend="reference").fit(X).set_params(backend="cuda")
        with pytest.raises(ValueError, match="backend is 'cuda', but the model has .* or another backend"):
            model.score(X)


def test_functions_of_the_interface(once):
    """All functions of a backend, with the arguments of the reference; a runner, and no network of its own."""
    for name in interface.FUNCTIONS:
        found, expected = (list(inspect.signature(getattr(backend, name)).parameters) for backend in (cuda, reference))
        assert found == expected, name
    assert cuda.Network is None and cuda.Runner is cuda_graph.Runner
    for name in ("most", "run", "noise"):
        found, expected = (inspect.signature(getattr(one, name)) for one in (cuda.Runner, interface.Runner))
        assert list(found.parameters) == list(expected.parameters), name


def test_too_little_memory_is_explained(once):
    expected = pytest.raises(MemoryError, match=r"no room for an array of shape \(3, 2\); a smaller batch_size")
    with expected, cuda_launch.explained("an array of shape (3, 2)"):
        raise RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in it")
    with pytest.raises(RuntimeError, match="something else"), cuda_launch.explained("nothing"):
        raise RuntimeError("something else")


def test_benchmark_of_kernels(once, monkeypatch):
    """Every kernel of a step has its row; the rates are those of the simulator here."""
    from npvae.bench import gpu

    for name, value in {"LAUNCHES": 1, "REPEATS": 1, "ROUNDS": 2, "UNROLLED": 1, "THREADS": 4}.items():
        monkeypatch.setattr(gpu, name, value)
    top = gpu.ceilings(blocks=1, size=8)
    rows = gpu.table(top, M=2, D=5, H=4, J=2, rows=3)
    assert len(rows) == 19 and all(row.rate > 0 and row.ceiling == top[row.unit] > 0 for row in rows)


@pytest.mark.parametrize("kind", ["uint8", "float32", "int64"])
def test_sparse_tables(once, rng, kind):
    """Dense rows of each minibatch are copied: to the same bits as the dense array."""
    D = np.where(rng.random((9, 4)) < 0.5, rng.integers(1, 4, (9, 4)), 0).astype(kind)
    X = scipy.sparse.csr_array(D)
    model, dense = (npvae.VAE(**SMALL, backend="cuda").fit(Y) for Y in (X, D))
    np.testing.assert_array_equal(model.parameters_.vector, dense.parameters_.vector)
    np.testing.assert_array_equal(model.score_samples(X), dense.score_samples(D))
