"""KL divergences in closed form."""

import numpy as np
from numpy.typing import ArrayLike

from ..backends import reference
from .base import Distribution, FloatArray, elementwise
from .location_scale import Normal


@np.errstate(all="ignore")
def kl_divergence(q: Distribution, p: Distribution) -> FloatArray:
    """Return the KL divergence D_KL(q || p) = E_q[log q - log p] in nats, element by element (Appendix B).

    Parameters
    ----------
    q, p : Normal, parameters that broadcast

    Returns
    -------
    array of the parameters' broadcast shape

    Raises
    ------
    TypeError
        If one of them is not a `Normal`.

    Examples
    --------
    >>> from npvae.distributions import Normal, kl_divergence
    >>> kl_divergence(Normal([0.0, 1.0], 1.0), Normal())
    array([0. , 0.5])
    """
    if not (isinstance(q, Normal) and isinstance(p, Normal)):
        raise TypeError(
            f"no closed form is known for the KL divergence of {type(q).__name__} from {type(p).__name__}; "
            "expected two Normals"
        )
    # Standardizing x by p does not change the KL divergence: what remains is that from N(0, 1), of the latent layer.
    return kl_from_standard_normal((q.loc - p.loc) / p.scale, q.log_var - p.log_var)


@np.errstate(all="ignore")
def kl_from_standard_normal(mu: ArrayLike, log_var: ArrayLike) -> FloatArray:
    """Return D_KL(N(mu, sigma^2) || N(0, 1)) in nats, element by element, for any log-variance (Appendix B).

    Parameters
    ----------
    mu, log_var : arrays that broadcast

    Returns
    -------
    array of their broadcast shape; infinite where the value exceeds what float64 holds

    Examples
    --------
    >>> from npvae.distributions.divergence import kl_from_standard_normal
    >>> kl_from_standard_normal([0.0, 1.0], 0.0)
    array([0. , 0.5])
    """
    return elementwise(lambda m, s: reference.gaussian_latent(m, s, np.zeros_like(m), True)[1], mu, log_var)
