"""Sparse tables: whatever is done with them, the bits are those of the dense array, and the memory is not."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

import npvae
from npvae import preprocessing, sparse, table
from npvae.backends import cpu, cpu_minibatch, reference
from npvae.cli.data import load_dataset
from npvae.estimators import ESTIMATORS
from npvae.preprocessing import Scaling
from npvae.sparse import SparseRows
from npvae.table import survey

SMALL = {"n_components": 2, "hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 2, "batch_size": 16}

#: What a use of a fitted model returns, for some rows.
USES = {
    "transform": lambda model, X: model.transform(X),
    "encode": lambda model, X: np.concatenate(model.encode(X)),
    "reconstruct": lambda model, X: model.reconstruct(X),
    "sample_posterior": lambda model, X: model.sample_posterior(X, 3),
    "score_samples": lambda model, X: model.score_samples(X),
    "score": lambda model, X: model.score(X),
    "importance": lambda model, X: model.log_likelihood(X, n_samples=20),
    "annealed": lambda model, X: model.log_likelihood(X[:3], method="annealed", n_samples=2),
    "log_joint": lambda model, X: model.fitted_.log_joint(X[:3])(np.ones((3, 2)))[0],
}


def filled(values, shape=(120, 5), share=0.5, seed=0):
    """Draw a dense array of which a share is not zero."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < share, values(rng, shape), 0)


def binary(rng, shape):
    return np.ones(shape, np.uint8)


def counts(rng, shape):
    return rng.poisson(3, shape)


