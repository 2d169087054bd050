"""Full variational Bayes (Appendix F): the bound on log p(X) where the decoder's weights theta are random too.

Two reparameterizations are nested: theta = mu + sigma * zeta, and z = mu + sigma * eps given x. A datapoint's share of
the bound is E_q(theta)[L(theta, phi; x)] - 1/N D_KL(q(theta) || p(theta)); equation 21 of the paper is N times that.
"""

from typing import NamedTuple

from . import elbo
from .sgvb import SGVB


class Noise(NamedTuple):
    """The noise of a minibatch: eps (L * M, J) of z, and zeta, a number for each random weight."""

    eps: object
    zeta: object


class FullVB:
    """The estimator f_phi of Appendix F, or the one that has both divergences in closed form (equation 24).

    A minibatch shares one draw of the weights. What the gradient holds constant is the noise itself. An instance keeps
    scratch arrays: it belongs to one thread.

    Parameters
    ----------
    model : Model with random weights
    n_samples : int, samples z for each datapoint
    n_datapoints : int, the N of the paper
    analytic_kl : bool, whether the divergences of q(z|x) and q(theta) from their priors are in closed form
    """

    def __init__(self, model, n_samples, n_datapoints, analytic_kl=True):
        self.model, self.n_samples, self.n_datapoints, self.analytic_kl = model, n_samples, n_datapoints, analytic_kl
        self._given_weights = SGVB(model, n_samples, analytic_kl)
        self._drawn, self._gradient = model.gradient(), model.gradient()
        self._divergence = 0.0

    def draw(self, rng, n_rows):
        """Draw the noise of a minibatch: see `SGVB.draw`."""
        eps = self._given_weights.draw(rng, n_rows)
        return Noise(eps, self.model.weights.noise(rng, self.model.dtype))

    def sample(self, parameters, x, rows, noise, state=None):
        """Fix what the gradient holds constant: here the noise itself. Returns (samples, state)."""
        return noise, state

    def value_and_grad(self, parameters, x, samples):
        """Estimate a datapoint's share of the bound on log p(X), and its gradient: see `SGVB.value_and_grad`."""
        weights, N = self.model.weights, self.n_datapoints
        self._divergence = weights.sample(parameters, samples.zeta, self.analytic_kl, self._drawn)
        value, of_drawn = self._given_weights.value_and_grad(self._drawn, x, samples.eps)
        weights.sample_backward(parameters, samples.zeta, self.analytic_kl, 1 / N, (of_drawn, self._gradient))
        return value - self._divergence / N, self._gradient

    def elbo(self, value, samples):
        """Return the datapoints' bound, in nats a datapoint, that goes with the last value.

        It is what fixed weights are judged by; the divergence of the weights is left out.
        """
        return value + self._divergence / self.n_datapoints

    def first_nonfinite(self, parameters, x, samples):
        """Name the first place of the computation that holds a NaN or an infinite value: see `SGVB.first_nonfinite`."""
        _, gradient = self.value_and_grad(parameters, x, samples)
        of_drawn = self._given_weights.first_nonfinite(self._drawn, x, samples.eps)
        return of_drawn or elbo.first_nonfinite(self.model, [], gradient)
