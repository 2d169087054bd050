"""log p(x) by every method: against closed forms, as probabilities that sum to 1, and where not to believe it."""

import re
import warnings
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from likelihood import exact_model, first_set_again

import npvae
from npvae.estimators import WEIGHT_DRAWS
from npvae.evaluation import METHODS, Estimates, estimate, marginal, pareto_shape
from npvae.evaluation.annealing import annealed_importance_sampling
from npvae.evaluation.appendix_d import DENSITIES
from npvae.evaluation.estimates import effective_size, log_mean_exp
from npvae.evaluation.importance import CHUNK
from npvae.model import POSTERIORS, Model

#: Every method, and Appendix D with its other density.
RUNS = {
    name: partial(lambda method, f, X: method.estimate(f, f.data(X), method.n_samples), method)
    for name, method in METHODS.items()
}
RUNS["kernel"] = lambda f, X: marginal(f, f.data(X), 50, "kernel")

#: Annealing takes longest.
ANNEALED = pytest.param("annealed", marks=pytest.mark.slow(reason="anneals through 500 densities"))
KERNEL = pytest.param("kernel", marks=pytest.mark.slow(reason="eleven chains for each row, as the Gaussian has"))
SLOWEST_LAST = [*(name for name in RUNS if name not in ("annealed", "kernel")), KERNEL, ANNEALED]

#: Errors of this size are rounding, in nats.
ROUNDING = 1e-9


def fitted(X, n_components=2, hidden=(5,), **settings):
    settings = {"learning_rate": 0.05, "max_epochs": 60, "dtype": "float64", "init_std": 0.3} | settings
    return npvae.VAE(n_components, hidden_layer_sizes=hidden, **settings).fit(X)


@pytest.fixture(scope="module")
def exact():
    """A function from J to (VAE, X, log p(x)) of a linear-Gaussian model; each is made once."""
    made = {}

    def get(J):
        if J not in made:
            made[J] = exact_model(J, rows=60, dtype="float64", backend="cpu")
        return made[J]

    return get


@pytest.fixture(scope="module")
def every_x():
    return np.array(list(product((0.0, 1.0), repeat=6)))


@pytest.fixture
def bits(rng):
    """Rows of six binary columns that depend on each other."""
    return (rng.random((200, 6)) < np.where(rng.random((200, 1)) < 0.5, 0.8, 0.2)).astype(float)


# Exact answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("J", [1, 2, 3])
@pytest.mark.parametrize("run", SLOWEST_LAST)
def test_against_the_closed_form(exact, run, J):
    """The mean error of 60 rows within 3 standard errors, and the errors as large as the standard errors say.

    Those of Appendix D are between 10 sets: if the means of the sets were normal, error over standard error would have
    Student's distribution with 9 degrees of freedom. The root mean square of 60 such ratios is below 1.6 (four standard
    deviations). That of kernels may be larger, for their sets have heavier tails, and that of five rows too.
    """
    vae, X, log_p, _ = exact(J)
    if run == "annealed":  # it takes long
        X, log_p = X[:5], log_p[:5]
    if run == "quadrature" and J == 3:
        X, log_p = X[:9], log_p[:9]
    found = RUNS[run](vae.fitted_, X)
    error, size = found.log_prob - log_p, np.maximum(found.error, ROUNDING)
    assert abs(error.mean()) < 3 * np.sqrt(np.sum(size**2)) / len(X)
    assert np.sqrt(np.mean((error / size) ** 2)) < {"kernel": 2, "annealed": 2.5}.get(run, 1.6)
    largest = {"importance": 0.05, "annealed": 0.05, "quadrature": 1e-4, "marginal": 0.1, "kernel": 0.1}[run]
    if J <= 2:
        assert found.error.mean() < largest and np.abs(error).max() < 5 * largest


@pytest.mark.parametrize("method", ["importance", ANNEALED])
def test_ten_latents(exact, method):
    vae, X, log_p, _ = exact(10)
    found = METHODS[method].estimate(vae.fitted_, vae.fitted_.data(X[:5]), METHODS[method].n_samples)
    assert np.sqrt(np.mean((found.log_prob - log_p[:5]) ** 2)) < 0.1


def test_the_samples_that_q_was_fitted_to_are_not_used_again(exact):
    """They would give a value that is too low, by an amount that the test above sees."""
    vae, X, log_p, model = exact(2)
    again = first_set_again(vae, X, model).log_prob - log_p
    assert again.mean() < -0.05
    found = RUNS["marginal"](vae.fitted_, X)
    assert abs(again.mean()) > 3 * np.sqrt(np.sum(found.error**2)) / len(X)


