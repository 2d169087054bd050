"""The mathematics that takes the time, in plain NumPy. The compiled backends must give the same results.

Every backend has these functions, with the same arguments and results; ``interface`` lists them with their types.

- Arrays are 2-D, row-major, ``(rows, features)``.
- M is the number of datapoints, L the number of samples z for each of them. Arrays of samples have L * M rows, the
  first sample of every datapoint first: row ``l * M + i`` belongs to datapoint i.
- Log-densities and KL divergences are in nats.
- NaN in x is a cell that is not observed. Functions that read x take ``missing``, whether there may be such cells.
- The objective is maximised; all gradients are its gradients. ``dz`` is the gradient with respect to z.
- Results are written to the arrays passed as ``out`` and returned. For None a new array is made.

``formulas`` has the activations. ``nn`` builds networks of these functions, ``model`` the variational autoencoder.
Equations and appendices are those of Kingma and Welling, "Auto-Encoding Variational Bayes" (arXiv:1312.6114).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..sparse import SparseRows
from . import formulas
from .formulas import sigmoid, softplus

LOG_2PI = np.log(2 * np.pi)

#: This backend computes networks layer by layer, and takes one training step at a time.
Network = Runner = None


# Arrays: allocate them, copy them to the backend's memory and back ----------------------------------------------------


def empty(shape: tuple, dtype: DTypeLike) -> NDArray:
    """Return an uninitialised array in the backend's memory (for a GPU, on the device)."""
    return np.empty(shape, dtype)


def asarray(array: ArrayLike, dtype: DTypeLike) -> NDArray:
    """Convert a NumPy array to an array of this backend."""
    return np.ascontiguousarray(array, dtype)


def to_numpy(array: NDArray) -> NDArray:
    """Convert an array of this backend to a NumPy array."""
    return array


def beside() -> AbstractContextManager:
    """Return a context. What is computed in it need not be done before what follows, until `wait`; here it is."""
    return nullcontext()


def wait() -> None:
    """Wait for what was computed `beside`, before it is read."""


def gradient(layout: Any, dtype: DTypeLike) -> Any:
    """Return `Parameters` of zeros, to hold the gradient of all parameters.

    A backend may use its own class, which must have the ``vector``, the names and the ``items`` of `Parameters`.
    """
    return layout.view(np.zeros(layout.size, dtype))


def gather(X: NDArray | SparseRows, rows: NDArray, scaling: Any, out: NDArray) -> NDArray:
    """Copy a minibatch as floats: ``out = (X[rows] - scaling.shift) * scaling.scale``.

    X is not converted as a whole: a dataset of uint8 pixels stays uint8.

    Parameters
    ----------
    X (N, D) : of any numeric type, an array or sparse
    rows (M,) : integers
    scaling : with ``shift`` and ``scale`` (D,) float64, such as `preprocessing.Scaling`
    out (M, D)

    Returns
    -------
    out (M, D)
    """
    np.multiply(X[rows] - scaling.shift, scaling.scale, out=out, casting="same_kind")
    return out


def binarize(x: NDArray, keys: NDArray, out: NDArray) -> NDArray:
    """Draw 0 or 1 for each number: ``out = 1`` with the probability x, from [0, 1], and otherwise 0.

    The draw is a function of x, of the row's key and of the column: the same bits on every backend.

    Parameters
    ----------
    x (M, D)
    keys (M,) : uint64, in the host's memory
    out (M, D) : may be x

    Returns
    -------
    out (M, D)

    Examples
    --------
    >>> x, keys = np.array([[0.0, 0.5, 1.0]] * 3), np.array([7, 8, 9], np.uint64)
    >>> binarize(x, keys, np.empty_like(x))
    array([[0., 0., 1.],
           [0., 0., 1.],
           [0., 1., 1.]])
    """
    with np.errstate(over="ignore"):
        out[...] = formulas.binarized(x, keys[:, None], np.arange(x.shape[1], dtype=np.uint64))
    return out


