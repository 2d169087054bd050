"""What an observation of x must answer, so that the sampler need not know what was seen."""

from collections.abc import Callable
from typing import Protocol, Self

from numpy.typing import NDArray

from .columns import Outputs

#: From (n, k) to numbers (n, M, k) uniform on (0, 1), new ones at each call.
Uniform = Callable[[tuple[int, int]], NDArray]


class Observation(Protocol):
    """What was seen of M rows x: log p(seen|z), and p(x | z, seen).

    The two are functions of the decoder's `Outputs` for L samples z of each row. Columns are those of `Columns`.

    Examples
    --------
    >>> [name for name in vars(Observation) if name[0] != "_"]
    ['content', 'known', 'take', 'log_prob', 'moments', 'draw']
    """

    @property
    def content(self) -> NDArray:
        """What was seen, (M, K): the noise of a row is keyed by it."""

    @property
    def known(self) -> NDArray:
        """The cells that were seen as they are, (M, D), with NaN in the others."""

    def take(self, rows: NDArray) -> Self:
        """Return the observation of some rows."""

    def log_prob(self, outputs: Outputs) -> tuple[NDArray, Outputs] | None:
        """Return log p(all else that was seen|z) (L, M) in nats, up to a constant, and its gradients.

        None if there is nothing else than known cells; the backend computes those.
        """

    def moments(self, outputs: Outputs) -> tuple[NDArray, NDArray]:
        """Return the mean and the variance of each cell under p(x | z, seen), (L, M, D) each."""

    def draw(self, outputs: Outputs, uniform: Uniform) -> NDArray:
        """Draw x ~ p(x | z, seen), (L, M, D)."""
