"""Twenty errors of one line, planted in a copy of the package: the tutorial that teaches the formula must fail.

A reader who runs the tutorials has then checked the library, too.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import overview
import pytest

PACKAGE = Path(overview.ROOT) / "npvae"


class Planted(NamedTuple):
    tutorial: str
    what: str
    file: str
    right: str  # stands once in the file
    wrong: str


PLANTED = [
    Planted(
        "03", "the divergence of Gaussians lacks the 1",
        "backends/reference.py",
        "np.sum(mu**2 + np.expm1(log_var) - log_var", "np.sum(mu**2 + np.exp(log_var) - log_var",
    ),
    Planted(
        "03", "the divergence of two Normals is scaled by the wrong one",
        "distributions/divergence.py", "(q.loc - p.loc) / p.scale", "(q.loc - p.loc) / q.scale",
    ),
    Planted(
        "04", "the score is averaged over samples, not summed",
        "backends/reference.py",
        ".sum(axis=0) for array in (dmu, dlog_var)", ".mean(axis=0) for array in (dmu, dlog_var)",
    ),
    Planted(
        "04", "the baseline includes the sample itself",
        "estimators/score_function.py",
        "(f.sum(axis=0) - f) / (self.n_samples - 1)", "(f.sum(axis=0) - 0 * f) / self.n_samples",
    ),
    Planted(
        "05", "the derivative of an exponential variable by its rate has the wrong sign",
        "distributions/inverse_cdf.py",
        '"rate": -self._rsample(eps) / self.rate', '"rate": self._rsample(eps) / self.rate',
    ),
    Planted(
        "05", "a location-scale density lacks the Jacobian",
        "distributions/location_scale.py",
        "self.log_prob_noise(standardized(x, self.loc, self.scale)) - np.log(self.scale)",
        "self.log_prob_noise(standardized(x, self.loc, self.scale))",
    ),
    Planted(
        "06", "noise is scaled by the variance",
        "backends/reference.py", "sigma = np.exp(log_var / 2)\n    z =", "sigma = np.exp(log_var)\n    z =",
    ),
    Planted(
        "06", "the sampled log-ratio has the wrong sign of log_var",
        "backends/reference.py", "z**2 - noise**2 - log_var", "z**2 - noise**2 + log_var",
    ),
    Planted(
        "06", "the sampled divergence pulls z away from the prior",
        "backends/reference.py", "dz - weights * (mu + sigma * noise)", "dz + weights * (mu + sigma * noise)",
    ),
    Planted(
        "06", "the divergence of version A is a sum over samples, not a mean",
        "estimators/sgvb.py", "self._buffers.full(1 / kl_rows, kl_rows)", "self._buffers.full(1 / M, kl_rows)",
    ),
    Planted(
        "07", "the derivative of the activation is left out",
        "backends/reference.py", "dy *= formulas.activation(activation).derivative(y)", "dy *= 1",
    ),
    Planted(
        "07", "the gradient by log_var lacks 1/2",
        "backends/reference.py", "dlog_var = 0.5 * sigma * (dz * noise)", "dlog_var = sigma * (dz * noise)",
    ),
    Planted(
        "07", "the gradient of the Bernoulli goes through the sigmoid twice",
        "backends/reference.py",
        "weights * (x - sigmoid(samples))", "weights * (x - sigmoid(samples)) * sigmoid(samples) * sigmoid(-samples)",
    ),
    Planted(
        "08", "Adagrad sums absolute values, not squares",
        "backends/formulas.py",
        "squares = squares + g * g\n    return w + over_sqrt", "squares = squares + abs(g)\n    return w + over_sqrt",
    ),
    Planted(
        "08", "weight decay has the wrong sign",
        "backends/reference.py", "g[weights] -= rule.weight_decay", "g[weights] += rule.weight_decay",
    ),
    Planted(
        "10", "log sigma^2 is counted twice in the Gaussian",
        "backends/reference.py", "terms = LOG_2PI + log_vars + error", "terms = LOG_2PI + 2 * log_vars + error",
    ),
    Planted(
        "10", "the gradient of the Gaussian by log_var lacks 1/2",
        "backends/reference.py", "weights * 0.5 * (error**2 * precision - 1)", "weights * (error**2 * precision - 1)",
    ),
    Planted(
        "11", "leapfrog begins with a full step of the momentum",
        "samplers/hmc.py", "z.copy(), momentum + 0.5 * step * gradient", "z.copy(), momentum + step * gradient",
    ),
    Planted(
        "12", "the divergence of the weights is not divided by N in the gradient",
        "estimators/full_vb.py", "self.analytic_kl, 1 / N,", "self.analytic_kl, 1,",
    ),
    Planted(
        "12", "the divergence of the weights is added to the bound",
        "estimators/full_vb.py", "elbo - kl_of_weights / N", "elbo + kl_of_weights / N",
    ),
]  # fmt: skip


def test_there_are_twenty():
    assert len(set(PLANTED)) == 20


@pytest.mark.slow(reason="runs a tutorial with an error, often after compiling kernels anew")
@pytest.mark.process
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: f"{planted.tutorial}-{planted.what}")
def test_the_tutorial_fails(planted, tmp_path):
    copy = tmp_path / "npvae"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / planted.file).read_text()
    assert text.count(planted.right) == 1
    (copy / planted.file).write_text(text.replace(planted.right, planted.wrong))
    (tutorial,) = (path for path in overview.TUTORIALS if overview.number(path) == planted.tutorial)
    with pytest.raises(RuntimeError, match=r"fails:\n(.|\n)*(AssertionError|ValueError)"):
        overview.run(tutorial, tmp_path / "picture.png", package=tmp_path)
