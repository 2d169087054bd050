"""Hamiltonian Monte Carlo: the motion, its invariant distribution, the adaptation, and the diagnostics."""

import numpy as np
import pytest

from npvae.backends.formulas import soft_floor
from npvae.evaluation import LinearGaussian
from npvae.noise import RowNoise
from npvae.samplers import (
    Noise,
    StepSize,
    effective_sample_size,
    hmc,
    initial,
    leapfrog,
    sample,
    split_rhat,
    transition,
)


def quartic(z):
    """Two coupled coordinates with a density that is not Gaussian: -z0^4/4 - z1^2/2 - z0 z1^2/4 - z0^2 z1^4/20."""
    a, b = z.T
    log_p = -(a**4) / 4 - b**2 / 2 - a * b**2 / 4 - a**2 * b**4 / 20
    return log_p, np.stack([-(a**3) - b**2 / 4 - a * b**4 / 10, -b - a * b / 2 - a**2 * b**3 / 5], axis=1)


def gaussian(scale):
    """Return the log density, up to a constant, of N(0, scale^2); scale may differ by row and column."""
    return lambda z: (-((z / scale) ** 2).sum(axis=1) / 2, -z / scale**2)


# The motion -----------------------------------------------------------------------------------------------------------


def test_there_and_back(rng):
    z, p, step = rng.standard_normal((50, 2)), rng.standard_normal((50, 2)), rng.uniform(0.05, 0.15, 50)
    state, momentum = leapfrog(quartic, initial(quartic, z), p, step, 20)
    assert abs(state.z - z).max() > 1
    back, reverse = leapfrog(quartic, state, -momentum, step, 20)
    np.testing.assert_allclose(back.z, z, rtol=0, atol=1e-10)
    np.testing.assert_allclose(-reverse, p, rtol=0, atol=1e-10)


def test_volume_is_preserved(rng):
    """The Jacobian of (z, p) -> (z', p') has the determinant 1, by central differences of the fourth order."""
    start, h = rng.standard_normal((10, 4)), 1e-3

    def moved(point):
        state, p = leapfrog(quartic, initial(quartic, point[:, :2]), point[:, 2:], np.full(10, 0.2), 5)
        return np.concatenate([state.z, p], axis=1)

    columns = []
    for direction in np.eye(4):
        near, far = (moved(start + k * h * direction) - moved(start - k * h * direction) for k in (1, 2))
        columns.append((8 * near - far) / (12 * h))
    jacobian = np.stack(columns, axis=2)
    assert abs(jacobian - np.eye(4)).max() > 0.5
    np.testing.assert_allclose(np.linalg.det(jacobian), 1, atol=1e-6)


def test_energy_error_falls_as_the_square_of_the_step(rng):
    noise = Noise(rng.standard_normal((200, 2)), rng.random(200), np.zeros(200))
    start, errors = initial(quartic, rng.standard_normal((200, 2))), []
    for halvings in range(4):
        _, info = transition(quartic, start, noise, np.full(200, 0.1 / 2**halvings), 8 * 2**halvings)
        errors.append(np.median(abs(info.energy_error)))
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.1)


# The distribution -----------------------------------------------------------------------------------------------------


def geweke_log_joint(x):
    """Return log p(x, z) as a function of z: z ~ N(0, I) in two dimensions, x ~ N([z0, z0 z1, sin z1], 0.5^2)."""

    def log_density(z):
        a, b = z.T
        error = (x - geweke_mean(z)) / 0.25
        gradient = np.stack([error[:, 0] + error[:, 1] * b, error[:, 1] * a + error[:, 2] * np.cos(b)], axis=1) - z
        return -0.125 * (error**2).sum(axis=1) - (z**2).sum(axis=1) / 2, gradient

    return log_density


def geweke_mean(z):
    return np.stack([z[:, 0], z[:, 0] * z[:, 1], np.sin(z[:, 1])], axis=1)


def geweke_moments(z, x):
    """Return functions of (z, x) whose means are compared, (n, functions)."""
    both = np.concatenate([z, x], axis=1)
    return np.concatenate([both, both**2, z[:, :1] * both[:, 1:], z[:, 1:] * x, np.abs(both) ** 3], axis=1)


