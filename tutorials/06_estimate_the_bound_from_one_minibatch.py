# %% [markdown]
# # Estimate the bound from one minibatch
#
# **Question:** A step may spend 100 draws of noise. Should it take 100 datapoints with one sample each, or fewer
# datapoints with more samples?
#
# **You will do:** write both of the paper's estimators of the bound by hand, with their gradients; let each check the
# other; scale a minibatch up to the whole data; and measure how noisy all of this is.
#
# **You will learn:** where the KL divergence of two Gaussians comes from; which version has the smaller variance, for
# the value and for the gradient, and when it has not; and how each version can check the other.
#
# **You need:** both forms of the bound (tutorial 03), samples as functions of noise (tutorial 05), and the chain rule
# for matrix products.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy import integrate, stats

import npvae
from npvae import distributions, evaluation
from npvae.backends import formulas, reference
from npvae.estimators import SGVB
from npvae.exercises import Exercise
from npvae.model import Architecture, Model
from npvae.parameters import Buffers

# %% [markdown]
# ## A model in which everything is known
#
# Decoder: $z \sim \mathcal N(0, I)$ with $J = 2$ components, and $x | z \sim \mathcal N(z W + b, s^2)$ with $D = 5$
# and $s = 0.6$. Encoder: $q_\phi(z|x) = \mathcal N(x A + a, \; e^c)$, with one log-variance $c_j$ for each latent. So
# $\theta = (W, b)$ and $\phi = (A, a, c)$. For such a model `LinearGaussian` of tutorial 02 knows $\log p(x)$ and the
# exact bound of every $q$: that is the oracle.
#
# Before any theory, look at an estimate. We take one datapoint and a rather poor $q$, draw $z$ from it, and compute
# $\log p(x, z) - \log q(z|x)$, whose expectation is the bound. The mean of $L$ of these is an estimate of the bound.
#
# **Before you run it:** can an estimate of a *lower bound* be above $\log p(x)$?

# %%
rng, N, D, J, s = np.random.default_rng(6), 1000, 5, 2, 0.6
W = np.array([[1.2, -0.8, 1.0, 0.9, 0.4], [0.5, 0.3, 0.1, -0.4, 0.2]])
W[1] -= W[1] @ W[0] / (W[0] @ W[0]) * W[0]  # orthogonal rows: the components of the posterior are independent
X = rng.standard_normal((N, J)) @ W + s * rng.standard_normal((N, D))


def log_normal(value, mean, sigma):
    """log N(value; mean, sigma^2), element by element, in nats."""
    return -0.5 * np.log(2 * np.pi) - np.log(sigma) - 0.5 * ((value - mean) / sigma) ** 2


def log_joint(z, x):
    """log p(x, z) = log p(z) + log p(x|z), in nats, of the decoder that made the data; z (..., J), x (..., D)."""
    return log_normal(z, 0, 1).sum(axis=-1) + log_normal(x, z @ W, s).sum(axis=-1)


exact = evaluation.LinearGaussian(W, np.zeros(D), np.full(D, s**2))
x, mu, sigma = X[0], np.array([0.3, -0.5]), np.array([0.5, 0.9])
z = mu + sigma * rng.standard_normal((100, 2000, J))  # 2000 times, up to 100 samples
f = log_joint(z, x) - log_normal(z, mu, sigma).sum(axis=-1)
log_p, bound = exact.log_prob(x[None])[0], exact.elbo(x[None], mu[None], 2 * np.log(sigma[None]))[0]

# figure: sgvb-a
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for L, colour in ((1, "tab:orange"), (10, "tab:green"), (100, "tab:blue")):
    bins = np.linspace(bound - 14, bound + 12, 105)
    ax.hist(f[:L].mean(axis=0), bins, density=True, alpha=0.6, color=colour, label=f"L = {L}")
ax.axvline(bound, color="k", label="the bound, exact")
ax.axvline(log_p, color="k", ls="--", label="log p(x), exact")
ax.set(xlabel="estimate of the bound of one datapoint (nats)", ylabel="density", title="The mean of L samples")
ax.legend()
above = np.mean(f[0] > log_p)
print(f"bound {bound:.1f} nats, log p(x) {log_p:.1f} nats; ", end="")
print(f"single samples above log p(x): {above:.0%} +- {np.sqrt(above * (1 - above) / 2000):.0%}")
assert bound < log_p and above > 0
assert abs(f.mean() - bound) < 4 * f.std() / np.sqrt(f.size)

# %% [markdown]
# *See:* with more samples the histograms get narrower about the solid line. (The orange one is lopsided, but has its
# mean there too.) Single samples do exceed $\log p(x)$: the *expectation* is bounded, an estimate is not.
#
# ## Samples instead of an integral
#
# Tutorial 05 replaced an expectation over $q_\phi(z|x)$ by one over noise. With $L$ draws of noise:
#
# $$\mathbb E_{q_\phi(z|x)}[f(z)] \approx \frac 1 L \sum_{l=1}^L f(g_\phi(\epsilon^{(l)}, x)),
# \qquad \epsilon^{(l)} \sim p(\epsilon)$$
#
# Here $g_\phi(\epsilon, x) = \mu(x) + \sigma(x) \, \epsilon$. We write it for a whole minibatch at once. Arrays of
# samples have the shape $(L, M, J)$: $L$ samples, $M$ datapoints, $J$ latents. All parameters, $\theta$ and $\phi$,
# are arrays in one dictionary `p`.


# %%
def same(found, right, tolerance=1e-12):
    """Assert that two arrays are equal up to rounding, relative to the larger of 1 and the right value."""
    assert np.shape(found) == np.shape(right) and np.allclose(found, right, rtol=tolerance, atol=tolerance)


def with_error(statistic, values, pieces=50):
    """A statistic of values (n,) with its standard error, from equal pieces of them."""
    return statistic(values), np.std([statistic(piece) for piece in np.split(values, pieces)]) / np.sqrt(pieces)


def encode(p, x):
    """Mean and log-variance of q(z|x): (M, J) each."""
    return x @ p["A"] + p["a"], p["c"] + np.zeros((len(x), J))


