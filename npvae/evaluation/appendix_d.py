"""log p(x) of a datapoint from samples of its posterior p(z|x) (Appendix D of the paper).

`Fitted.log_joint` gives log p(x, z) and its gradient by z, which samplers of the posterior need.
`npvae.inference.fit_posterior` accepts the same function and fits a q(z) to this one datapoint. Its bound minus the
encoder's bound is what is lost because one network serves all datapoints (amortization gap).
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from ..conventions import array_of_shape, check_each


def marginal_likelihood(log_q: ArrayLike, log_p: ArrayLike) -> float:
    """Estimate log p(x) from samples z_l of p(z|x): ``-log mean_l q(z_l) / (p(z_l) p(x|z_l))`` (Appendix D).

    q may be any density that was not fitted to these samples and does not have heavier tails than the posterior. The
    closer q is to the posterior, the smaller the variance of the estimate; where they are equal, it is zero.

    Parameters
    ----------
    log_q : array (L,)
        log q(z_l).
    log_p : array (L,)
        log p(z_l) + log p(x|z_l), as `Fitted.log_joint` computes it.

    Returns
    -------
    float
        log p(x) in nats.

    Raises
    ------
    TypeError, ValueError
        If the arguments are not vectors of the same length, L >= 1; if some log_p are not finite (samples of the
        posterior have a density), or some log_q are NaN or infinite, or all of them -infinity.

    Examples
    --------
    If q is the posterior itself, one sample is enough:

    >>> round(marginal_likelihood([-1.5], [-4.5]), 6)
    -3.0
    """
    log_q = array_of_shape("log_q", log_q, ("L",), ", a value for each sample")
    log_p = array_of_shape("log_p", log_p, log_q.shape, ", as log_q has")
    check_each("log_q", log_q, log_q < np.inf, "numbers less than infinity")  # False for NaN
    check_each("log_p", log_p, np.isfinite(log_p), "finite numbers")
    if np.all(log_q == -np.inf):
        raise ValueError("log_q is -inf for every sample; expected a q that has a density where the posterior has")
    log_ratio = log_q - log_p
    return float(np.log(len(log_ratio)) - logsumexp(log_ratio))
