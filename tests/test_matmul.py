"""The compiled matrix products: against NumPy in float64, bit for bit among themselves, at their borders."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from npvae.backends import jobs, matmul_steps, vectors
from npvae.backends import matmul as mm

DTYPES = (np.float32, np.float64)
ROOT = Path(__file__).parents[1]

#: The name of another processor's tile, if this is a run of `test_every_other_tile`.
OTHER_TILE = os.environ.get("NPVAE_TEST_TILE")

#: Sizes at the borders of tiles, panels and blocks, for any processor.
TILE_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 16, 17, 23, 31, 32, 33, 63, 64, 65)
BLOCK_SIZES = (mm.BLOCK - 1, mm.BLOCK, mm.BLOCK + 1, mm.SLICE, mm.SLICE + 1, 521)


def random_shapes(rng, count):
    """Draw shapes (rows, inner, columns): mostly small, some of several blocks, some empty inside."""
    for _ in range(count):
        rows, inner, columns = rng.choice(TILE_SIZES, 3)
        if rng.random() < 0.3:
            rows = rng.choice(BLOCK_SIZES)
        if rng.random() < 0.4:
            inner = rng.choice((0, *BLOCK_SIZES))
        yield int(rows), int(inner), int(columns)


def frame(array):
    """Return the array as rows in the middle of a larger one, and the larger one, which is NaN elsewhere."""
    larger = np.full((array.shape[0] + 4, array.shape[1]), np.nan, array.dtype)
    larger[2:-2] = array
    return larger[2:-2], larger


def do(job):
    """Do one product with all its shares."""
    mm.product(job.arguments[1].dtype, *job.arguments, work=job.work)


def multiply(form, left, right, out):
    """Compute ``out = left @ right`` by one of the products, handing it each factor as that form wants it."""
    if form == "plain":
        do(mm.dense_job(left, right, np.empty(0, left.dtype), out))
    elif form == "left transposed":
        do(mm.weight_gradient_job(frame(left.T)[0], right, out))
    elif form == "right transposed":
        do(mm.input_gradient_job(left, frame(right.T)[0], False, out))
    elif form == "accumulate":
        out[...] = 0
        do(mm.input_gradient_job(left, frame(right.T)[0], True, out))
    else:
        do(mm.dense_job(left, right, np.zeros(right.shape[1], out.dtype), out))
    return out


FORMS = ("plain", "left transposed", "right transposed", "accumulate", "dense")


def factors(rng, shape, dtype):
    rows, inner, columns = shape
    left, right = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
    return frame(left.astype(dtype))[0], frame(right.astype(dtype))[0]


def rounding(left, right, begin=0):
    """Return a bound on the difference of two ways to sum ``begin + left @ right``, in the precision of the factors."""
    sizes = abs(left.astype(float)) @ abs(right.astype(float)) + np.abs(begin)
    return 2 * (left.shape[1] + 1) * np.finfo(left.dtype).eps * sizes


def assert_product(computed, left, right, begin=0):
    """Check ``begin + left @ right`` within the rounding of the sums, ours and (in float64) NumPy's."""
    bound = rounding(left, right, begin)
    left, right = left.astype(float), right.astype(float)
    error = abs(computed - (begin + left @ right))
    assert np.all(error <= bound), f"{left.shape} @ {right.shape}: {np.nanmax(error / bound)} times the bound"


@pytest.fixture
def threads():
    """Set the number of threads in a test, and put it back."""
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_products_of_random_shapes(form, dtype):
    rng = np.random.default_rng(1)
    for shape in random_shapes(rng, 150):
        left, right = factors(rng, shape, dtype)
        out, larger = frame(np.full((shape[0], shape[2]), np.nan, dtype))
        assert_product(multiply(form, left, right, out), left, right)
        assert np.isnan(larger[:2]).all() and np.isnan(larger[-2:]).all(), f"{shape}: written beyond out"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", matmul_steps.STEPS)