def g(p, eps, x):
    """z = mu + sigma eps: (L, M, J) from noise of this shape."""
    mu, log_var = encode(p, x)
    return mu + np.exp(log_var / 2) * eps


def log_likelihood(p, x, z):
    """log p(x|z): (L, M), in nats."""
    return log_normal(x, z @ p["W"] + p["b"], s).sum(axis=-1)


p = {"A": rng.normal(0, 0.2, (D, J)), "a": np.array([0.2, -0.3]), "c": np.array([-0.7, 0.4])}
p |= {
    "W": W + rng.normal(0, 0.3, (J, D)),
    "b": rng.normal(0, 0.3, D),
}  # not a good model, so that nothing cancels by chance
L, M = 5000, 4
x, eps = X[:M], rng.standard_normal((L, M, J))

# formula: sgvb-estimate
f = log_likelihood(p, x, g(p, eps, x))  # f may be any function of z; here it is log p(x|z)
estimate, error = f.mean(axis=0), f.std(axis=0) / np.sqrt(L)
mu, log_var = encode(p, x)
closed = log_likelihood(p, x, mu) - np.exp(log_var) @ (p["W"] ** 2).sum(axis=1) / s**2 / 2  # E|(z - mu) W|^2 / 2 s^2
for i in range(M):
    print(f"datapoint {i}: E[log p(x|z)] = {estimate[i]:.1f} +- {error[i]:.1f}; exact {closed[i]:.1f} nats")
assert np.all(np.abs(estimate - closed) < 4 * error)
same(integrate.quad(lambda v: np.exp(log_normal(v, 0.4, s)), -np.inf, np.inf)[0], 1.0, 1e-9)

# %% [markdown]
# ## Version A: sample everything
#
# Take for $f$ the whole integrand of the bound, $\log p_\theta(x, z) - \log q_\phi(z|x)$:
#
# $$\tilde{\mathcal L}^A(\theta, \phi; x^{(i)}) = \frac 1 L \sum_{l=1}^L \left( \log p_\theta(x^{(i)}, z^{(i,l)})
# - \log q_\phi(z^{(i,l)}|x^{(i)}) \right), \qquad z^{(i,l)} = g_\phi(\epsilon^{(i,l)}, x^{(i)})$$
#
# This is often written without the brackets, so that it looks as if the mean were taken of $\log p$ alone. The mean is
# that of the difference.


# %%
# formula: sgvb-a
def sgvb_a(p, x, eps):
    """Version A of the bound of each datapoint: (M,), in nats."""
    z, (mu, log_var) = g(p, eps, x), encode(p, x)
    log_joint = log_normal(z, 0, 1).sum(axis=-1) + log_likelihood(p, x, z)
    log_q = log_normal(z, mu, np.exp(log_var / 2)).sum(axis=-1)
    return np.mean(log_joint - log_q, axis=0)


def exact_bound(p, x):
    """The bound of each datapoint without sampling, by the oracle: (M,), in nats."""
    return evaluation.LinearGaussian(p["W"], p["b"], np.full(D, s**2)).elbo(x, *encode(p, x))


def compare_with_oracle(version):
    """Print a version's estimate of the bound of each datapoint from L samples; assert that it is right."""
    pieces = np.array([version(p, x, piece) for piece in np.split(eps, 100)])
    same(version(p, x, eps), pieces.mean(axis=0))  # the mean of the means is the mean
    estimate, error, right = pieces.mean(axis=0), pieces.std(axis=0) / 10, exact_bound(p, x)
    print(", ".join(f"{a:.1f} +- {b:.1f} (exact {c:.1f})" for a, b, c in zip(estimate, error, right)), "nats")
    assert np.all(np.abs(estimate - right) < 4 * error)


compare_with_oracle(sgvb_a)

# %% [markdown]
# ### Exercise: version A for another model
#
# In the model of tutorial 02, $z \sim \mathcal N(0, 1)$ and $x | z \sim \mathcal N(z^2, s^2)$. Write version A for one
# datapoint $x$, a $q = \mathcal N(\mu, e^{\text{log\_var}})$ and $L$ numbers of noise.
#
# <details><summary>Hint</summary>
#
# Four lines: the samples, then three log-densities with `log_normal(value, mean, sigma)`. The standard deviation of
# $q$ is `np.exp(log_var / 2)`.
#
# </details>


# %%
def sgvb_a_of_square(x, mu, log_var, eps, s):
    """Version A for the model z ~ N(0, 1), x|z ~ N(z^2, s^2); all are numbers but eps (L,): a number, in nats."""
    ...  # your code, about four lines


# %% tags=["hide-cell"]
def sgvb_a_of_square_solution(x, mu, log_var, eps, s):
    z = mu + np.exp(log_var / 2) * eps
    log_joint = log_normal(z, 0, 1) + log_normal(x, z**2, s)
    return np.mean(log_joint - log_normal(z, mu, np.exp(log_var / 2)))


def _log_weights(x, mu, log_var, eps, s, prior=stats.norm.logpdf):
    z, sigma = mu + np.exp(log_var / 2) * eps, np.exp(log_var / 2)
    return prior(z) + stats.norm.logpdf(x, z**2, s) - stats.norm.logpdf(z, mu, sigma)


def _log_joint(x, z, s):
    return log_normal(z, 0, 1) + log_normal(x, z**2, s)


def _variance_for_sigma(x, mu, log_var, eps, s):
    z = mu + np.exp(log_var / 2) * eps
    return np.mean(_log_joint(x, z, s**2) - log_normal(z, mu, np.exp(log_var)))


def _noise_times_variance(x, mu, log_var, eps, s):
    z = mu + np.exp(log_var) * eps
    return np.mean(_log_joint(x, z, s) - log_normal(z, mu, np.exp(log_var / 2)))