def fill_missing(x: NDArray, out: NDArray) -> NDArray:
    """Copy x with 0 in place of NaN: what the encoder sees of a row with cells that are not observed.

    Parameters
    ----------
    x (M, D)
    out (M, D)

    Returns
    -------
    out (M, D)

    Examples
    --------
    >>> x = np.array([[1.5, np.nan]])
    >>> fill_missing(x, np.empty_like(x))
    array([[1.5, 0. ]])
    """
    out[...] = np.where(np.isnan(x), 0, x)
    return out


# One layer of a network ---------------------------------------------------------------------------------------------


def dense(x: NDArray, W: NDArray, b: NDArray, activation: str, out: NDArray | None = None) -> NDArray:
    """Compute a dense layer: ``y = f(x W + b)``.

    Parameters
    ----------
    x (M, I)
    W (I, O) : I may be 0
    b (O,)
    activation : a name in `formulas.ACTIVATIONS`
    out (M, O)

    Returns
    -------
    y (M, O)

    Raises
    ------
    ValueError
        If there is no activation of that name.

    Examples
    --------
    >>> x, W, b = np.ones((1, 3)), np.array([[1.0], [2.0], [3.0]]), np.array([0.5])
    >>> dense(x, W, b, "identity")
    array([[6.5]])
    """
    function = formulas.activation(activation).function
    a = np.matmul(x, W, out=out)
    a += b
    a[...] = function(a)
    return a


def dense_backward(x: NDArray, W: NDArray, y: NDArray, dy: NDArray, activation: str, gradients: tuple) -> None:
    """Backward pass of `dense`: from dy to dW, db and dx.

    With da = dy * f'(a), where a = x W + b: dW = x^T da, db is the sum of da over rows, and dx = da W^T.

    Parameters
    ----------
    x (M, I), W (I, O) : as in `dense`
    y (M, O) : the result of `dense`
    dy (M, O) : C-contiguous; overwritten with da
    gradients : (dW (I, O), db (O,), dx (M, I), accumulate)
        The first three are overwritten. dW and db may both be None, and dx may be None: then they are not computed.
        With ``accumulate`` true, the result is added to dx; this is for several heads on the same hidden layer.

    Examples
    --------
    >>> x, W, y = np.ones((1, 3)), np.array([[1.0], [2.0], [3.0]]), np.array([[6.5]])
    >>> dW, db, dx = np.empty((3, 1)), np.empty(1), np.empty((1, 3))
    >>> dense_backward(x, W, y, np.ones((1, 1)), "identity", (dW, db, dx, False))
    >>> dW.T, db, dx
    (array([[1., 1., 1.]]), array([1.]), array([[1., 2., 3.]]))
    """
    dW, db, dx, accumulate = gradients
    dy *= formulas.activation(activation).derivative(y)
    if dW is not None:
        np.matmul(x.T, dy, out=dW)
        np.sum(dy, axis=0, out=db)
    if dx is not None:
        dx[...] = dy @ W.T + (dx if accumulate else 0)


# The latent layer ---------------------------------------------------------------------------------------------------