@pytest.mark.parametrize("run", RUNS)
def test_probabilities_sum_to_one(bits, every_x, run):
    few = partial(annealed_importance_sampling, n_densities=50)
    runs = RUNS | {"annealed": lambda f, X: few(f, f.data(X), 10)}
    found = runs[run](fitted(bits, backend="cpu").fitted_, every_x)
    p = np.exp(found.log_prob)
    assert abs(p.sum() - 1) < max(3 * np.sqrt(np.sum((p * found.error) ** 2)), ROUNDING)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_probabilities_sum_to_one_with_every_family(bits, every_x, posterior):
    """Also with families that end somewhere: what is beyond counts."""
    found = estimate_quietly(fitted(bits, posterior=posterior), every_x, n_samples=3000)
    p = np.exp(found.log_prob)
    error = np.sqrt(np.sum((p * found.error) ** 2))
    assert abs(p.sum() - 1) < 3 * error < 0.05


def test_the_mean_weight_does_not_depend_on_the_number_of_samples(exact):
    vae, X, log_p, _ = exact(3)
    for k in (10, 999, 1000, 1001, 1200):
        found = estimate_quietly(vae, X, n_samples=k)
        z = (found.log_prob - log_p) / found.error
        assert abs(z.mean()) < 4 / np.sqrt(len(X))
        assert np.sqrt(np.mean(z**2)) < (1.6 if k > 10 else 3)


def estimate_quietly(vae, X, *arguments, **named):
    with warnings.catch_warnings(action="ignore"):
        return estimate(vae.fitted_, vae.fitted_.data(X), *arguments, **named)


def test_the_mean_of_many_numbers(rng):
    """Its error, by the delta method, beside the spread of many such means."""
    numbers = rng.gamma(2.0, size=(400, 500))
    log_mean, error = log_mean_exp(np.log(numbers))
    assert np.mean(log_mean) == pytest.approx(np.log(2), abs=0.01)
    assert error.mean() == pytest.approx(log_mean.std(), rel=0.1)
    np.testing.assert_allclose(log_mean_exp(np.log(numbers) - 5000)[0], log_mean - 5000)
    for n in (1, 2, 7):  # the same bits whatever else there is
        some = np.log(numbers[:, :n])
        assert np.array_equal(log_mean_exp(some), (log_mean[:n], error[:n]))
        assert np.array_equal(effective_size(some), effective_size(np.log(numbers))[:n])
    assert log_mean_exp(np.full((3, 1), -np.inf))[0] == -np.inf
    assert np.isnan(log_mean_exp(np.zeros((1, 2)))[1]).all()
    np.testing.assert_allclose(effective_size(np.log(numbers)), 400 * 2 / 3, rtol=0.2)  # k E[w]^2 / E[w^2]


# The same numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, n_samples",
    [
        ("importance", 700),
        ("importance", 300),
        ("marginal", 5),
        pytest.param("annealed", 2, marks=ANNEALED.marks),
        ("quadrature", 9),
    ],
)
def test_no_row_depends_on_the_others(bits, method, n_samples):
    """The same bits whatever the order and the number of the rows, and at each call."""
    vae = fitted(bits, backend="cpu")
    both = lambda X: np.transpose(estimate_quietly(vae, X, method, n_samples)[:2])
    X = bits[:12]
    found = both(X)
    np.testing.assert_array_equal(both(X), found)
    np.testing.assert_array_equal(both(np.concatenate([bits[12:15], X[::-1]]))[:2:-1], found)
    np.testing.assert_array_equal(both(X[3:4])[0], found[3])
    if method != "quadrature":
        other = replace(vae.fitted_, seed=1)
        different = METHODS[method].estimate(other, other.data(X), n_samples).log_prob != found[:, 0]
        assert np.all(different[X.any(axis=1)])


def test_no_more_than_a_chunk_is_decoded_at_a_time(bits, monkeypatch):
    """Memory does not grow with the number of samples."""
    vae, sizes, decode = fitted(bits), [], Model.decode
    monkeypatch.setattr(
        Model, "decode", lambda model, p, z, buffers: sizes.append(len(z)) or decode(model, p, z, buffers)
    )
    for k, X in (5001, bits[:2]), (7, bits):
        estimate_quietly(vae, X, n_samples=k)
        assert sum(sizes) == k * len(X) and max(sizes) <= CHUNK
        sizes.clear()