_calls = [(1.0, 0.8, -1.5, np.array([0.3, -1.2, 0.9]), 0.5), (2.1, -1.3, 0.4, np.array([-0.4, 0.7, 1.1, -0.1]), 0.8)]
check_sgvb_a_of_square = Exercise(
    solution=sgvb_a_of_square_solution,
    mistakes={
        "log p(z) is missing: log p(x, z) is log p(x|z) + log p(z)": (
            lambda *arguments: np.mean(_log_weights(*arguments, prior=np.zeros_like))
        ),
        "log q(z|x) is missing: the bound has the difference of both": (
            lambda x, mu, v, eps, s: np.mean(_log_joint(x, mu + np.exp(v / 2) * eps, s))
        ),
        "the logarithm of a mean, where the mean of logarithms is asked for: that estimates another, higher bound": (
            lambda *arguments: np.log(np.mean(np.exp(_log_weights(*arguments))))
        ),
        "log_normal takes the standard deviation, not the variance": _variance_for_sigma,
        "the noise is scaled by the variance: the standard deviation is exp(log_var / 2)": _noise_times_variance,
        "log_var is read as log sigma": (
            lambda x, mu, log_var, eps, s: np.mean(_log_weights(x, mu, 2 * log_var, eps, s))
        ),
        "the sum over l, where the mean is asked for": lambda *arguments: np.sum(_log_weights(*arguments)),
    },
    inputs=_calls,
    expected=[np.mean(_log_weights(*arguments)) for arguments in _calls],
)

# %%
print(check_sgvb_a_of_square(sgvb_a_of_square))

# %% [markdown]
# ## Version B: integrate what can be integrated
#
# The other form of the bound is $-D_{KL}(q_\phi(z|x) \| p(z)) + \mathbb E_q[\log p_\theta(x|z)]$. The KL divergence of
# Gaussians needs no samples. It consists of two integrals. The first is the expected log-prior:
#
# $$\int q(z) \log p(z) \, dz = -\frac J 2 \log 2\pi - \frac 1 2 \sum_{j=1}^J (\mu_j^2 + \sigma_j^2)$$
#
# because $\mathbb E_q[z_j^2] = \mu_j^2 + \sigma_j^2$. We compare with SciPy's numerical integration, one latent at a
# time.


# %%
def integral(function, mu, sigma):
    """The integral of q(z) function(z, j) over each latent z_j, summed over j; q = N(mu, sigma^2)."""
    total = 0.0
    for j in range(len(mu)):
        under = lambda z, j=j: np.exp(log_normal(z, mu[j], sigma[j])) * function(z, j)
        low, high = mu[j] - 12 * sigma[j], mu[j] + 12 * sigma[j]
        total += integrate.quad(under, low, high, epsabs=1e-12, epsrel=1e-12)[0]
    return total


mu, sigma = np.array([0.7, -1.3]), np.array([0.6, 1.4])
same(integral(lambda z, j: 1, mu, sigma), float(J), 1e-10)  # each q(z_j) has mass 1

# formula: expected-log-prior
expected_log_prior = -J / 2 * np.log(2 * np.pi) - 0.5 * np.sum(mu**2 + sigma**2)
same(expected_log_prior, integral(lambda z, j: log_normal(z, 0, 1), mu, sigma), 1e-10)

# %% [markdown]
# The second is the negative entropy of $q$. Here $\mathbb E_q[(z_j - \mu_j)^2 / \sigma_j^2] = 1$:
#
# $$\int q(z) \log q(z) \, dz = -\frac J 2 \log 2\pi - \frac 1 2 \sum_{j=1}^J (1 + \log \sigma_j^2)$$

# %%
# formula: negative-entropy
negative_entropy = -J / 2 * np.log(2 * np.pi) - 0.5 * np.sum(1 + np.log(sigma**2))
same(negative_entropy, integral(lambda z, j: log_normal(z, mu[j], sigma[j]), mu, sigma), 1e-10)
same(negative_entropy, -distributions.Normal(mu, sigma).entropy().sum())

# %% [markdown]
# Their difference is the KL divergence, $D_{KL} = \int q \log q - \int q \log p$. The terms with $2\pi$ cancel:
#
# $$D_{KL}(q_\phi(z|x) \| p(z)) = -\frac 1 2 \sum_{j=1}^J \left( 1 + \log \sigma_j^2 - \mu_j^2 - \sigma_j^2 \right)$$
#
# It is often written without the minus in front, as in
# "$D_{KL} = \int q \, (\log p - \log q) = \frac 1 2 \sum_j (1 + \log \sigma_j^2 - \mu_j^2 - \sigma_j^2)$". That is
# $-D_{KL}$, the term of the bound. A quick test: for $\mu = 1, \sigma = 1$ the sum is $-1$. A KL divergence is never
# negative, so it must be $+\frac 1 2$. Note also that the sum runs over all four terms, and that the parameters of $q$
# are $\phi$: the often written $q_\theta(z)$ should be $q_\phi(z)$.

# %%
# formula: gaussian-kl
kl = -0.5 * np.sum(1 + np.log(sigma**2) - mu**2 - sigma**2)
print(f"KL divergence from the prior: {kl:.3f} nats")
assert kl > 0
same(kl, negative_entropy - expected_log_prior)
same(kl, distributions.kl_divergence(distributions.Normal(mu, sigma), distributions.Normal()).sum())
same(kl, integral(lambda z, j: log_normal(z, mu[j], sigma[j]) - log_normal(z, 0, 1), mu, sigma), 1e-10)
# npvae knows it for any two Gaussians, here from N(0.4, 1.7^2):
other = integral(lambda z, j: log_normal(z, mu[j], sigma[j]) - log_normal(z, 0.4, 1.7), mu, sigma)
same(distributions.kl_divergence(distributions.Normal(mu, sigma), distributions.Normal(0.4, 1.7)).sum(), other, 1e-10)

# %% [markdown]
# Only the expected log-likelihood is left for the samples:
#
# $$\tilde{\mathcal L}^B(\theta, \phi; x^{(i)}) = -D_{KL}(q_\phi(z|x^{(i)}) \| p(z))
# + \frac 1 L \sum_{l=1}^L \log p_\theta(x^{(i)}|z^{(i,l)})$$


# %%
def kl_from_prior(mu, log_var):
    """D_KL(N(mu, exp(log_var)) || N(0, I)) of each datapoint: (M,), in nats."""
    return -0.5 * np.sum(1 + log_var - mu**2 - np.exp(log_var), axis=-1)