def gaussian_latent(
    mu: NDArray, log_var: NDArray, eps: NDArray, analytic_kl: bool, out: tuple = (None, None)
) -> tuple[NDArray, NDArray]:
    """Draw z from q(z|x) = N(mu, sigma^2) by reparameterization, with the KL divergence of q(z|x) from p(z) = N(0, I).

    ``z = mu + sigma * eps`` (section 2.4).

    Parameters
    ----------
    mu, log_var (M, J) : log_var is log sigma^2
    eps (L * M, J) : standard normal noise
    analytic_kl : bool
        True: the KL divergence in closed form, -1/2 sum_j (1 + log sigma_j^2 - mu_j^2 - sigma_j^2) (Appendix B). It is
        computed with sigma^2 - 1 = expm1(log sigma^2), which is accurate for sigma near 1.
        False: the log-ratio log q(z|x) - log p(z) of each sample. Its mean is an estimate of the KL divergence.
    out : arrays for the results

    Returns
    -------
    z (L * M, J)
    kl (M,) in closed form, or the log-ratios (L * M,), in nats

    Examples
    --------
    With mu = 0 and sigma = 1, q is the prior: z is the noise and the KL divergence is 0. A mean of 1 adds 1/2 nat.

    >>> z, kl = gaussian_latent(np.array([[0.0], [1.0]]), np.zeros((2, 1)), np.array([[0.3], [0.3]]), True)
    >>> z.ravel(), kl
    (array([0.3, 1.3]), array([0. , 0.5]))
    """
    noise = eps.reshape(-1, *mu.shape)  # (L, M, J)
    sigma = np.exp(log_var / 2)
    z = mu + sigma * noise
    if analytic_kl:
        kl = 0.5 * np.sum(mu**2 + np.expm1(log_var) - log_var, axis=1)
    else:  # log q(z|x) = -1/2 sum_j (log 2pi + log_var + eps^2) and log p(z) = -1/2 sum_j (log 2pi + z^2)
        kl = 0.5 * np.sum(z**2 - noise**2 - log_var, axis=2).ravel()
    return _into(out, z.reshape(eps.shape), kl)


def gaussian_latent_backward(
    mu: NDArray,
    log_var: NDArray,
    eps: NDArray,
    dz: NDArray,
    analytic_kl: bool,
    weights: NDArray,
    out: tuple = (None, None),
) -> tuple[NDArray, NDArray]:
    """Backward pass of `gaussian_latent`, for the objective ``-sum(weights * kl) + (a function of z)``.

    Parameters
    ----------
    mu, log_var (M, J), eps (L * M, J), analytic_kl : as in `gaussian_latent`
    dz (L * M, J) : gradient of the function of z
    weights (M,) or (L * M,) : one for each kl
    out : arrays for the results

    Returns
    -------
    dmu (M, J), dlog_var (M, J)

    Examples
    --------
    The gradient of -kl at mu = 1 is -1: it pulls the mean to that of the prior.

    >>> one, zero = np.ones((1, 1)), np.zeros((1, 1))
    >>> dmu, dlog_var = gaussian_latent_backward(one, zero, zero, zero, True, np.ones(1))
    >>> dmu, dlog_var
    (array([[-1.]]), array([[0.]]))
    """
    noise, dz = eps.reshape(-1, *mu.shape), dz.reshape(-1, *mu.shape)
    sigma, weights = np.exp(log_var / 2), weights.reshape(-1, len(mu), 1)
    if not analytic_kl:  # -weights * log-ratio depends on z through weights * log p(z), whose gradient is -weights * z
        dz = dz - weights * (mu + sigma * noise)
    dmu = dz.sum(axis=0)
    dlog_var = 0.5 * sigma * (dz * noise).sum(axis=0)
    if analytic_kl:
        dmu, dlog_var = dmu - weights[0] * mu, dlog_var - weights[0] * (0.5 * np.expm1(log_var))
    else:
        dlog_var = dlog_var + 0.5 * weights.sum(axis=0)
    return _into(out, dmu, dlog_var)


def gaussian_log_q(
    z: NDArray, mu: NDArray, log_var: NDArray, weights: NDArray, out: tuple = (None, None, None)
) -> tuple[NDArray, NDArray, NDArray]:
    """log q(z|x) = log N(z; mu, sigma^2) of samples held constant, and its gradient, the score function.

    Parameters
    ----------
    z (L * M, J)
    mu, log_var (M, J)
    weights (L * M,)
    out : arrays for the results

    Returns
    -------
    log_q (L * M,), in nats
    dmu, dlog_var (M, J) : gradients of ``sum(weights * log_q)``

    Examples
    --------
    The gradient with respect to mu is (z - mu) / sigma^2:

    >>> log_q, dmu, dlog_var = gaussian_log_q(np.array([[2.0]]), np.zeros((1, 1)), np.zeros((1, 1)), np.ones(1))
    >>> dmu
    array([[2.]])
    """
    L = len(z) // len(mu)
    log_q, dmu, dlog_var = gaussian_log_prob(z, np.tile(mu, (L, 1)), np.tile(log_var, (L, 1)), weights)
    return _into(out, log_q, *(array.reshape(-1, *mu.shape).sum(axis=0) for array in (dmu, dlog_var)))


