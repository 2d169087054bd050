"""The same training in each library, written as an expert of that library would write it.

All use float32, data in memory, minibatches of shuffled rows, the bound with one sample and the KL divergence in closed
form, Adagrad, a Gaussian prior on the weights, and densities computed from logits. `epochs` measures the time of an
epoch, and the largest memory of the process. Each keeps the data as it needs it: npvae as it comes, uint8 or sparse,
the others as float32, but for the sparse product of PyTorch.
"""

import itertools
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.formulas import MIN_LOG_VAR as FLOOR
from ..likelihoods import LIKELIHOODS
from . import sources
from .sources import SOURCES

LEARNING_RATE = 0.01

#: Functions of another library, by the names that a row of ``LIKELIHOODS`` has for npvae's.
Functions = dict[str, Callable[..., Any]]


class Setup(NamedTuple):
    """The model that is trained, its data, and the device."""

    n_features: int = 784
    hidden_layer_sizes: tuple[int, ...] = (500,)
    n_components: int = 20
    likelihood: str = "bernoulli"  # or another likelihood of data in [0, 1]
    batch_size: int = 100
    rows: int = 50_000
    data: str = "mnist"  # a row of `sources.SOURCES`
    data_dir: str | None = None  # folder of the data sets; without it, data that is generated
    path: str | None = None  # file of the data, if it was stored
    device: str = "cpu"  # or "cuda"
    tf32: bool = False  # whether other libraries may round the factors of products to 10 bits; npvae never does

    @property
    def largest(self) -> int:
        """The number in the data that stands for 1."""
        return SOURCES[self.data].largest

    def load(self) -> Any:
        """Return the data: uint8 (rows, n_features), an array or a sparse matrix."""
        if self.path is None:
            return sources.make(self.data, self.rows, self.n_features, self.data_dir)
        return sources.read(self.path)

    def dense(self, bytes_a_cell: int = 1) -> NDArray[np.uint8]:
        """Return the data as an array, if so many bytes a cell are free in memory.

        Raises
        ------
        MemoryError
            If they are not.
        """
        needed, free = self.rows * self.n_features * bytes_a_cell, sources.free_memory()
        if needed > free:
            raise MemoryError(f"a dense array takes {needed / 1e6:.1f} MB of memory; {free / 1e6:.1f} MB are free")
        X = self.load()
        return X.toarray() if SOURCES[self.data].sparse else X

    def heads(self) -> tuple[tuple[str, str], ...]:
        """Return (name, activation) of the decoder's heads, the output layers that parametrize p(x|z)."""
        return tuple((f"head.{name}", activation) for name, activation, _ in LIKELIHOODS[self.likelihood].heads)

    def layers(self) -> list[tuple[str, int, int]]:
        """List (name, inputs, outputs) of all layers."""
        encoder, decoder = (
            (self.n_features, *self.hidden_layer_sizes),
            (self.n_components, *self.hidden_layer_sizes[::-1]),
        )
        layers = [(f"encoder{i}", *sizes) for i, sizes in enumerate(itertools.pairwise(encoder))]
        layers += [("mu", encoder[-1], self.n_components), ("log_var", encoder[-1], self.n_components)]
        layers += [(f"decoder{i}", *sizes) for i, sizes in enumerate(itertools.pairwise(decoder))]
        return layers + [(name, decoder[-1], self.n_features) for name, _ in self.heads()]

    def flop(self) -> int:
        """Return the number of floating-point operations in the matrix products of an epoch."""
        sizes = [I * O for _, I, O in self.layers()]
        return 2 * self.rows * (3 * sum(sizes) - self.n_features * self.hidden_layer_sizes[0])

    def initial(self) -> dict[str, NDArray[np.float32]]:
        """Return the initial parameters by name: weights ``*.W`` from N(0, 0.01^2), biases ``*.b`` zero."""
        rng, arrays = np.random.default_rng(1), {}
        for name, I, O in self.layers():
            arrays[name + ".W"] = rng.normal(0, 0.01, (I, O)).astype(np.float32)
            arrays[name + ".b"] = np.zeros(O, np.float32)
        return arrays


class Npvae:
    """npvae, with the objects that `VAE.fit` uses."""

    backend: str | None = None  # None: the backend of the device

    def __init__(self, setup: Setup):
        from .. import fitting
        from ..vae import VAE

        settings = VAE(
            setup.n_components, hidden_layer_sizes=setup.hidden_layer_sizes, likelihood=setup.likelihood,
            batch_size=setup.batch_size, learning_rate=LEARNING_RATE, init_std=0.01, max_epochs=1,
            backend=self.backend or setup.device,
        ).get_params()  # fmt: skip
        X = self.data(setup)
        if LIKELIHOODS[setup.likelihood].density:  # in the units of the others, and of the paper
            X = (X * (1 / 255)).astype(np.float32)
        _, run = fitting.begin(SimpleNamespace(**settings), X, say=lambda message: None)
        self.trainer = run.trainer

    def data(self, setup: Setup) -> Any:
        """Return the data as `fit` gets it."""
        return setup.load()

    def epoch(self) -> float:
        """Train for one epoch; return the mean bound in nats."""
        return self.trainer.epoch(lambda: False)[0]