# formula: sgvb-b
def sgvb_b(p, x, eps):
    """Version B of the bound of each datapoint: (M,), in nats."""
    return -kl_from_prior(*encode(p, x)) + np.mean(log_likelihood(p, x, g(p, eps, x)), axis=0)


compare_with_oracle(sgvb_b)

# %% [markdown]
# ## The gradients, by hand
#
# With the noise held fixed, both versions are ordinary functions of the parameters, and may be differentiated. We will
# check each gradient by the complex step of tutorial 05: for a function that is made of powers, exponentials and the
# like, it gives the derivative to all digits. Here it is for a dictionary of arrays.


# %%
def complex_step(function, p):
    """Gradient of function(p) for each array of p, exact up to rounding (tutorial 05)."""
    found = {}
    for name, array in p.items():
        found[name] = np.empty(array.shape)
        for place in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[place] += 1e-30j
            found[name][place] = np.imag(function({**p, name: moved})) / 1e-30
    return found


# %% [markdown]
# ### From the samples back to the parameters
#
# Let $F$ be the mean of $\tilde{\mathcal L}$ over the $M$ datapoints, so each of the $L \cdot M$ samples has the
# weight $1 / LM$. We write $\partial W$ for $\partial F / \partial W$, and leave the weight out. (In the code, what
# comes from one sample has the weight $1 / LM$; what comes from a datapoint, or is the same for its $L$ samples,
# $1 / M$.) Going backwards:
#
# - $\log p(x|z)$ has the derivative $r = (x - zW - b) / s^2$ by the mean $zW + b$. So $\partial W = \sum z^\top r$,
#   $\partial b = \sum r$, and $\partial z = r W^\top$.
# - *Version A:* $\log p(z)$ adds $-z$ to $\partial z$. For all $\mu$ and $\sigma$, $(z - \mu) / \sigma = \epsilon$, so
#   $\log q = -\frac 1 2 \sum_j (\log 2\pi + \text{log\_var}_j + \epsilon_j^2)$ depends on $\text{log\_var}$ only:
#   $-\log q$ adds $\frac 1 2$ to $\partial \text{log\_var}$.
# - *Version B:* $-D_{KL}$ adds $-\mu$ to $\partial \mu$, and $\frac 1 2 (1 - \sigma^2)$ to
#   $\partial \text{log\_var}$ (tutorial 03).
# - $z = \mu + e^{\text{log\_var} / 2} \epsilon$ hands $\partial z$ to $\mu$, and
#   $\frac 1 2 \sigma \epsilon \, \partial z$ to $\text{log\_var}$ (tutorial 05).


# %%
def gradient(p, x, eps, version):
    """Gradient of the mean over the minibatch of `sgvb_a` ("a") or `sgvb_b` ("b"), for each array of p."""
    L, M = eps.shape[:2]
    z, (mu, log_var) = g(p, eps, x), encode(p, x)
    sigma = np.exp(log_var / 2)
    r = (x - z @ p["W"] - p["b"]) / s**2 / (L * M)
    dz = r @ p["W"].T
    if version == "a":
        dz = dz - z / (L * M)
        dmu, dlog_var = 0.0, 0.5 / M
    else:
        dmu, dlog_var = -mu / M, 0.5 * (1 - np.exp(log_var)) / M
    dmu = dmu + dz.sum(axis=0)
    dlog_var = dlog_var + 0.5 * sigma * np.sum(dz * eps, axis=0)
    dW = np.einsum("lmj,lmd->jd", z, r)  # z^T r, summed over samples l and datapoints m
    return {"A": x.T @ dmu, "a": dmu.sum(axis=0), "c": dlog_var.sum(axis=0), "W": dW, "b": r.sum(axis=(0, 1))}


x, eps = X[10:13], rng.standard_normal((4, 3, J))  # M = 3 datapoints, L = 4 samples
for version, estimate in (("a", sgvb_a), ("b", sgvb_b)):
    by_hand = gradient(p, x, eps, version)
    by_step = complex_step(lambda p, estimate=estimate: np.mean(estimate(p, x, eps)), p)
    for name, right in by_step.items():
        same(by_hand[name], right)
    print(f"version {version.upper()}: the gradient by {', '.join(by_hand)} is right to 12 digits")

# %% [markdown]
# ## npvae's estimators
#
# (This section compares with the library. You may skip it.)
#
# In npvae a model has named arrays, an estimator takes noise of shape $(L M, J)$, the first samples of all datapoints
# first, and the log-variance of the decoder is an output like any other. (It has a lower limit, of which tutorial 10
# speaks. We give it the value that makes it $\log s^2$.) With the same parameters and the same noise, values and
# gradients must be ours.
#
# Inside, `gaussian_latent` draws $z$ and gives either the KL divergence or its estimate $\log q(z|x) - \log p(z)$
# sample by sample; `gaussian_latent_backward` goes back. We compare these too, with weights that differ from row to
# row.


# %%
model = Model(Architecture(D, J, (), likelihood="gaussian", constant_log_var=True), reference, "float64")
NAMES = {"A": "encoder.mu.W", "a": "encoder.mu.b", "c": "encoder.log_var.b", "W": "decoder.mu.W", "b": "decoder.mu.b"}


def in_npvae(p):
    """The same parameters as npvae holds them."""
    parameters = model.parameters(np.zeros(model.layout.size))
    for name, array in p.items():
        parameters[NAMES[name]][...] = array
    floor = formulas.MIN_LOG_VAR  # npvae's log-variance is floor + log(1 + exp(b - floor)); solve for b
    parameters["decoder.log_var.b"][...] = floor + np.log(np.expm1(np.log(s**2) - floor))
    return parameters


def latent(q, analytic):
    """What npvae calls a Gaussian latent: z (L M, J), and the KL divergence (M,) or its estimate (L M,)."""
    sigma = np.exp(q["log_var"] / 2)
    z = q["mu"] + sigma * eps
    log_ratio = (log_normal(z, q["mu"], sigma) - log_normal(z, 0, 1)).sum(axis=2)
    return z.reshape(-1, J), kl_from_prior(q["mu"], q["log_var"]) if analytic else log_ratio.ravel()


