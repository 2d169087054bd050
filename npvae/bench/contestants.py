"""The same training in each library, written as an expert of that library would write it.

All use float32, data in memory, minibatches of shuffled rows, the bound with one sample and the KL divergence in closed
form, Adagrad, a Gaussian prior on the weights, and densities computed from logits. `epochs` measures the time of an
epoch.
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
    data_dir: str | None = None  # folder of MNIST or Frey Face; without it, random pixels, which take the same time
    device: str = "cpu"  # or "cuda"
    tf32: bool = False  # whether other libraries may round the factors of products to 10 bits; npvae never does

    def pixels(self) -> NDArray[np.uint8]:
        """Return the data: uint8 (rows, n_features)."""
        X = None
        if self.data_dir is not None:
            from .. import datasets

            load = {784: datasets.load_mnist, 560: datasets.load_frey_face}[self.n_features]
            X = load(self.data_dir).X_train
            if X.dtype != np.uint8:
                X = np.round(X * 255).astype(np.uint8)
        if X is None:
            X = np.random.default_rng(0).integers(0, 256, (min(self.rows, 20_000), self.n_features), dtype=np.uint8)
        return np.resize(X, (self.rows, self.n_features))

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
        X = setup.pixels()
        if LIKELIHOODS[setup.likelihood].density:  # in the units of the others, and of the paper
            X = (X * (1 / 255)).astype(np.float32)
        _, run = fitting.begin(SimpleNamespace(**settings), X, say=lambda message: None)
        self.trainer = run.trainer

    def epoch(self) -> float:
        """Train for one epoch; return the mean bound in nats."""
        return self.trainer.epoch(lambda: False)[0]


class NumPy(Npvae):
    """npvae with the backend "reference"."""

    backend = "reference"


class Torch:
    """PyTorch: autograd, and Adagrad with weight decay for the group of the weights, which is fused on a CPU."""

    compiled, fused = False, True

    def __init__(self, setup: Setup):
        import torch
        from torch.nn import functional

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        torch.set_float32_matmul_precision("high" if setup.tf32 else "highest")
        self.setup, self.torch = setup, torch
        self.X = torch.from_numpy(setup.pixels().astype(np.float32) / 255).to(setup.device)
        initial = {name: torch.from_numpy(array).to(setup.device) for name, array in setup.initial().items()}
        arrays = {name: torch.nn.Parameter(array) for name, array in initial.items()}
        names, self.parameters = list(arrays), list(arrays.values())
        weights = [p for name, p in arrays.items() if name.endswith(".W")]
        biases = [p for name, p in arrays.items() if name.endswith(".b")]
        fused = self.fused and setup.device == "cpu"
        groups: list[Any] = [{"params": weights, "weight_decay": 1 / setup.rows}, {"params": biases}]
        self.optimizer = torch.optim.Adagrad(groups, LEARNING_RATE, eps=1e-8, fused=fused or None)
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
            return (kl - log_prob(x, *outputs)) / len(x)

        mode = "reduce-overhead" if setup.device == "cuda" else "default"  # "reduce-overhead" captures CUDA graphs
        self.loss = torch.compile(loss, mode=mode) if self.compiled else loss

    def epoch(self) -> float:
        """Train for one epoch; return the mean bound in nats."""
        torch, setup = self.torch, self.setup
        device = setup.device
        order, total = torch.randperm(setup.rows, device=device), torch.zeros((), device=device)
        for start in range(0, setup.rows, setup.batch_size):
            x = self.X[order[start : start + setup.batch_size]]
            eps = torch.randn(len(x), setup.n_components, device=device)
            loss = self.loss(x, eps, *self.parameters)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(x)
        return -float(total) / setup.rows


class TorchPlain(Torch):
    """PyTorch with its default Adagrad, which is not fused."""

    fused = False


class TorchCompiled(Torch):
    """PyTorch with compiled forward and backward passes."""

    compiled = True


class Jax:
    """JAX: an epoch is one compiled scan over the minibatches, which reuses the memory of its state."""

    def __init__(self, setup: Setup):
        import jax
        import jax.numpy as jnp

        self.jax, depth, heads = jax, len(setup.hidden_layer_sizes), setup.heads()
        jax.config.update("jax_platform_name", "gpu" if setup.device == "cuda" else "cpu")
        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if setup.tf32 else "highest")
        self.X = jnp.asarray(setup.pixels().astype(np.float32) / 255)
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


#: Contestants by their name in tables: a class with the method `epoch`, and the module that must be installed.
CONTESTANTS: dict[str, tuple[type[Npvae | Torch | Jax], str]] = {
    "npvae": (Npvae, "numba"),
    "JAX jit + scan": (Jax, "jax"),
    "torch.compile": (TorchCompiled, "torch"),
    "PyTorch, fused Adagrad": (Torch, "torch"),
    "PyTorch": (TorchPlain, "torch"),
    "NumPy": (NumPy, "numpy"),
}
