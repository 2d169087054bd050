"""What the tests share: seeds, small models with random parameters, and the real data where it is at hand."""

import os

import numpy as np
import pytest

from npvae import backends, datasets
from npvae.model import Architecture, Model

if "NPVAE_TEST_TILE" in os.environ:
    import llvmlite.binding
    from numba.core.registry import cpu_target

    # Have the kernels choose the tile of another processor, but Numba compile for this one: it looks first.
    assert cpu_target.target_context
    features = {"avx512": ("avx512f",), "avx2": ("avx2", "fma"), "neon": ("neon",), "plain": ()}
    chosen = features[os.environ["NPVAE_TEST_TILE"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: dict.fromkeys(chosen, True))
        import npvae.backends.vectors  # noqa: F401


#: Set NPVAE_THOROUGH to repeat what is random as often as it takes to be sure: ten minutes more.
THOROUGH = bool(os.environ.get("NPVAE_THOROUGH"))


@pytest.fixture
def rng():
    """The one source of randomness of a test."""
    return np.random.default_rng(1312_6114)


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    """Each backend of a CPU in turn."""
    return backends.get(request.param)


@pytest.fixture(scope="session")
def mnist():
    """MNIST, or a visible skip."""
    if "NPVAE_DATA" not in os.environ:
        pytest.skip("set NPVAE_DATA to a folder with MNIST to run this test")
    return datasets.load_mnist()


@pytest.fixture
def make_model(rng):
    """A function from the fields of an `Architecture` to (model, parameters): weights and biases drawn at random.

    Biases are not left at zero, so that a mistake in one shows.
    """

    def make(backend=None, dtype="float64", std=0.4, **fields):
        defaults = {"n_features": 7, "n_components": 3, "hidden_layer_sizes": (6, 5)}
        defaults["n_binary"] = 2 if fields.get("likelihood") == "mixed" else 0
        model = Model(Architecture(**defaults | fields), backend or backends.get("reference"), dtype)
        return model, model.parameters(std * rng.standard_normal(model.layout.size))

    return make