q, dz = dict(zip(("mu", "log_var"), rng.normal(0, 0.8, (2, 3, J)))), rng.normal(0, 1, (12, J))
for version, estimate in (("a", sgvb_a), ("b", sgvb_b)):
    analytic, flat = version == "b", eps.reshape(-1, J)
    value, elbo, found = SGVB(model, n_samples=4, analytic_kl=analytic).value_and_grad(in_npvae(p), x, flat)
    same([value, elbo], [np.mean(estimate(p, x, eps))] * 2)
    for name, array in gradient(p, x, eps, version).items():
        same(found[NAMES[name]], array)
    (z, kl), found = latent(q, analytic), reference.gaussian_latent(q["mu"], q["log_var"], flat, analytic)
    same(found[0], z)
    same(found[1], kl)
    weights = rng.uniform(0.2, 1, len(kl))
    weighted = lambda z, kl, weights=weights: np.sum(dz * z) - np.sum(weights * kl)  # dz: any derivatives by z
    right = complex_step(lambda q, analytic=analytic, total=weighted: total(*latent(q, analytic)), q)
    found = reference.gaussian_latent_backward(q["mu"], q["log_var"], flat, dz, analytic, weights)
    same(found[0], right["mu"])
    same(found[1], right["log_var"])
drawn = SGVB(model, n_samples=4).draw(rng, 2500)
assert drawn.shape == (10_000, J) and stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
print("npvae's values and gradients are ours, for A and B, with 4 samples of 3 datapoints")

# %% [markdown]
# ## Is B always the quieter one?
#
# Lecture notes on this method often write that version B "has less variance". The paper says "typically". We fix one
# datapoint and the decoder that made the data, and take three $q$: the prior (an untrained encoder), the exact
# posterior, and one half-way between. For each we draw single-sample estimates of the bound, by A and by B.
#
# **Before you run it:** for which $q$ does A vary most? For which least?

# %%
posterior_mean, posterior_covariance = exact.posterior(X[:1])
posterior_variance = np.diag(posterior_covariance)
same(posterior_covariance, np.diag(posterior_variance))  # independent components, since the rows of W are orthogonal
x, log_p = X[:1], exact.log_prob(X[:1])[0]
decoder = {"W": W, "b": np.zeros(D)}
stations = {}
for name, share in (("prior", 0.0), ("half-way", 0.5), ("posterior", 1.0)):
    q = {"A": np.zeros((D, J)), "a": share * posterior_mean[0], "c": share * np.log(posterior_variance)}
    eps = rng.standard_normal((1, 20_000, J))
    many = np.repeat(x, 20_000, axis=0)
    stations[name] = [estimate(q | decoder, many, eps) for estimate in (sgvb_a, sgvb_b)]
for name, (a, b) in stations.items():
    for version, each in (("A", a), ("B", b)):
        spread, error = with_error(np.std, each)
        print(f"{name}, version {version}: standard deviation {spread:.2f} +- {error:.2f} nats")
    assert abs(a.mean() - b.mean()) <= 4 * np.hypot(a.std(), b.std()) / np.sqrt(20_000)
same(stations["prior"][0], stations["prior"][1], 1e-10)  # q is the prior: log p(z) - log q(z) = 0 for every z
assert stations["posterior"][0].var() < 1e-12 < 0.5 < stations["posterior"][1].var()
same(stations["posterior"][0], np.full(20_000, log_p), 1e-10)

# figure: sgvb-b
fig, axes = plt.subplots(1, 3, figsize=(7.2, 3), layout="constrained")
for ax, (name, pair) in zip(axes, stations.items()):
    ax.axhline(log_p, color="k", ls="--", lw=1, label="log p(x)")
    for place, (each, colour) in enumerate(zip(pair, ("tab:orange", "tab:blue"))):
        if each.std() < 1e-6:  # a violin needs a width
            ax.plot([-0.3, 0.3], [each.mean()] * 2, color=colour, lw=4)
        else:
            drawn = ax.violinplot(each, [place], showextrema=False, points=200)
            drawn["bodies"][0].set(facecolor=colour, alpha=0.7)
    low, high = np.quantile(np.concatenate(pair), [0.01, 1.0])
    ax.set(xticks=[0, 1], xticklabels=["A", "B"], xlabel="version", title=f"q: {name}")
    ax.set_ylim(low, max(high, log_p) + 0.1 * (high - low))
axes[0].set_ylabel("estimate from one sample (nats)")
_ = axes[2].legend(loc="lower left", fontsize=8)

# %% [markdown]
# *See:* on the left A and B are the same; on the right A is a line, at $\log p(x)$, and B still varies. (The three
# axes have different scales.)
#
# Both ends have a reason. Where $q$ is the prior, $\log p(z) - \log q(z|x)$ is zero for every $z$, and the two versions
# are one. Where $q$ is the posterior, $\log p(x, z) - \log q(z|x) = \log p(x)$ by Bayes' rule, for *every* $z$: version
# A is exact with a single sample. In version B, the varying $\log p(x|z)$ has lost the partner that cancelled it. So
# for the *value*, the claim is false where it matters most, at the end of training.
#
# ## And the gradient?
#
# Training needs the gradient. At the exact posterior it can be written down. Take one latent with mean $\mu$ and
# variance $\sigma^2$. By Bayes' rule, $\log p(x|z)$ is $\log p(z|x) - \log p(z)$ plus a constant. At
# $z = \mu + \sigma \epsilon$ the slope of the first is $-(z - \mu) / \sigma^2 = -\epsilon / \sigma$, that of
# $-\log p(z)$ is $z$, so that of $\log p(x|z)$ is $z - \epsilon / \sigma$. Going back to the parameters as above, one
# sample gives
#
# - by $\mu$: version A $-\epsilon / \sigma$, version B $-(1 - \sigma^2) \, \epsilon / \sigma$;
# - by $\text{log\_var}$: version A $\frac 1 2 (1 - \epsilon^2)$, version B
#   $\frac 1 2 (1 - \sigma^2)(1 - \epsilon^2) + \frac 1 2 \sigma \mu \epsilon$.
#
# All of these have the mean zero, since $q$ is optimal. Their variances, with $\text{Var}(\epsilon^2) = 2$:
#
# | gradient by | version A | version B |
# |---|---|---|
# | $\mu$ | $1 / \sigma^2$ | $(1 - \sigma^2)^2 / \sigma^2$ |
# | $\text{log\_var}$ | $1 / 2$ | $(1 - \sigma^2)^2 / 2 + \sigma^2 \mu^2 / 4$ |
#
# In our model the posterior is narrower than the prior, $\sigma^2 < 1$, so for $\mu$ the variance of B is always the
# smaller one. For $\text{log\_var}$ there is a term with $\mu^2$.
#
# **Before you run it:** we compare an ordinary datapoint and one that lies far from the mean of the data. For which of
# the two will A have less variance?