class NumPy(Npvae):
    """npvae with the backend "reference"."""

    backend = "reference"


class NpvaeDense(Npvae):
    """npvae, on the dense array of data that is a sparse matrix."""

    def data(self, setup: Setup) -> Any:
        """Return the data as an array."""
        return setup.dense()


class Torch:
    """PyTorch: autograd, and Adagrad with weight decay for the group of the weights, which is fused on a CPU."""

    compiled, fused = False, True

    def __init__(self, setup: Setup):
        import torch
        from torch.nn import functional

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        torch.set_float32_matmul_precision("high" if setup.tf32 else "highest")
        self.setup, self.torch = setup, torch
        self.prepare()
        initial = {name: torch.from_numpy(array).to(setup.device) for name, array in setup.initial().items()}
        arrays = {name: torch.nn.Parameter(array) for name, array in initial.items()}
        names, self.parameters = list(arrays), list(arrays.values())
        weights = [p for name, p in arrays.items() if name.endswith(".W")]
        biases = [p for name, p in arrays.items() if name.endswith(".b")]
        fused = self.fused and setup.device == "cpu"
        groups: list[Any] = [{"params": weights, "weight_decay": 1 / setup.rows}, {"params": biases}]
        # The others divide by sqrt(G + 1e-8): here 1e-8 is where G starts.
        accumulator: Any = {"initial_accumulator_value": 1e-8, "eps": 0}
        self.optimizer = torch.optim.Adagrad(groups, LEARNING_RATE, fused=fused or None, **accumulator)
        depth, heads = len(setup.hidden_layer_sizes), setup.heads()

        def bernoulli_log_prob(x, logits):
            return -functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")

        def gaussian_log_prob(x, mu, log_var):
            return -0.5 * torch.sum(np.log(2 * np.pi) + log_var + (x - mu) ** 2 * torch.exp(-log_var))

        log_probs: Functions = {"bernoulli_log_prob": bernoulli_log_prob, "gaussian_log_prob": gaussian_log_prob}
        log_prob = log_probs[LIKELIHOODS[setup.likelihood].log_prob]
        activations: Functions = {
            "identity": lambda a: a,
            "sigmoid": torch.sigmoid,
            "soft_floor": lambda a: FLOOR + functional.softplus(a - FLOOR),
        }

        def loss(x, eps, *parameters):
            p = dict(zip(names, parameters))

            def dense(h, name):
                return torch.addmm(p[name + ".b"], h, p[name + ".W"])

            h = x
            for i in range(depth):
                h = torch.tanh(dense(h, f"encoder{i}"))
            mu, log_var = dense(h, "mu"), dense(h, "log_var")
            h = mu + torch.exp(0.5 * log_var) * eps
            for i in range(depth):
                h = torch.tanh(dense(h, f"decoder{i}"))
            outputs = [activations[activation](dense(h, name)) for name, activation in heads]
            kl = -0.5 * torch.sum(1 + log_var - mu * mu - torch.exp(log_var))
            return (kl - log_prob(self.target(x), *outputs)) / len(eps)

        mode = "reduce-overhead" if setup.device == "cuda" else "default"  # "reduce-overhead" captures CUDA graphs
        self.loss = torch.compile(loss, mode=mode) if self.compiled else loss

    def prepare(self) -> None:
        """Keep the data: a tensor of float32."""
        X = self.torch.from_numpy(self.setup.dense(5)).to(self.setup.device)  # uint8, and float32
        self.X = X.float().div_(self.setup.largest)

    def minibatch(self, rows):
        """Return rows of the data."""
        return self.X[rows]

    def target(self, x):
        """Return the rows of a minibatch as the log-density takes them."""
        return x

    def epoch(self) -> float:
        """Train for one epoch; return the mean bound in nats."""
        torch, setup = self.torch, self.setup
        device = setup.device
        order, total = torch.randperm(setup.rows, device=device), torch.zeros((), device=device)
        for start in range(0, setup.rows, setup.batch_size):
            rows = order[start : start + setup.batch_size]
            eps = torch.randn(len(rows), setup.n_components, device=device)
            loss = self.loss(self.minibatch(rows), eps, *self.parameters)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(rows)
        return -float(total) / setup.rows


class TorchPlain(Torch):
    """PyTorch with its default Adagrad, which is not fused."""

    fused = False


class TorchCompiled(Torch):
    """PyTorch with compiled forward and backward passes."""

    compiled = True


class TorchSparse(Torch):
    """PyTorch with its sparse product in the first layer. The likelihood takes the dense rows of a minibatch."""

    def prepare(self) -> None:
        """Keep the data: a CSR matrix of SciPy, which selects rows faster than PyTorch's."""
        self.X = self.setup.load().astype(np.float32)
        self.X.data /= self.setup.largest

    def minibatch(self, rows):
        """Return rows of the data as a sparse tensor."""
        x = self.X[rows.numpy()]
        arrays = (self.torch.from_numpy(array) for array in (x.indptr, x.indices, x.data))
        return self.torch.sparse_csr_tensor(*arrays, x.shape, check_invariants=False)

    def target(self, x):
        """Return the rows of a minibatch as a dense tensor."""
        return x.to_dense()