def add_log_prior(z: NDArray, log_prob: NDArray, dz: NDArray | None) -> None:
    """Add log p(z) = log N(z; 0, I) to ``log_prob`` and its gradient -z to ``dz``, in place.

    Parameters
    ----------
    z (R, J)
    log_prob (R,), in nats
    dz (R, J), or None where the gradient is not wanted

    Examples
    --------
    >>> log_prob, dz = np.zeros(1), np.zeros((1, 2))
    >>> add_log_prior(np.array([[1.0, 2.0]]), log_prob, dz)
    >>> dz
    array([[-1., -2.]])
    """
    log_prob -= 0.5 * np.sum(LOG_2PI + z**2, axis=1)
    if dz is not None:
        dz -= z


# Likelihoods: one log-density per row, and the gradient with respect to the outputs of the decoder, in one pass -------
#
# The cells of x are independent given z. So the density of those that are observed has the terms of those alone.


def _of_observed(x: NDArray, *terms: NDArray) -> tuple[NDArray, ...]:
    """Return terms (L, M, D) with 0 where the cell of x (M, D) is not observed."""
    return tuple(np.where(np.isnan(x), 0, term) for term in terms)


def bernoulli_log_prob(
    x: NDArray, logits: NDArray, weights: NDArray, out: tuple = (None, None), missing: bool = False
) -> tuple[NDArray, NDArray]:
    """log p(x|z) = sum_d x_d log y_d + (1 - x_d) log(1 - y_d), with y = sigmoid(logits) (Appendix C.1).

    Computed as x_d logits_d - softplus(logits_d), which cannot overflow.

    Parameters
    ----------
    x (M, D) : in [0, 1]
    logits (L * M, D)
    weights (L * M,)
    out : arrays for the results
    missing : bool
        Whether x may have NaN. The sum is then over observed cells, and the gradients of the others are 0.

    Returns
    -------
    log_prob (L * M,), in nats
    dlogits (L * M, D) : gradient of ``sum(weights * log_prob)``

    Examples
    --------
    A pixel that is 1 with probability 1/2 costs log 2 nats. The gradient is x - y:

    >>> log_prob, dlogits = bernoulli_log_prob(np.array([[1.0, 0.0]]), np.zeros((1, 2)), np.ones(1))
    >>> bool(np.isclose(log_prob[0], -2 * np.log(2)))
    True
    >>> dlogits
    array([[ 0.5, -0.5]])

    A pixel that is not observed counts nothing:

    >>> log_prob, dlogits = bernoulli_log_prob(np.array([[1.0, np.nan]]), np.zeros((1, 2)), np.ones(1), missing=True)
    >>> bool(np.isclose(log_prob[0], -np.log(2)))
    True
    >>> dlogits
    array([[0.5, 0. ]])
    """
    samples, weights = logits.reshape(-1, *x.shape), weights.reshape(-1, len(x), 1)
    terms, dlogits = x * samples - softplus(samples), weights * (x - sigmoid(samples))
    if missing:
        terms, dlogits = _of_observed(x, terms, dlogits)
    return _into(out, np.sum(terms, axis=2).ravel(), dlogits.reshape(logits.shape))


