"""A hash of what each compiled kernel computes, in both precisions and on several shapes: a line each.

Run as a program by ``test_processes``, which compares processes with each other. Its arguments are the activations and
optimizers to compute, and by default all of them.
"""

import hashlib
import sys

import numpy as np
import scipy.sparse

from npvae import backends, nn
from npvae.backends import formulas
from npvae.backends.formulas import HIDDEN
from npvae.optimizers import State, UpdateRule
from npvae.parameters import Buffers, Layout
from npvae.preprocessing import Scaling
from npvae.sparse import SparseRows

cpu = backends.get("cpu")
CHOSEN = sys.argv[1:] or [*HIDDEN, *formulas.UPDATES]


def results(dtype, M, D, L):
    """Yield (kernel, its results) for M datapoints of D columns with L samples each."""
    rng = np.random.default_rng(M)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    x, z, first, second, weights = normal(M, D), *(normal(L * M, D) for _ in range(3)), normal(L * M)
    yield "gaussian_log_prob", cpu.gaussian_log_prob(x, first, second, weights)
    yield "bernoulli_log_prob", cpu.bernoulli_log_prob(np.abs(x) % 1, first, weights)
    parts = np.array(first[:, : D // 2]), np.array(first[:, D // 2 :]), np.array(second[:, D // 2 :])
    yield "mixed_log_prob", cpu.mixed_log_prob(np.abs(x) % 1, *parts, weights)
    holes = np.where(rng.random((M, D)) < 0.1, np.nan, np.abs(x) % 1).astype(dtype)
    yield "mixed_log_prob, missing", cpu.mixed_log_prob(holes, *parts, weights, missing=True)
    yield "fill_missing", (cpu.fill_missing(holes, np.empty_like(x)),)
    mu, log_var = normal(M, D), normal(M, D)
    for analytic_kl in (True, False):
        yield "gaussian_latent", cpu.gaussian_latent(mu, log_var, z, analytic_kl)
        kl_weights = weights[:M] if analytic_kl else weights
        yield "gaussian_latent_backward", cpu.gaussian_latent_backward(mu, log_var, z, first, analytic_kl, kl_weights)
    yield "gaussian_log_q", cpu.gaussian_log_q(z, mu, log_var, weights)
    log_prob, dz = normal(L * M), normal(L * M, D)
    cpu.add_log_prior(z, log_prob, dz)
    yield "add_log_prior", (log_prob, dz)
    X = rng.integers(0, 256, (50, D), dtype=np.uint8)
    scaling = Scaling(np.full(D, 0.3), np.full(D, 0.7))
    yield "gather", (cpu.gather(X, np.arange(20), scaling, np.empty((20, D), dtype)),)
    rows = SparseRows.of(scipy.sparse.csr_array(X * (X > 200)))
    yield "gather, sparse", (cpu.gather(rows, np.arange(20), scaling, np.empty((20, D), dtype)),)
    yield "binarize", (cpu.binarize(np.abs(x) % 1, np.arange(M, dtype=np.uint64), np.empty_like(x)),)
    for activation in (name for name in HIDDEN if name in CHOSEN):
        heads = [("a", 5, "identity", True), ("b", 4, "soft_floor", True)]
        mlp = nn.mlp("net", D, (17, 9), activation, heads)
        layout = Layout(mlp.shapes())
        parameters, gradient, network = layout.view(normal(layout.size)), cpu.gradient(layout, dtype), cpu.Network
        network, buffers, dx = network(mlp, layout), Buffers(cpu, dtype), np.empty_like(x)
        done = network.forward(parameters, x, buffers)
        for place in done.doutputs:
            place[...] = normal(*place.shape)
        network.backward(parameters, x, done, gradient, buffers, dx)
        yield f"network, {activation}", (*done.hidden, *done.outputs, gradient.vector, dx)
        for optimizer in (name for name in formulas.UPDATES if name in CHOSEN):
            averaging = optimizer == "adam"
            rule = UpdateRule(0.1, 0.01, 1, layout.n_weights, averaging=averaging)
            arrays = {name: np.abs(normal(layout.size)) for name in rule.names(optimizer)}
            w, g = (layout.view(array.copy()) for array in (parameters.vector, gradient.vector))
            g.finite, g.starts, g.control = gradient.finite, gradient.starts, gradient.control.copy()
            cpu.step(optimizer, w, g, State(arrays, np.array([9, -1])), rule)
            yield f"{optimizer}_step, {activation}", (w.vector, *arrays.values())


if __name__ == "__main__":
    for dtype in ("float32", "float64"):
        for shape in ((33, 6, 1), (30, 37, 2), (120, 100, 1)):
            for kernel, arrays in results(dtype, *shape):
                digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
                print(kernel, dtype, shape, digest.hexdigest()[:16])
