"""Density models that are compared on small tables: npvae, those of scikit-learn, a mixture, and PyTorch's Adam.

A contestant is a function from training rows and a seed to a model, and a model is a function from rows (N, D) to
their log-densities (N,) in nats. A variational autoencoder gives the lower bound of it.
"""

import importlib.util
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from .. import settings
from ..backends.formulas import MIN_LOG_VAR
from ..selection import fit
from ..vae import VAE
from .small_tables import Floats, LogProb

#: The family of p(x|z) for a table of a kind. It is set, so that all contestants give densities of the same columns.
FAMILIES = {"real": "gaussian", "binary": "bernoulli", "mixed": "mixed"}

#: Samples a row for the bound, and the passes of the paper's protocol: a million rows, as its small data sets had.
SAMPLES, PAPER_ROWS = 50, 1_000_000

#: The lower limit of variances of standardized columns, the same for all.
FLOOR = float(np.exp(MIN_LOG_VAR))

#: Numbers of factors or components that are tried, and lower limits of the variances of mixtures.
NUMBERS, FLOORS = (1, 2, 3, 5, 8, 12, 20, 30, 50), (FLOOR, 0.01)

#: Step sizes that the search tries, and its longest training in updates and in epochs.
STEP_SIZES, UPDATES, EPOCHS = (0.001, 0.003, 0.01), 6000, 1000

#: The share of the training rows that choices are made on, and the updates without a better bound that end a training.
HELD_OUT, PATIENCE = 0.2, 1000


class Rows(NamedTuple):
    """Training rows; which columns are binary is known to all contestants."""

    X: Floats
    binary: NDArray[np.bool_]
    kind: str


#: Trains on rows with a seed.
Fit = Callable[[Rows, int], LogProb]


def sizes(X: Floats) -> dict[str, Any]:
    """Return the sizes of the nets that `npvae.fit` chooses; the other nets have the same."""
    chosen = {choice.name: choice.value for choice in settings.for_data(*X.shape)}
    return {name: chosen[name] for name in ("n_components", "hidden_layer_sizes")}


def standardized(train: Fit) -> Fit:
    """Have the columns that are not binary standardized, and the densities in the units of the data."""

    def trained(rows, seed):
        shift = np.where(rows.binary, 0, rows.X.mean(0))
        scale = np.where(rows.binary, 1, rows.X.std(0))
        log_prob = train(rows._replace(X=(rows.X - shift) / scale), seed)
        return lambda X: log_prob((X - shift) / scale) - np.log(scale).sum()

    return trained