def test_units(rng):
    """In nats of the data as given: scaled columns change log p(x) by their log-Jacobian."""
    X = rng.standard_normal((100, 4)) @ rng.standard_normal((4, 4))
    one, other = fitted(X), fitted(1024 * X)  # a power of two: what the models see has the same bits
    for method, k in ("importance", 100), ("marginal", 10), ("quadrature", 21):
        found, scaled = estimate_quietly(one, X, method, k), estimate_quietly(other, 1024 * X, method, k)
        np.testing.assert_allclose(found.log_prob - scaled.log_prob, 4 * np.log(1024), atol=1e-6)


# The weights of full variational Bayes --------------------------------------------------------------------------------


@pytest.mark.slow(reason="integrates on a grid for each draw of the weights, nine seconds")
def test_random_weights_are_integrated_out(bits, every_x):
    """p(x) is a mean over draws of the weights: not its logarithm."""
    vae = fitted(bits, estimator="full-vb", max_epochs=30)
    inner = vae.fitted_
    draws = inner.model.weight_posterior.draws(inner.parameters, inner.seed, WEIGHT_DRAWS)
    each = [
        METHODS["quadrature"].estimate(replace(inner, parameters=drawn), inner.data(every_x), 21) for drawn in draws
    ]
    p = np.exp([found.log_prob for found in each])
    for method, tolerance in ("quadrature", 1e-12), ("importance", 0.01):
        found = estimate_quietly(vae, every_x, method, 21 if method == "quadrature" else None)
        np.testing.assert_allclose(np.exp(found.log_prob), p.mean(axis=0), rtol=tolerance)
        np.testing.assert_allclose(
            found.error, p.std(axis=0, ddof=1) / p.mean(axis=0) / np.sqrt(WEIGHT_DRAWS), rtol=0.05
        )
    assert np.exp(found.log_prob).sum() == pytest.approx(1, abs=0.01)
    (name,) = each[0].diagnosis
    worst = estimate_quietly(vae, every_x, "quadrature", 21).diagnosis[name]
    np.testing.assert_array_equal(worst, np.max([found.diagnosis[name] for found in each], axis=0))


# When not to believe it -----------------------------------------------------------------------------------------------


def warnings_of(vae, X, *arguments, **named):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = estimate(vae.fitted_, vae.fitted_.data(X), *arguments, **named)
    return found, [str(warning.message) for warning in caught]


def test_a_narrow_q_is_noticed(exact):
    """With the number of rows, and the worst of them. Where q is right there is no warning."""
    vae, X, *_ = exact(2)
    assert not warnings_of(vae, X)[1]
    before = vae.parameters_["encoder.log_var.b"].copy()
    try:
        vae.parameters_["encoder.log_var.b"][...] -= 2
        found, said = warnings_of(vae, X)
    finally:
        vae.parameters_["encoder.log_var.b"][...] = before
    shape = found.diagnosis["Pareto shape"]
    bad = shape > 0.7
    assert bad.sum() > 10 and said[0].startswith(
        f"importance: the Pareto shape is above 0.7 in {bad.sum()} of 60 rows, the worst is row {shape.argmax()} with "
        f"{shape.max():.3g}: q(z|x) is too narrow"
    )


def test_few_effective_samples_are_noticed(bits):
    found, said = warnings_of(fitted(bits), bits[:9], n_samples=8)
    size = found.diagnosis["effective sample size"]
    assert np.isnan(found.diagnosis["Pareto shape"]).all()  # too few to tell
    assert said == [
        f"importance: the effective sample size is below 10 in 9 of 9 rows, the worst is row {size.argmin()} with "
        f"{size.min():.3g}: take more samples, or method='annealed'"
    ]


def test_many_latents_are_too_many_for_appendix_d(exact):
    for J, doubt in (4, False), (5, True):
        vae, X, *_ = exact(J)
        said = warnings_of(vae, X[:5], "marginal", 50)[1]
        assert doubt == any("is for at most 4 latent dimensions, and the model has 5" in message for message in said)


def test_sets_that_disagree_are_noticed(exact):
    vae, X, *_ = exact(10)
    found, said = warnings_of(vae, X, "marginal", 5)
    spread = found.diagnosis["spread of the sets"]
    assert any(f"spread of the sets is above 1 in {np.sum(spread > 1)} of 60 rows" in message for message in said)


