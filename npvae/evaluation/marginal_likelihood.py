"""log p(x) from samples of the posterior (Appendix D), and what draws such samples: log p(x, z) and its gradient by z.

`log_joint` is in the form that `npvae.inference.fit_posterior` takes: so q(z) can be fitted to a single datapoint, which
tells what is lost by having one network for all of them.
"""

import numpy as np
from scipy.special import logsumexp

from ..distributions import Normal
from ..parameters import Buffers


def log_joint(model, x):
    """Return log p(x, z) of one datapoint as a function of z.

    Parameters
    ----------
    model : VAE, fitted, on a backend of the CPU; random weights are taken at their means
    x : array (D,)

    Returns
    -------
    callable, from z (n, J) to log p(z) + log p(x|z) (n,), in nats of the data as given, and its gradient by z (n, J)
    """
    inner, data = model._fitted_model(), model._data(np.asarray(x)[None])
    parameters, buffers = model._parameters(inner), Buffers(inner.backend, inner.dtype)
    row = inner.backend.gather(data.X, np.array([0]), data.scaling, buffers("x", 1, data.X.shape[1]))
    of_weights = inner.gradient()  # comes with that by z, and is not used

    def function(z):
        z = inner.backend.asarray(z, inner.dtype)
        decoded, dz = inner.decode(parameters, z, buffers), buffers("dz", *z.shape)
        log_likelihood = inner.log_likelihood(row, decoded, 1.0, buffers).astype(float)
        inner.decoder.backward(parameters, z, decoded, of_weights, buffers, dz)
        return Normal().log_prob(z).sum(axis=1) + log_likelihood + data.log_jacobian, dz.astype(float) - z

    return function


def marginal_likelihood(log_q, log_p):
    """Estimate log p(x) by samples z of p(z|x): ``-log mean_l q(z_l) / (p(z_l) p(x|z_l))`` (Appendix D).

    q may be any density; the nearer to the posterior, the smaller the variance: it is zero where they are equal. It must
    not have heavier tails than the posterior, and not be fitted to these samples but to others.

    Parameters
    ----------
    log_q : array (L,), log q(z_l)
    log_p : array (L,), log p(z_l) + log p(x|z_l), as `log_joint` has it

    Returns
    -------
    float, in nats
    """
    return float(np.log(len(log_q)) - logsumexp(np.asarray(log_q) - log_p))