def split(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to train on and the rows to choose on."""
    order = np.random.default_rng(seed).permutation(len(rows.X))
    held, inner = np.split(order, [int(HELD_OUT * len(order))])
    return rows._replace(X=rows.X[inner]), rows._replace(X=rows.X[held])


def best_on_held_out(candidates: Sequence[Fit], rows: Rows, seed: int) -> LogProb:
    """Choose the candidate that is best on held-out rows, and train it on all rows."""
    inner, held = split(rows, seed)
    return max(candidates, key=lambda train: np.mean(train(inner, seed)(held.X)))(rows, seed)


# npvae ----------------------------------------------------------------------------------------------------------------


def _bound(model: VAE) -> LogProb:
    return model.set_params(n_samples=SAMPLES).score_samples


def npvae_fit(rows: Rows, seed: int) -> LogProb:
    """Train by `npvae.fit` with its defaults."""
    return _bound(fit(rows.X, likelihood=FAMILIES[rows.kind], random_state=seed, verbose=False))


def npvae_paper(rows: Rows, seed: int) -> LogProb:
    """Train by the protocol of the paper, the defaults of `VAE`, with nets of the same size."""
    epochs = int(np.clip(PAPER_ROWS // len(rows.X), 10, 1000))
    model = VAE(**sizes(rows.X), likelihood=FAMILIES[rows.kind], max_epochs=epochs, random_state=seed)
    return _bound(model.fit(rows.X))


def warm_up(kind: str) -> None:
    """Have the kernels loaded that the nets of npvae need for a table of this kind, or compiled."""
    X = np.eye(4)[np.arange(40) % 4]
    if kind != "binary":
        X[:, :2] *= 2  # the others stay bits: a mixed table has both
    _bound(fit(X, likelihood=FAMILIES[kind], max_epochs=1, verbose=False))(X)
    VAE(1, likelihood=FAMILIES[kind], learning_rate=0.01, max_epochs=1).fit(X)


# scikit-learn and mixtures --------------------------------------------------------------------------------------------


def _factor_analysis(number: int, rows: Rows, seed: int) -> LogProb:
    from sklearn.decomposition import FactorAnalysis

    return FactorAnalysis(number, random_state=seed, max_iter=5000).fit(rows.X).score_samples


def _ppca(number: int, rows: Rows, seed: int) -> LogProb:
    from sklearn.decomposition import PCA

    return PCA(number, random_state=seed).fit(rows.X).score_samples


def _gaussian_mixture(covariance: str, number: int, floor: float, rows: Rows, seed: int) -> LogProb:
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(number, covariance_type=covariance, reg_covar=floor, n_init=2, max_iter=300)
    return mixture.set_params(random_state=seed).fit(rows.X).score_samples


def _columns_mixture(number: int, floor: float, rows: Rows, seed: int, steps: int = 300) -> LogProb:
    """Train a mixture by EM: given the component, columns are independent Bernoulli or Gaussian ones.

    The probabilities have one pseudo-observation, spread like the whole column: none is exactly 0 or 1.
    """
    from sklearn.cluster import KMeans

    X, binary = rows.X, rows.binary
    responsibilities = np.eye(number)[KMeans(number, n_init=3, random_state=seed).fit_predict(X)]
    mean = X.mean(0)

    def log_joint(X, weights, p, mu, var):
        bits, reals = X[:, binary], X[:, ~binary]
        log_p = bits @ np.log(p).T + (1 - bits) @ np.log1p(-p).T
        squares = reals**2 @ (1 / var).T - 2 * reals @ (mu / var).T + np.sum(mu**2 / var, 1)
        return np.log(weights) + log_p - 0.5 * (squares + np.sum(np.log(2 * np.pi * var), 1))

    before = -np.inf
    for _ in range(steps):
        counts = responsibilities.sum(0)[:, None]
        means = (responsibilities.T @ X + mean) / (counts + 1)
        p, mu = means[:, binary], means[:, ~binary]
        squares = (responsibilities.T @ X[:, ~binary] ** 2 + mean[~binary] ** 2 + 1) / (counts + 1)
        parameters = (counts[:, 0] + 1) / (counts.sum() + number), p, mu, np.maximum(squares - mu**2, floor)
        joint = log_joint(X, *parameters)
        total = logsumexp(joint, axis=1, keepdims=True)
        responsibilities = np.exp(joint - total)
        if total.mean() < before + 1e-5:
            break
        before = total.mean()
    return lambda X: logsumexp(log_joint(X, *parameters), axis=1)


def _factors_chosen(make: Callable[[int, Rows, int], LogProb]) -> Fit:
    """Choose the number of factors: fewer than columns, and than half the rows."""

    def train(rows, seed):
        most = min(rows.X.shape[1] - 1, len(rows.X) // 2)
        return best_on_held_out([partial(make, number) for number in NUMBERS if number <= most], rows, seed)

    return standardized(train)


def _components_chosen(make: Callable[[int, float, Rows, int], LogProb]) -> Fit:
    """Choose the number of components, with eight rows or more for each, and the lower limit of the variances."""

    def train(rows, seed):
        numbers = [number for number in NUMBERS if number <= len(rows.X) // 8]
        return best_on_held_out([partial(make, *both) for both in itertools.product(numbers, FLOORS)], rows, seed)

    return standardized(train)


def _as_many_as_latents(rows: Rows, seed: int) -> LogProb:
    return _factor_analysis(sizes(rows.X)["n_components"], rows, seed)


# PyTorch --------------------------------------------------------------------------------------------------------------


class TorchVAE:
    """The same net with PyTorch: its initial weights, its Adam, minibatches of 100, the best on held-out rows."""

    def __init__(self, rows: Rows, seed: int, step_size: float):
        import torch
        from torch import nn

        torch.manual_seed(seed)
        self.torch, self.rows, self.binary = torch, rows, torch.from_numpy(rows.binary)
        (hidden,), J, D = sizes(rows.X)["hidden_layer_sizes"], sizes(rows.X)["n_components"], rows.X.shape[1]
        self.encoder = nn.Sequential(nn.Linear(D, hidden), nn.Tanh(), nn.Linear(hidden, 2 * J))
        self.decoder = nn.Sequential(nn.Linear(J, hidden), nn.Tanh(), nn.Linear(hidden, 2 * D))
        self.nets = nn.ModuleList([self.encoder, self.decoder])
        self.optimizer = torch.optim.Adam(self.nets.parameters(), step_size)

    def bound(self, x: Any) -> Any:
        """Return the bound of each row with one sample, the KL divergence in closed form."""
        torch, functional = self.torch, self.torch.nn.functional
        mu, log_var = self.encoder(x).chunk(2, 1)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        head, spread = self.decoder(z).chunk(2, 1)
        spread = MIN_LOG_VAR + functional.softplus(spread - MIN_LOG_VAR)
        gaussian = -0.5 * (np.log(2 * np.pi) + spread + (x - head) ** 2 * torch.exp(-spread))
        bernoulli = -functional.binary_cross_entropy_with_logits(head, x.clamp(0, 1), reduction="none")
        kl = -0.5 * torch.sum(1 + log_var - mu * mu - torch.exp(log_var), 1)
        return torch.sum(torch.where(self.binary, bernoulli, gaussian), 1) - kl

    def log_prob(self, X: Floats) -> Floats:
        """Return the bound with as many samples a row as the others have."""
        x, torch = self.torch.from_numpy(X.astype(np.float32)), self.torch
        with torch.no_grad():
            torch.manual_seed(0)
            return np.mean([self.bound(x).numpy().astype(float) for _ in range(SAMPLES)], axis=0)

    def train(self, epochs: int, held: Rows | None = None) -> tuple[float, int]:
        """Train. With held-out rows, return to the epoch with the best bound on them; return this bound and epoch."""
        torch, best, since, kept = self.torch, (-np.inf, 0), 0, None
        x = torch.from_numpy(self.rows.X.astype(np.float32))
        every = max(1, epochs // 200)  # epochs between two looks at the held-out rows
        for epoch in range(1, epochs + 1):
            for batch in torch.randperm(len(x)).split(100):
                self.optimizer.zero_grad()
                (-self.bound(x[batch]).mean()).backward()
                self.optimizer.step()
                since += 1
            if held is None or epoch % every:
                continue
            state = torch.get_rng_state()
            score = float(np.mean(self.log_prob(held.X)))
            torch.set_rng_state(state)
            if score > best[0]:
                best, since, kept = (score, epoch), 0, [p.detach().clone() for p in self.nets.parameters()]
            elif since > PATIENCE:
                break
        if kept is not None:
            for parameter, value in zip(self.nets.parameters(), kept):
                parameter.data.copy_(value)
        return best


def torch_adam(rows: Rows, seed: int) -> LogProb:
    """Search the step size and the number of epochs on held-out rows, then train on all rows with them."""
    import torch

    torch.set_num_threads(1)  # faster for nets of this size
    inner, held = split(rows, seed)
    epochs = min(EPOCHS, -(-UPDATES // -(-len(inner.X) // 100)))
    found = {step_size: TorchVAE(inner, seed, step_size).train(epochs, held) for step_size in STEP_SIZES}
    step_size = max(found, key=lambda step_size: found[step_size][0])
    net = TorchVAE(rows, seed, step_size)
    net.train(found[step_size][1])
    return net.log_prob


# All ------------------------------------------------------------------------------------------------------------------


class Contestant(NamedTuple):
    """A row of `CONTESTANTS`."""

    train: Fit
    kinds: Sequence[str]  # of the tables that it has a density for
    needs: str  # the module that must be installed
    about: str


ALL_KINDS, REAL = tuple(FAMILIES), ("real",)

#: The contestants by their name in tables.
CONTESTANTS: dict[str, Contestant] = {
    "npvae.fit": Contestant(npvae_fit, ALL_KINDS, "numba", "the defaults of `npvae.fit`"),
    "paper": Contestant(npvae_paper, ALL_KINDS, "numba", "the paper's protocol, the defaults of `VAE`"),
    "torch-adam": Contestant(
        standardized(torch_adam), ALL_KINDS, "torch",
        "the same net; step size and epochs chosen on a fifth of the training rows, then trained on all",
    ),
    "FA": Contestant(
        standardized(_as_many_as_latents), REAL, "sklearn", "factor analysis with as many factors as latents"
    ),
    "FA-chosen": Contestant(
        _factors_chosen(_factor_analysis), REAL, "sklearn", "factor analysis, number of factors chosen"
    ),
    "PPCA": Contestant(
        _factors_chosen(_ppca), REAL, "sklearn", "probabilistic PCA, number of components chosen"
    ),
    "mixture-full": Contestant(
        _components_chosen(partial(_gaussian_mixture, "full")), REAL, "sklearn",
        "Gaussian mixture with full covariances, number of components chosen",
    ),
    "mixture-diagonal": Contestant(
        _components_chosen(partial(_gaussian_mixture, "diag")), REAL, "sklearn",
        "Gaussian mixture with diagonal covariances, number of components chosen",
    ),
    "mixture-columns": Contestant(
        _components_chosen(_columns_mixture), ("binary", "mixed"), "sklearn",
        "mixture with independent columns, Bernoulli or Gaussian, number of components chosen",
    ),
    "independent": Contestant(
        standardized(partial(_columns_mixture, 1, FLOOR)), ALL_KINDS, "sklearn",
        "independent columns, Bernoulli or Gaussian",
    ),
}  # fmt: skip


def available() -> list[str]:
    """List the contestants whose libraries are installed."""
    return [name for name, contestant in CONTESTANTS.items() if importlib.util.find_spec(contestant.needs)]


def check_available(names: Iterable[str]) -> None:
    """Raise RuntimeError if the library of a contestant is not installed here."""
    for name in names:
        if name not in available():
            raise RuntimeError(f"{name!r} cannot be trained, since {CONTESTANTS[name].needs} is not installed")