def gaussian_log_prob(
    x: NDArray, mu: NDArray, log_var: NDArray, weights: NDArray, out: tuple = (None, None, None), missing: bool = False
) -> tuple[NDArray, NDArray, NDArray]:
    """log p(x|z) = sum_d log N(x_d; mu_d, sigma_d^2), with log_var = log sigma^2 (Appendix C.2).

    Parameters
    ----------
    x (M, D)
    mu, log_var (L * M, D)
    weights (L * M,)
    out : arrays for the results
    missing : see `bernoulli_log_prob`

    Returns
    -------
    log_prob (L * M,), in nats
    dmu, dlog_var (L * M, D) : gradients of ``sum(weights * log_prob)``

    Examples
    --------
    >>> log_prob, dmu, dlog_var = gaussian_log_prob(np.array([[3.0]]), np.ones((1, 1)), np.zeros((1, 1)), np.ones(1))
    >>> dmu, dlog_var  # (x - mu) / sigma^2 and ((x - mu)^2 / sigma^2 - 1) / 2
    (array([[2.]]), array([[1.5]]))
    """
    means, log_vars = mu.reshape(-1, *x.shape), log_var.reshape(-1, *x.shape)
    weights = weights.reshape(-1, len(x), 1)
    precision = np.exp(-log_vars)
    error = x - means
    terms = LOG_2PI + log_vars + error**2 * precision
    dmu = weights * error * precision
    dlog_var = weights * 0.5 * (error**2 * precision - 1)
    if missing:
        terms, dmu, dlog_var = _of_observed(x, terms, dmu, dlog_var)
    log_prob = -0.5 * np.sum(terms, axis=2)
    return _into(out, log_prob.ravel(), dmu.reshape(mu.shape), dlog_var.reshape(mu.shape))


