"""log p(x) from samples of the posterior (Appendix D).

`Fitted.log_joint` has log p(x, z) of a datapoint with its gradient by z, which samplers of the posterior need. It is in
the form that `npvae.inference.fit_posterior` takes: so q(z) can be fitted to a single datapoint, which tells what is lost
by having one network for all of them.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp


def marginal_likelihood(log_q: ArrayLike, log_p: ArrayLike) -> float:
    """Estimate log p(x) by samples z of p(z|x): ``-log mean_l q(z_l) / (p(z_l) p(x|z_l))`` (Appendix D).

    q may be any density; the nearer to the posterior, the smaller the variance: it is zero where they are equal. It must
    not have heavier tails than the posterior, and must be fitted to other samples than these.

    Parameters
    ----------
    log_q : array (L,), log q(z_l)
    log_p : array (L,), log p(z_l) + log p(x|z_l), as `Fitted.log_joint` computes it

    Returns
    -------
    float, in nats

    Examples
    --------
    Where q is the posterior itself, one sample is enough:

    >>> round(marginal_likelihood([-1.5], [-4.5]), 6)
    -3.0
    """
    log_ratio = np.asarray(log_q) - np.asarray(log_p)
    return float(np.log(len(log_ratio)) - logsumexp(log_ratio))
