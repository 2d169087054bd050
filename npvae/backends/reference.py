"""The hot mathematics in plain NumPy: what a reader reads, and what the compiled backends must equal.

Every backend has these names, arguments and results. Arrays are 2-D, row-major, ``(rows, features)``. With L
samples z for each of M datapoints there are L * M rows, all datapoints of the first sample first: row ``l * M + i``
belongs to datapoint i. Densities are in nats. Whatever is passed as ``out`` (or as ``dW``, ``dx``, ...) is
overwritten and returned, so that a training step need not allocate. Gradients are those of something maximised.

Activations stand in ``formulas``, next to this file; ``interface`` lists what a backend must have. The layers that call
these functions stand in ``nn`` and ``model``; this file knows nothing of networks.
"""

import numpy as np

from . import formulas
from .formulas import sigmoid, softplus

LOG_2PI = np.log(2 * np.pi)

#: This backend has no faster form of a whole network, and takes one step at a time.
Network = Runner = None

#: Keeps the first Adagrad steps finite where a gradient is zero (the authors' value).
ADAGRAD_EPSILON = 1e-8


# Arrays: where they live and how they get there ---------------------------------------------------------------------


def empty(shape, dtype):
    """Return an uninitialised array where this backend computes."""
    return np.empty(shape, dtype)


def asarray(array, dtype):
    """Move a NumPy array to where this backend computes."""
    return np.ascontiguousarray(array, dtype)


def to_numpy(array):
    """Move an array of this backend back to NumPy."""
    return array


def gradient(layout, dtype):
    """Return a place for the gradient of all parameters, with the names of the layout: zeros.

    A backend may return an object of its own that has the ``vector``, names and ``items`` of `Parameters`.
    """
    return layout.view(np.zeros(layout.size, dtype))


def gather(X, rows, scaling, out):
    """Copy a minibatch as floats: ``out = (X[rows] - scaling.shift) * scaling.scale``.

    The dataset itself stays as it came: uint8 pixels stay uint8.

    Parameters
    ----------
    X (N, D) of any numeric type; rows (M,) integers; scaling: ``shift`` and ``scale`` (D,) float64; out (M, D).
    """
    np.multiply(X[rows] - scaling.shift, scaling.scale, out=out, casting="same_kind")
    return out


# One layer of a network ---------------------------------------------------------------------------------------------


def dense(x, W, b, activation, out=None):
    """One layer: ``y = f(x W + b)``.

    Parameters
    ----------
    x (M, I); W (I, O), where I may be 0; b (O,); activation: a name in `formulas.ACTIVATIONS`; out (M, O).

    Returns
    -------
    y (M, O)
    """
    function = formulas.activation(activation).function
    a = np.matmul(x, W, out=out)
    a += b
    a[...] = function(a)
    return a


def dense_backward(x, W, y, dy, activation, gradients):
    """Backward pass of `dense`: from the gradient at its output to those at W, b and x.

    Parameters
    ----------
    x (M, I), W (I, O), y (M, O): as in, and out of, `dense`.
    dy (M, O): gradient at y, C-contiguous; overwritten with the gradient at the layer's input to f.
    gradients : (dW (I, O), db (O,), dx (M, I), accumulate)
        Where the results go. dW and db are None where no gradient of a weight is needed, dx is None where that of the
        inputs is not (the first layer). With ``accumulate`` it is added to what dx holds (several heads on one hidden
        layer).
    """
    dW, db, dx, accumulate = gradients
    dy *= formulas.activation(activation).derivative(y)
    if dW is not None:
        np.matmul(x.T, dy, out=dW)
        np.sum(dy, axis=0, out=db)
    if dx is not None:
        dx[...] = dy @ W.T + (dx if accumulate else 0)


# The latent layer ---------------------------------------------------------------------------------------------------