def pixels(rng, shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def real(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def grey(rng, shape):
    return rng.integers(0, 256, shape) / 255


def mixed(rng, shape):
    """Binary columns among others, and of those some that hardly vary: in one row."""
    X = rng.standard_normal(shape) * 3
    X[:, 0::3], X[:, 1::3] = 1, np.where(np.arange(shape[0])[:, None] == 11, X[:, 1::3], 0)
    return X


def ends(rng, shape):
    """Grey values, most of them near 1."""
    return 1 - 0.04 * rng.random(shape)


#: What a table may hold, with settings.
KINDS = {
    "bernoulli": (binary, {}),
    "pixels": (pixels, {}),
    "grey": (grey, {"likelihood": "bernoulli"}),
    "grey binarized anew": (pixels, {"binarize": "dynamic"}),
    "grey binarized once": (grey, {"binarize": "fixed"}),
    "counts": (counts, {}),
    "real": (real, {}),
    "sigmoid-gaussian": (grey, {"likelihood": "sigmoid-gaussian"}),
    "mixed": (mixed, {"likelihood": "mixed"}),
}


def same(found, expected):
    """Compare types and bits."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if found.dtype == np.longdouble:  # which has bytes without meaning
        found, expected = found.astype(float), expected.astype(float)
    assert found.tobytes() == expected.tobytes()


def same_model(found, expected):
    """Compare all that a training leaves, but the times that it took."""
    same(found.parameters_.vector, expected.parameters_.vector)
    assert found.report_ == expected.report_
    assert found.fingerprints_ == expected.fingerprints_
    assert found.dtype_in_ == expected.dtype_in_
    assert found.n_samples_seen_ == expected.n_samples_seen_
    assert str(getattr(found, "health_", "")) == str(getattr(expected, "health_", ""))


# The same bits -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:(importance|annealed).*effective sample size")
@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_trained_and_used_to_the_same_bits(kind, name):
    values, settings = KINDS[kind]
    D = filled(values)
    X, settings = sp.csr_array(D), SMALL | settings | {"backend": name}
    model, expected = npvae.VAE(**settings).fit(X), npvae.VAE(**settings).fit(D)
    same_model(model, expected)
    for use in USES.values():
        same(use(model, X), use(expected, D))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator(estimator):
    D = filled(binary, (20, 4))
    settings = SMALL | {"estimator": estimator, "backend": "reference", "n_samples": 2, "likelihood": "bernoulli"}
    same_model(npvae.VAE(**settings).fit(sp.csr_array(D)), npvae.VAE(**settings).fit(D))


@pytest.mark.parametrize("values", [binary, counts])
def test_validation_data_of_either_kind(values):
    D, V = filled(values), filled(values, seed=1)
    models = [
        npvae.VAE(**SMALL).fit(X, X_valid=X_valid) for X in (D, sp.csr_array(D)) for X_valid in (V, sp.csc_array(V))
    ]
    for model in models[1:]:
        same_model(model, models[0])
        assert [epoch.elbo_valid for epoch in model.history_] == [epoch.elbo_valid for epoch in models[0].history_]


@pytest.mark.parametrize("values", [binary, counts])
def test_the_one_call(values):
    D = filled(values, (80, 5))
    same_model(npvae.fit(sp.csc_array(D), max_epochs=2, verbose=False), npvae.fit(D, max_epochs=2, verbose=False))
    model, expected = (npvae.fit(X, X_valid=X, max_epochs=2, verbose=False) for X in (sp.csr_array(D), D))
    same_model(model, expected)


@pytest.mark.parametrize("values", [binary, counts])
def test_in_pieces_resumed_and_restored(values, tmp_path):
    """A training on one of the two may be resumed on the other: they are the same data."""
    D = filled(values)
    X = sp.csr_array(D)
    model, expected = (npvae.VAE(**SMALL).partial_fit(Y[:70]).partial_fit(Y[70:]) for Y in (X, D))
    same_model(model, expected)
    resumed = []
    for first, then in ((D, D), (X, X), (D, X), (X, D)):
        npvae.VAE(**SMALL).fit(first, X_valid=then).save(tmp_path / "model.npz")
        model = pickle.loads(pickle.dumps(npvae.load(tmp_path / "model.npz"))).set_params(max_epochs=4)
        resumed.append(model.resume(then, X_valid=first))
    for model in resumed[1:]:
        same_model(model, resumed[0])
    other = X.copy()
    other.data[0] = 0
    with pytest.raises(ValueError, match="X is .* but the training to resume had"):
        npvae.VAE(**SMALL).fit(X).resume(other)


def test_columns_that_hardly_vary_and_a_piece_far_from_the_first(rng):
    D, row = filled(mixed), np.arange(120)
    D[:, 1], D[:, 4] = np.where(row == 17, 3, 0), np.where(row == 11, -2, 5)
    model, expected = npvae.VAE(**SMALL).partial_fit(sp.csr_array(D)), npvae.VAE(**SMALL).partial_fit(D)
    fixed = model.preprocessor_.fixed
    assert [density.column for density in fixed] == [1, 4] and fixed[0].slab != fixed[1].slab
    same_model(model, expected)
    same(model.score_samples(sp.csr_array(D[::-1])), expected.score_samples(D[::-1].copy()))
    for column in (1, 2, 4):
        far = D.copy()
        far[:, column] = 1000 * (rng.random(120) < 0.5)
        messages = [model.preprocessor_.far_from(survey(X)) for X in (far, sp.csr_array(far))]
        assert f"column {column} " in messages[0] and messages[0] == messages[1]
    assert not model.preprocessor_.far_from(survey(sp.csr_array(D)))


@pytest.mark.parametrize("values", [real, binary])
def test_missing_cells(values):
    """NaN that is stored. Each column has some; one row has nothing else, and one nothing at all."""
    D = filled(values).astype(float)
    D[np.random.default_rng(3).random(D.shape) < 0.2] = np.nan
    D[4], D[5] = np.nan, 0
    X = sp.csr_array(D)
    for name in ("reference", "cpu"):
        model, expected = (npvae.VAE(**SMALL, missing="model", backend=name).fit(Y) for Y in (X, D))
        same_model(model, expected)
        same(model.score_samples(X), expected.score_samples(D))
    same(model.impute(X), model.impute(D))
    same(model.impute(X, method="one-pass"), model.impute(D, method="one-pass"))
    noise = {"sigma": 0.2} if values is real else {"salt_and_pepper": 0.1}
    same(model.denoise(sp.csr_array(np.nan_to_num(D)), **noise), model.denoise(np.nan_to_num(D), **noise))


def test_values_outside_the_unit_interval_by_rounding():
    D = filled(grey)
    D[D.max() == D] = 1 + 5e-7
    settings, X = SMALL | {"likelihood": "bernoulli"}, sp.csr_array(D)
    before = X.data.copy()
    with pytest.warns(UserWarning, match="clipped"):
        model = npvae.VAE(**settings).fit(X)
    with pytest.warns(UserWarning, match="clipped"):
        same_model(model, npvae.VAE(**settings).fit(D))
    same(X.data, before)
    with pytest.raises(ValueError, match=r"outside \[0, 1\] in column 2"):
        model.score(sp.csr_array(np.where(np.arange(5) == 2, 2.0, D)))


def test_a_score_depends_on_its_row_alone():
    D = filled(real, (700, 5))
    D[:, 2] = np.arange(700)  # no two rows are equal
    X = sp.csr_array(D)
    model = npvae.VAE(**SMALL | {"max_epochs": 1}).fit(D)
    scores, order = model.score_samples(X), np.random.default_rng(0).permutation(700)
    np.testing.assert_allclose(model.score_samples(X[order]), scores[order], rtol=1e-5)  # batches round differently
    np.testing.assert_allclose([model.score(X[[row]]) for row in range(5)], scores[:5], rtol=1e-5)
    noise = model.sample_posterior(X, 2)
    np.testing.assert_allclose(model.sample_posterior(X[order], 2), noise[:, order], rtol=1e-4, atol=1e-5)
    twice = model.sample_posterior(sp.vstack([X[:400], X[:400]]), 1)[0]  # more than a batch; equal rows differ
    same(twice, model.sample_posterior(np.vstack([D[:400], D[:400]]), 1)[0])
    assert np.all(twice[:400] != twice[400:])


@pytest.mark.parametrize("start", ["fitted", "new"])
def test_checks_and_pictures(start):
    D = filled(counts, (60, 4))
    X, model = sp.csr_array(D), npvae.VAE(**SMALL)
    if start == "fitted":
        model.fit(D)
    assert npvae.gradcheck(model, X).passed
    same(model.starting_point(X).vector, model.starting_point(D).vector)


def test_pictures(monkeypatch):
    from matplotlib.figure import Figure

    D = filled(counts, (60, 4))
    model, images = npvae.VAE(**SMALL).fit(D), []
    for X in (sp.csr_array(D), sp.coo_matrix(D), D):
        axes = [Figure().add_subplot() for _ in range(3)]
        npvae.plots.reconstructions(model, X, ax=axes[0])
        npvae.plots.manifold(model, X, ax=axes[1])
        npvae.plots.latent_space(model, X, ax=axes[2])
        images.append([ax.get_images()[0].get_array() for ax in axes[:2]] + [axes[2].collections[0].get_offsets()])
        assert len(npvae.plots.summary(model, X, (2, 2)).axes) > 2
    for one in images[:2]:
        for found, expected in zip(one, images[2]):
            same(found, expected)


def test_datapoints():
    """A row of a sparse array has one dimension, one of a sparse matrix has two."""
    D = filled(counts)
    X, model = sp.csr_array(D), npvae.VAE(**SMALL).fit(D)
    same(model.interpolate(X[0], X[1]), model.interpolate(D[0], D[1]))
    z = np.ones((1, 2))
    same(model.fitted_.log_joint(X[0])(z)[0], model.fitted_.log_joint(D[0])(z)[0])
    with pytest.raises(ValueError, match=r"x1 has the shape \(1, 5\); expected one datapoint"):
        model.interpolate(sp.csr_matrix(D)[0], D[1])
    same(model.inverse_transform(sp.csr_array(z)), model.inverse_transform(z))


# The kinds of sparse objects -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_every_format(form, kind):
    D = filled(counts)
    same_model(npvae.VAE(**SMALL).fit(getattr(sp, f"{form}_{kind}")(D)), npvae.VAE(**SMALL).fit(D))


def csr(D, dtype=None):
    """Return a CSR whose values have a type that SciPy may not convert."""
    pattern = sp.csr_array(D != 0)
    return sp.csr_array(((D if dtype is None else D.astype(dtype))[D != 0], pattern.indices, pattern.indptr), D.shape)


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", "g", ">f8", ">f4", ">i4", "O"])
def test_every_type(dtype, name):
    D = filled(binary if dtype == "?" else counts)
    model, expected = (
        npvae.VAE(**SMALL, backend=name).fit(csr(D, dtype)),
        npvae.VAE(**SMALL, backend=name).fit(D.astype(dtype)),
    )
    same_model(model, expected)
    same(model.transform(csr(D, dtype)), expected.transform(D.astype(dtype)))


def unsorted(X):
    """Return X with the values of each row in reverse."""
    order = np.concatenate([np.arange(*ends)[::-1] for ends in zip(X.indptr, X.indptr[1:])])
    return sp.csr_array((X.data[order], X.indices[order], X.indptr), X.shape)


def with_wide_indices(X):
    X = X.copy()
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def mapped(X, folder):
    parts = []
    for name in ("data", "indices", "indptr"):
        np.save(folder / f"{name}.npy", getattr(X, name))
        parts.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    return sp.csr_array(tuple(parts), X.shape, copy=False)


def with_zeros_stored(X):
    X = X.copy()
    X.data[::3], X.data[::9] = 0.0, -0.0
    return X


class Foreign:
    """A matrix of another library."""

    def __init__(self, X):
        self.shape, self.tocsr = X.shape, lambda: X


FORMS = {
    "unsorted": lambda X, folder: unsorted(X),
    "indices of 64 bits": lambda X, folder: with_wide_indices(X),
    "mapped, read-only": mapped,
    "zeros and minus zeros stored": lambda X, folder: with_zeros_stored(X),
    "rows without values": lambda X, folder: sp.vstack([sp.csr_array((3, 5)), X, sp.csr_array((2, 5))]),
    "columns without values": lambda X, folder: sp.hstack([sp.csr_array((120, 2)), X]).tocsr(),
    "nothing stored": lambda X, folder: sp.csr_array((7, 3)),
    "a row": lambda X, folder: X[[0]],
    "a column": lambda X, folder: X[:, [0]],
    "room for more values": lambda X, folder: with_room(X),
    "arrays with gaps": lambda X, folder: with_gaps(X),
    "another library": lambda X, folder: Foreign(X),
}


def with_room(X):
    X = X.copy()
    X.data = np.append(X.data, np.array([np.nan, np.inf], X.dtype))
    X.indices = np.append(X.indices, [99, -1]).astype(np.int32)
    return X


def with_gaps(X):
    X = X.copy()
    for name in ("data", "indices", "indptr"):
        setattr(X, name, np.repeat(getattr(X, name), 2)[::2])
    return X


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form, tmp_path):
    X = FORMS[form](sp.csr_array(filled(real)), tmp_path)
    D = X.tocsr()[:, :].toarray()
    for name in ("reference", "cpu"):
        model, expected = (npvae.VAE(**SMALL, backend=name).fit(Y) for Y in (X, D))
        same_model(model, expected)
        same(model.score_samples(X), expected.score_samples(D))


@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f2", "f4", "f8"])
def test_values_of_one_cell_are_added_as_scipy_does(dtype):
    """In their order, in their type: bytes wrap around. And X stays as it is."""
    rng = np.random.default_rng(0)
    row, indices = np.sort(rng.integers(0, 120, 1800)), rng.integers(0, 5, 1800)
    values = (rng.random(1800) * 200).astype(dtype)
    D = np.zeros((120, 5), dtype)
    np.add.at(D, (row, indices), values)
    X = sp.csr_array((values, indices, np.searchsorted(row, np.arange(121))), D.shape)
    if dtype != "f2":  # which SciPy cannot make dense
        same(X.toarray(), D)
    before = {name: np.array(value) for name, value in vars(X).items()}
    model, expected = npvae.VAE(**SMALL).fit(X), npvae.VAE(**SMALL).fit(D)
    same_model(model, expected)
    same(model.score_samples(X), expected.score_samples(D))
    assert vars(X).keys() == before.keys()
    for name, value in vars(X).items():
        assert np.array_equal(np.array(value), before[name])


def test_a_csr_is_not_copied():
    X = sp.csr_array(filled(real))
    rows = survey(X).X
    assert rows.data is X.data or np.shares_memory(rows.data, X.data)
    assert np.shares_memory(rows.indices, X.indices) and np.shares_memory(rows.indptr, X.indptr)


def test_pandas_sparse_columns():
    pandas = pytest.importorskip("pandas")
    D = filled(counts)
    frame = pandas.DataFrame.sparse.from_spmatrix(sp.csr_array(D), columns=list("abcde"))
    model = npvae.VAE(**SMALL).fit(frame)
    same(model.parameters_.vector, npvae.VAE(**SMALL).fit(D).parameters_.vector)
    assert list(model.feature_names_in_) == list("abcde")


# What is refused -----------------------------------------------------------------------------------------------------


def changed(name, place, value):
    X = sp.csr_array(filled(real, seed=5).astype(float))
    getattr(X, name)[place] = value
    return X


def cut(name):
    X = sp.csr_array(filled(real))
    setattr(X, name, getattr(X, name)[:-2])
    return X


class Broken:
    shape = 2, 2

    def tocsr(self):
        raise NotImplementedError("not today")


REFUSED = {
    "one dimension": (lambda: sp.coo_array(np.ones(4)), r"X is sparse and has shape \(4,\); expected a 2-D array"),
    "three dimensions": (lambda: sp.coo_array(np.ones((2, 2, 2))), r"X is sparse and has shape \(2, 2, 2\); expected"),
    "no rows": (lambda: sp.csr_array((0, 4)), r"X has shape \(0, 4\); expected at least one row"),
    "no columns": (lambda: sp.csr_array((4, 0)), r"X has 0 feature\(s\) \(shape=\(4, 0\)\)"),
    "complex": (lambda: sp.csr_array(filled(real) * 1j), "expected real numbers. Complex data not supported"),
    "strings": (lambda: csr(filled(counts), str), "X has type <U21; expected real numbers"),
    "words": (lambda: csr(np.array([["a", "b"]], object)), "X holds objects that are not numbers"),
    "NaN": (
        lambda: changed("data", 11, np.nan),
        r"X holds 1 NaN or infinite value, the first one \(nan\) in row 4, column 1",
    ),
    "infinite": (lambda: changed("data", slice(11, 14), -np.inf), r"3 NaN .* first one \(-inf\) in row 4, column 1"),
    "column beyond the last": (lambda: changed("indices", 3, 5), r"damaged .* do not fit its shape \(120, 5\)"),
    "negative column": (lambda: changed("indices", 3, -1), "damaged sparse matrix"),
    "rows that go back": (lambda: changed("indptr", 3, 100), "damaged sparse matrix"),
    "rows that do not begin": (lambda: changed("indptr", 0, 1), "damaged sparse matrix"),
    "rows that end too late": (lambda: changed("indptr", -1, 10**6), "damaged sparse matrix"),
    "too few values": (lambda: cut("data"), "damaged sparse matrix"),
    "too few indices": (lambda: cut("indices"), "damaged sparse matrix"),
    "too few rows": (lambda: cut("indptr"), "damaged sparse matrix"),
    "not to be converted": (Broken, "X is sparse and cannot be converted to a CSR matrix: not today"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind):
    make, message = REFUSED[kind]
    with pytest.raises((TypeError, ValueError), match=message):
        npvae.VAE(**SMALL).fit(make())


def test_where_the_first_value_that_is_not_finite_is():
    X = changed("data", 11, np.nan)
    assert np.argwhere(np.isnan(X.toarray())).tolist() == [[4, 1]]  # as REFUSED says
    X = sp.csr_array(np.where(np.arange(500)[:, None] == 321, np.inf, np.zeros((500, 3))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "CELLS", 30)  # many chunks
        with pytest.raises(ValueError, match=r"X_valid holds 3 NaN .* \(inf\) in row 321, column 0"):
            survey(X, "X_valid")
    with pytest.raises(ValueError, match="holds 3 infinite values"):
        survey(X, missing=True)


def test_features_that_differ():
    X = sp.csr_array(filled(counts))
    model = npvae.VAE(**SMALL).fit(X)
    with pytest.raises(ValueError, match="X has 3 features, but VAE is expecting 5"):
        model.transform(X[:, :3])
    with pytest.raises(ValueError, match="X_valid has 3 features, but VAE is expecting 5"):
        model.fit(X, X_valid=X[:, :3])
    with pytest.raises(ValueError, match="X_valid is sparse and has shape"):
        model.fit(X, X_valid=sp.coo_array(np.ones(5)))


# The look at the values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [60, 150, 1000, sparse.CELLS])
@pytest.mark.parametrize("values", [binary, counts, pixels, real, grey, ends, mixed])
@pytest.mark.parametrize("shape", [(203, 7), (203, 1), (1, 7)])
def test_one_look(values, shape, cells, monkeypatch):
    """In chunks of any size, the same is found as in the dense array."""
    monkeypatch.setattr(sparse, "CELLS", cells)
    monkeypatch.setattr(table, "CELLS", cells)
    monkeypatch.setattr(table, "CHUNK", 20)
    for share in (0.05, 0.5, 1.0):
        D = filled(values, shape, share)
        compare_surveys(sp.csr_array(D), D, False)
        if D.dtype.kind == "f":
            D = D.astype(float)
            D[10:30, 0] = np.nan
            compare_surveys(sp.csr_array(D), D, True)
            D[np.random.default_rng(0).random(shape) < 0.3] = np.nan
            compare_surveys(sp.csr_array(D), D, True)


def compare_surveys(X, D, missing):
    found, expected = survey(X, missing=missing), survey(D, missing=missing)
    for name in ("low", "high", "binary", "n_observed"):
        same(getattr(found, name), getattr(expected, name))
    same(found.ones[found.binary], expected.ones[found.binary])
    assert (found.integers, found.grey, found.missing) == (expected.integers, expected.grey, expected.missing)
    for one, other in zip(preprocessing._column_moments(found), preprocessing._column_moments(expected)):
        same(one, other)
    rows = np.arange(0, len(D), 2)
    same(found.take(rows).high, expected.take(rows).high)


def test_zeros_are_not_looked_at():
    """Of 10^5 x 1000 cells, a few hundred thousand are dense at some time."""
    rng = np.random.default_rng(0)
    X = sp.csr_array((rng.random(1000), rng.integers(0, 1000, 1000), np.arange(0, 100_001) // 100), (100_000, 1000))
    n_cells = sum(values.size for values, _ in survey(X).X.packed())
    assert n_cells < 1e-2 * X.shape[0] * X.shape[1]


def test_more_cells_than_an_int32_can_count():
    X = sp.csr_array((np.ones(9, np.uint8), np.arange(9) * 8000, [0, *[9] * 30_000]), (30_000, 72_000))
    look = survey(X)
    assert look.X.size == 2_160_000_000 and look.ones.sum() == 9 and look.is_binary
    assert look.X[[29_999]].sum() == 0 and look.X[0].sum() == 9


# The rows ------------------------------------------------------------------------------------------------------------


ROWS = filled(real, (9, 6))


#: What NumPy takes as an index of rows.
INDICES = (
    slice(None),
    slice(2, 5),
    slice(7, 99),
    slice(0),
    slice(0, 9, 2),
    slice(None, None, -1),
    3,
    -1,
    [5],
    [3, 3, 0],
)
INDICES += (np.array([-1, 2]), np.array([], int), np.arange(9) % 2 == 0)


@pytest.mark.parametrize("rows", INDICES, ids=str)
def test_read_as_an_array(rows):
    same(SparseRows.of(sp.csr_array(ROWS))[rows], ROWS[rows])


def test_rows_and_columns_taken():
    X = SparseRows.of(sp.csr_array(ROWS))
    for numbers in ([], [3], [5, 0, 0, 2]):
        same(X.take(np.array(numbers, int), axis=0)[:], ROWS.take(np.array(numbers, int), axis=0))
    for numbers in ([3], [5, 0, 2], [5, 4, 3, 2, 1, 0]):
        same(X.take(numbers, axis=1)[:], ROWS.take(numbers, axis=1))
    assert (X.shape, X.size, len(X), X.dtype, X.ndim) == ((9, 6), 54, 9, np.float32, 2)
    with pytest.raises(IndexError):
        X[[9]]
    with pytest.raises(TypeError, match="not made dense by accident"):
        np.asarray(X)
    roomy = SparseRows.of(with_room(sp.csr_array(ROWS)))
    for numbers in ([3], [5, 0, 2], [5, 4, 3, 2, 1, 0]):
        same(roomy.take(numbers, axis=1)[:], ROWS.take(numbers, axis=1))


#: The types that compiled code can read, and others.
READ = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
OTHERS = ("f2", "g", ">f8", ">i2")


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    "dtype, index, pointer",
    [(dtype, "i4", "i4") for dtype in READ + OTHERS]
    + [
        ("f4", *types)
        for types in (("i8", "i8"), ("i4", "i8"), ("i8", "i4"), (">i4", "i4"), ("i4", ">i8"), ("u2", "i4"))
    ],
)
def test_gathered_to_the_same_bits(dtype, index, pointer, precision):
    D, rng = filled(counts, (9, 6)).astype(dtype), np.random.default_rng(0)
    X, rows = csr(D), np.array([4, 0, 8, 4])
    X.data[::2] *= dtype == "?" or np.array(-0.0 if X.dtype.kind == "f" else 0, X.dtype)
    X.data[1] = np.iinfo(dtype).max if X.dtype.kind == "u" else -1
    D[D != 0] = X.data + 0
    X = SparseRows(X.data, X.indices.astype(index), X.indptr.astype(pointer), 6)
    scaling = Scaling(np.where(np.arange(6) < 3, 0.0, rng.random(6)), rng.random(6))
    expected = reference.gather(D, rows, scaling, np.empty((4, 6), precision))
    for backend in (reference, cpu):
        for rows_of in (X, D):
            same(backend.gather(rows_of, rows, scaling, np.full((4, 6), np.nan, precision)), expected)
    is_read = dtype in READ and {index, pointer} <= {"i4", "i8"}
    assert (cpu_minibatch.gathering(X) is not None) == is_read
    assert (cpu_minibatch.gathering(D) is not None) == (dtype in READ)


# Memory --------------------------------------------------------------------------------------------------------------


#: The dense array would have 4 GB, or 1.2.
LARGE = """
import resource, sys
import numpy as np, scipy.sparse
import npvae
binary, rng = sys.argv[1] == "binary", np.random.default_rng(0)
N, D = (200_000, 5000) if binary else (30_000, 10_000)
indices = np.sort(rng.integers(0, D // 5, (N, 5)) + np.arange(0, D, D // 5), axis=1).astype(np.int32).ravel()
data = np.ones(5 * N, np.float32) if binary else rng.poisson(3, 5 * N).astype(np.float32) + 1
if not binary:
    indices[::5] = 0  # a column of which every cell is stored
X = scipy.sparse.csr_array((data, indices, np.arange(0, 5 * N + 1, 5)), (N, D))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
class Enough(Exception): pass
def stop(model):
    stop.calls += 1
    if stop.calls > 3: raise Enough
stop.calls = 0
model = npvae.VAE(2, hidden_layer_sizes=(8,), learning_rate=0.05, max_epochs=1, backend="reference")
try:
    model.fit(X, X_valid=X[:1000], checkpoint=stop, checkpoint_every=0)
except Enough:
    pass
X = X[:5000]
model.transform(X), model.score_samples(X), model.sample_posterior(X)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, model.likelihood_)
"""


@pytest.mark.process
@pytest.mark.parametrize("kind", ["binary", "counts"])
def test_memory(kind):
    ran = subprocess.run([sys.executable, "-c", LARGE, kind], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    megabytes, likelihood = ran.stdout.split()
    assert likelihood == ("bernoulli" if kind == "binary" else "gaussian")
    assert int(megabytes) < 500


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_files_that_scipy_writes(form, tmp_path, capsys):
    D, path = filled(binary), tmp_path / "table.npz"
    sp.save_npz(path, getattr(sp, f"{form}_matrix")(D))
    np.save(tmp_path / "dense.npy", D)
    said = []
    found, expected = load_dataset(str(path), say=said.append), load_dataset(str(tmp_path / "dense.npy"))
    assert said == [f"read: 120 rows, 5 columns; sparse: {np.count_nonzero(D)} values are stored"]
    for name in ("X_train", "X_valid", "X_test"):
        assert isinstance(getattr(found, name), SparseRows)
        same(getattr(found, name)[:], getattr(expected, name))
    model, dense = (npvae.VAE(**SMALL).fit(one.X_train, X_valid=one.X_valid) for one in (found, expected))
    same_model(model, dense)
