"""Full variational Bayes (Appendix F): the bound on log p(X) where the decoder's weights theta are random too.

Two reparameterizations are nested: theta = mu + sigma * zeta, and z = mu + sigma * eps given x. A datapoint's share of
the bound is E_q(theta)[L(theta, phi; x)] - 1/N D_KL(q(theta) || p(theta)); equation 21 of the paper is N times that.
"""

from typing import Any, NamedTuple

from .interface import Result
from .sgvb import SGVB


class Noise(NamedTuple):
    """The noise of a minibatch: eps (L * M, J) of z, and zeta, a number for each random weight."""

    eps: Any
    zeta: Any


class FullVB:
    """The estimator f_phi of Appendix F, or the one that has both KL divergences in closed form (equation 24).

    A minibatch shares one draw of the weights. What the gradient holds constant is the noise itself. The ``elbo`` of a
    result is the datapoints' bound, which fixed weights are judged by too: it leaves out the divergence of the weights.
    For the interface see `interface.Estimator`.

    Parameters
    ----------
    model : Model with random weights
    n_samples : int, samples z for each datapoint
    n_datapoints : int, the N of the paper
    analytic_kl : bool, whether the divergences of q(z|x) and q(theta) from their priors are in closed form
    """

    State = None
    updates_per_sample = 1
    runs_ahead = False

    def __init__(self, model, n_samples, n_datapoints, analytic_kl=True):
        self.model, self.n_samples, self.n_datapoints, self.analytic_kl = model, n_samples, n_datapoints, analytic_kl
        self._given_weights = SGVB(model, n_samples, analytic_kl)
        self._drawn, self._gradient = model.gradient(), model.gradient()

    def draw(self, rng, n_rows):
        """Draw the noise of a minibatch: see `SGVB.draw`."""
        eps = self._given_weights.draw(rng, n_rows)
        return Noise(eps, self.model.weight_posterior.noise(rng, self.model.dtype))

    def sample(self, parameters, x, rows, noise, state=None):
        """Fix what the gradient holds constant: here the noise itself."""
        return noise, state

    def value_and_grad(self, parameters, x, samples):
        """Estimate a datapoint's share of the bound on log p(X), in nats, and its gradient."""
        theta, N = self.model.weight_posterior, self.n_datapoints
        divergence = theta.sample(parameters, samples.zeta, self.analytic_kl, self._drawn)
        elbo, _, of_drawn = self._given_weights.value_and_grad(self._drawn, x, samples.eps)
        theta.sample_backward(parameters, samples.zeta, self.analytic_kl, 1 / N, (of_drawn, self._gradient))
        return Result(elbo - divergence / N, elbo, self._gradient)

    def places(self, parameters, x, samples):
        """List (name, array) of what is computed, given the draw of the weights: see `interface.Estimator`."""
        self.model.weight_posterior.sample(parameters, samples.zeta, self.analytic_kl, self._drawn)
        return self._given_weights.places(self._drawn, x, samples.eps)