def gaussian_latent(mu, log_var, eps, analytic_kl, out=(None, None)):
    """Reparameterize q(z|x) = N(mu, sigma^2): ``z = mu + sigma * eps``, with the KL divergence of q(z|x) from N(0, I).

    Parameters
    ----------
    mu, log_var (M, J); eps (L * M, J) standard normal.
    analytic_kl : bool
        True: the divergence in closed form, -1/2 sum_j (1 + log sigma_j^2 - mu_j^2 - sigma_j^2) (Appendix B); where
        sigma is near 1, sigma^2 - 1 = expm1(log sigma^2) keeps its digits.
        False: the log-ratio of each sample, log q(z|x) - log p(z), whose mean estimates the divergence.
    out : as the results

    Returns
    -------
    z (L * M, J)
    kl (M,) in closed form, or the log-ratios (L * M,), in nats
    """
    noise = eps.reshape(-1, *mu.shape)  # (L, M, J)
    sigma = np.exp(log_var / 2)
    z = mu + sigma * noise
    if analytic_kl:
        kl = 0.5 * np.sum(mu**2 + np.expm1(log_var) - log_var, axis=1)
    else:  # log q = -1/2 sum (log 2pi + log_var + eps^2) and log p = -1/2 sum (log 2pi + z^2)
        kl = 0.5 * np.sum(z**2 - noise**2 - log_var, axis=2).ravel()
    return _into(out, z.reshape(eps.shape), kl)


def gaussian_latent_backward(mu, log_var, eps, dz, analytic_kl, weights, out=(None, None)):
    """Backward pass of `gaussian_latent`, for an objective that holds ``-sum(weights * kl)``.

    Parameters
    ----------
    mu, log_var, eps, analytic_kl: as in `gaussian_latent`; dz (L * M, J): gradient of the rest at z.
    weights : (M,) of the divergences in closed form, or (L * M,) of the log-ratios
    out : (dmu (M, J), dlog_var (M, J))

    Returns
    -------
    dmu (M, J), dlog_var (M, J)
    """
    noise, dz = eps.reshape(-1, *mu.shape), dz.reshape(-1, *mu.shape)
    sigma, weights = np.exp(log_var / 2), weights.reshape(-1, len(mu), 1)
    if not analytic_kl:  # what the log-ratios hold of z
        dz = dz - weights * (mu + sigma * noise)
    dmu = dz.sum(axis=0)
    dlog_var = 0.5 * sigma * (dz * noise).sum(axis=0)
    if analytic_kl:
        dmu, dlog_var = dmu - weights[0] * mu, dlog_var - weights[0] * (0.5 * np.expm1(log_var))
    else:
        dlog_var = dlog_var + 0.5 * weights.sum(axis=0)
    return _into(out, dmu, dlog_var)


