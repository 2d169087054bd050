"""p(x | seen): the sampler, what each observation says, and all of it beside models whose answers are known."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit

import npvae
from npvae.backends.formulas import soft_floor
from npvae.conditional import BinaryBlocks, Cells, Columns, Outputs, RealBlocks, infer, inference, uses
from npvae.conditional.blocks import poisson_binomial
from npvae.noise import RowNoise, key_of
from npvae.samplers import effective_sample_size, tempering

SETTINGS = {"learning_rate": 0.05, "max_epochs": 1, "batch_size": 50, "backend": "reference", "dtype": "float64"}


# The sampler ----------------------------------------------------------------------------------------------------------


def noise_of(x, seed=0):
    return [RowNoise(x, int(key_of(seed, part))).uniform for part in range(2)]


def test_posteriors_of_a_gaussian(rng):
    """Rows of one density, whose widths differ by 100 and are correlated; the step sizes and scales are their own."""
    x, W = 3 * rng.standard_normal((40, 5)), rng.standard_normal((4, 5)) * [[30], [3], [1], [0]]
    covariance = np.linalg.inv(np.eye(4) + W @ W.T)

    def log_likelihood(z):
        error = np.tile(x, (len(z) // 40, 1)) - z @ W
        return -0.5 * (error**2).sum(axis=1), error @ W.T

    drawn = tempering.sample_posterior(log_likelihood, (16, 40, 4), 64, *noise_of(x))
    size = np.minimum(effective_sample_size(drawn.z), 16 * 64)
    error = drawn.z.mean(axis=(0, 1)) - x @ W.T @ covariance
    assert_standard_normal(error / np.sqrt(np.diag(covariance) / size))
    spread = drawn.z.var(axis=(0, 1)) / np.diag(covariance) - 1
    assert_standard_normal(spread / np.sqrt(2 / size))
    assert (drawn.acceptance > 0.6).all() and (drawn.n_steps >= 3).all()
    np.testing.assert_allclose(drawn.log_likelihood[7].ravel(), log_likelihood(drawn.z[7].reshape(-1, 4))[0])


def assert_standard_normal(z, inflation=1.0):
    """Fail if numbers are larger than standard normal ones are, one by one or together. Sizes are estimates: 30 %."""
    assert abs(z).max() < 1.3 * inflation * stats.norm.isf(1e-5 / z.size)
    assert np.sqrt(np.mean(z**2)) < 1.3 * inflation


def test_both_modes_are_found_in_the_proportion_of_their_masses():
    """Too far apart for a chain to go from one to the other, and of other shapes. The prior reaches both."""
    ends, scale = np.array([-1.5, 1.5]), 0.05

    def log_likelihood(z):
        u = (z - ends) / scale
        logs = np.column_stack([1.0 - 0.5 * u[:, 0] ** 2, -np.logaddexp(u[:, 1], -u[:, 1])])  # one has long tails
        slopes = np.column_stack([-u[:, 0], -np.tanh(u[:, 1])]) / scale
        value = np.logaddexp(*logs.T)
        return value, (np.exp(logs - value[:, None]) * slopes).sum(axis=1, keepdims=True)

    share = []
    for seed in range(10):
        x = np.arange(40.0)[:, None]
        z = tempering.sample_posterior(log_likelihood, (16, 40, 1), 4, *noise_of(x, seed)).z
        share.append((z[-1] > 0).mean(axis=0))
    share = np.array(share).ravel()
    grid = np.linspace(-6, 6, 100_001)
    density = np.exp(log_likelihood(grid[:, None])[0] - grid**2 / 2)
    exact = density[grid > 0].sum() / density.sum()
    error = share.std(ddof=1) / np.sqrt(share.size)
    assert abs(share.mean() - exact) < 3.5 * error and error < 0.015
    assert share.std() < 2 * np.sqrt(exact * (1 - exact) / 16)  # nearly as good as 16 independent draws


def test_without_data_it_is_the_prior(rng):
    """Nothing has to be led anywhere: one step, and all samples count."""
    drawn = tempering.sample_posterior(
        lambda z: (np.zeros(len(z)), np.zeros_like(z)), (16, 20, 3), 100, *noise_of(np.arange(20.0)[:, None])
    )
    assert (drawn.n_steps == 1).all()
    assert stats.kstest(drawn.z[-1].ravel(), "norm").pvalue > 1e-3


def test_a_row_does_not_wait_for_others(rng):
    """Rows of other likelihoods take other numbers of steps, and are not changed by that."""
    x = np.array([[0.1], [3.0], [20.0]])
    of = lambda x: lambda z: (
        -50 * (np.tile(x, (len(z) // len(x), 1)) - z)[:, 0] ** 2, 100 * (np.tile(x, (len(z) // len(x), 1)) - z)
    )  # fmt: skip
    together = tempering.sample_posterior(of(x), (8, 3, 1), 5, *noise_of(x))
    assert len(set(together.n_steps)) == 3
    for i in range(3):
        alone = tempering.sample_posterior(of(x[i : i + 1]), (8, 1, 1), 5, *noise_of(x[i : i + 1]))
        np.testing.assert_allclose(alone.z[:, :, 0], together.z[:, :, i], rtol=1e-9)


def test_a_row_without_a_density_comes_to_an_end():
    def log_likelihood(z):
        bad = np.arange(len(z)) % 2 == 0
        return np.where(bad, np.nan, -0.5 * (z**2).sum(axis=1)), np.where(bad[:, None], np.nan, -z)

    drawn = tempering.sample_posterior(log_likelihood, (8, 2, 1), 5, *noise_of(np.zeros((2, 1))))
    assert np.isneginf(drawn.log_likelihood[:, :, 0]).all() and np.isfinite(drawn.log_likelihood[:, :, 1]).all()
    assert len(np.unique(drawn.z[-1, :, 0])) == 8


# Observations ---------------------------------------------------------------------------------------------------------

L, M, B, C = 3, 4, 2, 4
PLAIN = Columns(np.arange(B + C), np.zeros(B + C), np.ones(B + C), B, np.zeros(0), np.zeros(0))


@pytest.fixture
def outputs(rng):
    return Outputs(*(rng.standard_normal((L, M, n)) for n in (B, C, C)))


@pytest.fixture
def observations(rng):
    """One of each kind, with cells that were not seen."""
    x = rng.standard_normal((M, B + C))
    x[0, 0] = x[1, 3] = np.nan
    extreme = np.where(rng.random(x.shape) < 0.5, x, np.sign(x))
    extreme[:, :B] = [[1, 0], [0, 1], [0.3, 1], [np.nan, 0]]
    low, high = np.where(np.arange(B + C) < B, 0.0, -1.0), np.ones(B + C)
    sums = rng.standard_normal((M, 2))
    sums[0, 0] = np.nan
    counts = np.array([[1.0, 2.0], [0.0, 0.5], [0.3, np.nan], [2.0, 0.0]])
    return {
        "holes": Cells.with_holes(PLAIN, x),
        "gaussian noise": Cells.with_gaussian_noise(PLAIN, x, np.array([0.5, 0.3, 0.2, 0.0, 1.0, 2.0])),
        "salt and pepper": Cells.with_salt_and_pepper(PLAIN, extreme, 0.3, low, high),
        "real blocks": RealBlocks(sums, np.array([[0, 3], [2, 1]]), rng.random(C)),
        "binary blocks": BinaryBlocks(counts, np.array([[0, 3], [2, 1]])),
    }


KINDS = ("holes", "gaussian noise", "salt and pepper", "real blocks", "binary blocks")


def of_kind(kind, outputs, rng):
    """Return the outputs that an observation of a kind is of."""
    if kind == "real blocks":
        return outputs._replace(logits=outputs.logits[:, :, :0])
    if kind == "binary blocks":
        nothing = outputs.mu[:, :, :0]
        return Outputs(rng.standard_normal((L, M, 4)), nothing, nothing)
    return outputs


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(observations, outputs, rng, kind):
    observation, outputs = observations[kind], of_kind(kind, outputs, rng)
    if kind == "holes":
        assert observation.log_prob(outputs) is None  # the backend computes known cells
        return
    _, gradients = observation.log_prob(outputs)
    for name, array in outputs._asdict().items():
        direction, h = rng.standard_normal(array.shape), 1e-5
        ahead, behind = (observation.log_prob(outputs._replace(**{name: array + s * direction}))[0] for s in (h, -h))
        expected = (getattr(gradients, name) * direction).sum(axis=2) if array.shape[2] else 0
        np.testing.assert_allclose((ahead - behind) / (2 * h), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments(observations, outputs, rng, kind):
    observation, outputs, n = observations[kind], of_kind(kind, outputs, rng), 20_000
    many = Outputs(*(np.broadcast_to(array[:1], (n, *array.shape[1:])) for array in outputs))
    mean, variance = (part[0] for part in observation.moments(outputs))
    x = observation.draw(many, lambda shape: rng.random((shape[0], M, shape[1])))
    fourth = np.maximum(((x - mean) ** 4).mean(axis=0) - variance**2, 1e-12)
    assert abs((x.mean(axis=0) - mean) / np.sqrt(np.maximum(variance, 1e-20) / n)).max() < 4.5
    assert abs((x.var(axis=0) - variance) / np.sqrt(fourth / n)).max() < 4.5
    np.testing.assert_array_equal(
        *(np.where(np.isnan(observation.known), 0, part) for part in (x[0], observation.known))
    )


def test_draws_of_blocks_have_what_was_seen(observations, outputs, rng):
    for kind, weight in ("real blocks", observations["real blocks"].weight), ("binary blocks", np.ones(4)):
        observation = observations[kind]
        x = observation.draw(of_kind(kind, outputs, rng), lambda shape: rng.random((shape[0], M, shape[1])))
        total = (x * weight)[:, :, observation.cells].sum(axis=3)
        exact = np.where(observation.seen % 1 == 0, observation.seen, np.nan) if kind[0] == "b" else observation.seen
        np.testing.assert_allclose(total, np.where(np.isnan(exact), total, exact), atol=1e-12)


def test_gaussian_noise_is_integrated_out(outputs):
    """log p(v|z), and the mean and variance of x given v and z, beside quadrature over x."""
    sigma, v = np.array([0.5, 0.3, 0.2, 0.4, 1.0, 2.0]), np.full((M, B + C), 0.7)
    cells = Cells.with_gaussian_noise(PLAIN, v, sigma)
    log_prob, _ = cells.log_prob(outputs)
    mean, variance = (part[1, 2] for part in cells.moments(outputs))
    y, mu, std = expit(outputs.logits[1, 2]), outputs.mu[1, 2], np.exp(outputs.log_var[1, 2] / 2)
    total = 0.0
    for d in range(B + C):
        if d < B:
            parts = np.array([1 - y[d], y[d]]) * stats.norm.pdf(0.7, [0, 1], sigma[d])
            moments = [parts.sum(), parts[1], parts[1]]
            constant = stats.norm.logpdf(0.7, [0, 1], sigma[d]).max()  # which does not depend on z
        else:
            moment = lambda x, k, d: x**k * stats.norm.pdf(x, mu[d - B], std[d - B]) * stats.norm.pdf(0.7, x, sigma[d])
            moments = [quad(moment, -20, 20, (k, d), points=[0.7, mu[d - B]])[0] for k in range(3)]
            constant = 0.0
        total += np.log(moments[0]) - constant
        assert mean[d] == pytest.approx(moments[1] / moments[0], rel=1e-6)
        assert variance[d] == pytest.approx(moments[2] / moments[0] - (moments[1] / moments[0]) ** 2, rel=1e-5)
    assert log_prob[1, 2] == pytest.approx(total, rel=1e-8)


def test_noise_of_next_to_nothing_leaves_the_density(outputs):
    """Evidence may be a large number, beside which that which depends on z must not be lost."""
    v = np.tile([1.0, 0.0, 0.3, -0.2, 1.0, 0.0], (M, 1))
    log_prob, _ = Cells.with_gaussian_noise(PLAIN, v, np.full(B + C, 1e-9)).log_prob(outputs)
    log_y = np.log(expit(outputs.logits * [1, -1])).sum(axis=2)
    expected = log_y + stats.norm.logpdf(v[:, B:], outputs.mu, np.exp(outputs.log_var / 2)).sum(axis=2)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-9)


def test_salt_and_pepper_is_a_channel_that_flips(outputs):
    """A binary cell is kept, or becomes 0 or 1 with equal chance; grey cells were kept, real extremes were not."""
    v = np.tile([1.0, 0.0, 0.25, 5.0, 0.25, -5.0], (M, 1))
    ends = np.where(np.arange(B + C) < B, 0.0, -5.0), np.where(np.arange(B + C) < B, 1.0, 5.0)
    cells = Cells.with_salt_and_pepper(PLAIN, v, 0.3, *ends)
    y = expit(outputs.logits)
    chance = np.stack([0.7 * y[..., 0] + 0.15, 0.7 * (1 - y[..., 1]) + 0.15], axis=2)
    difference = cells.log_prob(outputs)[0] - np.log(chance).sum(axis=2)
    np.testing.assert_allclose(difference, difference[0, 0], rtol=1e-12)  # a constant
    mean, variance = cells.moments(outputs)
    np.testing.assert_allclose(mean[..., 0], 0.85 * y[..., 0] / chance[..., 0])
    np.testing.assert_allclose(mean[..., 1], 0.15 * y[..., 1] / chance[..., 1])
    np.testing.assert_allclose(mean[..., [2, 4]], 0.25)
    np.testing.assert_allclose(mean[..., [3, 5]], outputs.mu[..., [1, 3]])
    np.testing.assert_allclose(variance[..., [3, 5]], np.exp(outputs.log_var[..., [1, 3]]))
    assert (variance[..., [2, 4]] == 0).all()


def test_poisson_binomial_by_enumeration(rng):
    logits = 3 * rng.standard_normal((3, 2, 5))
    y, chance, mean = expit(logits), np.zeros((3, 2, 6)), np.zeros((3, 2, 6, 5))
    for x in map(np.array, product((0, 1), repeat=5)):
        p = np.where(x, y, 1 - y).prod(axis=2)
        chance[..., x.sum()] += p
        mean[..., x.sum(), :] += p[..., None] * x
    mean /= chance[..., None]
    for lower, share in (0, 0.0), (2, 0.3), (4, 1.0), (4, 0.5), (1, 0.0):
        log_prob, found = poisson_binomial(logits, np.full(2, lower), np.full(2, share))
        expected = (1 - share) * np.log(chance[..., lower]) + share * np.log(chance[..., lower + 1])
        np.testing.assert_allclose(log_prob, expected)
        np.testing.assert_allclose(found, (1 - share) * mean[..., lower, :] + share * mean[..., lower + 1, :])


def test_poisson_binomial_of_sure_cells():
    """Nothing underflows: two cells are surely 1, and of the others the likeliest comes next."""
    log_prob, mean = poisson_binomial(np.array([[800.0, -800, -900, -700, 300]]), np.array(2), np.array(0.5))
    assert log_prob[0] == pytest.approx(-350)
    np.testing.assert_allclose(mean, [[1, 0, 0, 0.5, 1]], atol=1e-12)


# Beside exact answers -------------------------------------------------------------------------------------------------


@pytest.fixture
def spied(monkeypatch):
    """What `infer` has found, call by call."""
    found = []

    def spy(*arguments, **named):
        found.append(infer(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(uses, "infer", spy)
    return found


class Linear:
    """A linear-Gaussian VAE of columns in units of their own, one of them constant: x ~ N(mean, covariance)."""

    def __init__(self, rng, J=2):
        table = rng.standard_normal((100, 6)) * [1, 10, 0.1, 3, 0, 2] + [0, 5, -1, 100, 5, 7]
        self.model = npvae.VAE(J, hidden_layer_sizes=(), likelihood="gaussian", **SETTINGS).fit(table)
        parameters, columns = self.model.parameters_, Columns.of(self.model.preprocessor_, table.dtype)
        parameters["decoder.mu.W"][...] = rng.standard_normal((J, 5))
        parameters["decoder.log_var.W"][...] = 0
        parameters["decoder.log_var.b"][...] = rng.standard_normal(5) - 1
        log_var = np.append(soft_floor(parameters["decoder.log_var.b"]), columns.log_var)
        self.mean = columns.outward(np.append(parameters["decoder.mu.b"], columns.mean))
        self.W = columns.outward_std(np.column_stack([parameters["decoder.mu.W"], np.zeros(J)]))
        self.noise = np.diag(columns.outward_std(np.exp(log_var / 2)) ** 2)
        self.covariance = self.W.T @ self.W + self.noise

    def sample(self, rng, n):
        return rng.multivariate_normal(self.mean, self.covariance, n)

    def given(self, A, seen, noise=0.0):
        """Return mean and variance (6,) of x given A x + N(0, noise) = seen, and the variance of E[x | z, seen]."""
        inverse = lambda C: C @ A.T @ np.linalg.inv(A @ C @ A.T + noise * np.eye(len(A))) @ A
        mean = self.mean + inverse(self.covariance) @ np.linalg.pinv(A) @ (seen - A @ self.mean)
        covariance = self.covariance - inverse(self.covariance) @ self.covariance
        return mean, np.diag(covariance), np.diag(covariance - self.noise + inverse(self.noise) @ self.noise)


@pytest.fixture(scope="module")
def linear():
    return Linear(np.random.default_rng(3))


def assert_exact(linear, answer, std, exact, size):
    """Compare means and standard deviations (N, 6) with exact ones, by Monte Carlo errors of so many samples (N,)."""
    mean, variance, between = (np.array(part) for part in zip(*exact))
    moves = between > 1e-9 * np.diag(linear.covariance)
    assert moves.mean() > 0.3
    size = np.broadcast_to(np.minimum(size, 256)[:, None], mean.shape)[moves]
    assert_standard_normal((answer - mean)[moves] / np.sqrt(between[moves] / size))
    assert_standard_normal((std**2 - variance)[moves] / (between[moves] * np.sqrt(2 / size)))
    np.testing.assert_allclose(answer[~moves], mean[~moves], rtol=1e-6)
    np.testing.assert_allclose(std[~moves], np.sqrt(np.maximum(variance[~moves], 0)), rtol=1e-5, atol=2e-6)


def test_holes_of_any_pattern(linear, rng, spied):
    X, patterns = linear.sample(rng, 63), np.array(list(product([True, False], repeat=6)))[:63]  # all with a hole
    answer, std = linear.model.impute(np.where(patterns, np.nan, X), return_std=True)
    exact = [linear.given(np.eye(6)[~holes], x[~holes]) for x, holes in zip(X, patterns)]
    assert_exact(linear, answer, std, exact, spied[0].size)
    np.testing.assert_array_equal(answer[~patterns], X[~patterns])
    assert (std[~patterns] == 0).all() and (std[patterns] > 0).all()


def test_gaussian_noise_on_a_linear_model(linear, rng, spied):
    """Noise of its own on each column, none on one, and some cells not seen."""
    sigma = np.array([0.5, 5.0, 0.1, 0.0, 0.1, 1.0])
    X = linear.sample(rng, 60)
    X += sigma * rng.standard_normal(X.shape)
    X[:10, 1] = np.nan
    answer, std = linear.model.denoise(X, sigma=sigma, return_std=True)
    # in units of sigma, for one variance of the noise; none is as good as a millionth of it
    scale = np.where(sigma > 0, sigma, 1e-6)
    exact = [linear.given((np.eye(6) / scale[:, None])[~np.isnan(x)], (x / scale)[~np.isnan(x)], 1.0) for x in X]
    assert_exact(linear, answer, std, exact, spied[0].size)
    np.testing.assert_array_equal(answer[:, 3], X[:, 3])


def test_salt_and_pepper_on_a_linear_model(linear, rng, spied):
    """Of real numbers it leaves holes whose places are known."""
    X = linear.sample(rng, 60)
    replaced = rng.random(X.shape) < 0.3
    noisy = np.where(replaced, np.where(rng.random(X.shape) < 0.5, -300.0, 300.0), X)
    answer, std = linear.model.denoise(noisy, salt_and_pepper=0.3, extremes=(-300, 300), return_std=True)
    filled, std_of_filled = linear.model.impute(np.where(replaced, np.nan, X), return_std=True)
    np.testing.assert_array_equal(answer, filled)
    np.testing.assert_array_equal(std, std_of_filled)


def test_block_averages_of_a_linear_model(linear, rng, spied):
    """Weighted sums of any cells, one of which has a density that does not depend on z; some were not seen."""
    X, cells = linear.sample(rng, 60), np.array([[0, 3, 4], [1, 2, 5]])
    columns = Columns.of(linear.model.preprocessor_, X.dtype)
    x, weight = columns.inward(X), np.array([1.0, 0.2, 3.0, 0.5, 1.0, 0.3])
    sums = (x * weight)[:, cells].sum(axis=2)
    sums[:5, 1] = np.nan
    found = infer(linear.model.fitted_, columns, RealBlocks(sums, cells, weight), 256)
    A = np.zeros((2, 6))
    for row, block in zip(A, cells):
        row[columns.order[block]] = (weight * columns.scale)[block]
    offset = A @ columns.outward(np.zeros(6))
    exact = [linear.given(A[~np.isnan(s)], (s + offset)[~np.isnan(s)]) for s in sums]
    answer, std = columns.outward(found.mean), columns.outward_std(np.sqrt(found.variance))
    assert_exact(linear, answer, std, exact, found.size)


def test_conditionals_of_binary_columns_by_enumeration(rng, spied):
    X = (rng.random((100, 6)) < 0.5).astype(float)
    model = npvae.VAE(2, hidden_layer_sizes=(5,), **SETTINGS).fit(X)
    model.parameters_.vector[...] = 1.5 * rng.standard_normal(model.parameters_.vector.size)
    grid = np.linspace(-7, 7, 141)
    z = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    y, prior = model.inverse_transform(z), stats.norm.pdf(z).prod(axis=1)
    patterns = np.array(list(product([0.0, 1.0, np.nan], repeat=6)))
    X = patterns[np.isnan(patterns).any(axis=1)][::4]
    answer, std = model.impute(X, return_std=True)
    mean, between = np.empty(X.shape), np.empty(X.shape)
    for i, x in enumerate(X):
        weights = prior * np.where(np.isnan(x), 1, np.where(x == 1, y, 1 - y)).prod(axis=1)
        mean[i] = np.average(y, axis=0, weights=weights)
        between[i] = np.average((y - mean[i]) ** 2, axis=0, weights=weights)
    size, holes = np.minimum(spied[0].size, 256)[:, None], np.isnan(X)
    assert_standard_normal(((answer - mean) / np.sqrt(between / size))[holes])
    np.testing.assert_allclose(std[holes], np.sqrt(answer * (1 - answer))[holes], rtol=1e-6)


def test_blocks_of_binary_pixels_by_enumeration(rng, spied):
    """Pictures of 2 x 4 pixels at half of the resolution, one of whose averages is between two counts."""
    X = (rng.random((100, 8)) < 0.5).astype(float)
    model = npvae.VAE(2, hidden_layer_sizes=(5,), **SETTINGS).fit(X)
    model.parameters_.vector[...] = 1.5 * rng.standard_normal(model.parameters_.vector.size)
    small = np.vstack([rng.integers(0, 5, (20, 2)) / 4, [[0.3, 0.75], [0.3, np.nan]]])
    answer = model.super_resolve(small, (2, 4), 2)
    grid = np.linspace(-7, 7, 141)
    z = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    y, prior, numbers = model.inverse_transform(z), stats.norm.pdf(z).prod(axis=1), []
    blocks = np.array([[0, 1, 4, 5], [2, 3, 6, 7]])
    for row, averages, size in zip(answer, small, spied[0].size):
        weights, mean = prior.copy(), y.copy()
        for block, average in zip(blocks, averages):
            if not np.isnan(average):
                lower = min(int(4 * average), 3)
                log_prob, mean[:, block] = poisson_binomial(np.log(y / (1 - y))[:, block], lower, 4 * average - lower)
                weights *= np.exp(log_prob)
                assert row[block].mean() == pytest.approx(average)
        exact = np.average(mean, axis=0, weights=weights)
        between = np.average((mean - exact) ** 2, axis=0, weights=weights)
        moves = between > 1e-12
        np.testing.assert_allclose(row[~moves], exact[~moves], atol=1e-6)
        numbers.extend((row - exact)[moves] / np.sqrt(between[moves] / min(size, 256)))
    assert_standard_normal(np.array(numbers))


@pytest.mark.filterwarnings("ignore:impute:UserWarning")  # some posteriors have separate modes
@pytest.mark.parametrize(
    "likelihood",
    ["gaussian", pytest.param("sigmoid-gaussian", marks=pytest.mark.slow(reason="samples 1400 posteriors"))],
)
def test_calibration(rng, likelihood):
    """For data of the model, 90 % intervals of imputed cells cover 90 % of the cells; standard deviations are right."""
    model = npvae.VAE(2, hidden_layer_sizes=(4,), likelihood=likelihood, **SETTINGS).fit(rng.random((100, 5)))
    model.parameters_.vector[...] = rng.standard_normal(model.parameters_.vector.size)
    X = model.sample(700)
    holes = rng.random(X.shape) < 0.5
    given = np.where(holes, np.nan, X)
    draws = np.sort(model.impute(given, n_draws=39), axis=0)
    inside = ((draws[1] <= X) & (draws[-2] >= X))[holes]  # 36 of the 40 places that the draws leave: 90 %
    assert inside.size > 1700 and 0.88 < inside.mean() < 0.92
    mean, std = model.impute(given, return_std=True)
    squares = ((X - mean) / np.where(holes, std, 1))[holes] ** 2
    assert abs(squares.mean() - 1) < 4 * squares.std() / np.sqrt(squares.size)


# Batches --------------------------------------------------------------------------------------------------------------


def many_kinds(rng):
    """A table of all kinds of columns, with a model of it."""
    table = np.column_stack([rng.random((200, 2)) < 0.4, rng.standard_normal((200, 3)), np.full(200, 3.0)])
    table[:, 2] += table[:, 0]
    return table


@pytest.mark.filterwarnings("ignore:.*split R-hat:UserWarning")  # of few samples
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_row_does_not_depend_on_others_or_batches(rng, backend, monkeypatch):
    X = many_kinds(rng)
    model = npvae.VAE(2, hidden_layer_sizes=(6,), **SETTINGS | {"backend": backend}).fit(X)
    X = X[:12]
    X[rng.random(X.shape) < 0.4] = np.nan
    few = {"n_samples": 128}
    asks = (
        lambda X: model.impute(X, return_std=True, **few),
        lambda X: (model.impute(X, n_draws=20, **few).transpose(1, 0, 2),),
        lambda X: model.denoise(X, sigma=0.3, return_std=True, **few),
    )
    for ask in asks:
        together, order = ask(X), rng.permutation(12)
        for rows, at_once in (order, 500), ([7], 500), (np.arange(12), 5):
            monkeypatch.setattr(inference, "MOST_ROWS", at_once)
            for found, expected in zip(ask(X[rows]), together):
                np.testing.assert_allclose(found, expected[rows], rtol=1e-9, atol=1e-9)


def test_seeds_and_rows_that_are_alike(rng):
    model = npvae.VAE(1, hidden_layer_sizes=(), **SETTINGS).fit(rng.standard_normal((50, 3)))
    X = np.array([[0.5, np.nan, np.nan]] * 3)
    means, draws = model.impute(X), model.impute(X, n_draws=5)
    np.testing.assert_array_equal(means, model.impute(X, random_state=model.seed_))
    assert (means == means[0]).all() and not np.array_equal(means, model.impute(X, random_state=1))
    np.testing.assert_array_equal(draws, model.impute(X, n_draws=5))
    assert len(np.unique(draws[:, :, 1])) == 15
