"""Densities against SciPy, divergences against quadrature."""

import dataclasses
import importlib
import pickle
import pkgutil

import numpy as np
import planted
import pytest
import scipy.integrate
import scipy.stats

from npvae import distributions
from npvae.backends import formulas
from npvae.distributions import Bernoulli, Normal, kl_divergence
from npvae.model import Architecture, Model
from npvae.parameters import Buffers

LOC, SCALE = np.array([0.0, -1.5, 3.0, 1e3]), np.array([1.0, 0.2, 5.0, 1e-2])


def test_normal_against_scipy(rng):
    x = LOC + SCALE * rng.standard_normal((50, 4))
    normal, exact = Normal(LOC, SCALE), scipy.stats.norm(LOC, SCALE)
    np.testing.assert_allclose(normal.log_prob(x), exact.logpdf(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(normal.entropy(), exact.entropy(), rtol=1e-14)
    np.testing.assert_allclose(normal.icdf(0.3), exact.ppf(0.3), rtol=1e-14)


def test_bernoulli_against_scipy():
    logits = np.array([-700.0, -3.0, 0.0, 0.5, 40.0])
    bernoulli = Bernoulli(logits)
    np.testing.assert_allclose(bernoulli.probs, scipy.special.expit(logits), rtol=1e-15)
    for x in (0, 1):
        np.testing.assert_allclose(
            bernoulli.log_prob(x), scipy.special.log_expit(logits * (2 * x - 1)), rtol=1e-15, atol=1e-14
        )
    middle = Bernoulli(logits[1:4])
    np.testing.assert_allclose(middle.entropy(), scipy.stats.bernoulli(middle.probs).entropy(), rtol=1e-14)


def errors_against_scipy(rng, backend):
    """Return the largest errors of the Gaussian and the Bernoulli density, two samples of three datapoints each.

    They are sums over independent dimensions; row l * 3 + i belongs to datapoint i.
    """
    mu, log_var = rng.standard_normal((6, 5)), rng.standard_normal((6, 5))
    x = rng.random((3, 5))
    exact = scipy.stats.norm(mu, np.exp(log_var / 2)).logpdf(np.tile(x, (2, 1))).sum(axis=1)
    gaussian = np.abs(backend.gaussian_log_prob(x, mu, log_var, np.ones(6))[0] - exact).max()
    x = (x < 0.5).astype(float)
    exact = scipy.stats.bernoulli(scipy.special.expit(mu)).logpmf(np.tile(x, (2, 1))).sum(axis=1)
    return gaussian, np.abs(backend.bernoulli_log_prob(x, mu, np.ones(6))[0] - exact).max()


def test_densities_of_the_backends_against_scipy(rng, backend):
    assert max(errors_against_scipy(rng, backend)) < 1e-12


def test_planted_errors_in_densities_show(rng):
    assert errors_against_scipy(rng, planted.gaussian_without_two_pi())[0] > 1
    assert errors_against_scipy(rng, planted.bernoulli_with_ones_and_zeros_swapped())[1] > 0.1


def quadrature_kl(q, p):
    """E_q[log q - log p] by adaptive quadrature over 12 standard deviations."""
    q_, p_ = scipy.stats.norm(*q), scipy.stats.norm(*p)
    return scipy.integrate.quad(
        lambda x: q_.pdf(x) * (q_.logpdf(x) - p_.logpdf(x)), q[0] - 12 * q[1], q[0] + 12 * q[1], epsabs=1e-13
    )[0]


@pytest.mark.parametrize("loc, scale", [(0.0, 1.0), (0.7, 0.4), (-2.0, 3.0), (0.1, 1.001)])
def test_kl_against_quadrature(backend, loc, scale):
    exact = quadrature_kl((loc, scale), (0, 1))
    mu, log_var = np.array([[loc]]), np.array([[2 * np.log(scale)]])
    _, kl = backend.gaussian_latent(mu, log_var, np.zeros((1, 1)), True)
    np.testing.assert_allclose(kl, exact, rtol=1e-9, atol=1e-12)
    _, wrong = planted.kl_without_one().gaussian_latent(mu, log_var, np.zeros((1, 1)), True)
    assert abs(wrong[0] - exact) > 0.1


def test_kl_between_normals():
    pair = (0.5, 0.3), (-1.0, 2.0)
    q, p = Normal(*pair[0]), Normal(*pair[1])
    assert kl_divergence(q, p) == pytest.approx(quadrature_kl(*pair), rel=1e-9)
    assert kl_divergence(p, q) == pytest.approx(quadrature_kl(*reversed(pair)), rel=1e-9)
    assert kl_divergence(q, p) != pytest.approx(kl_divergence(p, q), rel=0.1)  # it is not symmetric
    assert kl_divergence(q, q) == 0
    assert kl_divergence(Normal(1.0, 2.0), Normal()) > 0
    with pytest.raises(TypeError, match="Bernoulli from Normal"):
        kl_divergence(Bernoulli(0.0), p)


def test_log_variance_never_falls_below_its_floor(backend):
    """And far above it the floor does nothing."""
    model = Model(Architecture(4, 1, (), likelihood="gaussian", constant_log_var=True), backend, "float64")
    parameters = model.parameters(np.zeros(model.layout.size))
    parameters["decoder.log_var.b"][...] = [-1e4, formulas.MIN_LOG_VAR, 0.0, 5.0]
    y = model.decode(parameters, np.ones((1, 1)), Buffers(backend, "float64")).outputs[1][0]
    np.testing.assert_allclose(y, [formulas.MIN_LOG_VAR, formulas.MIN_LOG_VAR + np.log(2), 0, 5], atol=2e-6)


def test_every_family_is_exported():
    """Every family of every file of the package, under one name."""
    files = [
        importlib.import_module(f"npvae.distributions.{f.name}") for f in pkgutil.iter_modules(distributions.__path__)
    ]
    families = {
        name: thing
        for file in files
        for name, thing in vars(file).items()
        if dataclasses.is_dataclass(thing) and thing.__module__ == file.__name__
    }
    assert {*families, "kl_divergence"} == set(distributions.__all__)
    assert all(getattr(distributions, name) is family for name, family in families.items())


def test_parameters():
    """Numbers and array-likes in, a float or a float64 array held; frozen, comparable, and a required one is missed."""
    q = Normal(1, scale=[1, 2])
    assert repr(q) == "Normal(loc=1.0, scale=array([1., 2.]))"
    assert q.scale.dtype == np.float64 and type(q.loc) is float
    assert Normal(np.float32(0.5), 2) == Normal(0.5, 2.0) != Normal(0.5, 3.0)
    assert pickle.loads(pickle.dumps(Normal(2.0, 3.0))) == Normal(2.0, 3.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        q.loc = 0.0
    with pytest.raises(TypeError, match="logits"):
        Bernoulli()
    with pytest.raises(ValueError, match="could not convert"):
        Normal("one")