def mixed_log_prob(
    x: NDArray,
    logits: NDArray,
    mu: NDArray,
    log_var: NDArray,
    weights: NDArray,
    out: tuple = (None, None, None, None),
    missing: bool = False,
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """log p(x|z) of data with columns of two kinds: Bernoulli for the first B of x, Gaussian for the others.

    Parameters
    ----------
    x (M, D) : binary columns first
    logits (L * M, B)
    mu, log_var (L * M, D - B)
    weights (L * M,)
    out : arrays for the results
    missing : see `bernoulli_log_prob`

    Returns
    -------
    log_prob (L * M,), in nats
    dlogits (L * M, B), dmu, dlog_var (L * M, D - B) : gradients of ``sum(weights * log_prob)``

    Examples
    --------
    >>> zero, one = np.zeros((1, 1)), np.ones(1)
    >>> log_prob, *gradients = mixed_log_prob(np.array([[1.0, 0.0]]), zero, zero, zero, one)
    >>> bool(np.isclose(log_prob[0], -np.log(2) - 0.5 * np.log(2 * np.pi)))
    True
    """
    B = logits.shape[1]
    binary, dlogits = bernoulli_log_prob(x[:, :B], logits, weights, missing=missing)
    real, dmu, dlog_var = gaussian_log_prob(x[:, B:], mu, log_var, weights, missing=missing)
    return _into(out, binary + real, dlogits, dmu, dlog_var)


# Updates: gradient ascent on the bound per datapoint plus the log-prior of the weights, over the flat vector ----------


def step(optimizer: str, parameters: Any, gradient: Any, state: Any, rule: Any) -> None:
    """Take one step of an optimizer in place: gradient ascent on all parameters. `formulas` has the equations.

    g is the gradient of the bound plus that of the log-prior of the weights, ``-weight_decay * w``. Biases have no
    prior. The first ``accumulate_only`` steps do not move the parameters: as in the authors' code, Adagrad sums up
    gradients first. Without them the first step would change every parameter by the step size, whatever the size of
    its gradient. Later in the run, the step size may decay: see `formulas.SCHEDULES`. If there is an average of the
    iterates, it is updated as well.

    Parameters
    ----------
    optimizer : a name in `formulas.UPDATES`
    parameters, gradient : Parameters, whose ``vector`` (P,) has the weights first; the gradient is overwritten
    state : optimizers.State
        ``arrays`` has the arrays (P,) of the optimizer by name, and perhaps "average". ``counter[0]`` counts the steps.
        ``counter[1]`` is -1, or the number of the first step whose gradient was not finite, or whose squared gradient
        or results were not. That step and all later ones change no parameter, so the last good ones remain; the arrays
        then have no meaning. Where the gradient was finite, it is now NaN in the places that overflowed.
    rule : optimizers.UpdateRule

    Examples
    --------
    The first step of Adagrad has the length step_size:

    >>> from npvae.optimizers import State, UpdateRule
    >>> from types import SimpleNamespace as Space
    >>> w, g = Space(vector=np.array([1.0])), Space(vector=np.array([3.0]))
    >>> state = State({"squares": np.zeros(1)}, counter=np.array([0, -1]))
    >>> step("adagrad", w, g, state, UpdateRule(step_size=0.5, weight_decay=0.0, accumulate_only=0, n_weights=1))
    >>> w.vector.round(6), state.arrays["squares"]
    (array([1.5]), array([9.]))
    """
    w, g, weights = parameters.vector, gradient.vector, slice(rule.n_weights)
    if not count_step(state.counter, squares_are_finite(g)):
        return
    numbers, update = rule.numbers(int(state.counter[0])), formulas.UPDATES[optimizer]
    places = [w, *(state.arrays[name] for name in update.arrays)]
    with np.errstate(over="ignore", invalid="ignore"):
        g[weights] -= rule.weight_decay * w[weights]
        unused = [None] * (3 - len(places))
        results = update.function(w, g, numbers, *places[1:], *unused)[: len(places)]
        if rule.averaging:
            places.append(state.arrays["average"])
            results += (formulas.averaged(places[-1], results[0], numbers),)
    if is_taken(state.counter, g, *results):
        for place, result in zip(places, results):
            place[...] = result


def clip_norm(gradient: Any, limit: float) -> None:
    """Scale a gradient in place so that its norm is at most the limit (Pascanu, Mikolov and Bengio, 2013).

    One that is not finite, or whose squares are not, is left as it is: `step` finds it.

    Examples
    --------
    >>> from types import SimpleNamespace as Space
    >>> gradient = Space(vector=np.array([3.0, 4.0]))
    >>> clip_norm(gradient, 10.0)
    >>> clip_norm(gradient, 1.0)
    >>> gradient.vector
    array([0.6, 0.8])
    """
    with np.errstate(over="ignore"):
        norm = np.sqrt(np.sum(gradient.vector**2))
    if limit < norm < np.inf:
        gradient.vector *= limit / norm


def squares_are_finite(array: NDArray) -> bool:
    """Return whether all elements are finite, and their squares too, in the array's precision."""
    with np.errstate(over="ignore"):
        return bool(np.all(np.isfinite(array * array)))


def count_step(counter: NDArray, finite: bool) -> bool:
    """Count a step, and return whether to take it: whether its gradient and all earlier ones were finite."""
    if counter[1] >= 0:
        return False
    counter[0] += 1
    if not finite:
        counter[1] = counter[0]
        return False
    return True


def is_taken(counter: NDArray, gradient: NDArray, *results: NDArray) -> bool:
    """Return whether a step is taken: its results (P,) are finite. If not, record that, and mark the gradient."""
    finite = np.all([np.isfinite(result) for result in results], axis=0)
    if finite.all():
        return True
    counter[1], gradient[~finite] = counter[0], np.nan
    return False


def _into(out: tuple, *results: NDArray) -> tuple:
    """Copy each result into its array of ``out``, or return it as it is where that is None."""
    for buffer, result in zip(out, results):
        if buffer is not None:
            buffer[...] = result
    return tuple(result if buffer is None else buffer for buffer, result in zip(out, results))
