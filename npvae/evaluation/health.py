"""The health of a fitted model: which latent dimensions are used, and whether anything was learnt."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..backends.formulas import MIN_LOG_VAR
from ..distributions.divergence import kl_from_standard_normal
from ..estimators import Scorer
from ..fitted import Fitted
from ..preprocessing import Data
from ..training import Epoch

#: A latent dimension is active if the variance over x of its posterior mean exceeds this (Burda, Grosse and
#: Salakhutdinov, 2016, section 5.2).
ACTIVE = 0.01

#: A log-variance counts as "at its floor" if it is this close to it. A larger share of them than MANY gives a warning.
NEAR_FLOOR, MANY = 0.1, 0.01

#: The parameters kept may have a bound lower than the best epoch's by this many nats, and by this many standard errors.
UNLUCKY, ERRORS = 1.0, 3.0


class Health(NamedTuple):
    """What `examine` finds on rows of the training data. ``VAE.fit`` stores it as ``health_``.

    ``elbo`` and ``baseline`` are means over rows, in nats of the data as given. The baseline is the log-likelihood of
    independent columns, fitted to the same rows. A model whose bound is not above it has not learnt how the columns
    depend on each other.

    Examples
    --------
    >>> print(Health(elbo=-101.5, baseline=-206.0, kl=(3.0, 0.0), active=(True, False), at_floor=0.0, warnings=()))
    bound -101.50 nats, baseline of independent columns -206.00 nats (difference +104.50)
    1 of 2 latent dimensions active; KL divergence by dimension: 3.00, 0.00 nats
    """

    elbo: float  # the lower bound
    baseline: float
    kl: tuple  # (J,) mean KL divergence of q(z_j|x) from the prior, in nats
    active: tuple  # (J,) bool: whether the mean of q(z_j|x) depends on x
    at_floor: float  # share of the decoder's log-variances at their floor; 0 for Bernoulli data
    warnings: tuple  # of str

    def __repr__(self) -> str:
        return str(self)  # what one reads after `model.health_`

    def __str__(self) -> str:
        order = sorted(self.kl, reverse=True)
        shown = ", ".join(f"{kl:.2f}" for kl in order[:8]) + (", ..." if len(order) > 8 else "")
        lines = [
            f"bound {self.elbo:.2f} nats, baseline of independent columns {self.baseline:.2f} nats "
            f"(difference {self.elbo - self.baseline:+.2f})",
            f"{sum(self.active)} of {len(self.kl)} latent dimensions active; KL divergence by dimension: {shown} nats",
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def examine(fitted: Fitted, data: Data, history: Sequence[Epoch], scorer: Scorer | None = None) -> Health:
    """Examine a fitted model on rows of its training data.

    Parameters
    ----------
    fitted : Fitted
    data : preprocessing.Data
        Rows of the training data.
    history : sequence of training.Epoch
        The training bound of each epoch. May be empty.
    scorer : Scorer, optional
        Of the bound that the training has maximised. By default, that of `Fitted.score`.

    Returns
    -------
    Health

    Examples
    --------
    >>> import npvae
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1, "backend": "reference"}
    >>> vae = npvae.VAE(2, **settings).fit(X)
    >>> health = examine(vae.fitted_, vae.fitted_.data(X), vae.history_)
    >>> health.active
    (False, False)
    """
    model = fitted.model
    batches = list(_batches(fitted, data))
    mu, log_var = (np.concatenate([batch[n] for batch in batches]) for n in (0, 1))
    total, squares, n_observed, clipped = (sum(batch[n] for batch in batches) for n in (2, 3, 4, 5))
    mean, square = (array / np.maximum(n_observed, 1) for array in (total, squares))
    kl = kl_from_standard_normal(mu, log_var).mean(axis=0) + model.divergence_of_noise
    scores = (scorer or fitted.scorer())(fitted.parameters, data)
    elbo, error = float(np.mean(scores)), float(np.std(scores) / np.sqrt(len(scores)))
    of_columns = model.likelihood.baseline(mean, square - mean**2, model.architecture.n_binary)
    baseline = float(np.sum(n_observed / len(mu) * of_columns) + np.mean(data.offset))
    active, at_floor = tuple(map(bool, mu.var(axis=0) > ACTIVE)), float(clipped / len(mu))
    grey = model.architecture.likelihood == "bernoulli" and bool(np.any(mean > square))  # x^2 = x for 0 and 1 alone
    # A latent dimension has a weight for each column. On the rows that they were fitted to, weights without meaning
    # gain about half a nat each, and on new rows they lose as much (Akaike, 1974).
    least = baseline + sum(active) * model.architecture.n_features / len(scores)
    warnings = tuple(_warnings(elbo, error, least, active, at_floor, history, grey))
    return Health(elbo, baseline, tuple(map(float, kl)), active, at_floor, warnings)


def _batches(fitted, data):
    """Yield for each batch mu, log_var (M, J); of observed cells, the sums of x and x^2 and the number (D,); at_floor.

    The last is M times the share of the log-variances that are at the floor.
    """
    model, to_numpy = fitted.model, fitted.model.backend.to_numpy
    for rows, x, buffers in fitted.batches(data):
        mu, _ = encoded = model.encode(fitted.parameters, x, buffers).outputs
        floor, clipped = model.likelihood.floor, 0.0
        if floor is not None:
            head = model.decode(fitted.parameters, mu, buffers).outputs[floor]
            clipped = np.mean(to_numpy(head) < MIN_LOG_VAR + NEAR_FLOOR) * len(rows)
        x = np.array(to_numpy(x), float)
        hidden = np.isnan(x)
        x[hidden] = 0
        sums = x.sum(axis=0), (x * x).sum(axis=0), len(x) - hidden.sum(axis=0)
        yield *(np.array(to_numpy(output), float) for output in encoded), *sums, clipped


def _warnings(elbo, error, least, active, clipped, history, grey):
    bounds = [epoch.elbo for epoch in history]
    # Without an active latent, a bound above the baseline is due to the noise of a score: equal rows have the same.
    nothing_learnt = not (elbo > least and any(active))
    if grey and nothing_learnt:
        yield (
            "the likelihood is Bernoulli, and X has values between 0 and 1: to a Bernoulli each of them is a coin, "
            "whose noise hides how the columns depend on each other. Fit with likelihood='gaussian'"
        )
    elif nothing_learnt:
        yield (
            "no better than independent columns: the model has not learnt how the columns of X depend on each other "
            "(the columns may be independent, training too short, or the learning rate unsuitable)"
        )
    if not any(active):
        yield "collapsed: no latent dimension depends on the datapoint (posterior collapse)"
    if clipped > MANY:
        yield (
            f"{clipped:.0%} of the decoder's variances are at their floor: values repeat, or columns determine each "
            "other; the bound then depends on the floor as much as on the fit"
        )
    if len(bounds) > 2 and bounds[-1] == min(bounds):
        yield f"the training bound fell from {bounds[0]:.2f} to {bounds[-1]:.2f} nats: a smaller learning_rate may help"
    elif bounds and elbo < max(bounds) - UNLUCKY - ERRORS * error:
        yield (
            f"the parameters kept have a bound of {elbo:.2f} nats on training data, and epoch "
            f"{history[int(np.argmax(bounds))].epoch} had {max(bounds):.2f}: the last steps were unlucky, or an "
            "average of the iterates lags. A smaller learning_rate or validation data may help"
        )
