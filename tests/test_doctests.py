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
    "npvae.cluster",
    "npvae.conventions",
    "npvae.datasets.files",
    "npvae.datasets.formats",
    "npvae.fitting",
    "npvae.modelfile",
    "npvae.persistence",
    "npvae.progress",
    "npvae.reproduce",
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

#: Public classes and functions without an example: base classes and protocols, whose members have one, and what
#: `gradcheck` passes between its parts. This list only becomes shorter.
WITHOUT_EXAMPLE = (
    "checks.GradientProblem",
    "checks.gradient_problem",
    "distributions.base.Distribution",
    "distributions.base.Reparameterized",
    "distributions.base.Univariate",
    "distributions.composition.Composed",
    "distributions.inverse_cdf.InverseCDF",
    "distributions.location_scale.LocationScale",
    "estimators.interface.RunsAhead",
    "plots.Epoch",
    "plots.FittedModel",
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
