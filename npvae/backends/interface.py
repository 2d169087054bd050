"""What every backend has, as a Protocol: modules with the same names, arguments and results.

`reference` says what each function computes; here stand the types. ``Network`` and ``Runner`` are None where a backend
has none: layers are then computed one by one, and steps taken one at a time.
"""

from typing import Any, Protocol

#: An array where the backend computes: NumPy's, or one on a device. Shapes stand in the docstrings of `reference`.
Array = Any


class Network(Protocol):
    """All layers of an `nn.MLP` together: what `nn.Network` computes, in fewer calls. Made of (mlp, layout, backend)."""

    mlp: Any

    def forward(self, parameters: Any, x: Array, buffers: Any) -> Any: ...

    def backward(
        self, parameters: Any, x: Array, done: Any, gradient: Any, buffers: Any, dx: Array | None = None
    ) -> None: ...


class Runner(Protocol):
    """Takes many training steps without waiting for each. Made of (estimator, optimizer, parameters, data)."""

    def run(self, batches: list, rng: Any) -> Array: ...


class Backend(Protocol):
    """A module that computes; see `reference` for each function."""

    __name__: str
    Network: Any  # a class with the interface of `Network`, or None
    Runner: Any  # a class with the interface of `Runner`, or None

    def empty(self, shape: tuple, dtype: Any) -> Array: ...

    def asarray(self, array: Any, dtype: Any) -> Array: ...

    def to_numpy(self, array: Array) -> Any: ...

    def gradient(self, layout: Any, dtype: Any) -> Any: ...

    def gather(self, X: Any, rows: Any, scaling: Any, out: Array) -> Array: ...

    def dense(self, x: Array, W: Array, b: Array, activation: str, out: Array | None = None) -> Array: ...

    def dense_backward(self, x: Array, W: Array, y: Array, dy: Array, activation: str, gradients: tuple) -> None: ...

    def gaussian_latent(
        self, mu: Array, log_var: Array, eps: Array, analytic_kl: bool, out: tuple = ...
    ) -> tuple[Array, Array]: ...

    def gaussian_latent_backward(
        self, mu: Array, log_var: Array, eps: Array, dz: Array, analytic_kl: bool, weights: Array, out: tuple = ...
    ) -> tuple[Array, Array]: ...

    def gaussian_log_q(
        self, z: Array, mu: Array, log_var: Array, weights: Array, out: tuple = ...
    ) -> tuple[Array, Array, Array]: ...

    def add_log_prior(self, z: Array, log_prob: Array, dz: Array) -> None: ...

    def bernoulli_log_prob(self, x: Array, logits: Array, weights: Array, out: tuple = ...) -> tuple[Array, Array]: ...

    def gaussian_log_prob(
        self, x: Array, mu: Array, log_var: Array, weights: Array, out: tuple = ...
    ) -> tuple[Array, Array, Array]: ...

    def adagrad_step(self, parameters: Any, gradient: Any, state: Any, rule: Any) -> None: ...

    def sgd_step(self, parameters: Any, gradient: Any, state: Any, rule: Any) -> None: ...


#: The functions of `Backend`, by name: a test compares their arguments in all backends.
FUNCTIONS = tuple(name for name, member in vars(Backend).items() if callable(member) and not name.startswith("_"))
