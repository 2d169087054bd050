"""The products that skip zeros: the lists against NumPy, the products bit for bit against the dense ones."""

import os
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from npvae.backends import matmul as mm
from npvae.backends import vectors
from npvae.backends import zeros as z
from npvae.backends.jobs import SCRATCH

DTYPES = (np.float32, np.float64)
ROOT = Path(__file__).parents[1]

#: The name of another processor's tile, if this is a run of `test_every_other_tile`.
OTHER_TILE = os.environ.get("NPVAE_TEST_TILE")

WIDTH = vectors.ROW_VECTORS * vectors.TILE.bytes // 4
DENSITIES = (0, 0.01, 0.2, 0.5, 1)

#: Sizes at the borders of vectors, panels and slices, for any processor.
SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 33, WIDTH // 2, WIDTH - 1, WIDTH, WIDTH + 1, 2 * WIDTH + 3)
DEPTHS = (0, 1, 2, 5, 31, z.DEPTH - 1, z.DEPTH, z.DEPTH + 1, 2 * z.DEPTH + 3)


def random_shapes(rng, count):
    """Draw shapes (rows, inner, columns), any of them small or at a border."""
    for _ in range(count):
        yield int(rng.choice(SIZES[:10])), int(rng.choice(DEPTHS)), int(rng.choice(SIZES))


def sparse(rng, shape, density, dtype):
    """Draw normal numbers, each of them zero (of either sign) unless drawn with this probability."""
    zeros = np.where(rng.random(shape) < 0.5, 0.0, -0.0)
    return np.where(rng.random(shape) < density, rng.standard_normal(shape), zeros).astype(dtype)


def lists_of(x, cuts=(0.0, 1.0)):
    """Return the lists of x and of x^T, made in the parts between these cuts."""
    rows, inner = x.shape
    lists, transposed = z.empty_lists(rows, inner, x.dtype), z.empty_lists(inner, rows, x.dtype)
    for array in (*lists, *transposed):
        array[:] = -7
    for first, stop in pairwise(cuts):
        z.list_rows(x.reshape(-1), x.shape, lists, int(first * rows), int(stop * rows))
    slices, _ = z.slices_of(inner)
    for first, stop in pairwise(cuts):
        z.list_columns(lists, x.shape, transposed, int(first * slices), int(stop * slices))
    return lists, transposed


def unpack(lists, shape):
    """Return the matrix that the lists stand for."""
    (rows, inner), (index, values, starts) = shape, lists
    slices, depth = z.slices_of(inner)
    matrix = np.zeros(shape, values.dtype)
    for i, s in product(range(rows), range(slices)):
        begin, end = i * inner + starts.reshape(rows, -1)[i, s : s + 2]
        assert np.all(np.diff(index[begin:end]) > 0), "not in order"
        matrix[i, s * depth + index[begin:end]] = values[begin:end]
        assert np.all(values[begin:end] != 0)
    return matrix