def test_successive_conditional_simulation(rng):
    """Geweke (2004): x ~ p(x|z) and a transition of z given x in turn leave p(z) p(x|z) as it is.

    With a step at which some 30 % of the proposals are rejected, so that a wrong acceptance shows.
    """
    R, turns = 10_000, 8
    draw_x = lambda z: geweke_mean(z) + 0.5 * rng.standard_normal((R, 3))
    z, accepted = rng.standard_normal((R, 2)), []
    x = draw_x(z)
    for _ in range(turns):
        log_density = geweke_log_joint(x)
        state, info = transition(log_density, initial(log_density, z), Noise.draw(rng, R, 2), np.full(R, 0.42), 4)
        z, accepted = state.z, [*accepted, info.accepted.mean()]
        x = draw_x(z)
    assert 0.6 < np.mean(accepted) < 0.8
    direct = rng.standard_normal((R, 2))
    ours, theirs = geweke_moments(z, x), geweke_moments(direct, draw_x(direct))
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / R)
    assert np.all(abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * error)


def within_errors(draws, expected, n_errors=4):
    """Whether the means of draws (n, chains, ...) are those expected, within so many standard errors."""
    error = draws.std(axis=(0, 1)) / np.sqrt(effective_sample_size(draws))
    return np.all(abs(draws.mean(axis=(0, 1)) - expected) < n_errors * error)


def products(draws, mean):
    """Return the products of the deviations from the mean: (n, chains, J, J)."""
    centred = draws - mean
    return centred[..., None] * centred[..., None, :]


def test_moments_of_a_correlated_gaussian(rng):
    mean = np.array([1.0, -2.0, 0.5])
    factor = np.array([[1.0, 0, 0], [0.9, 0.5, 0], [-0.3, 0.4, 0.2]])
    precision = np.linalg.inv(factor @ factor.T)

    def log_density(z):
        gradient = (mean - z) @ precision
        return -0.5 * ((mean - z) * gradient).sum(axis=1), gradient

    samples = sample(log_density, np.zeros((100, 3)), 300, target=0.65, random_state=1)
    assert 0.6 < samples.acceptance.mean() < 0.9 and not samples.divergent.any()  # so that some are rejected
    assert split_rhat(samples.z).max() < 1.01
    assert within_errors(samples.z, mean)
    assert within_errors(products(samples.z, mean), factor @ factor.T)
    assert effective_sample_size(samples.z).min() > 3000
    np.testing.assert_allclose(samples.log_p[-1], log_density(samples.z[-1])[0])


def test_posteriors_of_a_linear_gaussian_model(make_model, rng, backend):
    """One batched call for several datapoints with many chains each, through `Model.log_density`."""
    model, parameters = make_model(
        backend, n_components=2, hidden_layer_sizes=(), likelihood="gaussian", constant_log_var=True, std=0.8
    )
    W, b, head = (np.array(parameters[f"decoder.{name}"]) for name in ("mu.W", "mu.b", "log_var.b"))
    exact = LinearGaussian(W, b, np.exp(soft_floor(head)))
    x = rng.standard_normal((3, 7))
    mean, covariance = exact.posterior(x)
    samples = sample(model.log_density(parameters, x), np.zeros((60 * 3, 2)), 200, n_warmup=100, n_leapfrog=5)
    draws = samples.z.reshape(200, 60, 3, 2)
    assert within_errors(draws, mean)
    assert within_errors(products(draws, mean), covariance)


def test_a_trajectory_of_a_period_does_not_come_back():
    """Of 20 steps of a twentieth of a period each ends where it began, and the chain would stay at 3."""
    samples = sample(gaussian(1.0), np.full((200, 1), 3.0), 40, n_warmup=0, n_leapfrog=20, step_size=np.pi / 10)
    assert samples.acceptance.min() > 0.95
    assert abs(samples.z[-1].mean()) < 4 / np.sqrt(200)


def test_a_density_with_an_edge():
    """Proposals where the log density is -inf are rejected, and the others have the right distribution."""

    def half_normal(z):
        with np.errstate(invalid="ignore"):
            return np.where(z[:, 0] > 0, -(z[:, 0] ** 2) / 2, -np.inf), -z

    samples = sample(half_normal, np.ones((200, 1)), 300, n_leapfrog=3, step_size=0.5, n_warmup=0)
    assert samples.z.min() > 0 and 0.5 < samples.acceptance.mean() < 0.95
    assert within_errors(samples.z, np.sqrt(2 / np.pi)) and within_errors(samples.z**2, 1.0)


