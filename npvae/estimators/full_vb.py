"""Full variational Bayes (Appendix F): the bound on log p(X) where the decoder's weights theta are random too.

Two reparameterizations are nested: theta = mu + sigma * zeta for the weights, and z = mu + sigma * eps for the latent
variables. The bound per datapoint is E_q(theta)[L(theta, phi; x)] - 1/N D_KL(q(theta) || p(theta)): equation 21 of the
paper divided by N.
"""

from typing import Any, NamedTuple

import numpy as np

from ..backends.interface import Array
from ..model import Model
from ..parameters import Parameters
from .interface import Result
from .sgvb import SGVB


class Noise(NamedTuple):
    """The noise of a minibatch.

    Examples
    --------
    >>> noise = Noise(eps=np.zeros((100, 20)), zeta=np.zeros(5000))  # M = 100, L = 1, J = 20, 5000 random weights
    >>> noise.eps.shape, noise.zeta.shape
    ((100, 20), (5000,))
    """

    eps: Array  # (L * M, J), of z
    zeta: Array  # (number of random weights and biases,), of theta


class FullVB:
    """The estimator f_phi of Appendix F, or the one that has both KL divergences in closed form (equation 24).

    The methods are those of `interface.Estimator`. All datapoints of a minibatch share one draw of the weights. The
    gradient holds only the noise constant. A result's ``elbo`` leaves out the KL divergence of the weights, so that it
    can be compared with the bound of a model with fixed weights.

    Parameters
    ----------
    model : Model
        With random weights.
    n_samples : int
        Samples z for each datapoint, the L of the paper.
    n_datapoints : int
        The N of the paper.
    analytic_kl : bool
        Whether the KL divergences of q(z|x) and q(theta) from their priors are in closed form, or estimated.

    Examples
    --------
    >>> from npvae import backends
    >>> from npvae.model import Architecture
    >>> rng = np.random.default_rng(0)
    >>> model = Model(Architecture(3, 2, (4,), random_weights="decoder"), backends.get("reference"), "float64")
    >>> parameters, x = model.parameters(model.initial(rng, std=0.1)), rng.random((5, 3))
    >>> estimator = FullVB(model, n_samples=1, n_datapoints=50)
    >>> value, elbo, gradient = estimator.value_and_grad(parameters, x, estimator.draw(rng, len(x)))

    The difference is the KL divergence of the weights, divided by N:

    >>> bool(np.isclose(50 * (elbo - value), model.weight_posterior.divergence(parameters)))
    True
    """

    State: Any = None
    updates_per_sample = 1
    runs_ahead = False

    def __init__(self, model: Model, n_samples: int, n_datapoints: int, analytic_kl: bool = True) -> None:
        self.model, self.n_samples, self.n_datapoints, self.analytic_kl = model, n_samples, n_datapoints, analytic_kl
        self._given_weights = SGVB(model, n_samples, analytic_kl)
        self._drawn, self._gradient = model.gradient(), model.gradient()

    def draw(self, rng: np.random.Generator, n_rows: int) -> Noise:
        """Draw the noise of a minibatch. Its eps is overwritten by the next call."""
        eps = self._given_weights.draw(rng, n_rows)
        return Noise(eps, self.model.weight_posterior.noise(rng, self.model.dtype))

    def sample(self, parameters: Parameters, x: Array, rows: Any, noise: Noise, state: Any = None) -> tuple[Noise, Any]:
        """Return what is held constant in the gradient: here, the noise itself."""
        return noise, state

    def value_and_grad(self, parameters: Parameters, x: Array, samples: Noise) -> Result:
        """Estimate the bound on log p(X) divided by N, in nats, and its gradient."""
        theta, N = self.model.weight_posterior, self.n_datapoints
        kl_of_weights = theta.sample(parameters, samples.zeta, self.analytic_kl, self._drawn)
        elbo, _, gradient_of_drawn = self._given_weights.value_and_grad(self._drawn, x, samples.eps)
        theta.sample_backward(parameters, samples.zeta, self.analytic_kl, 1 / N, (gradient_of_drawn, self._gradient))
        return Result(elbo - kl_of_weights / N, elbo, self._gradient)

    def places(self, parameters: Parameters, x: Array, samples: Noise) -> list:
        """List (name, array) of what is computed with the drawn weights: see `interface.Estimator`."""
        self.model.weight_posterior.sample(parameters, samples.zeta, self.analytic_kl, self._drawn)
        return self._given_weights.places(self._drawn, x, samples.eps)
