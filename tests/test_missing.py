"""Cells that are not observed, NaN in x: the bound, scores and the fit are those of the observed cells."""

import itertools

import numpy as np
import pytest
import scipy.stats
from test_data import KINDS

import npvae
from npvae import cli
from npvae.backends import reference
from npvae.backends.formulas import soft_floor
from npvae.cli.choice import Choice
from npvae.cli.data import load_table
from npvae.estimators import ESTIMATORS, SGVB, first_nonfinite
from npvae.evaluation import LinearGaussian
from npvae.likelihoods import LIKELIHOODS
from npvae.model import Architecture, Model
from npvae.noise import key_of_content
from npvae.parameters import Buffers
from npvae.preprocessing import Data, Scaling, choose_likelihood, fingerprints, fit_preprocessor
from npvae.table import as_table, survey

SMALL = {"hidden_layer_sizes": (6,), "learning_rate": 0.05, "max_epochs": 3, "batch_size": 20, "backend": "reference"}


def holes(rng, X, share=0.3):
    """Return X as floats with NaN in a random share of the cells, at least one row complete and one without any."""
    hidden = rng.random(X.shape) < share
    hidden[0], hidden[1] = False, True
    return np.where(hidden, np.nan, X)


@pytest.fixture
def table(rng):
    """A table whose columns depend on each other, (60, 5), the last one binary."""
    z = rng.standard_normal((60, 2))
    X = 3 + z @ rng.standard_normal((2, 5)) + 0.3 * rng.standard_normal((60, 5))
    X[:, 4] = X[:, 4] > 3
    return X


# The densities --------------------------------------------------------------------------------------------------------