@pytest.mark.parametrize(
    "value, slope", [(np.nan, 1.0), (-np.inf, np.nan), (np.inf, 0.0), (0.0, np.inf), (0.0, np.nan)]
)
def test_what_is_not_finite_is_rejected(rng, value, slope):
    """A value or gradient that is not finite: no warning, no move there, no call with numbers that are not finite."""

    def log_density(z):
        assert np.all(np.isfinite(z))
        beyond = z[:, 0] > 1
        return np.where(beyond, value, -(z**2).sum(axis=1) / 2), np.where(beyond[:, None], slope, -z)

    state, count = initial(log_density, np.zeros((100, 2))), 0
    for _ in range(20):
        state, info = transition(log_density, state, Noise.draw(rng, 100, 2), np.full(100, 0.5), 5)
        rejected = ~np.isfinite(info.energy_error)
        assert not info.accepted[rejected].any() and info.divergent[rejected].all() and np.all(state.z[:, 0] <= 1)
        assert np.all(np.isfinite(state.log_p)) and np.all(np.isfinite(state.gradient))
        count += rejected.sum()
    assert 100 < count < 1900


def test_an_unstable_step_is_a_divergent_transition(rng):
    """With steps that are too long for the curvature the trajectory leaves the range of floats."""
    for step in (3.0, 1e3, 1e300):
        start = initial(quartic, rng.standard_normal((20, 2)))
        state, info = transition(quartic, start, Noise.draw(rng, 20, 2), np.full(20, step), 50)
        assert info.divergent.all() and not info.accepted.any() and np.all(info.acceptance == 0)
        np.testing.assert_array_equal(state.z, start.z)
    samples = sample(quartic, np.zeros((20, 2)), 10, n_warmup=0, step_size=100.0)
    np.testing.assert_array_equal(samples.divergent, 10)
    np.testing.assert_array_equal(samples.z, 0)


# One chain is no other's business -------------------------------------------------------------------------------------


def test_a_chain_does_not_depend_on_the_others(rng):
    """Alone, in another order, or beside others: the same bits. Its noise is keyed by the content of its row."""
    x, scale = rng.standard_normal((5, 4)), np.array([0.01, 0.1, 1.0, 10.0, 100.0])

    def run(rows):
        noise, one = RowNoise(x[rows], 0), lambda: Noise.of_uniform(noise.uniform((1, 4)))
        return sample(gaussian(scale[rows, None]), np.zeros((len(rows), 2)), 30, n_warmup=50, noise=one)

    together, order = run(np.arange(5)), rng.permutation(5)
    for name, expected in zip(together._fields, together):
        rows = expected.ndim > 1  # chains are the second axis, or the first
        other = getattr(run(order), name)
        np.testing.assert_array_equal(other, expected[:, order] if rows else expected[order])
        alone = getattr(run(np.array([3])), name)
        np.testing.assert_array_equal(alone, expected[:, [3]] if rows else expected[[3]])
    assert len(np.unique(together.z[-1])) == 10


def test_a_function_may_overwrite_its_results(rng):
    values, slopes = np.empty(4), np.empty((4, 2))

    def careless(z):
        values[...], slopes[...] = quartic(z)
        return values, slopes

    z = rng.standard_normal((4, 2))
    for ours, expected in zip(sample(careless, z, 20, n_warmup=20), sample(quartic, z, 20, n_warmup=20)):
        np.testing.assert_array_equal(ours, expected)
    start = initial(careless, z)
    leapfrog(careless, start, np.ones((4, 2)), np.ones(4), 3)
    np.testing.assert_array_equal(start.log_p, quartic(z)[0])


def test_the_arguments_are_left_as_they_are(rng):
    z, noise, step = rng.standard_normal((4, 2)), Noise.draw(rng, 4, 2), np.full(4, 0.3)
    state = initial(quartic, z)
    kept = [array.copy() for array in (z, *noise, step, *state)]
    for _ in range(2):
        transition(quartic, state, noise, step, 3)
    for array, before in zip((z, *noise, step, *state), kept):
        np.testing.assert_array_equal(array, before)


# The step size --------------------------------------------------------------------------------------------------------