def test_a_coarse_grid_is_noticed(exact):
    vae, X, log_p, _ = exact(1)
    found, said = warnings_of(vae, X, "quadrature", 5)
    assert len(said) == 1 and "change if every second node is left out is above 0.01 in 60 of 60 rows" in said[0]
    assert np.all(np.abs(found.log_prob - log_p) < found.error)


def test_chains_that_do_not_keep_up_are_noticed(exact):
    vae, X, *_ = exact(2)
    _, said = warnings_of(vae, X[:4], "annealed", 2)
    assert len(said) == 1 and "effective sample size is below 3 in 4 of 4 rows" in said[0]


# The Pareto shape -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [-0.5, 0.0, 0.3, 0.7, 1.5])
def test_pareto_shape(rng, shape):
    """Weights with a Pareto tail: the mean of 100 estimates, each pulled to 1/2 by ten weights, within its error."""
    k, tail = 5000, 213
    found = [
        pareto_shape(
            np.log(np.r_[np.full(k - tail, 1.0), 1 + scipy.stats.genpareto(shape).rvs(tail, random_state=rng)])
        )
        for _ in range(100)
    ]
    pulled = (tail * shape + 10 * 0.5) / (tail + 10)
    assert np.mean(found) == pytest.approx(pulled, abs=0.03)
    assert np.std(found) < 1.3 * (1 + abs(shape)) / np.sqrt(tail)


def test_pareto_shape_at_its_limits(rng):
    alike = -1000 + np.zeros(100)
    assert pareto_shape(alike) == -np.inf  # q is the posterior
    assert pareto_shape(np.r_[alike, 0.0]) == np.inf
    assert pareto_shape(1000 * rng.standard_normal(1000)) == np.inf
    assert np.isnan(pareto_shape(alike[:20])) and np.isnan(pareto_shape(np.r_[alike, np.nan]))
    assert np.isnan(pareto_shape(np.full(100, -np.inf)))
    numbers = rng.standard_normal(1000)
    assert pareto_shape(numbers + 500) == pytest.approx(pareto_shape(numbers), rel=1e-9)
    with pytest.raises(ValueError, match=r"log_weights has the shape \(5, 2\); expected \(k,\)"):
        pareto_shape(np.zeros((5, 2)))


# Densities of Appendix D ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", DENSITIES)
def test_densities_integrate_to_one(rng, density):
    """And are near the one that their samples come from: its entropy is that of N(0, Sigma)."""
    fit, log_prob = DENSITIES[density]
    factor = np.array([[[1.0, 0.0], [0.8, 0.6]], [[0.01, 0.0], [0.0, 2.0]]])
    q = fit((factor @ rng.standard_normal((100, 2, 2, 1)))[..., 0])
    scale = 6 * np.sqrt((factor**2).sum(axis=2))
    t = np.linspace(-1, 1, 201)
    grid = np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    total = np.exp(log_prob(q, grid * scale)).sum(axis=0) * scale.prod(axis=1) * (t[1] - t[0]) ** 2
    np.testing.assert_allclose(total, 1, atol=1e-6)
    z = (factor @ rng.standard_normal((2000, 2, 2, 1)))[..., 0]
    entropy = np.log(2 * np.pi * np.e) + np.log(np.abs(np.linalg.det(factor)))
    np.testing.assert_allclose(-log_prob(q, z).mean(axis=0), entropy, atol=0.25)


@pytest.mark.parametrize("density", DENSITIES)
def test_densities_of_few_samples(rng, density):
    """Fewer samples than dimensions, and chains that never moved."""
    fit, log_prob = DENSITIES[density]
    for z in (rng.standard_normal((4, 3, 8)), np.ones((5, 3, 2)), rng.standard_normal((5, 3, 1))):
        assert np.isfinite(log_prob(fit(z), z + 0.1)).all()