def work_of(dtype):
    """Return scratch that holds anything, as after other products."""
    return np.full(z.WORK // np.dtype(dtype).itemsize, np.nan, dtype)


def skipping(lists, right, rows, b=None, cuts=(0.0, 1.0), work=None):
    """Return the product of a listed matrix, made in the parts between these cuts of its rows and columns."""
    inner, columns = right.shape
    larger = np.full((rows + 4) * columns, np.nan, right.dtype)
    out, panels = larger[2 * columns : (rows + 2) * columns], -(-columns // z.width_of(larger))
    bias = np.empty(0, right.dtype) if b is None else b
    work = work_of(right.dtype) if work is None else work
    borders = [min(int(cut * panels) * z.width_of(larger), columns) for cut in cuts]
    for (first, stop), (west, east) in product(pairwise(cuts), pairwise(borders)):
        share = int(first * rows), int(stop * rows), west, east
        z.multiply_share(lists, right.reshape(-1), (rows, inner, columns), bias, out, share, work)
    assert np.isnan(larger[: 2 * columns]).all() and np.isnan(larger[(rows + 2) * columns :]).all(), "beyond out"
    return out.reshape(rows, columns)


def dense(form, left, right, b=None):
    """Return the same product by `matmul`; left is read transposed with that form."""
    (inner, columns), rows = right.shape, left.shape[0 if form == mm.PLAIN else 1]
    out = np.full(rows * columns, np.nan, right.dtype)
    bias = np.empty(0, right.dtype) if b is None else b
    flat, shape, share = (left.reshape(-1), right.reshape(-1)), (rows, inner, columns), (0, rows, 0, columns)
    mm._multiply_share(form, *flat, shape, (bias, False), out, share, np.empty(SCRATCH // right.itemsize, right.dtype))
    return out.reshape(rows, columns)


def assert_same(computed, expected):
    """Check for the same bits, where a NaN is as good as another and the sign of a zero does not count."""
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lists_are_the_matrix_in_any_parts(dtype):
    rng = np.random.default_rng(1)
    for rows, inner in ((1, 1), (3, 0), (0, 3), (7, z.DEPTH + 1), (2 * z.DEPTH + 3, 5), (50, 3 * z.DEPTH)):
        for density in DENSITIES:
            x = sparse(rng, (rows, inner), density, dtype)
            for cuts in ((0, 1), (0, 0.4, 1), (0, 0.1, 0.2, 0.9, 1)):
                lists, transposed = lists_of(x, cuts)
                np.testing.assert_array_equal(unpack(lists, x.shape), x)
                np.testing.assert_array_equal(unpack(transposed, x.T.shape), x.T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", DENSITIES)
def test_both_products_of_random_shapes_have_the_bits_of_the_dense_ones(density, dtype):
    rng = np.random.default_rng(2)
    for M, D, O in random_shapes(rng, 60):
        x = sparse(rng, (M, D), density, dtype)
        W, b, dy = (rng.standard_normal(shape).astype(dtype) for shape in ((D, O), O, (M, O)))
        lists, transposed = lists_of(x)
        assert skipping(lists, W, M, b).tobytes() == dense(mm.PLAIN, x, W, b).tobytes(), f"{(M, D, O)}"
        dW = skipping(transposed, dy, D)
        assert dW.tobytes() == dense(mm.LEFT_TRANSPOSED, x, dy).tobytes(), f"gradient, {(M, D, O)}"
        assert np.all(dW[(x == 0).all(axis=0)] == 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_large_shapes_have_the_bits_of_the_dense_ones(dtype):
    rng = np.random.default_rng(3)
    for M, D, O in ((100, 784, 500), (3, 5000, 20), (300, 1, 1), (1, 300, 129), (517, 40, 70)):
        x = sparse(rng, (M, D), 0.2, dtype)
        W, dy = rng.standard_normal((D, O)).astype(dtype), rng.standard_normal((M, O)).astype(dtype)
        lists, transposed = lists_of(x)
        assert skipping(lists, W, M).tobytes() == dense(mm.PLAIN, x, W).tobytes()
        assert skipping(transposed, dy, D).tobytes() == dense(mm.LEFT_TRANSPOSED, x, dy).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_begin_with_the_bias(dtype):
    rng = np.random.default_rng(4)
    for M, D, O in random_shapes(rng, 20):
        x, W, b = sparse(rng, (M, D), 0.2, dtype), *(rng.standard_normal(n).astype(dtype) for n in ((D, O), O))
        assert skipping(lists_of(x)[0], W, M, b).tobytes() == dense(mm.PLAIN, x, W, b).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_shares(dtype):
    rng = np.random.default_rng(5)
    for M, D, O in ((40, z.DEPTH + 9, 5 * WIDTH + 3), (7, 20, 2 * WIDTH), (1, 3, 1)):
        x, W = sparse(rng, (M, D), 0.2, dtype), rng.standard_normal((D, O)).astype(dtype)
        W[D // 2, O // 2] = np.inf
        b = rng.standard_normal(O).astype(dtype)
        lists, _ = lists_of(x)
        whole = skipping(lists, W, M, b)
        for cuts in ((0, 0.5, 1), (0, 0.1, 0.3, 0.35, 0.99, 1)):
            assert skipping(lists, W, M, b, cuts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("shape", [(0, 3, 5), (3, 4, 0), (0, 0, 0), (5, 0, 7)])
def test_empty_products(shape):
    rows, inner, columns = shape
    lists, transposed = lists_of(np.ones((rows, inner)))
    out = skipping(lists, np.ones((inner, columns)), rows)
    assert out.shape == (rows, columns) and np.all(out == 0)
    dW = skipping(transposed, np.ones((rows, columns)), inner)
    assert dW.shape == (inner, columns) and np.all(dW == rows)


# NaN, infinity and the sign of zero -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.finfo(np.float32).max])
def test_numbers_that_are_not_finite_go_where_they_go_in_the_dense_product(value, dtype):
    """In x, in W, in dy and the bias: first, last and in the middle; also a number whose square overflows."""
    rng = np.random.default_rng(6)
    for M, D, O in ((1, 1, 1), (3, 5, 7), (9, z.DEPTH + 40, WIDTH + 1), (z.DEPTH + 3, 30, 2 * WIDTH)):
        x = sparse(rng, (M, D), 0.2, dtype)
        W, b, dy = (rng.standard_normal(shape).astype(dtype) for shape in ((D, O), O, (M, O)))
        for array, place in product((x, W, b, dy), (0, 0.5, 1)):
            at = np.unravel_index(int(place * (array.size - 1)), array.shape)
            kept, array[at] = array[at], value
            lists, transposed = lists_of(x)
            with np.errstate(all="ignore"):
                assert_same(skipping(lists, W, M, b), dense(mm.PLAIN, x, W, b))
                assert_same(skipping(transposed, dy, D), dense(mm.LEFT_TRANSPOSED, x, dy))
            array[at] = kept


def test_zero_times_infinity_is_nan_only_where_it_occurs():
    x, W = np.zeros((7, 2 * z.DEPTH), np.float32), np.ones((2 * z.DEPTH, WIDTH + 3), np.float32)
    W[z.DEPTH + 1, WIDTH + 1] = np.inf
    out = skipping(lists_of(x)[0], W, 7)
    assert np.isnan(out[:, WIDTH + 1]).all() and np.all(np.delete(out, WIDTH + 1, axis=1) == 0)


def test_only_the_sign_of_a_zero_may_differ():
    """A bias of minus zero: the dense product adds plus zero to it, and it is left alone here."""
    x, W, b = np.zeros((1, 1)), np.ones((1, 1)), np.array([-0.0])
    ours, theirs = skipping(lists_of(x)[0], W, 1, b), dense(mm.PLAIN, x, W, b)
    assert ours == theirs == 0 and np.signbit(ours) and not np.signbit(theirs)


# Memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_may_lie_anywhere_in_memory(dtype):
    rng = np.random.default_rng(7)
    x = sparse(rng, (5, 40), 0.3, dtype)
    expected = rng.standard_normal((40, WIDTH + 5)).astype(dtype)
    W = np.empty(expected.size + 1, dtype)[1:].reshape(expected.shape)
    W[...] = expected
    shifted = np.empty(z.WORK // W.itemsize + 1, dtype)[1:]
    assert skipping(lists_of(x)[0], W, 5, work=shifted).tobytes() == dense(mm.PLAIN, x, expected).tobytes()


@pytest.mark.parametrize("pack, width_of", [(z._pack, z.width_of), (mm._pack, mm._width)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_beyond_the_right_factor_is_read(dtype, pack, width_of):
    """It would be packed, and there it is NaN: the slice would not count as finite."""
    for inner, columns in ((1, 1), (3, WIDTH - 1), (3, WIDTH + 1), (40, 2 * WIDTH)):
        larger = np.full(inner * columns + 4 * WIDTH, np.nan, dtype)
        right, packed = larger[: inner * columns], work_of(dtype)
        right[:] = np.arange(inner * columns)
        width, before = width_of(right), 7
        for start in range(0, columns, width):
            count = min(width, columns - start)
            pack(right, (start, columns, inner, count), packed, before)
            panel = packed[before + width : before + (1 + inner) * width].reshape(inner, width)
            assert np.isfinite(panel).all() and np.isnan(packed[before : before + width]).all()
            np.testing.assert_array_equal(panel[:, :count], right.reshape(inner, columns)[:, start : start + count])


def test_the_scratch_of_a_thread_suffices():
    assert z.WORK <= SCRATCH and (mm.BLOCK + mm.STRIP * (mm.SLICE + 1)) * mm.VECTORS * vectors.TILE.bytes <= SCRATCH


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_more_scratch_is_written_than_asked_for(dtype):
    rng = np.random.default_rng(8)
    W = rng.standard_normal((z.DEPTH, WIDTH)).astype(dtype)
    W[-1, -1] = np.inf  # so that all terms are scattered into the scratch
    size = z.WORK // W.itemsize
    larger = np.full(size + 2 * WIDTH, 5, dtype)
    skipping(lists_of(sparse(rng, (3, z.DEPTH), 0.3, dtype))[0], W, 3, work=larger[WIDTH : WIDTH + size])
    assert np.all(larger[:WIDTH] == 5) and np.all(larger[WIDTH + size :] == 5)


# Other processors -------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.slow(reason="compiles the products for other processors")
@pytest.mark.skipif(OTHER_TILE is not None, reason="this is such a run")
@pytest.mark.parametrize("name", sorted(vectors.TILES.keys() - {vectors.TILE_NAME}))
def test_every_other_tile(name, tmp_path):
    """The tests of this file with each tile there is: LLVM translates it for this processor."""
    env = os.environ | {"NPVAE_TEST_TILE": name, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout[-3000:]


def test_the_tile_asked_for_is_in_use():
    assert (OTHER_TILE or vectors.choose_tile(vectors.compiled_for())) == vectors.TILE_NAME
