"""A minibatch in shards is the minibatch as a whole: same value, bound and gradient for the same noise, same state."""

import numpy as np
import pytest

from npvae import backends
from npvae.estimators import SGVB, MonteCarloEM, ScoreFunction
from npvae.estimators.monte_carlo_em import ACCEPTANCE, FIRST_STEP, GAIN
from npvae.estimators.sharded import Sharded
from npvae.model import Architecture, Model
from npvae.parallel import ALONE
from npvae.preprocessing import Data, Scaling

#: 11 of 30 rows: shards of 2, 3, 3 and 3.
N, M, D = 30, 11, 5


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    return backends.get(request.param)


@pytest.fixture
def data(rng):
    return Data(rng.random((N, D)), Scaling(np.zeros(D), np.ones(D)), 0.0, np.zeros(N))


def sharded(make, data, rng):
    """Return the estimator of a minibatch in shards, its parameters, its x and its samples; and x as a whole."""
    estimator, rows = Sharded(make, ALONE, M), rng.permutation(N)[:M]
    model = estimator.model
    parameters, x = model.parameters(model.initial(rng, 0.5)), estimator.gather(data, rows)
    assert sorted(np.concatenate([shard.rows for shard in x])) == sorted(rows)
    samples, state = estimator.sample(parameters, x, rows, estimator.draw(rng, M))
    return estimator, parameters, x, samples, state, np.concatenate([shard.x for shard in x])


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_shards_have_the_value_and_the_gradient_of_the_whole(backend, data, rng, analytic_kl):
    model = Model(Architecture(D, 2, (4,)), backend, "float64")
    estimator, parameters, x, samples, _, whole = sharded(lambda: SGVB(model, 1, analytic_kl), data, rng)
    assert [len(shard.rows) for shard in x] == [2, 3, 3, 3]
    found = estimator.value_and_grad(parameters, x, samples)
    expected = SGVB(model, 1, analytic_kl).value_and_grad(parameters, whole, np.concatenate(samples))
    assert found.value == pytest.approx(expected.value, rel=1e-13)
    assert found.elbo == pytest.approx(expected.elbo, rel=1e-13)
    np.testing.assert_allclose(found.gradient.vector, expected.gradient.vector, rtol=1e-11, atol=1e-14)


def test_each_shard_and_each_minibatch_has_noise_of_its_own(backend, data, rng):
    model = Model(Architecture(D, 2, (4,)), backend)
    estimator, parameters, x, first, *_ = sharded(lambda: SGVB(model), data, rng)
    first = [noise.copy() for noise in first]
    second, _ = estimator.sample(parameters, x, None, estimator.draw(rng, M))
    numbers = np.concatenate([noise.ravel() for noise in (*first, *second)])
    assert len(np.unique(numbers)) == len(numbers) == 2 * M * 2


def test_the_running_baseline_is_that_of_all_rows(backend, data, rng):
    model = Model(Architecture(D, 2, (4,)), backend, "float64")
    *_, x, samples, state, _ = sharded(lambda: ScoreFunction(model, 1, "running"), data, rng)
    bounds = [shard.share * drawn.elbo for shard, drawn in zip(x, samples)]
    assert state.mean == pytest.approx([sum(bounds)], rel=1e-13)


def test_chains_of_each_shard_move_and_their_step_follows_all_acceptances(backend, data, rng):
    model = Model(Architecture(D, 2, (4,), has_encoder=False), backend, "float64")
    steps = []

    class Spy(MonteCarloEM):
        def sample(self, *arguments):
            samples, state = super().sample(*arguments)
            steps.append((len(arguments[2]), float(state.step_size[0])))
            return samples, state

    _, _, x, _, state, _ = sharded(lambda: Spy(model, 1, N), data, rng)
    moved = set(np.nonzero(state.z)[1])  # a proposal may be rejected: not all
    assert moved <= set(np.concatenate([shard.rows for shard in x]))
    assert all(moved & set(shard.rows) for shard in x)
    acceptances = [(rows, np.log(step / FIRST_STEP) / GAIN + ACCEPTANCE) for rows, step in steps]
    mean = sum(rows * acceptance for rows, acceptance in acceptances) / M
    assert len({acceptance for _, acceptance in acceptances}) > 1
    assert state.step_size == pytest.approx([FIRST_STEP * np.exp(GAIN * (mean - ACCEPTANCE))], rel=1e-12)
