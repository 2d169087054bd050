"""The examples in the docstrings: each runs, and public classes and functions have one."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import npvae

#: Modules that are not imported here: `__main__` runs the command, the others need CUDA or its simulator.
SKIPPED = ("__main__", "cuda")

MODULES = ["npvae"] + [
    module.name
    for module in pkgutil.walk_packages(npvae.__path__, "npvae.")
    if not any(part in module.name.rpartition(".")[2] for part in SKIPPED)
]

#: Packages and modules that user code does not call: examples are welcome, not asked for.
INTERNAL = (
    "npvae.backends",
    "npvae.bench",
    "npvae.cli",
    "npvae.conventions",
    "npvae.datasets.files",
    "npvae.datasets.formats",
    "npvae.fitting",
    "npvae.modelfile",
    "npvae.persistence",
    "npvae.progress",
    "npvae.training.checkpoints",
)

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said, runner = [], doctest.DocTestRunner(verbose=False, optionflags=OPTIONS)
    module = importlib.import_module(name)
    with np.printoptions(precision=8, suppress=False, linewidth=75, threshold=1000, floatmode="maxprec", legacy=False):
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
            runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_a_wrong_example_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr(npvae.VAE, "__doc__", "A wrong example.\n\n    >>> 1 + 1\n    3\n")
    with pytest.raises(AssertionError, match=r"Expected:\s+3"):
        test_examples(npvae.VAE.__module__, tmp_path, monkeypatch)


# Who has an example ---------------------------------------------------------------------------------------------------

#: Public classes and functions without an example. This list only becomes shorter.
WITHOUT_EXAMPLE = (
    "checks.GradientProblem",
    "checks.gradient_problem",
    "datasets.digits.make_digits",
    "datasets.loaders.Dataset",
    "datasets.loaders.Description",
    "datasets.loaders.describe",
    "datasets.loaders.load",
    "datasets.loaders.load_binarized_mnist",
    "datasets.loaders.load_digits",
    "datasets.loaders.load_frey_face",
    "datasets.loaders.load_mnist",
    "distributions.Bernoulli",
    "distributions.Normal",
    "distributions.kl_divergence",
    "inference.Posterior",
    "inference.elbo_and_gradient",
    "inference.fit_posterior",
    "plots.as_unit_interval",
    "plots.epochs",
    "plots.growth",
    "plots.image_grid",
    "plots.kernels",
    "plots.latent_space",
    "plots.learning_curve",
    "plots.manifold",
    "plots.reconstructions",
    "plots.show_images",
    "plots.summary",
    "reparameterization.Beta",
    "reparameterization.Cauchy",
    "reparameterization.Chi2",
    "reparameterization.Composed",
    "reparameterization.Dirichlet",
    "reparameterization.Erlang",
    "reparameterization.Exponential",
    "reparameterization.FisherSnedecor",
    "reparameterization.Gamma",
    "reparameterization.Gompertz",
    "reparameterization.Gumbel",
    "reparameterization.Laplace",
    "reparameterization.LocationScale",
    "reparameterization.LogNormal",
    "reparameterization.Logistic",
    "reparameterization.MultivariateNormal",
    "reparameterization.MultivariateStudentT",
    "reparameterization.Normal",
    "reparameterization.Pareto",
    "reparameterization.Rayleigh",
    "reparameterization.Reciprocal",
    "reparameterization.Reparameterized",
    "reparameterization.StudentT",
    "reparameterization.Triangular",
    "reparameterization.Uniform",
    "reparameterization.Weibull",
    "vae.VAE",
    "vae.fit",
    "vae.load",
)


def public(name):
    """Yield (name, thing) for the public classes and functions that a module defines; errors need no example."""
    module = importlib.import_module(name)
    for key, thing in vars(module).items():
        if key.startswith("_") or getattr(thing, "__module__", None) != name:
            continue
        if inspect.isfunction(thing) or (inspect.isclass(thing) and not issubclass(thing, BaseException)):
            yield f"{name}.{key}".removeprefix("npvae."), thing


def test_public_classes_and_functions_have_an_example():
    modules = [name for name in MODULES if not name.startswith(INTERNAL)]
    things = dict(item for name in modules for item in public(name))
    without = {name for name, thing in things.items() if ">>> " not in (thing.__doc__ or "")}
    new, done = sorted(without - set(WITHOUT_EXAMPLE)), sorted(set(WITHOUT_EXAMPLE) - without)
    assert not new, "\n".join(["give these an example:", *new])
    assert not done, "\n".join(["these have an example, or are gone; take them off the list:", *done])