def test_each_step_equals_the_first_and_numpy(step, dtype):
    rng = np.random.default_rng(10)
    for shape in ((1, 1, 1), (8, 4, 64), *random_shapes(rng, 40)):
        left, right = factors(rng, shape, dtype)
        (out, larger), first = (
            frame(np.full((shape[0], shape[2]), np.nan, dtype)),
            np.empty((shape[0], shape[2]), dtype),
        )
        matmul_steps.STEPS[step](left, right, out)
        matmul_steps.naive(left, right, first)
        assert_product(out, left, right)
        assert np.all(abs(out - first) <= rounding(left, right))
        assert np.isnan(larger[:2]).all() and np.isnan(larger[-2:]).all(), f"{shape}: written beyond out"


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_products_equal_numpy(dtype):
    rng = np.random.default_rng(2)
    for shape in ((100, 784, 500), (500, 100, 784), (1000, 300, 20), (3, 784, 500), (1009, 211, 101)):
        left, right = factors(rng, shape, dtype)
        for form in FORMS:
            assert_product(multiply(form, left, right, np.empty((shape[0], shape[2]), dtype)), left, right)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(0, 3, 5), (3, 4, 0), (0, 0, 0), (5, 0, 7)])
def test_empty_products(form, shape):
    rows, inner, columns = shape
    out = multiply(form, np.ones((rows, inner)), np.ones((inner, columns)), np.full((rows, columns), np.nan))
    assert out.shape == (rows, columns) and np.all(out == 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_accumulating_adds_to_what_out_holds(dtype):
    rng = np.random.default_rng(3)
    for shape in random_shapes(rng, 100):
        left, right = factors(rng, shape, dtype)
        begin = rng.standard_normal((shape[0], shape[2])).astype(dtype)
        out = begin.copy()
        do(mm.input_gradient_job(left, frame(right.T)[0], True, out))
        assert_product(out, left, right, begin)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_begin_with_the_bias(dtype):
    rng = np.random.default_rng(4)
    for shape in random_shapes(rng, 30):
        left, right = factors(rng, shape, dtype)
        b = 5 * rng.standard_normal(shape[2]).astype(dtype)
        out = np.full((shape[0], shape[2]), np.nan, dtype)
        do(mm.dense_job(left, right, b, out))
        assert_product(out, left, right, b)


# The same bits ----------------------------------------------------------------------------------------------

SHAPES = ((100, 784, 100), (100, 100, 333), (13, 300, 500), (1000, 130, 20), (257, 513, 7), (5, 600, 900))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_bits_do_not_depend_on_the_number_of_threads(form, dtype, threads):
    rng = np.random.default_rng(5)
    for shape in SHAPES:
        left, right = factors(rng, shape, dtype)
        results = []
        for count in (1, 2, numba.config.NUMBA_NUM_THREADS):
            threads(count)
            results.append(multiply(form, left, right, np.empty((shape[0], shape[2]), dtype)).tobytes())
        assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_bits_of_a_row_do_not_depend_on_the_batch(form, dtype):
    rng = np.random.default_rng(6)
    for shape in SHAPES:
        left, right = factors(rng, shape, dtype)
        whole = multiply(form, left, right, np.empty((shape[0], shape[2]), dtype))
        for first, last in ((0, 1), (1, 4), (shape[0] - 1, shape[0]), (shape[0] // 2, shape[0]), (2, 13)):
            rows = frame(left[first:last])[0]
            part = multiply(form, rows, right, np.empty((len(rows), shape[2]), dtype))
            assert part.tobytes() == whole[first:last].tobytes()


# NaN and infinity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_go_where_they_must_and_nowhere_else(form, dtype, value):
    rng = np.random.default_rng(8)
    for shape in ((1, 1, 1), (3, 5, 7), (7, 9, 17), (13, 300, 33), (40, 270, 65)):
        left, right = (abs(factor) + 1 for factor in factors(rng, shape, dtype))
        clean = multiply(form, left, right, np.empty((shape[0], shape[2]), dtype))
        for side, place in ((0, (0, 0)), (0, (-1, -1)), (1, (0, 0)), (1, (-1, -1))):
            spoilt = [left.copy(), right.copy()]
            spoilt[side][place] = value
            expected = clean.copy()
            expected[(place[0], slice(None)) if side == 0 else (slice(None), place[1])] = value
            out = multiply(form, *spoilt, np.empty_like(clean))
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("form", FORMS)
def test_zero_times_infinity_is_nan_only_where_it_occurs(form):
    left, right = np.zeros((7, 9), np.float32), np.ones((9, 19), np.float32)
    right[4, 18] = np.inf
    out = multiply(form, left, right, np.empty((7, 19), np.float32))
    assert np.isnan(out[:, 18]).all() and np.all(out[:, :18] == 0)


# Several at a time, and what is refused ---------------------------------------------------------------------


def test_jobs_of_a_stage_equal_jobs_one_by_one(threads):
    """Two layers of different width that read the same, forward and backward, anywhere in their arrays."""
    rng = np.random.default_rng(9)
    shapes, starts = ((90, 70, 130), (90, 70, 20)), ((3, 1), (9103, 13_001))
    x, W, y = (rng.standard_normal(size).astype(np.float32) for size in (6_301, 10_600, 14_900))

    def part(array, at, *shape):
        return array[at : at + shape[0] * shape[1]].reshape(shape)

    results = []
    for count in (1, numba.config.NUMBA_NUM_THREADS):
        threads(count)
        for together in (True, False):
            dW, dx, list_of_jobs = np.zeros_like(W), np.full_like(x, np.nan), []
            for (M, I, O), (at_W, at) in zip(shapes, starts):
                places = part(x, 1, M, I), part(y, at, M, O), part(dW, at_W, I, O)
                list_of_jobs.append(mm.weight_gradient_job(*places))
            for adds, ((M, I, O), (at_W, at)) in enumerate(zip(shapes, starts)):
                places = part(y, at, M, O), part(W, at_W, I, O), bool(adds), part(dx, 1, M, I)
                list_of_jobs.append(mm.input_gradient_job(*places))
            rows = [
                mm.product.job(x.dtype, *job.arguments, work=job.work, ends_stage=not together) for job in list_of_jobs
            ]
            jobs.run(jobs.table(rows))
            results.append((dW, dx))
    for dW, dx in results:
        np.testing.assert_array_equal(dW, results[0][0])
        np.testing.assert_array_equal(dx, results[0][1])
    expected = sum(
        y[at : at + M * O].astype(float).reshape(M, O) @ W[at_W : at_W + I * O].reshape(I, O).T
        for (M, I, O), (at_W, at) in zip(shapes, starts)
    )
    np.testing.assert_allclose(results[0][1][1:].reshape(90, 70), expected, atol=1e-3)


@pytest.mark.parametrize("spoil", [lambda a: a.astype(np.float64), lambda a: a.ravel(), lambda a: a[None]])
def test_other_dtypes_and_dimensions_are_refused(spoil):
    a, b, out = (np.ones(shape, np.float32) for shape in ((4, 5), (5, 4), (4, 4)))
    job = mm.dense_job(a, b, np.empty(0, np.float32), out)
    with pytest.raises(
        TypeError, match=r"product got an array \(.*\) of float.*; expected a C-contiguous one of float32"
    ):
        mm.product(a.dtype, *[spoil(b) if argument is b else argument for argument in job.arguments], work=job.work)


# Other processors -------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    "features, name", [("+avx512f,+avx2,+fma", "avx512"), ("+avx2,+fma,+avx", "avx2"), ("+neon", "neon"), ("", "plain")]
)
def test_the_tile_is_that_of_the_features_compiled_for(features, name):
    code = "from npvae.backends import vectors; print(vectors.TILE_NAME)"
    env = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    env.pop("NPVAE_TEST_TILE", None)
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == name


@pytest.mark.process
@pytest.mark.slow(reason="compiles the products for other processors")
@pytest.mark.skipif(OTHER_TILE is not None, reason="this is such a run")
@pytest.mark.parametrize("name", sorted(vectors.TILES.keys() - {vectors.TILE_NAME}))
def test_every_other_tile(name, tmp_path):
    """The tests of this file that a tile can fail, with each tile there is: LLVM translates it for this processor."""
    env = os.environ | {"NPVAE_TEST_TILE": name, "NUMBA_CACHE_DIR": str(tmp_path)}
    chosen = "random_shapes or depend or nan or asked_for"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout[-3000:]


def test_the_tile_asked_for_is_in_use():
    assert (OTHER_TILE or vectors.choose_tile(vectors.compiled_for())) == vectors.TILE_NAME