def test_dual_averaging_is_algorithm_5(rng):
    """Beside the equations of Hoffman and Gelman (2014), algorithm 5, for one chain at a time."""
    first, target, acceptance = np.array([0.1, 2.0]), 0.65, rng.random((40, 2))
    step = StepSize.start(first)
    for row in acceptance:
        step = step.adapt(hmc.Info(row > 0.5, row, -np.log(row), row < 0), target)
    for chain in range(2):
        mu, gamma, t0, kappa = np.log(10 * first[chain]), 0.05, 10, 0.75
        H_bar, log_average = 0.0, 0.0
        for m, alpha in enumerate(acceptance[:, chain], start=1):
            H_bar = (1 - 1 / (m + t0)) * H_bar + (target - alpha) / (m + t0)
            log_step = mu - np.sqrt(m) / gamma * H_bar
            log_average = m**-kappa * log_step + (1 - m**-kappa) * log_average
        assert step.current[chain] == pytest.approx(np.exp(log_step), rel=1e-12)
        assert step.final()[chain] == pytest.approx(np.exp(log_average), rel=1e-12)


def test_without_adaptation_the_step_stays():
    assert StepSize.start(np.array([0.3])).final() == pytest.approx([0.3])


@pytest.mark.parametrize("target", [0.65, 0.9])
def test_each_chain_finds_the_step_of_its_own_target(target):
    """Steps follow the scale of the chain's density; the acceptance is not below the target, nor far above it."""
    scale = np.repeat([1e-3, 1.0, 50.0], 20)[:, None]
    samples = sample(gaussian(scale), np.zeros((60, 5)), 200, target=target)
    relative = (samples.step_size / scale[:, 0]).reshape(3, 20)
    assert np.ptp(relative.mean(axis=1)) < 0.1 * relative.mean() and relative.std(axis=1).max() < 0.1 * relative.mean()
    assert np.all(abs(samples.acceptance.reshape(3, 20).mean(axis=1) - (target + 0.95) / 2) < (1 - target) / 2)


# Diagnostics ----------------------------------------------------------------------------------------------------------