def gaussian_log_q(z, mu, log_var, weights, out=(None, None, None)):
    """log q(z|x) = log N(z; mu, sigma^2) of samples that are held constant, and its gradient: the score function.

    Parameters
    ----------
    z (L * M, J); mu, log_var (M, J); weights (L * M,); out as the results.

    Returns
    -------
    log_q (L * M,) in nats; dmu, dlog_var (M, J), the gradients of ``sum(weights * log_q)``
    """
    repeated = (np.tile(array, (len(z) // len(mu), 1)) for array in (mu, log_var))
    log_q, dmu, dlog_var = gaussian_log_prob(z, *repeated, weights)
    return _into(out, log_q, *(array.reshape(-1, *mu.shape).sum(axis=0) for array in (dmu, dlog_var)))


def add_log_prior(z, log_prob, dz):
    """Add log p(z) = log N(z; 0, I) to ``log_prob`` and its gradient to ``dz``, in place.

    Parameters
    ----------
    z (R, J); log_prob (R,) in nats; dz (R, J)
    """
    log_prob -= 0.5 * np.sum(LOG_2PI + z**2, axis=1)
    dz -= z


# Likelihoods: a value a row, and the gradient with respect to the parameters, in one pass ----------------------------


def bernoulli_log_prob(x, logits, weights, out=(None, None)):
    """log p(x|z) = sum_d x_d log y_d + (1 - x_d) log(1 - y_d), with y = sigmoid(logits) (Appendix C.1).

    Parameters
    ----------
    x (M, D) in [0, 1]; logits (L * M, D); weights (L * M,); out as the results.

    Returns
    -------
    log_prob (L * M,) in nats; dlogits (L * M, D), the gradient of ``sum(weights * log_prob)``
    """
    samples, weights = logits.reshape(-1, *x.shape), weights.reshape(-1, len(x), 1)
    log_prob = np.sum(x * samples - softplus(samples), axis=2)
    dlogits = weights * (x - sigmoid(samples))
    return _into(out, log_prob.ravel(), dlogits.reshape(logits.shape))


def gaussian_log_prob(x, mu, log_var, weights, out=(None, None, None)):
    """log N(x; mu, sigma^2), summed over independent dimensions (Appendix C.2).

    Parameters
    ----------
    x (M, D); mu, log_var (L * M, D); weights (L * M,); out as the results.

    Returns
    -------
    log_prob (L * M,) in nats; dmu, dlog_var (L * M, D), the gradients of ``sum(weights * log_prob)``
    """
    means, log_vars = mu.reshape(-1, *x.shape), log_var.reshape(-1, *x.shape)
    weights = weights.reshape(-1, len(x), 1)
    precision = np.exp(-log_vars)
    error = x - means
    log_prob = -0.5 * np.sum(LOG_2PI + log_vars + error**2 * precision, axis=2)
    dmu = weights * error * precision
    dlog_var = weights * 0.5 * (error**2 * precision - 1)
    return _into(out, log_prob.ravel(), dmu.reshape(mu.shape), dlog_var.reshape(mu.shape))


# Updates: ascent on the per-datapoint bound plus the log-prior of the weights, over the flat vector -------------------


def adagrad_step(parameters, gradient, state, rule):
    """One Adagrad step, in place: ``G += g^2``, then ``w += step_size * g / sqrt(G + 1e-8)``.

    g is the gradient of the bound plus that of the weight prior, ``-weight_decay * w`` for the weights (which stand
    first in the flat vector) and nothing for the biases. The first ``accumulate_only`` steps leave w alone, as in
    the authors' code: else they would have length step_size in every coordinate.

    Parameters
    ----------
    parameters, gradient : objects whose ``vector`` is (P,); the gradient is overwritten.
    state : ``squares`` (P,), the G above, and ``counter`` (2,) int64
        counter[0] counts the steps. counter[1] is -1, or the first step whose gradient (or its square, in this
        precision) was not finite: from then on nothing changes any more, so the last good parameters stay.
    rule : ``step_size, weight_decay, accumulate_only, n_weights``
    """
    w, g, squares, weights = parameters.vector, gradient.vector, state.squares, slice(rule.n_weights)
    if not count_step(state.counter, squares_are_finite(g)):
        return
    g[weights] -= rule.weight_decay * w[weights]
    squares += g**2
    if state.counter[0] > rule.accumulate_only:
        w += rule.step_size * g / np.sqrt(squares + ADAGRAD_EPSILON)


def sgd_step(parameters, gradient, state, rule):
    """One step of plain gradient ascent, in place: ``w += step_size * g``. Arguments as in `adagrad_step`."""
    w, g, weights = parameters.vector, gradient.vector, slice(rule.n_weights)
    if not count_step(state.counter, squares_are_finite(g)):
        return
    g[weights] -= rule.weight_decay * w[weights]
    w += rule.step_size * g


def squares_are_finite(array):
    """Tell whether no element is NaN or infinite, nor its square."""
    with np.errstate(over="ignore"):
        return bool(np.all(np.isfinite(array * array)))


def count_step(counter, finite):
    """Count a step and tell whether it may be taken: whether its gradient and all before it were finite."""
    if counter[1] >= 0:
        return False
    counter[0] += 1
    if not finite:
        counter[1] = counter[0]
        return False
    return True


def _into(out, *results):
    """Copy each result into its buffer, where there is one."""
    for buffer, result in zip(out, results):
        if buffer is not None:
            buffer[...] = result
    return tuple(result if buffer is None else buffer for buffer, result in zip(out, results))