def test_correlations_are_shrunk_by_what_their_noise_suggests(rng):
    """To nothing where there are none, and hardly where they are strong."""
    fit = DENSITIES["gaussian"].fit
    correlation = lambda factor: (
        (factor @ factor.transpose(0, 2, 1))[:, 0, 1]
        / np.sqrt(np.prod(np.diagonal(factor @ factor.transpose(0, 2, 1), axis1=1, axis2=2), axis=1))
    )
    z = rng.standard_normal((50, 100, 2))
    plain = np.array([np.corrcoef(z[:, m].T)[0, 1] for m in range(100)])
    assert np.mean(correlation(fit(z)[1]) ** 2) < 0.6 * np.mean(plain**2)
    z[:, :, 1] = 0.95 * z[:, :, 0] + np.sqrt(1 - 0.95**2) * z[:, :, 1]
    assert correlation(fit(z)[1]).mean() == pytest.approx(0.95, abs=0.01)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "import"}, r"method is 'import'; expected one of .*; did you mean 'importance'\?"),
        ({"method": None}, "method is None; expected one of 'importance', 'marginal', 'annealed', 'quadrature'"),
        ({"n_samples": 0}, "n_samples is 0; expected an integer of at least 2"),
        ({"n_samples": 1}, "n_samples is 1; expected an integer of at least 2"),
        ({"n_samples": 10.0}, "n_samples is 10.0; expected an integer of at least 2"),
        ({"n_samples": True}, "n_samples is True; expected an integer"),
        ({"method": "marginal", "n_samples": 4}, "n_samples is 4; expected an integer of at least 5"),
        ({"method": "quadrature", "n_samples": 42}, "n_samples is 42; expected one more than a multiple of 4"),
        ({"method": "quadrature", "n_samples": 1}, "n_samples is 1; expected an integer of at least 5"),
    ],
)
def test_other_arguments_are_refused(bits, arguments, message):
    with pytest.raises(ValueError, match=message):
        fitted(bits, max_epochs=1).log_likelihood(bits, **arguments)


def test_rows_that_do_not_suit_are_refused(bits):
    vae = fitted(bits, max_epochs=1)
    for X, message in (
        (bits[:, :5], "X has 5 features, but VAE is expecting 6"),
        (bits * np.nan, "NaN"),
        (bits + 1, "outside"),
        (bits[:0], "expected at least one row"),
    ):
        with pytest.raises(ValueError, match=message):
            vae.log_likelihood(X)
    with pytest.raises(
        ValueError, match="needs at most 3 latent dimensions, and the model has 4; expected one of 'imp"
    ):
        fitted(bits, 4, max_epochs=1).log_likelihood(bits, method="quadrature")
    with pytest.raises(
        ValueError, match="needs an encoder, and the model has none; expected one of 'marginal', 'annea"
    ):
        fitted(bits, max_epochs=1, estimator="monte-carlo-em", backend="reference").log_likelihood(bits)
    with pytest.raises(ValueError, match="not fitted yet"):
        npvae.VAE(2).log_likelihood(bits)


@pytest.mark.parametrize("method", ["importance", "marginal", "quadrature", ANNEALED])
def test_a_row_far_out_does_not_hurt_the_others(rng, method):
    """It has a warning of its own. Nothing else changes."""
    X = rng.standard_normal((40, 3))
    vae = fitted(X, 1, dtype="float32", max_epochs=5)
    far = np.concatenate([X[:5], np.full((1, 3), 1e30), X[5:8]])
    k = {"annealed": 3, "importance": 100, "marginal": 10}.get(method)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = vae.log_likelihood(far, method=method, n_samples=k)
    assert any("log_likelihood is NaN or infinite in 1 of 9 rows, the first is row 5" in str(w.message) for w in caught)
    assert all(str(w.message).startswith(("log_likelihood", method)) for w in caught)
    with warnings.catch_warnings(action="ignore"):
        np.testing.assert_array_equal(
            found[[0, 1, 2, 3, 4, 6, 7, 8]], vae.log_likelihood(X[:8], method=method, n_samples=k)
        )


def test_the_face(bits):
    vae = fitted(bits)
    alone, (values, errors) = vae.log_likelihood(bits), vae.log_likelihood(bits, return_std=True)
    np.testing.assert_array_equal(alone, values)
    assert alone.dtype == float and alone.shape == errors.shape == (len(bits),) and np.all(errors > 0)
    exact = vae.log_likelihood(bits, method="quadrature", n_samples=61)
    assert np.all(np.abs(values - exact) < 5 * errors)
    assert isinstance(estimate(vae.fitted_, vae.fitted_.data(bits)), Estimates)


def test_the_page_runs():
    """The example of docs/likelihood.md."""
    page = (Path(__file__).parents[1] / "docs" / "likelihood.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with warnings.catch_warnings(action="ignore"):
        exec(compile(code, "likelihood.md", "exec"), {})