def autoregressive(rng, n, chains, correlation):
    """Return draws (n, chains) of a chain whose draws have this correlation from one to the next, and variance 1."""
    draws, noise = np.empty((n, chains)), rng.standard_normal((n, chains))
    draws[0] = noise[0]
    for i in range(1, n):
        draws[i] = correlation * draws[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return draws


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregression(rng, correlation):
    """Of n draws of it, n (1 - correlation) / (1 + correlation)."""
    draws = autoregressive(rng, 20_000, 4, correlation)
    expected = 80_000 * (1 - correlation) / (1 + correlation)
    assert effective_sample_size(draws) == pytest.approx(expected, rel=0.1)
    assert split_rhat(draws) == pytest.approx(1, abs=0.002)


def test_split_rhat_by_hand():
    """Of [0, 2 | 1, 3] and [4, 6 | 5, 7]: within 2, the means 1, 2, 5, 6 vary by 17/3, so (2/2 + 17/3) / 2."""
    draws = np.array([[0.0, 4.0], [2.0, 6.0], [1.0, 5.0], [3.0, 7.0]])
    assert split_rhat(draws) == pytest.approx(np.sqrt((1 + 17 / 3) / 2), rel=1e-12)


def test_a_drifting_chain_is_seen(rng):
    """The halves of one chain disagree, and its draws are worth few."""
    draws = rng.standard_normal((1000, 1)) + np.linspace(0, 5, 1000)[:, None]
    assert split_rhat(draws) > 1.5 and effective_sample_size(draws) < 20


def test_diagnostics_take_any_quantities(rng):
    draws = autoregressive(rng, 301, 12, 0.6).reshape(301, 2, 3, 2)
    for function in (split_rhat, effective_sample_size):
        found = function(draws)
        assert found.shape == (3, 2)
        assert found[1, 0] == pytest.approx(function(draws[:, :, 1, 0]))
    constant = np.ones((10, 2, 3))
    assert np.isnan(split_rhat(constant)).all() and np.isnan(effective_sample_size(constant)).all()


@pytest.mark.parametrize("n, correlation", [(4, 0.0), (9, 0.3), (100, 0.7), (101, 0.95), (200, -0.5)])
def test_effective_sample_size_term_by_term(rng, n, correlation):
    """Beside equations 10 to 13 of Vehtari et al. (2021) in loops, for two chains."""
    draws = autoregressive(rng, n, 2, correlation)
    N = n // 2
    chains = [draws[:N, 0], draws[:N, 1], draws[-N:, 0], draws[-N:, 1]]
    W = np.mean([chain.var(ddof=1) for chain in chains])
    pooled = (N - 1) / N * W + np.var([chain.mean() for chain in chains], ddof=1)

    def rho(t):
        of_chains = []
        for chain in chains:
            centred = chain - chain.mean()
            own = (centred[: N - t] * centred[t:]).sum() / (centred**2).sum()
            of_chains.append(chain.var(ddof=1) * own)
        return 1 - (W - np.mean(of_chains)) / pooled if t else 1.0

    total, smallest = 0.0, np.inf
    for k in range(N // 2):
        pair = rho(2 * k) + rho(2 * k + 1)
        if pair <= 0:
            break
        smallest = min(smallest, pair)
        total += smallest
    time = max(2 * total - 1, 1 / np.log10(4 * N))
    assert effective_sample_size(draws) == pytest.approx(4 * N / time, rel=1e-9)


@pytest.mark.parametrize("correlation", [-0.4, 0.0, 0.6, 0.9])
def test_against_arviz(rng, correlation):
    """It differs in terms of the order of 1/n of the effective sample size, and in none of R-hat."""
    arviz = pytest.importorskip("arviz")
    draws = autoregressive(rng, 10_000, 4, correlation)
    assert split_rhat(draws) == pytest.approx(arviz.rhat(draws.T, method="split"), rel=1e-12)
    assert effective_sample_size(draws) == pytest.approx(arviz.ess(draws.T, method="mean"), rel=0.01)


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"log_density": 3}, TypeError, "log_density is of type int; expected a function that returns"),
        ({"log_density": lambda z: -z}, TypeError, "log_density returned an object of type ndarray; expected a pair"),
        ({"log_density": lambda z: (z, z)}, ValueError, r"log_p that log_density returned has the shape \(4, 2\)"),
        ({"log_density": lambda z: (z[:, 0], z[:, 0])}, ValueError, r"gradient that log_density returned has the sh"),
        ({"log_density": lambda z: (np.full(4, -np.inf), z)}, ValueError, r"log_density\(z\) is -inf at \[0\]"),
        ({"log_density": lambda z: (z[:, 0], z / 0.0)}, ValueError, r"the gradient of log_density is nan at \[0, 0\]"),
        ({"z": np.zeros(4)}, ValueError, r"z has the shape \(4,\); expected \(R, J\), a row for each chain"),
        ({"z": np.full((4, 2), np.nan)}, ValueError, r"log_density\(z\) is nan at \[0\]"),
        ({"z": None}, TypeError, "z is None; expected an array of real numbers"),
        ({"n_samples": 0}, ValueError, "n_samples is 0; expected an integer of at least 1"),
        ({"n_warmup": -1}, ValueError, "n_warmup is -1; expected an integer of at least 0"),
        ({"n_leapfrog": 2.5}, ValueError, "n_leapfrog is 2.5; expected an integer of at least 1"),
        ({"step_size": 0.0}, ValueError, "step_size is 0.0; expected a number above 0"),
        ({"target": 1.0}, ValueError, "target is 1.0; expected a number between 0 and 1"),
        ({"target": -0.5}, ValueError, "target is -0.5; expected a number"),
        ({"random_state": -1}, ValueError, "random_state is -1"),
        ({"noise": 3}, TypeError, "noise is of type int; expected a function without arguments that returns a Noise"),
        (
            {"noise": lambda: Noise(np.zeros((1, 2)), np.zeros(4), np.zeros(4))},  # the same for all chains
            ValueError,
            r"noise.momentum has the shape \(1, 2\); expected \(4, 2\), for 4 chains",
        ),
        (
            {"noise": lambda: Noise(np.zeros((4, 2)), np.zeros(4), 0.0)},
            ValueError,
            r"noise.jitter has the shape \(\); expected \(4,\), for 4 chains",
        ),
    ],
)
def test_arguments_are_checked(changed, error, message):
    arguments = {"log_density": gaussian(1.0), "z": np.zeros((4, 2)), "n_samples": 3} | changed
    with np.errstate(invalid="ignore"), pytest.raises(error, match=message):
        sample(arguments.pop("log_density"), arguments.pop("z"), arguments.pop("n_samples"), **arguments)


@pytest.mark.parametrize("function", [split_rhat, effective_sample_size])
def test_draws_are_checked(function):
    with pytest.raises(ValueError, match=r"draws has the shape \(3, 2\); expected \(n, chains, ...\) with n >= 4"):
        function(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"draws has the shape \(10,\); expected \(n, chains, ...\)"):
        function(np.zeros(10))
    with pytest.raises(ValueError, match=r"draws is nan at \[0, 0\]; expected finite numbers"):
        function(np.full((10, 2), np.nan))
    with pytest.raises(TypeError, match="draws is None"):
        function(None)
