"""The health of a fitted model: what each latent dimension carries, and whether anything was learnt at all."""

from typing import NamedTuple

import numpy as np
from ..backends.formulas import MIN_LOG_VAR
from ..distributions import Normal, kl_divergence

#: A latent dimension is active if the variance of its posterior means exceeds this (Burda, Grosse and Salakhutdinov,
#: 2016, section 5.2).
ACTIVE = 0.01

#: A log-variance counts as clipped this close to its floor, and so many of them are worth a warning.
NEAR_FLOOR, MANY = 0.1, 0.01


class Health(NamedTuple):
    """What `examine` found on rows of the training data; bounds are a datapoint's, in nats of the data as given."""

    elbo: float  # the lower bound
    baseline: float  # log-likelihood of independent columns, fitted to the same rows: nothing is learnt below it
    kl: tuple  # (J,) mean divergence of q(z_j|x) from the prior, in nats
    active: tuple  # (J,) bool: whether the dimension's mean depends on x
    at_floor: float  # share of the decoder's log-variances at their floor; 0 for Bernoulli data
    warnings: tuple  # of str

    def __str__(self):
        order = sorted(self.kl, reverse=True)
        shown = ", ".join(f"{kl:.2f}" for kl in order[:8]) + (", ..." if len(order) > 8 else "")
        lines = [
            f"bound {self.elbo:.2f} nats, {self.elbo - self.baseline:+.2f} to independent columns' {self.baseline:.2f}",
            f"{sum(self.active)} of {len(self.kl)} latent dimensions active; divergence by dimension: {shown} nats",
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def examine(fitted, data, history) -> Health:
    """Score rows of the training data and look at their latents.

    Parameters
    ----------
    fitted : Fitted; data : preprocessing.Data, some of its training data
    history : list of training.Epoch
    """
    model = fitted.model
    batches = list(_batches(fitted, data))
    mu, log_var = (np.concatenate([batch[n] for batch in batches]) for n in (0, 1))
    mean, square, clipped = (sum(batch[n] for batch in batches) / len(mu) for n in (2, 3, 4))
    kl = kl_divergence(Normal(mu, np.exp(log_var / 2)), Normal()).mean(axis=0) + model.divergence_of_noise
    found = (
        float(np.mean(fitted.score(data))),
        model.likelihood.baseline(mean, square - mean**2) + data.log_jacobian,
        tuple(map(float, kl)),
        tuple(map(bool, mu.var(axis=0) > ACTIVE)),
        float(clipped),
    )
    return Health(*found, tuple(_warnings(*found, history)))


def _batches(fitted, data):
    """Yield for some rows at a time mu, log_var (M, J), sums of x and x^2 (D,), and of the shares at the floor."""
    model, to_numpy = fitted.model, fitted.model.backend.to_numpy
    for rows, x, buffers in fitted.batches(data):
        mu, log_var = encoded = model.encode(fitted.parameters, x, buffers).outputs
        heads, floor, clipped = model.decode(fitted.parameters, mu, buffers).outputs, model.likelihood.floor, 0.0
        if floor is not None:
            clipped = np.mean(to_numpy(heads[floor]) < MIN_LOG_VAR + NEAR_FLOOR) * len(rows)
        x = np.array(to_numpy(x), float)
        yield *(np.array(to_numpy(output), float) for output in encoded), x.sum(axis=0), (x * x).sum(axis=0), clipped


def _warnings(elbo, baseline, kl, active, clipped, history):
    bounds = [epoch.elbo for epoch in history]
    if not elbo > baseline:
        why = "its columns may be independent, or training too short, or the learning rate unsuitable"
        yield f"no better than independent columns: how the columns of X depend on each other was not learnt ({why})"
    if not any(active):
        yield "collapsed: no latent dimension tells the datapoints apart"
    if clipped > MANY:
        yield (
            f"{clipped:.0%} of the decoder's variances are at their floor: values repeat, or columns determine each "
            "other, and the bound measures the floor as much as the fit"
        )
    if len(bounds) > 2 and bounds[-1] == min(bounds):
        yield f"the training bound fell from {bounds[0]:.2f} to {bounds[-1]:.2f} nats: a smaller learning_rate may help"
