"""Errors planted on purpose: the reference backend with one function wrong, for tests that must notice."""

from types import SimpleNamespace

import numpy as np

from npvae.backends import reference


def backend(**replacements):
    """Return the reference backend with some functions replaced."""
    return SimpleNamespace(**vars(reference) | replacements)


def standard_deviation_for_variance():
    """Noise is scaled by exp(log_var) instead of exp(log_var / 2): z has the wrong spread.

    A backward pass to match would pass every gradient check; only values are asked for here, so it is left out.
    """

    def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
        z, kl = reference.gaussian_latent(mu, 2 * log_var, eps, analytic_kl)
        if analytic_kl:  # the closed form keeps taking log_var for what it is
            kl = reference.gaussian_latent(mu, log_var, eps, True)[1]
        else:  # log q of the samples drawn, whose density has the variance exp(log_var) on paper
            noise = (z.reshape(-1, *mu.shape) - mu) / np.exp(log_var / 2)
            kl = 0.5 * np.sum(z.reshape(noise.shape) ** 2 - noise**2 - log_var, axis=2).ravel()
        return reference._into(out, z, kl)

    return backend(gaussian_latent=gaussian_latent)


def kl_without_one():
    """The divergence lacks the 1 of ``1 + log sigma^2 - ...``: off by a constant, so its gradient is right."""

    def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
        z, kl = reference.gaussian_latent(mu, log_var, eps, analytic_kl)
        return reference._into(out, z, kl + (0.5 * mu.shape[1] if analytic_kl else 0))

    return backend(gaussian_latent=gaussian_latent)


def gaussian_without_two_pi():
    """The Gaussian log-likelihood lacks log(2 pi) in each dimension."""

    def gaussian_log_prob(x, mu, log_var, weights, out=(None, None, None), missing=False):
        log_prob, *gradients = reference.gaussian_log_prob(x, mu, log_var, weights, missing=missing)
        return reference._into(out, log_prob + 0.5 * reference.LOG_2PI * x.shape[1], *gradients)

    return backend(gaussian_log_prob=gaussian_log_prob)


def bernoulli_with_ones_and_zeros_swapped():
    """log p(1 - x | z) instead of log p(x | z)."""

    def bernoulli_log_prob(x, logits, weights, out=(None, None), missing=False):
        return reference.bernoulli_log_prob(1 - x, logits, weights, out, missing)

    return backend(bernoulli_log_prob=bernoulli_log_prob)