# %%
def one_sample_gradients(x, version, n=200_000):
    """One-sample gradients at the exact posterior of x (1, D), by mu and log_var of the second latent: (n,) each."""
    mu, eps = exact.posterior(x)[0][0, 1], rng.standard_normal(n)
    z = mu + np.sqrt(v) * eps
    slope = (x[0] @ W[1] - z * (W[1] @ W[1])) / s**2  # of log p(x|z); the rows of W are orthogonal
    if version == "a":
        return slope - z, 0.5 * np.sqrt(v) * eps * (slope - z) + 0.5
    return slope - mu, 0.5 * np.sqrt(v) * eps * slope + 0.5 * (1 - v)


v, ratios = posterior_variance[1], {}
far = 4.0 * W[1:] / (W[1] @ W[1]) * np.sqrt(W[1] @ W[1] + s**2)  # four standard deviations along the second row of W
for name, point in (("ordinary", x), ("far", far)):
    mean = exact.posterior(point)[0][0, 1]
    closed = {"a": (1 / v, 0.5), "b": ((1 - v) ** 2 / v, (1 - v) ** 2 / 2 + v * mean**2 / 4)}
    found = {version: one_sample_gradients(point, version) for version in "ab"}
    for i, by in enumerate(("mu", "log_var")):
        (a, a_error), (b, b_error) = (with_error(np.var, found[version][i]) for version in "ab")
        assert abs(a - closed["a"][i]) < 5 * a_error and abs(b - closed["b"][i]) < 5 * b_error
        for each in (found["a"][i], found["b"][i]):
            assert abs(each.mean()) < 4 * each.std() / np.sqrt(each.size)  # q is optimal
        ratios[name, by], error = b / a, b / a * np.hypot(a_error / a, b_error / b)
        print(f"{name} datapoint, gradient by {by}: variance B / A = {b / a:.3f} +- {error:.3f}")
over_data = np.mean((1 - v) ** 2 / 2 + v * exact.posterior(X)[0][:, 1] ** 2 / 4) / 0.5
print(f"by log_var, mean over the data of the closed form: B / A = {over_data:.2f}")
assert max(ratios["ordinary", "mu"], ratios["ordinary", "log_var"], ratios["far", "mu"], over_data) < 1
assert ratios["far", "log_var"] > 1

# %% [markdown]
# For the ordinary datapoint B has the smaller variance in both gradients. For a datapoint whose posterior mean is far
# from the origin it has not: the term $\sigma^2 \mu^2 / 4$ is that of $\log p(x|z)$, whose slope is steep there. Such
# datapoints are rare, so on average over the data B wins. "Typically" is the right word, and it should not be left out.
#
# ## What each version says about the other
#
# A and B have the same expectation. This is a test, and a strong one. Suppose that somebody writes
# $z = \mu + e^{\text{log\_var}} \epsilon$, and forgets that the standard deviation is $e^{\text{log\_var} / 2}$. It is
# a common mistake. The gradient of such a bound can be quite right: it is the gradient of a wrong function. The
# difference of one sample of both is $A - B = \log p(z) - \log q(z|x) + D_{KL}$; its mean should be zero.
#
# **Before you run it:** will it be zero for the wrong samples?

# %%
x, eps = X[:50], rng.standard_normal((400, 50, J))
mu, log_var = encode(p, x)
gaps = {}
for name, sigma in (("right", np.exp(log_var / 2)), ("wrong", np.exp(log_var))):
    z = mu + sigma * eps
    log_ratio = (log_normal(z, 0, 1) - log_normal(z, mu, np.exp(log_var / 2))).sum(axis=-1)
    each = log_ratio + kl_from_prior(mu, log_var)
    gap, error = each.mean(), each.std() / np.sqrt(each.size)
    gaps[name] = gap / error
    print(f"{name} samples: mean of A - B = {gap:.3f} +- {error:.3f} nats")
assert abs(gaps["right"]) < 4 and abs(gaps["wrong"]) > 10

# %% [markdown]
# It is not. Tutorial 07 takes this mistake through a whole model, together with the check of the gradient, which it
# passes.
#
# ## The minibatch
#
# So far: the mean over $M$ datapoints. The bound of all $N$ is a sum,
# $\mathcal L(\theta, \phi; X) = \sum_{i=1}^N \mathcal L(\theta, \phi; x^{(i)})$. A minibatch $X^M$ of $M$ datapoints,
# drawn at random, estimates it:
#
# $$\mathcal L(\theta, \phi; X) \approx \tilde{\mathcal L}^M(\theta, \phi; X^M)
# = \frac N M \sum_{i=1}^M \tilde{\mathcal L}(\theta, \phi; x^{(i)})$$
#
# Two checks. Cut the data into minibatches; the mean of their estimates is the estimate from all data, exactly, when
# the noise is the same. And npvae's value, a mean per datapoint, is this divided by $N$. Then we draw many minibatches.
#
# **Before you run it:** is the estimate too high or too low on average if $M = 1$? How much narrower is it for
# $M = 100$?


# %%
# formula: minibatch
def minibatch_bound(p, rows, eps, N):
    """Estimate the bound of all N datapoints from the rows (M, D) of a minibatch, in nats."""
    return N / len(rows) * np.sum(sgvb_b(p, rows, eps))