class Jax:
    """JAX: an epoch is one compiled scan over the minibatches, which reuses the memory of its state."""

    def __init__(self, setup: Setup):
        import jax
        import jax.numpy as jnp

        self.jax, depth, heads = jax, len(setup.hidden_layer_sizes), setup.heads()
        jax.config.update("jax_platform_name", "gpu" if setup.device == "cuda" else "cpu")
        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if setup.tf32 else "highest")
        X = setup.dense(6)  # uint8, once more where JAX computes, and float32
        self.X = jax.jit(lambda X: X.astype(jnp.float32) / setup.largest)(X)
        self.parameters = {name: jnp.asarray(array) for name, array in setup.initial().items()}
        self.squares = {name: jnp.zeros_like(array) for name, array in self.parameters.items()}
        self.key = jax.random.key(0)

        def bernoulli_log_prob(x, logits):
            return jnp.sum(x * logits - jax.nn.softplus(logits))

        def gaussian_log_prob(x, mu, log_var):
            return -0.5 * jnp.sum(jnp.log(2 * jnp.pi) + log_var + (x - mu) ** 2 * jnp.exp(-log_var))

        log_probs: Functions = {"bernoulli_log_prob": bernoulli_log_prob, "gaussian_log_prob": gaussian_log_prob}
        log_prob = log_probs[LIKELIHOODS[setup.likelihood].log_prob]
        activations: Functions = {
            "identity": lambda a: a,
            "sigmoid": jax.nn.sigmoid,
            "soft_floor": lambda a: FLOOR + jax.nn.softplus(a - FLOOR),
        }

        def loss(p, x, eps):
            def dense(h, name):
                return h @ p[name + ".W"] + p[name + ".b"]

            h = x
            for i in range(depth):
                h = jnp.tanh(dense(h, f"encoder{i}"))
            mu, log_var = dense(h, "mu"), dense(h, "log_var")
            h = mu + jnp.exp(0.5 * log_var) * eps
            for i in range(depth):
                h = jnp.tanh(dense(h, f"decoder{i}"))
            outputs = [activations[activation](dense(h, name)) for name, activation in heads]
            kl = -0.5 * jnp.sum(1 + log_var - mu * mu - jnp.exp(log_var))
            return (kl - log_prob(x, *outputs)) / len(x)

        batches = setup.rows // setup.batch_size  # a last, smaller minibatch is left out: shapes are fixed

        def epoch(p, squares, key, X):
            def step(carry, batch):
                (p, squares), (rows, key) = carry, batch
                eps = jax.random.normal(key, (setup.batch_size, setup.n_components))
                value, g = jax.value_and_grad(loss)(p, X[rows], eps)
                g = {name: g[name] + p[name] / setup.rows if name.endswith(".W") else g[name] for name in g}
                squares = {name: squares[name] + g[name] ** 2 for name in g}
                p = {name: p[name] - LEARNING_RATE * g[name] * jax.lax.rsqrt(squares[name] + 1e-8) for name in g}
                return (p, squares), value

            for_order, for_noise = jax.random.split(key)
            order = jax.random.permutation(for_order, setup.rows)[: batches * setup.batch_size].reshape(batches, -1)
            (p, squares), values = jax.lax.scan(step, (p, squares), (order, jax.random.split(for_noise, batches)))
            return p, squares, jnp.mean(values)

        self.compiled = jax.jit(epoch, donate_argnums=(0, 1))

    def epoch(self) -> float:
        """Train for one epoch; return the mean bound in nats."""
        self.key, key = self.jax.random.split(self.key)
        self.parameters, self.squares, value = self.compiled(self.parameters, self.squares, key, self.X)
        return -float(value)


class Contestant(NamedTuple):
    """A program in the tables."""

    program: type[Npvae | Torch | Jax]
    module: str  # that must be installed
    on: tuple[str, ...] = ("dense",)  # the data that it is trained on: "dense", "sparse"


#: Contestants by their name in tables.
CONTESTANTS: dict[str, Contestant] = {
    "npvae": Contestant(Npvae, "numba", ("dense", "sparse")),
    "npvae, dense array": Contestant(NpvaeDense, "numba", ("sparse",)),
    "JAX jit + scan": Contestant(Jax, "jax", ("dense", "sparse")),
    "torch.compile": Contestant(TorchCompiled, "torch"),
    "PyTorch, sparse product": Contestant(TorchSparse, "torch", ("sparse",)),
    "PyTorch, fused Adagrad": Contestant(Torch, "torch", ("dense", "sparse")),
    "PyTorch": Contestant(TorchPlain, "torch"),
    "NumPy": Contestant(NumPy, "numpy"),
}