def outputs_for(rng, name, R, D, dtype):
    """Return outputs of the decoder for a likelihood's heads, and its number of binary columns."""
    likelihood = LIKELIHOODS[name]
    B = D // 2 if likelihood.has_kinds else D * (name == "bernoulli")
    sizes = {"all": D, "binary": B, "real": D - B}
    return [rng.standard_normal((R, sizes[head.columns])).astype(dtype) for head in likelihood.heads], B


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("M, D, L", [(4, 6, 1), (5, 37, 3), (120, 80, 1)])
def test_the_density_is_that_of_the_observed_cells(rng, backend, name, dtype, M, D, L):
    """A row is compared with the same row without its other columns, whose gradients are 0."""
    outputs, B = outputs_for(rng, name, L * M, D, dtype)
    x, weights = holes(rng, rng.random((M, D))).astype(dtype), rng.standard_normal(L * M).astype(dtype)
    density = getattr(backend, LIKELIHOODS[name].log_prob)
    log_prob, *gradients = density(x, *outputs, weights, missing=True)
    there = np.tile(~np.isnan(x), (L, 1))
    of_heads = [there[:, :B] if head.columns == "binary" else there[:, D - output.shape[1] :]
                for head, output in zip(LIKELIHOODS[name].heads, outputs)]  # fmt: skip
    for row in range(0, L * M, max(1, L * M // 20)):
        parts = [np.ascontiguousarray(output[row : row + 1, kept[row]]) for output, kept in zip(outputs, of_heads)]
        if not there[row].any():
            assert log_prob[row] == 0 and not any(gradient[row].any() for gradient in gradients)
            continue
        alone = np.ascontiguousarray(x[row % M : row % M + 1, there[row]])
        expected, *slopes = getattr(reference, LIKELIHOODS[name].log_prob)(
            alone.astype(float), *(part.astype(float) for part in parts), weights[row : row + 1].astype(float)
        )
        rounding = 8 * np.finfo(dtype).eps * np.sqrt(D)
        np.testing.assert_allclose(log_prob[row], expected[0], atol=rounding * max(1, abs(expected[0])), rtol=0)
        for gradient, kept, slope in zip(gradients, of_heads, slopes):
            size = max(1, np.abs(slope).max(initial=0))
            np.testing.assert_allclose(gradient[row, kept[row]], slope[0], atol=rounding * size, rtol=0)
            assert not gradient[row, ~kept[row]].any()


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_complete_rows_keep_their_bits_beside_others(rng, backend, name, dtype):
    outputs, _ = outputs_for(rng, name, 40, 33, dtype)
    x, weights = rng.random((40, 33)).astype(dtype), rng.standard_normal(40).astype(dtype)
    density = getattr(backend, LIKELIHOODS[name].log_prob)
    alone = density(x, *outputs, weights)
    x[::3, 5] = np.nan
    for found, expected in zip(density(x, *outputs, weights, missing=True), alone):
        complete = np.arange(40) % 3 > 0
        np.testing.assert_array_equal(found[complete], expected[complete])


def test_a_decoder_that_fails_is_noticed(backend):
    """NaN in the outputs of the decoder is not taken for a cell that is not observed."""
    nan, one = np.array([[np.nan, 0.0]]), np.ones(1)
    x = np.array([[0.5, np.nan]])
    assert np.isnan(backend.bernoulli_log_prob(x, nan, one, missing=True)[0]).all()
    assert np.isnan(backend.gaussian_log_prob(x, nan, 0 * x[:, ::-1].copy() * 0, one, missing=True)[0]).all()
    assert np.isfinite(backend.bernoulli_log_prob(x[:, ::-1].copy(), nan, one, missing=True)[0]).all()


def test_what_the_encoder_sees(rng, backend):
    x = holes(rng, rng.random((30, 7)))
    np.testing.assert_array_equal(backend.fill_missing(x, np.empty_like(x)), np.nan_to_num(x, nan=0.0))


def test_drawn_pixels_and_keys(rng, backend):
    """NaN stays NaN when pixels are drawn. A key depends on where NaN is, and not on the bits of NaN."""
    x = holes(rng, rng.random((30, 7)))
    drawn = backend.binarize(x, np.arange(30, dtype=np.uint64), np.empty_like(x))
    np.testing.assert_array_equal(np.isnan(drawn), np.isnan(x))
    full = backend.binarize(np.nan_to_num(x, nan=0.5), np.arange(30, dtype=np.uint64), np.empty_like(x))
    np.testing.assert_array_equal(drawn[~np.isnan(x)], full[~np.isnan(x)])

    row = np.array([[0.0, np.nan, 1.0]], np.float32)
    keys = set()
    for bits in (0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF):
        row.view(np.uint32)[0, 1] = bits
        assert np.isnan(row[0, 1])
        keys |= set(key_of_content(row, 0).tolist())
    others = [[np.nan, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, np.nan, np.nan]]
    assert len(keys) == 1 and not keys & {int(key_of_content(np.array([other]), 0)[0]) for other in others}


# The bound ------------------------------------------------------------------------------------------------------------


def linear_gaussian(make_model, backend, dtype="float64"):
    """A linear-Gaussian model whose latents have columns of their own: their posterior is diagonal for any pattern."""
    model, parameters = make_model(
        backend,
        dtype,
        n_features=6,
        n_components=2,
        hidden_layer_sizes=(),
        likelihood="gaussian",
        constant_log_var=True,
    )
    parameters["decoder.mu.W"][0, 3:] = parameters["decoder.mu.W"][1, :3] = 0
    return Model(model.architecture, model.backend, dtype, missing=True), parameters


def exact(parameters):
    """Return weights, means and variances of the decoder in float64."""
    W, b, head = (parameters[f"decoder.{name}"].astype(float) for name in ("mu.W", "mu.b", "log_var.b"))
    return W, b, np.exp(soft_floor(head))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bound_with_the_exact_posterior_is_log_p_of_the_observed_cells(rng, make_model, backend, dtype):
    """For each of 64 patterns: SGVB-A at any noise; SGVB-B at four nodes, which integrate quadratics exactly.

    The encoder keeps its random weights for columns that are not observed: they must not matter.
    """
    model, parameters = linear_gaussian(make_model, backend, dtype)
    W, b, variance = exact(parameters)
    X = b + rng.standard_normal((64, 2)) @ W + np.sqrt(variance) * rng.standard_normal((64, 6))
    nodes = np.array(list(itertools.product((-1.0, 1.0), repeat=2)))
    for x, seen in zip(X, itertools.product((False, True), repeat=6)):
        seen = np.array(seen)
        precision = W[:, seen] / variance[seen]
        covariance = np.diag(np.linalg.inv(np.eye(2) + precision @ W[:, seen].T))
        gain = (precision * covariance[:, None]).T
        parameters["encoder.mu.W"][seen] = gain
        parameters["encoder.mu.b"][...] = -b[seen] @ gain
        parameters["encoder.log_var.b"][...] = np.log(covariance)
        log_p = 0.0
        if seen.any():
            of_seen = W[:, seen].T @ W[:, seen] + np.diag(variance[seen])
            log_p = scipy.stats.multivariate_normal(b[seen], of_seen).logpdf(x[seen])
        row = np.where(seen, x, np.nan)[None].astype(dtype)
        for analytic_kl, noise in (False, rng.standard_normal((4, 2))), (True, nodes):
            estimator = SGVB(model, 4, analytic_kl)
            bound = estimator.value_and_grad(parameters, row, noise.astype(dtype)).value
            assert bound == pytest.approx(log_p, abs={"float32": 2e-5, "float64": 1e-11}[dtype] * max(1, abs(log_p)))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_row_with_holes_is_a_row_of_the_model_of_the_other_columns(rng, make_model, backend, name):
    """log p(x, z), its gradient by z, and what the encoder says, for a model without these columns' weights."""
    model, parameters = make_model(backend, likelihood=name)
    kept = np.array([0, 2, 3, 6])  # of 7; in mixed data the first two are binary, and one of them is kept
    binary = int(np.sum(kept < model.architecture.n_binary))
    fields = model.architecture._replace(n_features=len(kept), n_binary=binary)
    small = Model(fields, backend, "float64")
    others = small.parameters(np.zeros(small.layout.size))
    for key, array in others.items():
        whole = parameters[key]
        if key == "encoder.hidden1.W":
            whole = whole[kept]
        elif array.shape != whole.shape:
            columns = {"logits": kept[:binary], "mu": kept[binary:] - 2, "log_var": kept[binary:] - 2}
            head = key.split(".")[1]
            whole = whole[..., columns[head] if name == "mixed" else kept]
        array[...] = whole
    x = np.full((3, 7), np.nan)
    x[:, kept] = rng.random((3, 4)) < 0.5
    z = rng.standard_normal((6, 3))
    whole = Model(model.architecture, backend, "float64", missing=True)
    buffers = Buffers(backend, "float64")
    for found, expected in zip(
        [*whole.log_joint(parameters, x, z), *whole.encode(parameters, x, buffers).outputs],
        [*small.log_joint(others, x[:, kept].copy(), z), *small.encode(others, x[:, kept].copy(), buffers).outputs],
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "likelihood, estimator",
    [*(("mixed", name) for name in ESTIMATORS), ("gaussian", "sgvb-b"), ("bernoulli", "sgvb-b")],
)
def test_gradients(rng, table, estimator, likelihood):
    """Against central differences in float64, and in the precision that trains."""
    X = (table > 3).astype(float) if likelihood == "bernoulli" else table
    samples = max(2, ESTIMATORS[estimator].fewest_samples)
    model = npvae.VAE(
        2, likelihood=likelihood, estimator=estimator, n_samples=samples, missing="model", **SMALL
    ).fit(holes(rng, X))  # fmt: skip
    assert npvae.gradcheck(model, holes(rng, X)[:20]).passed


@pytest.mark.slow(reason="compiles all kernels in both precisions")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("likelihood", ["gaussian", "mixed", "bernoulli"])
def test_gradients_of_compiled_kernels(rng, table, likelihood, dtype):
    X = (table > 3).astype(float) if likelihood == "bernoulli" else table
    settings = SMALL | {"backend": "cpu", "dtype": dtype, "missing": "model"}
    model = npvae.VAE(2, likelihood=likelihood, **settings).fit(holes(rng, X))
    assert npvae.gradcheck(model, holes(rng, X)[:20]).passed


@pytest.mark.parametrize("name", ESTIMATORS)
def test_holes_are_not_taken_for_a_training_that_diverged(rng, make_model, name):
    """Of a step with holes everything is finite; if a weight is not, the first layer behind it is named."""
    spec = ESTIMATORS[name]
    model, parameters = make_model(random_weights=spec.random_weights, has_encoder=spec.has_encoder)
    model = Model(model.architecture, model.backend, "float64", missing=True)
    x, estimator = holes(rng, rng.random((10, 7))), spec.make(model, max(2, spec.fewest_samples), 10)
    samples, _ = estimator.sample(parameters, x, np.arange(10), estimator.draw(rng, 10))
    assert first_nonfinite(estimator, parameters, x, samples) is None
    layer = "encoder.hidden1" if spec.has_encoder else "decoder.hidden1"
    parameters[f"{layer}.W"][...] = np.inf
    with np.errstate(invalid="ignore"):
        assert first_nonfinite(estimator, parameters, x, samples) == layer


def test_dreams_have_the_holes_of_the_data(rng, make_model):
    """Wake-sleep: the encoder learns from what it will see."""
    model, parameters = make_model(likelihood="gaussian")
    model = Model(model.architecture, model.backend, "float64", missing=True)
    x, estimator = holes(rng, rng.random((10, 7))), ESTIMATORS["wake-sleep"].make(model, 3, 10)
    samples, _ = estimator.sample(parameters, x, np.arange(10), estimator.draw(rng, 10))
    np.testing.assert_array_equal(np.isnan(samples.dreamed_x), np.tile(np.isnan(x), (3, 1)))


# Scores of a fitted model ---------------------------------------------------------------------------------------------


def test_scores_and_log_likelihoods_are_those_of_the_observed_cells(rng):
    """In nats of the data as given: against the closed form, for rows of every pattern, by three methods."""
    X = 10 + 5 * rng.standard_normal((80, 2)) @ rng.standard_normal((2, 4)) + rng.standard_normal((80, 4))
    settings = SMALL | {"hidden_layer_sizes": (), "dtype": "float64", "max_epochs": 100}
    model = npvae.VAE(2, missing="model", **settings).fit(holes(rng, X, 0.2))
    for part in ("encoder", "decoder"):
        model.parameters_[f"{part}.log_var.W"][...] = 0
    W, b, variance = exact(model.parameters_)
    shift, scale = model.preprocessor_.scaling
    rows, expected = [], []
    for row, seen in zip(X, itertools.product((False, True), repeat=4)):
        seen = np.array(seen)
        rows.append(np.where(seen, row, np.nan))
        standardized = ((row - shift) * scale)[seen][None]
        of_x = LinearGaussian(W[:, seen], b[seen], variance[seen]).log_prob(standardized)[0] if seen.any() else 0.0
        expected.append(of_x + np.log(scale[seen]).sum())
    by_quadrature = model.log_likelihood(rows, method="quadrature", n_samples=81)
    np.testing.assert_allclose(by_quadrature, expected, atol=1e-6)
    for method in ("importance", "annealed"):
        found, error = model.log_likelihood(rows, method=method, return_std=True)
        assert np.all(np.abs(found - expected) < 6 * error + 1e-9)
    assert np.all(model.score_samples(rows) < np.array(expected) + 1)  # of one sample each
    many = npvae.VAE(2, missing="model", n_samples=2000, **settings)
    vars(many).update({name: value for name, value in vars(model).items() if name.endswith("_")})
    assert np.all(many.score_samples(rows) <= np.array(expected) + 0.1)


def test_holes_in_validation_data_alone(rng, table):
    """They count as they do in a score."""
    X_valid = holes(rng, table)
    model = npvae.VAE(2, missing="model", **SMALL | {"max_epochs": 1}).fit(table, X_valid=X_valid)
    assert model.history_[0].elbo_valid == pytest.approx(model.score(X_valid), rel=1e-12)


@pytest.mark.parametrize("posterior", ["gaussian", "uniform", "laplace"])
def test_every_family_of_q(rng, table, posterior):
    """Importance sampling takes a Gaussian for a family that ends somewhere."""
    X = holes(rng, table)
    model = npvae.VAE(2, missing="model", posterior=posterior, **SMALL).fit(X)
    by_quadrature = model.log_likelihood(X[:9], method="quadrature", n_samples=81)
    np.testing.assert_allclose(model.log_likelihood(X[:9]), by_quadrature, atol=0.1)


def test_a_score_is_a_function_of_the_row(rng, table, backend):
    """It depends neither on the other rows, complete or not, nor on their order; nor does a code."""
    X = holes(rng, table)
    name = backend.__name__.rpartition(".")[2]
    model = npvae.VAE(2, missing="model", **SMALL | {"backend": name}).fit(X)
    order = rng.permutation(len(X))
    for use in (model.score_samples, model.transform):
        together = use(X)
        np.testing.assert_array_equal(use(X[order]), together[order])
        for row in range(3):
            np.testing.assert_allclose(use(X[row : row + 1]), together[row : row + 1], rtol=1e-6)
    assert np.isfinite(model.reconstruct(X)).all()


def test_complete_data_has_the_same_bits_with_the_option(table, backend):
    name = backend.__name__.rpartition(".")[2]
    models = [npvae.VAE(2, missing=missing, **SMALL | {"backend": name}).fit(table, X_valid=table[:9])
              for missing in ("error", "model")]  # fmt: skip
    plain, with_option = models
    np.testing.assert_array_equal(plain.parameters_.vector, with_option.parameters_.vector)
    for use in ("score_samples", "transform", "reconstruct", "log_likelihood"):
        np.testing.assert_array_equal(getattr(plain, use)(table), getattr(with_option, use)(table))
    assert plain.health_ == with_option.health_ and plain.report_ == with_option.report_
    resumed = [model.set_params(max_epochs=5).resume(table, X_valid=table[:9]) for model in models]
    np.testing.assert_array_equal(*(model.parameters_.vector for model in resumed))
    pieces = [model.partial_fit(table[:30]) for model in models]
    np.testing.assert_array_equal(*(model.parameters_.vector for model in pieces))


# What is measured before a fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float64", "float32", "uint8", "int64", "bool"])
def test_the_survey_is_that_of_the_observed_cells(rng, kind, monkeypatch):
    """Of each column, what a survey of its observed cells alone finds; in one chunk or in many."""
    X = rng.integers(0, 2 if kind == "bool" else 4, (200, 6)).astype(kind)
    X[:, 0] = X[:, 0] > 0
    hidden = rng.random(X.shape) < 0.4
    hidden[:, 5] = True
    hidden[:50, 4] = True
    X[hidden] = 1 if kind == "bool" else 77  # what is hidden is no value
    given = np.where(hidden, np.nan, X).astype(kind) if kind.startswith("float") else np.ma.MaskedArray(X, hidden)
    for size in (10_000, 16):
        monkeypatch.setattr("npvae.table.CHUNK", size)
        found = survey(given, missing=True)
        assert found.missing and found.integers and found.n_observed.tolist() == (~hidden).sum(axis=0).tolist()
        for d in range(5):
            alone = survey(X[~hidden[:, d], d][:, None])
            for name in ("low", "high", "binary", "ones", "both"):
                assert getattr(found, name)[d] == getattr(alone, name)[0], (name, d)
        assert found.high[5] <= found.low[5] and not found.both[5]  # which has no value
        assert found.take(np.arange(20, 90)).n_observed.tolist() == (~hidden[20:90]).sum(axis=0).tolist()


def test_grey_values_are_found_among_holes(rng):
    X = np.where(rng.random((500, 30)) < 0.7, rng.random((500, 30)) * 0.04, 1 - 0.04 * rng.random((500, 30)))
    table = np.where(rng.random(X.shape) < 0.8, rng.random(X.shape), X)
    for data, grey in ((X, "mostly near 0 or 1"), (table, ""), (np.rint(255 * table) / 255, "multiples of 1/255")):
        assert survey(data).grey == survey(holes(rng, data, 0.6), missing=True).grey == grey


@pytest.mark.parametrize("masked", [False, True])
def test_scaling_and_fixed_columns_are_those_of_the_observed_cells(rng, masked, monkeypatch):
    """Means and deviations, constant columns, columns that hardly vary: each as if there were no other cells."""
    X = np.column_stack([1e8 + rng.standard_normal(500), rng.exponential(size=500) * 1e-4, np.full(500, 7.3),
                         np.full(500, -2.5), rng.random(500) < 0.4])  # fmt: skip
    X[[3, 250], 3] = 4.0
    hidden = rng.random(X.shape) < 0.3
    hidden[[3, 250], 3], hidden[:150, 3] = False, np.arange(150) != 3
    H = np.where(hidden, np.nan, X)
    monkeypatch.setattr("npvae.table.CHUNK", 64)
    given = np.ma.MaskedArray(np.where(hidden & (rng.random(X.shape) < 0.5), -99.0, X), hidden) if masked else H
    preprocessor, _ = fit_preprocessor(survey(given, missing=True), "mixed")
    order = preprocessor.order.tolist()
    assert order == [4, 0, 1] and [density.column for density in preprocessor.fixed] == [2, 3]
    for d, shift, scale in zip(order[1:], *(part[1:] for part in preprocessor.scaling)):
        np.testing.assert_allclose([shift, scale], [np.nanmean(H[:, d]), 1 / np.nanstd(H[:, d])], rtol=1e-9)
    for density in preprocessor.fixed:
        column = X[~hidden[:, density.column], density.column]
        beside = np.column_stack([rng.standard_normal(len(column)), column])
        (alone,) = fit_preprocessor(survey(beside), "gaussian")[0].fixed
        np.testing.assert_allclose(density[1:], alone[1:], rtol=1e-12)
    data = preprocessor.data(survey(given, missing=True))
    log_p = [density.log_prob(X[:, density.column]) for density in preprocessor.fixed]
    scales = np.log(preprocessor.scaling.scale)
    expected = np.sum(np.where(hidden[:, [2, 3]].T, 0, log_p), axis=0) + np.where(hidden[:, order], 0, scales).sum(
        axis=1
    )
    np.testing.assert_allclose(data.offset, expected, rtol=1e-12)
    model = Model(Architecture(3, 1, (), likelihood="mixed", n_binary=1), reference, "float64", missing=True)
    for rows in np.arange(500), np.array([499, 3, 3]):
        x = model.gather(data, rows, Buffers(reference, "float64"))
        by_hand = ((H[:, order] - preprocessor.scaling.shift) * preprocessor.scaling.scale)[rows]
        np.testing.assert_allclose(x, by_hand, rtol=1e-12)
        some = data.take(rows)
        np.testing.assert_array_equal(model.gather(some, np.arange(len(rows)), Buffers(reference, "float64")), x)


def test_a_rare_value_is_rare_among_the_observed_ones():
    """See `preprocessing.RARE`: 4 of 50 observed values are not rare; 4 of 200 are, and 2 of 50 zeros."""
    X = np.zeros((200, 4))
    X[:, 1:] = np.random.default_rng(0).integers(0, 9, (200, 3))
    X[:4, 0] = 1
    assert choose_likelihood(survey(X))[0] == "gaussian"
    X[50:, 0] = np.nan
    assert choose_likelihood(survey(X, missing=True))[0] == "mixed"
    X[:50, 0] = np.arange(50) >= 2
    assert choose_likelihood(survey(X, missing=True))[0] == "gaussian"


def test_a_piece_is_compared_by_its_observed_cells(rng):
    X = np.column_stack([rng.standard_normal((200, 2)) + np.array([0, 100]), np.where(np.arange(200) < 1, 1.0, 0.0)])
    preprocessor, _ = fit_preprocessor(survey(X), "gaussian")
    assert [density.column for density in preprocessor.fixed] == [2]
    hidden = rng.random(X.shape) < 0.9
    hidden[:, 1] = True
    dirty = np.where(hidden, 1e6, X)
    assert preprocessor.far_from(survey(np.ma.MaskedArray(dirty, hidden), missing=True)) == ""
    X[np.flatnonzero(~hidden[:, 2])[:6], 2] = 1.0  # of about 20 observed cells; of 200, they would be no surprise
    far = preprocessor.far_from(survey(np.ma.MaskedArray(X, hidden), missing=True))
    assert "column 2 hardly varied in the first piece, and does in this one" in far
    far = preprocessor.far_from(survey(np.ma.MaskedArray(X * [50, 1, 0], hidden), missing=True))
    assert "the values of column 0 are " in far and "of 1 of 2 columns" in far


def test_the_baseline_of_health_is_that_of_the_observed_cells(rng, table):
    X = holes(rng, table[:, :4])
    health = npvae.VAE(2, missing="model", **SMALL).fit(X).health_
    total = sum(scipy.stats.norm(np.nanmean(c), np.nanstd(c)).logpdf(c[~np.isnan(c)]).sum() for c in X.T)
    assert health.baseline == pytest.approx(total / len(X), rel=1e-6)


# Masked arrays, data frames and files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_masked_bytes_are_as_floats_with_nan(rng, likelihood, backend, tmp_path):
    """To the bit, also on disk; what is below the mask does not matter. The bytes stay bytes."""
    X = rng.integers(0, 256, (50, 9), dtype=np.uint8)
    hidden = rng.random(X.shape) < 0.3
    np.save(tmp_path / "X.npy", np.where(hidden, rng.integers(0, 256, X.shape), X).astype(np.uint8))
    np.save(tmp_path / "mask.npy", hidden)
    on_disk = np.ma.MaskedArray(
        np.load(tmp_path / "X.npy", mmap_mode="r"), np.load(tmp_path / "mask.npy", mmap_mode="r")
    )
    settings = SMALL | {"likelihood": likelihood, "missing": "model", "backend": backend.__name__.rpartition(".")[2]}
    found = [npvae.VAE(2, **settings).fit(given) for given in (np.ma.MaskedArray(X, hidden), on_disk)]
    floats = np.where(hidden, np.nan, X).astype(np.float32)
    expected = npvae.VAE(2, **settings).fit(floats)
    for model in found:
        np.testing.assert_array_equal(model.parameters_.vector, expected.parameters_.vector)
        np.testing.assert_array_equal(model.score_samples(on_disk), expected.score_samples(floats))
        np.testing.assert_array_equal(model.transform(on_disk), expected.transform(floats))
        assert model.fitted_.data(on_disk).X.dtype == np.uint8
    assert found[0].fingerprints_ == found[1].fingerprints_
    found[0].set_params(max_epochs=5).resume(on_disk)
    other = np.ma.MaskedArray(X, np.roll(hidden, 1))
    with pytest.raises(ValueError, match="X is .*, but the training to resume had"):
        found[0].resume(other)


def test_masked_floats_may_hide_anything(rng, table):
    X = holes(rng, table)
    hidden = np.isnan(X)
    hidden[5, :2] = True
    dirty = np.where(hidden, rng.choice([np.inf, np.nan, -1e300], X.shape), table)
    scores = [npvae.VAE(2, missing="model", **SMALL).fit(given).score_samples(given)
              for given in (np.ma.MaskedArray(dirty, hidden), np.where(hidden, np.nan, table))]  # fmt: skip
    np.testing.assert_array_equal(*scores)


def test_binary_pixels_with_holes(rng):
    """The only values 0 and 1 make a Bernoulli; with binarize, grey ones are drawn and the others stay missing."""
    X = (rng.random((60, 8)) < 0.4).astype(np.uint8)
    given = np.ma.MaskedArray(X, rng.random(X.shape) < 0.3)
    model = npvae.VAE(2, missing="model", **SMALL).fit(given)
    assert model.likelihood_ == "bernoulli" and np.isfinite(model.score(given))
    grey = holes(rng, rng.random((60, 8)))
    model = npvae.VAE(2, missing="model", likelihood="bernoulli", binarize="dynamic", **SMALL).fit(grey)
    data = model.fitted_.data(grey)
    x = model.fitted_.model.gather(data, np.arange(60), Buffers(reference, "float32"))
    np.testing.assert_array_equal(np.isnan(x), np.isnan(grey))
    assert set(np.unique(x[~np.isnan(x)])) == {0, 1}


ACCEPTED = [(kind, make) for kind, make, gets in KINDS if gets.startswith(("Gaussian", "Bernoulli", "Mixed"))]


@pytest.mark.parametrize("kind, make", ACCEPTED, ids=[kind for kind, _ in ACCEPTED])
def test_every_kind_of_data_with_holes(rng, kind, make):
    """It gets the likelihood of the same data without holes, and answers are finite."""
    X = as_table(make())[:]  # a sparse table cannot be masked
    hidden = rng.random(X.shape) < 0.15
    hidden[np.arange(X.shape[1]) % len(X), np.arange(X.shape[1])] = False
    given, settings = np.ma.MaskedArray(X, hidden), SMALL | {"n_components": 2, "missing": "model"}
    model = npvae.VAE(**settings).fit(given)
    assert model.likelihood_ == npvae.VAE(**settings).fit(X).likelihood_
    for answer in (model.score_samples(given), model.transform(given), model.reconstruct(given)):
        assert np.isfinite(answer).all()


def test_data_frames(rng, table):
    pandas = pytest.importorskip("pandas")
    X = holes(rng, np.rint(table))
    plain = npvae.VAE(2, missing="model", **SMALL).fit(X)
    frames = {
        "NaN": pandas.DataFrame(X, columns=list("abcde")),
        "nullable": pandas.DataFrame(X, columns=list("abcde")).convert_dtypes(),
        "objects": pandas.DataFrame(X, columns=list("abcde")).astype(object).where(~np.isnan(X), None),
    }
    assert str(frames["nullable"].dtypes["a"]) == "Int64"
    for kind, frame in frames.items():
        model = npvae.VAE(2, missing="model", **SMALL).fit(frame)
        np.testing.assert_allclose(model.score_samples(frame), plain.score_samples(X), rtol=1e-5, err_msg=kind)
        with pytest.raises(ValueError, match=r"NaN or infinite values, the first one \(nan\) in row 1, column 0"):
            npvae.VAE(2, **SMALL).fit(frame)


def test_files_with_missing_cells(rng, table, tmp_path, monkeypatch, capsys):
    """`npvae train table.csv --missing model`, and what uses the model afterwards."""
    monkeypatch.chdir(tmp_path)
    X = holes(rng, table)
    lines = [",".join("" if np.isnan(value) else repr(float(value)) for value in row) for row in X[2:]]
    lines = ["a,b,c,d,e", *lines, ",".join(["NA", "?", "nan", "1.5", "0"])]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    train = ["train", "table.csv", "--epochs", "2", "--hidden", "4", "--components", "2", "--learning-rate", "0.05",
             "--backend", "reference", "--out", "model.npz"]  # fmt: skip
    assert cli.main(train) == 1
    refused = capsys.readouterr().err
    assert "the value is missing" in refused and "With --missing model, training takes" in refused
    assert cli.main([*train, "--missing", "model"]) == 0
    said = capsys.readouterr()
    assert f"{np.isnan(X[2:]).sum() + 3} of {5 * 59} values missing" in said.err and "test bound" in said.out
    for command in (["score", "model.npz", "table.csv"], ["resume", "model.npz", "--epochs", "3"],
                    ["gradcheck", "model.npz", "--dataset", "table.csv"]):  # fmt: skip
        assert cli.main(command) == 0, capsys.readouterr().err
    assert npvae.load("model.npz").missing == "model"


def test_parquet_with_missing_cells(rng, table, tmp_path, monkeypatch):
    """The frame that pandas reads of a file; to write one takes pyarrow."""
    pandas = pytest.importorskip("pandas")
    X = holes(rng, np.rint(table))
    frame = pandas.DataFrame(X, columns=list("abcde")).convert_dtypes()
    monkeypatch.setattr(pandas, "read_parquet", lambda path: frame)
    (tmp_path / "table.parquet").touch()
    found = load_table(tmp_path / "table.parquet", Choice(missing=True))
    np.testing.assert_array_equal(found.X, X)
    assert found.notes[-1] == f"{np.isnan(X).sum()} of 300 values missing"
    with pytest.raises(ValueError, match="missing or infinite; .* With --missing model, training takes missing values"):
        load_table(tmp_path / "table.parquet")


# The fit --------------------------------------------------------------------------------------------------------------


def test_the_setting_stays_with_the_model(rng, table, tmp_path):
    X = holes(rng, table)
    model = npvae.VAE(2, missing="model", **SMALL).fit(X)
    model.save(tmp_path / "model.npz")
    loaded = npvae.load(tmp_path / "model.npz")
    assert loaded.missing == model.get_params()["missing"] == "model"
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    straight = npvae.VAE(2, missing="model", **SMALL | {"max_epochs": 6}).fit(X)
    resumed = loaded.set_params(max_epochs=6).resume(X)
    # A training that was longer from the beginning accumulates in the same steps.
    assert resumed.training_.progress.samples_seen == straight.training_.progress.samples_seen
    pieces = npvae.VAE(2, missing="model", **SMALL)
    for piece in (table[:30], X[30:], X[:10]):
        pieces.partial_fit(piece)
    assert np.isfinite(pieces.score(X))
    with pytest.raises(ValueError, match="missing is 'mean'; expected one of 'error', 'model'"):
        npvae.VAE(missing="mean").fit(X)


def test_any_fitted_model_can_be_asked_about_holes(rng, table):
    """Also one that was trained without: `Fitted.with_missing`."""
    model = npvae.VAE(2, **SMALL).fit(table)
    X = holes(rng, table)
    with pytest.raises(ValueError, match=r"VAE\(missing='model'\) takes NaN"):
        model.score(X)
    fitted = model.fitted_.with_missing()
    scores = fitted.score(fitted.data(X))
    np.testing.assert_array_equal(scores, model.set_params(missing="model").score_samples(X))
    value, slope = fitted.log_joint(X[:4])(np.zeros((4, 2)))
    assert np.isfinite(scores).all() and np.isfinite(value).all() and not slope[1].any()  # at the mode of the prior


def test_rows_without_an_observed_cell(rng, table):
    """They are allowed: log p is 0, the bound not above it, and the report says how many there are."""
    X = holes(rng, table)
    model = npvae.VAE(2, missing="model", **SMALL).fit(X)
    assert "; 1 of 60 rows have no observed cell, and carry no information" in "".join(model.report_)
    assert -1 < model.score_samples(X)[1] <= 0
    assert model.log_likelihood(X[1:2], n_samples=20_000)[0] == pytest.approx(0, abs=0.05)


def test_columns_without_an_observed_cell(rng, table):
    """They are refused in training, and nowhere else."""
    X = holes(rng, table)
    model = npvae.VAE(2, missing="model", **SMALL).fit(X)
    bad = X.copy()
    bad[:, [1, 3]] = np.nan
    for fit in (npvae.VAE(2, missing="model", **SMALL).fit, npvae.VAE(2, missing="model", **SMALL).partial_fit):
        with pytest.raises(
            ValueError, match=r"X has no observed value in 2 of 5 columns \(1, 3\); expected at least one"
        ):
            fit(bad)
    assert np.isfinite(model.score_samples(bad)).all() and np.isfinite(model.reconstruct(bad)).all()
    assert np.isfinite(model.score_samples(np.ma.MaskedArray(np.rint(table).astype(np.uint8), np.isnan(bad)))).all()
    model.partial_fit(bad)  # a piece


def test_errors(rng, table):
    X = holes(rng, table)
    count = np.isnan(X).sum()
    for missing, bad, message in (
        (
            "error",
            X,
            rf"X holds {count} NaN or infinite values, .* in row 1, column 0; .*VAE\(missing='model'\) takes NaN",
        ),
        (
            "error",
            np.ma.MaskedArray(table, np.isnan(X)),
            rf"X has {count} masked values; expected none. VAE\(missing='mo",
        ),
        ("model", np.where(np.arange(60)[:, None] == 7, -np.inf, X), r"X holds 5 infinite values, .*\(-inf\) in row 7"),
    ):
        with pytest.raises(ValueError, match=message):
            npvae.VAE(2, missing=missing, **SMALL).fit(bad)
    with pytest.raises(ValueError, match="X_valid holds 1 infinite value, the first one"):
        npvae.VAE(2, missing="model", **SMALL).fit(X, X_valid=np.where(np.arange(300).reshape(60, 5) == 7, np.inf, X))


def test_fit_chooses_on_tables_with_holes(rng, table):
    """Rows with holes are held out as others are; masked arrays and data frames are cut into parts."""
    X = holes(rng, table)
    for given in (X, np.ma.MaskedArray(np.where(np.isnan(X), np.inf, table), np.isnan(X))):
        model = npvae.fit(given, missing="model", verbose=False, max_epochs=2, backend="reference")
        assert "bounds of 12 held-out rows" in "".join(model.report_)
    few = X.copy()
    few[:, 2] = np.nan
    few[7, 2] = 1.0  # which is held out for some seeds, and then nothing is tried
    for seed in range(4):
        npvae.fit(few, missing="model", verbose=False, max_epochs=2, backend="reference", random_state=seed)


def test_scikit_learn_is_told():
    pytest.importorskip("sklearn")
    for missing in ("error", "model"):
        assert npvae.VAE(missing=missing).__sklearn_tags__().input_tags.allow_nan == (missing == "model")


def test_fingerprints_of_masked_data(rng):
    X, hidden = rng.random((20, 3)), rng.random((20, 3)) < 0.5
    scaling = Scaling(np.zeros(3), np.ones(3))
    prints = [fingerprints(Data(values, scaling, 0.0, np.zeros(20), mask=mask))[0][3] for values, mask in (
        (X, None), (X, hidden), (np.where(hidden, 5, X), hidden), (X, ~hidden))]  # fmt: skip
    assert prints[1] == prints[2] and len(set(prints)) == 3
    data = Data(np.zeros((20, 3)), scaling, 0.0, np.zeros(20), mask=hidden)
    assert len({tuple(print) for print in fingerprints(data, data._replace(mask=~hidden))}) == 2


@pytest.mark.slow(reason="trains four models")
def test_training_with_holes_recovers_the_model(rng):
    """A linear-Gaussian world, three cells in ten missing: log p(x) of new complete rows, against the closed form.

    One q(z|x) must serve all patterns, so the bound of single samples costs a part of what the table can tell; that of
    many samples needs q less. To fill the holes with means costs more than either.
    """
    D, J, N = 8, 2, 3000
    W, noise = rng.standard_normal((J, D)), 0.5 + 0.5 * rng.random(D)
    X, new = (rng.standard_normal((n, J)) @ W + noise * rng.standard_normal((n, D)) for n in (N, 300))
    truth = LinearGaussian(W, np.zeros(D), noise**2).log_prob(new).mean()
    H = np.where(rng.random(X.shape) < 0.3, np.nan, X)
    filled = np.where(np.isnan(H), np.nanmean(H, axis=0), H)
    settings = {"hidden_layer_sizes": (), "optimizer": "adam", "learning_rate": 0.01, "schedule": "linear",
                "max_epochs": 60, "missing": "model"}  # fmt: skip
    many = {"estimator": "iwae", "n_samples": 20}
    gaps = []
    for data, options in ((X, {}), (H, many), (H, {}), (filled, {})):
        model = npvae.VAE(J, **settings, **options).fit(data)
        gaps.append(truth - model.log_likelihood(new, method="annealed", n_samples=4).mean())
    complete, by_many, by_one, by_means = gaps
    # The parameters cost about 31 / (2 N) = 0.005 nats a row, and twice that where half of the pairs are observed.
    assert complete < 0.02 and by_many < 0.05 < by_one < 0.7 * by_means