eps = rng.standard_normal((1, N, J))
whole = np.sum(sgvb_b(p, X, eps))
order = rng.permutation(N)
for M in (1, 10, 100):
    batches = np.split(order, N // M)
    same(np.mean([minibatch_bound(p, X[rows], eps[:, rows], N) for rows in batches]), whole)
rows = order[:40]
value = SGVB(model).value_and_grad(in_npvae(p), X[rows], eps[0, rows]).value
same(N * value, minibatch_bound(p, X[rows], eps[:, rows], N))
full = exact_bound(p, X).sum()
print(f"bound of all data: exact {full:.0f} nats; from one pass with one sample each {whole:.0f} nats")
deviations = sgvb_b(p, X, eps) - exact_bound(p, X)
assert abs(whole - full) < 4 * deviations.std() * np.sqrt(N)

# figure: minibatch
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
fig.set_label("thumbnail")
for M, colour in ((1, "tab:orange"), (10, "tab:green"), (100, "tab:blue")):
    picks = rng.integers(N, size=(4000, M))
    noise = rng.standard_normal((1, 4000 * M, J))
    estimates = N * sgvb_b(p, X[picks.ravel()], noise).reshape(4000, M).mean(axis=1)
    error = estimates.std() / np.sqrt(4000)
    print(f"M = {M}: mean {estimates.mean():.0f} +- {error:.0f}, standard deviation {estimates.std():.0f} nats")
    assert abs(estimates.mean() - full) < 4 * error
    bins = np.linspace(2.5 * full / 1000, 0, 121)
    ax.hist(estimates / 1000, bins, density=True, alpha=0.6, color=colour, label=f"M = {M}")
ax.axvline(full / 1000, color="k", label="exact, all data")
ax.set(title=r"$N/M$ times the sum over a minibatch", ylabel="density")
ax.set_xlabel("estimate of the bound of all data (thousands of nats)")
_ = ax.legend()

# %% [markdown]
# *See:* the estimates gather about the line, their spread smaller by $\sqrt{10}$ each time. For $M = 1$ most of them
# lie to the right of it, and a few datapoints with a very low bound, beyond the left edge, carry the mean back.
#
# The printed means agree with the exact bound for each $M$. That is what the factor $N / M$ is for.
#
# ### Exercise: the scale of a minibatch
#
# When something else is added to the bound of all data (a log-prior of the weights, in tutorial 08), the factor
# decides how much it counts. Write the minibatch estimator of $\mathcal L(X) + \log p(\theta)$, from the estimates
# $\tilde{\mathcal L}$ of the datapoints in the minibatch. (Tutorial 00 had the mean per datapoint, and divided
# $\log p(\theta)$ by $N$. This is $N$ times that.)
#
# <details><summary>Hint</summary>
#
# The prior of $\theta$ is there once, however many datapoints there are. Only the sum over datapoints is scaled.
#
# </details>


# %%
def minibatch_scale(bounds, log_prior, N):
    """Estimate the bound of N datapoints plus log p(theta) from bounds (M,) and the number log_prior, in nats."""
    ...  # your code, about one line


# %% tags=["hide-cell"]
def minibatch_scale_solution(bounds, log_prior, N):
    return N / len(bounds) * np.sum(bounds) + log_prior


_calls = [(np.array([-3.0, -5.5, -4.0]), -11.0, 30), (np.array([-80.0, -95.0]), -200.0, 1000)]
check_minibatch_scale = Exercise(
    solution=minibatch_scale_solution,
    mistakes={
        "1/M: that is the bound of one datapoint, and the prior counts N times too much": (
            lambda bounds, log_prior, N: np.mean(bounds) + log_prior
        ),
        "M/N instead of N/M: the sum shrinks where it must grow": (
            lambda bounds, log_prior, N: len(bounds) / N * np.sum(bounds) + log_prior
        ),
        "the prior is divided by N: that belongs to a mean per datapoint, this is a sum": (
            lambda bounds, log_prior, N: N / len(bounds) * np.sum(bounds) + log_prior / N
        ),
        "the prior is scaled too: it would be counted N/M times": (
            lambda bounds, log_prior, N: N / len(bounds) * (np.sum(bounds) + log_prior)
        ),
    },
    inputs=_calls,
    # As if all data were N/M copies of the minibatch:
    expected=[np.tile(bounds, N // len(bounds)).sum() + log_prior for bounds, log_prior, N in _calls],
)

# %%
print(check_minibatch_scale(minibatch_scale))

# %% [markdown]
# ## How to spend 100 draws
#
# The paper found one sample for each datapoint enough, if only the minibatch is large, of $M = 100$ datapoints say.
# The number of draws, $L M$, is about what a step costs. Compare $(M, L) = (100, 1), (20, 5), (10, 10)$ and
# $(1, 100)$: the variance of the gradient, summed over the parameters of the encoder and of the decoder. Once at small
# random parameters, once at the decoder that made the data with its exact posterior.
#
# For two independent gradients, $\mathbb E|g_1 - g_2|^2$ is twice the variance. So we draw pairs, and take half of the
# squared distance.
#
# **Before you run it:** in which of the four cases (encoder or decoder, start or trained) does the choice matter
# least?

# %%
start = {name: rng.normal(0, 0.1, array.shape) for name, array in p.items()}
trained = {"A": W.T / s**2 * posterior_variance, "a": np.zeros(J), "c": np.log(posterior_variance), **decoder}
mean, log_var = encode(trained, X)
same(mean, exact.posterior(X)[0], 1e-10)  # this encoder is exactly the posterior
CHOICES = ((100, 1), (20, 5), (10, 10), (1, 100))


def variances(p, M, L, pairs=400):
    """Variance of the gradient of version B, with its standard error, for (encoder, decoder)."""
    halves = np.empty((pairs, 2))
    for k in range(pairs):
        pair = [gradient(p, X[rng.integers(N, size=M)], rng.standard_normal((L, M, J)), "b") for _ in range(2)]
        for i, group in enumerate((("A", "a", "c"), ("W", "b"))):
            halves[k, i] = sum(np.sum((pair[0][name] - pair[1][name]) ** 2) for name in group) / 2
    return halves.mean(axis=0), halves.std(axis=0) / np.sqrt(pairs)


table = np.array([[variances(p, M, L) for M, L in CHOICES] for p in (start, trained)])
values, errors = table[:, :, 0], table[:, :, 1]  # axes: start or trained, choice, encoder or decoder
for i, where in enumerate(("start", "trained")):
    for (M, L), value, error in zip(CHOICES, values[i], errors[i]):
        numbers = (f"{name} {v:.3g} +- {e:.1g}" for name, v, e in zip(("encoder", "decoder"), value, error))
        print(f"{where}, M = {M}, L = {L}: " + ", ".join(numbers))

# figure: minibatch
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained", sharey=True)
for k, (ax, where) in enumerate(zip(axes, ("start", "trained"))):
    for i, (group, colour) in enumerate((("encoder", "tab:blue"), ("decoder", "tab:orange"))):
        ax.errorbar(range(4), values[k, :, i], 2 * errors[k, :, i], fmt="o-", color=colour, capsize=3, label=group)
    ax.set(yscale="log", title=where, xlabel="datapoints M x samples L")
    ax.set_xticks(range(4), [f"{M} x {L}" for M, L in CHOICES])
axes[0].set_ylabel("variance of the gradient")
_ = axes[0].legend()

# %% [markdown]
# *See:* at the start (left) both lines rise, by one to two orders of magnitude; on the right only that of the decoder
# does. Bars are two standard errors.

# %%
ratio = values[:, -1] / values[:, 0]
ratio_error = ratio * np.hypot(errors[:, -1] / values[:, -1], errors[:, 0] / values[:, 0])
for i, where in enumerate(("start", "trained")):
    for j, group in enumerate(("encoder", "decoder")):
        print(f"{where}, {group}: variance of 1 x 100 over 100 x 1 = {ratio[i, j]:.1f} +- {ratio_error[i, j]:.1f}")
assert abs(ratio[1, 0] - 1) < 4 * ratio_error[1, 0]
assert min(ratio[0, 0], ratio[0, 1], ratio[1, 1]) > 10

# %% [markdown]
# Three of the four say the same: take many datapoints. One datapoint with a hundred samples gives a precise gradient
# of the wrong thing, the bound of one datapoint. More samples remove the noise of $z$, but not the luck of which
# datapoints were drawn. (If all of the noise were that luck, the factor would be 100. At the start it is not far below
# this for the encoder.)
#
# The exception is the trained encoder. If every $q(z|x^{(i)})$ is the posterior, then the expected gradient is zero
# for each datapoint by itself. There is no luck in the choice of datapoints. What remains is the noise of sampling
# $z$, and it depends on the number of draws alone. For the decoder this is not so: in the best fit, the gradients of
# the datapoints cancel in their sum, but no single one is zero.
#
# So the paper's advice holds, with a reason. Where it does not help, for a perfect encoder, it does no harm.
#
# ## The library's measurement
#
# `npvae.evaluation.gradient_variance` measures this for a whole model: the variance over minibatches and noise, and the
# part that is due to the noise alone. We let it do so for the initial parameters of a `VAE`, and compare with
# estimates that we keep and whose variance we take in the plain way: from one of each pair, and within the pairs.

# %%
vae = npvae.VAE(J, hidden_layer_sizes=(), likelihood="gaussian", init_std=0.1, backend="reference", dtype="float64")
settings = {"estimators": ["sgvb-a", "sgvb-b"], "n_samples": [2], "batch_sizes": [5], "repeats": 1500}
measured = {(m.estimator, m.group): m for m in evaluation.gradient_variance(vae, X, **settings)}
architecture, data, vector, backend = vae.starting_point(X)
inner = Model(architecture, backend, "float64")
parameters, rows = inner.parameters(vector), inner.gather(data, np.arange(N), Buffers(backend, "float64"))
far_off = []  # differences in standard errors
for name in settings["estimators"]:
    estimator, kept = SGVB(inner, 2, name == "sgvb-b"), {"value": [], "encoder": [], "decoder": []}
    for k in range(2 * 1500):
        if k % 2 == 0:  # two estimates of each minibatch
            batch = rows[rng.integers(N, size=5)]
        result = estimator.value_and_grad(parameters, batch, rng.standard_normal((10, J)))
        kept["value"].append([result.elbo])
        for group in ("encoder", "decoder"):
            arrays = [array.ravel() for key, array in result.gradient.items() if key.startswith(group)]
            kept[group].append(np.concatenate(arrays))
    for group, estimates in kept.items():
        m, pairs = measured[name, group], np.reshape(estimates, (1500, 2, -1))
        plain, of_noise = pairs[:, 0].var(axis=0).sum(), pairs.var(axis=1, ddof=1).mean(axis=0).sum()
        far_off += [abs(m.variance - plain) / m.variance_error]
        far_off += [abs(m.noise_variance - of_noise) / m.noise_variance_error]
print(f"{len(far_off)} variances: the largest difference is {max(far_off):.1f} standard errors of npvae's")
assert len(far_off) == 12 and max(far_off) < 6

# %%
print(
    f"Answer: one datapoint with 100 samples has {ratio[0, 1]:.0f} +- {ratio_error[0, 1]:.0f} times the variance of "
    f"100 with one (decoder, start); {ratio[1, 0]:.1f} +- {ratio_error[1, 0]:.1f} times for a perfect encoder"
)

# %% [markdown]
# ## What to take with you
#
# The bound of a datapoint is estimated from samples alone (version A), or from samples and a KL divergence in closed
# form (version B); both have the same expectation, and comparing them finds mistakes that no gradient check can. B
# typically has the quieter gradient, A the quieter value once $q$ is near the posterior. The factor $N / M$ makes a
# minibatch an unbiased estimate of the whole, and more datapoints are worth more than more samples.
#
# From here on `npvae.estimators.SGVB` stands for `sgvb_a` and `sgvb_b` with their gradients. In tutorial 07 the two
# linear maps become neural networks.

# %%
plt.show()
