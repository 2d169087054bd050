# %% [markdown]
# # Bound the likelihood
#
# **Question:** How small can the gap between the bound and $\log p(x)$ get?
#
# **You will do:** compute $\log p(x)$ exactly for a model whose posterior has two bumps, split it into a bound and a KL
# divergence, look for the best Gaussian $q$, and watch what happens to a parameter that is fitted to the bound.
#
# **You will learn:** why the bound is a bound, what the gap is made of, why no optimizer can close it here, and which
# models the bound prefers.
#
# **You need:** tutorial 02 (the model `square`, Bayes' rule, integrals as sums over a grid, `LinearGaussian`); the
# expectation $\mathbb E_q[f] = \int q(z) f(z) \, dz$.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.integrate import quad
from scipy.optimize import minimize

import npvae
from npvae import distributions
from npvae.backends import reference
from npvae.distributions import MultivariateNormal, Normal, kl_divergence
from npvae.evaluation import LinearGaussian, quadrature
from npvae.exercises import Exercise

# %% [markdown]
# What comes from npvae is written by hand below, and compared, before it is used. `Exercise` checks your answers.
#
# ## A model we can integrate
#
# $z \sim \mathcal N(0, 1)$ and $x \mid z \sim \mathcal N(z^2, s^2)$ with $s = 0.3$. We see $x = 1$. The hidden $z$ was
# near $+1$ or near $-1$: nothing tells which. With one latent number, every integral over $z$ is a sum over a fine
# grid, accurate to ten digits. This sum is our *oracle*, an answer from elsewhere to check with: it knows nothing of
# the formulas that follow.
#
# We want to approximate the posterior by a Gaussian $q$. Two candidates: a wide one, which covers both places, and a
# narrow one, which holds one of them. Which is better? We need a number.

# %%
s, x = 0.3, 1.0
z = np.linspace(-12, 12, 9601)
dz = z[1] - z[0]


def log_normal(value, mean, sigma):
    """log N(value; mean, sigma^2), element by element, in nats."""
    return -0.5 * np.log(2 * np.pi) - np.log(sigma) - 0.5 * ((value - mean) / sigma) ** 2


log_joint = log_normal(z, 0, 1) + log_normal(x, z**2, s)  # log p(x, z)
log_px = np.log(np.sum(np.exp(log_joint)) * dz)  # log p(x): the logarithm of the integral over z
log_posterior = log_joint - log_px  # Bayes: log p(z|x)
wide, narrow = log_normal(z, 0.0, 0.97), log_normal(z, 0.97, 0.15)
for log_density in (log_posterior, wide, narrow):
    assert abs(np.sum(np.exp(log_density)) * dz - 1) < 1e-12
print(f"log p(x = 1) = {log_px:.4f} nats")

# %% [markdown]
# ## KL divergence
#
# Take the difference of the two logarithms, and average it over $q$:
#
# $$D_{KL}(q \| p) = \int q(z) \log \frac{q(z)}{p(z)} \, dz$$
#
# One nat is the unit: the logarithm is the natural one.


# %%
# formula: kl-divergence
def kl(log_q, log_p):
    """D_KL(q || p) in nats, as a sum over the grid."""
    return np.sum(np.exp(log_q) * (log_q - log_p)) * dz


assert abs(kl(log_normal(z, 1, 1), log_normal(z, 0, 1)) - 0.5) < 1e-12  # two unit Gaussians, d apart: d^2 / 2
for name, log_q in (("wide", wide), ("narrow", narrow)):
    print(f"KL({name} || posterior) = {kl(log_q, log_posterior):.2f} nats")
print(f"KL(wide || narrow) = {kl(wide, narrow):.2f} nats, KL(narrow || wide) = {kl(narrow, wide):.2f} nats")
assert kl(narrow, log_posterior) < kl(wide, log_posterior)

# %%
# figure: kl-divergence
fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3.2), layout="constrained", sharex=True)
left.fill_between(z, np.exp(log_posterior), color="0.85")
left.plot(z, np.exp(log_posterior), "k", label="$p(z|x)$, exact")
for log_q, colour, name in ((wide, "tab:orange", "wide q"), (narrow, "tab:blue", "narrow q")):
    left.plot(z, np.exp(log_q), colour, label=name)
    right.plot(z, log_q - log_posterior, colour, label=f"{name}: mean {kl(log_q, log_posterior):.2f} nats")
left.set(xlim=(-2.5, 2.5), xlabel="z", ylabel="density", ylim=(0, 3.6), title="Two candidates")
right.axhline(0, color="k", lw=1)
right.set(xlabel="z", ylabel="log q(z) - log p(z|x), nats", ylim=(-12, 30), title="Averaged over q")
for ax in (left, right):
    ax.legend(loc="upper left")
    ax.grid(alpha=0.3)

# %% [markdown]
# *See:* the wide $q$ puts much of its mass where the posterior has almost none, and there $\log (q / p)$ is large; the
# narrow one has no mass there.
#
# By this number the narrow $q$ is far better. The last printed line shows that the order of the arguments matters.
#
# What do the nats count? Call $-\log p(z)$ the *surprise* of somebody who believes $p$ and sees $z$. If the $z$ come
# from $q$, the mean surprise is the cross-entropy $-\mathbb E_q[\log p]$. Somebody who knows $q$ has a mean surprise of
# $H(q) = -\mathbb E_q[\log q]$, the entropy. The divergence is the difference: the *extra* surprise.
#
# The entropy of a density may be negative. The divergence never is. For every $t > 0$, $\log t \le t - 1$. With
# $t = p(z) / q(z)$ and an average over $q$:
#
# $$-D_{KL}(q \| p) = \mathbb E_q\Big[\log \frac{p}{q}\Big] \le \mathbb E_q\Big[\frac{p}{q} - 1\Big] = 1 - 1 = 0$$
#
# Equality holds only if $p = q$ everywhere.

# %%
rng = np.random.default_rng(0)
pairs = [[log_normal(z, rng.normal(), rng.uniform(0.3, 1.5)) for _ in range(2)] for _ in range(500)]
assert kl(wide, wide) == 0 < min(kl(log_q, log_p) for log_q, log_p in pairs)
entropy = -np.sum(np.exp(narrow) * narrow) * dz
cross_entropy = -np.sum(np.exp(narrow) * log_posterior) * dz
assert abs(kl(narrow, log_posterior) - (cross_entropy - entropy)) < 1e-12
print(f"cross-entropy {cross_entropy:.2f} minus entropy {entropy:.2f}: {cross_entropy - entropy:.2f} nats")

# %% [markdown]
# ## Which order covers?
#
# Let $p$ be the posterior. We may look for the Gaussian $q$ with the smallest $D_{KL}(q \| p)$, or with the smallest
# $D_{KL}(p \| q)$.
#
# **Before you run it:** one of the two fits will be wide and cover both bumps, the other will hold one bump. Guess
# which is which. Think of a place where one density is nearly zero and the other is not.


# %%
def best_gaussian(divergence):
    """Mean, sigma, and nats of the Gaussian with the smallest divergence, a function of log q on the grid."""
    loss = lambda v: divergence(log_normal(z, v[0], np.exp(v[1])))
    tight = {"xatol": 1e-7, "fatol": 1e-13}
    starts = [(0.4, -1.0), (1.5, -2.0), (-1.0, -1.5)]
    found = [minimize(loss, start, method="Nelder-Mead", options=tight) for start in starts]
    fits = np.array([(abs(fit.x[0]), np.exp(fit.x[1]), fit.fun) for fit in found])  # mu and -mu are equally good
    assert np.ptp(fits, axis=0).max() < 1e-5  # the same from all starts
    return fits[0]


holding = best_gaussian(lambda log_q: kl(log_q, log_posterior))
covering = best_gaussian(lambda log_q: kl(log_posterior, log_q))
for name, (mu, sigma, nats) in (("KL(q || p)", holding), ("KL(p || q)", covering)):
    print(f"smallest {name}: {nats:.2f} nats, mean {mu:.2f}, sigma {sigma:.2f}; the same from 3 starts within 1e-5")
moments = [np.sum(np.exp(log_posterior) * z**k) * dz for k in (1, 2)]
assert np.allclose(covering[:2], [moments[0], np.sqrt(moments[1] - moments[0] ** 2)], atol=1e-5)
assert np.allclose(holding[:2], (0.97, 0.15), atol=0.04) and np.allclose(covering[:2], (0.0, 0.97), atol=0.04)

# %% [markdown]
# The fit by $D_{KL}(q \| p)$ holds one bump: it is nearly the narrow candidate of the figure. The fit by
# $D_{KL}(p \| q)$ covers both bumps and the empty place between them: it is nearly the wide one.
#
# $D_{KL}(q \| p)$ averages over $q$: where $q$ has mass and $p$ has none, $\log(q / p)$ is huge. So $q$ stays inside
# $p$. $D_{KL}(p \| q)$ averages over $p$: where $p$ has mass and $q$ has none, it is huge. So $q$ covers $p$, and its
# mean and variance are those of $p$ (the code checks this).
#
# We use $D_{KL}(q \| p)$, from the approximate to the true posterior, because it is an average over $q$. We can draw
# from $q$, and we cannot draw from the posterior. (Its logarithm is not known either. The bound is the way around.)
#
# ## Likelihoods of many datapoints
#
# The *marginal likelihood* is $p_\theta(x)$ read as a function of the parameter $\theta$, with $x$ fixed and $z$
# integrated out. Datapoints are independent, so the likelihood of all is a product, and its logarithm a sum:
#
# $$\log p_\theta(x^{(1)}, \dots, x^{(N)}) = \sum_{i=1}^N \log p_\theta(x^{(i)})$$


# %%
# formula: sum-over-datapoints
def log_evidence(x, s):
    """log p(x) in nats for each x (N,), by the grid: (N,)."""
    nodes = z[::4]
    return np.log(np.sum(np.exp(log_normal(nodes, 0, 1) + log_normal(x[:, None], nodes**2, s)), axis=1) * 4 * dz)


X = rng.standard_normal(1000) ** 2 + s * rng.standard_normal(1000)
z_1, z_2 = np.meshgrid(*[z[np.abs(z) <= 5][::4]] * 2, indexing="ij")  # both latents of two datapoints
log_pXZ = log_normal(z_1, 0, 1) + log_normal(X[0], z_1**2, s) + log_normal(z_2, 0, 1) + log_normal(X[1], z_2**2, s)
assert abs(np.log(np.sum(np.exp(log_pXZ)) * (4 * dz) ** 2) - np.sum(log_evidence(X[:2], s))) < 1e-10

product, log_pX = np.prod(np.exp(log_evidence(X, s))), np.sum(log_evidence(X, s))
print(f"product of 1000 densities: {product}; sum of their logarithms: {log_pX / 1000:.2f} nats per datapoint")
assert product == 0 and np.isfinite(log_pX)

# %% [markdown]
# In float64 the product is zero: it is too small to be held. The sum is harmless. This is why everything here is a
# logarithm. And since the sum splits, it is enough to understand one datapoint.
#
# ## The bound
#
# Take any density $q(z)$. The joint-entropy form of the bound is
#
# $$\mathcal L(q) = \mathbb E_{q}\big[-\log q(z|x) + \log p_\theta(x, z)\big]$$
#
# The second term asks $q$ to sit where the joint density is large. The first is the entropy of $q$, and asks it to be
# wide. We write $q(z|x)$ because $q$ is chosen for this $x$. None of it needs $p(x)$.
#
# For a Gaussian $q$ and this model, there is a second way to compute it, by moments: $\log p(x, z)$ is a polynomial in
# $z$, and $\mathbb E[z^2] = \mu^2 + \sigma^2$, $\mathbb E[z^4] = \mu^4 + 6 \mu^2 \sigma^2 + 3 \sigma^4$.


# %%
# formula: bound-joint-entropy
def bound(log_q):
    """L(q) = E_q[-log q(z|x) + log p(x, z)] in nats, as a sum over the grid."""
    return np.sum(np.exp(log_q) * (-log_q + log_joint)) * dz


def bound_by_moments(mu, sigma, x, s, h=0.0):
    """L(q) without a grid, for q = N(mu, sigma^2) and x|z ~ N((z - h)^2, s^2); h is for later."""
    m, v = mu - h, sigma**2
    square, fourth = m**2 + v, m**4 + 6 * m**2 * v + 3 * v**2
    log_likelihood = -0.5 * np.log(2 * np.pi * s**2) - 0.5 * (x**2 - 2 * x * square + fourth) / s**2
    log_prior = -0.5 * np.log(2 * np.pi) - 0.5 * (mu**2 + v)
    return log_likelihood + log_prior + 0.5 * np.log(2 * np.pi * v) + 0.5  # the last two are the entropy


for log_q, (mu, sigma) in ((wide, (0.0, 0.97)), (narrow, (0.97, 0.15))):
    assert abs(bound(log_q) - bound_by_moments(mu, sigma, x, s)) < 1e-9
assert abs(bound(log_posterior) - log_px) < 1e-12  # where q is the posterior, the bound is log p(x)
print(f"bound of the wide q {bound(wide):.2f}, of the narrow q {bound(narrow):.2f}; log p(x) {log_px:.2f} nats")

# %% [markdown]
# Why is it a bound? $\log p(x)$ does not depend on $z$, so its average over $q$ is itself. Write
# $p(x) = p(x, z) / p(z|x)$, which is Bayes' rule, and multiply and divide by $q(z)$:
#
# $$\log p(x) = \mathbb E_q\Big[\log \frac{p(x, z)}{p(z|x)}\Big]
# = \mathbb E_q\Big[\log \frac{q(z)}{p(z|x)}\Big] + \mathbb E_q\Big[\log \frac{p(x, z)}{q(z)}\Big]$$
#
# The first part is a KL divergence, the second is the bound:
#
# $$\log p_\theta(x) = D_{KL}\big(q(z|x) \,\|\, p_\theta(z|x)\big) + \mathcal L(q)$$
#
# Nothing was approximated: it is an equality for *every* $q$. Because the divergence cannot be negative,
# $\mathcal L(q) \le \log p(x)$. The gap between the two *is* the divergence.
#
# Lecture notes on this method often call the first term the divergence "of the approximate true posterior". It is the
# divergence *from the approximate to the true* posterior, an expectation under $q$. With the arguments exchanged the
# equality is false, as the next cell shows.
#
# **Before you run it:** on a grid of `41` means and `31` widths, how far will bound + KL stray from $\log p(x)$?

# %%
# formula: evidence-split
mus, sigmas = np.linspace(-1.5, 1.5, 41), np.geomspace(0.08, 1.5, 31)
bounds = np.array([[bound(log_normal(z, mu, sigma)) for mu in mus] for sigma in sigmas])
gaps = np.array([[kl(log_normal(z, mu, sigma), log_posterior) for mu in mus] for sigma in sigmas])
stray = np.abs(gaps + bounds - log_px).max()
print(f"|bound + KL - log p(x)| is below 1e-10 for all {bounds.size} choices of q: {stray < 1e-10}")
other = kl(log_posterior, wide) + bound(wide)
print(f"with the other order, bound + KL of the wide q is {other:.1f} nats, and log p(x) is {log_px:.1f}")
assert stray < 1e-10 and bounds.max() < log_px and abs(other - log_px) > 1

# %% [markdown]
# To raise the bound *is* to lower the divergence from $q$ to the posterior. That divergence cannot be computed where
# $p(x)$ is unknown. The bound can, and so it is what we maximise.

# %%
# figure: bound-explanation
fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3.2), layout="constrained")
fig.set_label("thumbnail")
row = np.argmin(np.abs(sigmas - 0.15))
left.fill_between(mus, bounds[row], log_px, color="tab:red", alpha=0.3, label="KL$(q \\| p(z|x))$")
left.fill_between(mus, -30, bounds[row], color="tab:blue", alpha=0.2)
left.plot(mus, bounds[row], "tab:blue", label="bound")
left.axhline(log_px, color="k", lw=1.5, label="log p(x), exact")
left.set(xlabel="mean of q (sigma 0.15)", ylabel="nats", ylim=(-15, 1), xlim=(-1.5, 1.5))
left.set_title("KL + bound = log p(x)")
left.legend(loc="lower center")
drawn = right.pcolormesh(mus, sigmas, np.maximum(bounds, -20), shading="nearest")
right.plot([-holding[0], holding[0]], [holding[1]] * 2, "r+", ms=12, mew=2, label="best q")
right.set(yscale="log", xlabel="mean of q", ylabel="sigma of q", title="The bound")
right.legend(loc="upper right")
colour_bar = fig.colorbar(drawn, ax=right, label="nats")

# %% [markdown]
# *See:* on the left the two bands fill the space under the flat line at every mean; on the right the bound has two
# equal peaks, one for each bump of the posterior.
#
# ## Its other form
#
# Split $\log p(x, z) = \log p(z) + \log p(x|z)$, and put $-\log q$ together with the prior:
#
# $$\mathcal L(q) = -D_{KL}\big(q(z|x) \,\|\, p_\theta(z)\big) + \mathbb E_{q}\big[\log p_\theta(x|z)\big]$$
#
# The second term asks how well samples of $q$ explain $x$. The first is a price for leaving the prior. Mind the two
# divergences: in this form it is that from the *prior*, which we choose; in the split above it was that from the
# *posterior*, which we do not know.

# %%
# formula: bound-regularization
log_prior, log_likelihood = log_normal(z, 0, 1), log_normal(x, z**2, s)


def bound_by_regularization(log_q):
    """L(q) = -D_KL(q || p(z)) + E_q[log p(x|z)] in nats, as a sum over the grid."""
    return -kl(log_q, log_prior) + np.sum(np.exp(log_q) * log_likelihood) * dz


for name, log_q, (mu, sigma) in (("wide", wide, (0.0, 0.97)), ("narrow", narrow, (0.97, 0.15))):
    assert abs(bound_by_regularization(log_q) - bound_by_moments(mu, sigma, x, s)) < 1e-9
    price, fit = kl(log_q, log_prior), np.sum(np.exp(log_q) * log_likelihood) * dz
    print(f"{name} q: price {price:.2f} nats, expected log-likelihood {fit:.2f} nats, bound {fit - price:.2f} nats")

# %% [markdown]
# The wide $q$ pays nothing, because it is nearly the prior. The narrow one pays, and gets far more for it.
#
# ## How small can the gap get?
#
# **Before you run it:** the best Gaussian holds one of two equal bumps. What is the gap when $q$ is right about one
# half of the posterior and says nothing of the other? And will it be smaller where the bumps are further apart? (On its
# bump, $q$ is about twice as high as the posterior.)

# %%
gap_of = {}
for x_seen, noise in ((1.0, 0.3), (2.0, 0.3), (1.0, 1.0)):
    log_pxz = log_normal(z, 0, 1) + log_normal(x_seen, z**2, noise)
    log_p_x = np.log(np.sum(np.exp(log_pxz)) * dz)
    mu, sigma, gap = best_gaussian(lambda log_q, log_p=log_pxz - log_p_x: kl(log_q, log_p))
    assert abs(log_p_x - bound_by_moments(mu, sigma, x_seen, noise) - gap) < 1e-8
    print(f"x = {x_seen:g}, s = {noise:g}: best q has mean {mu:.2f}, sigma {sigma:.2f}; gap {gap:.2f} nats (3 starts)")
    gap_of[x_seen, noise] = gap
gap = gap_of[1.0, 0.3]
assert 0.65 < gap < 0.80 and abs(gap_of[2.0, 0.3] - np.log(2)) < 0.02 and gap_of[1.0, 1.0] < 0.15
print(f"log 2 = {np.log(2):.2f} nats")

# %% [markdown]
# The gap is $\log 2$ and a little more. On its bump $q \approx 2 p$, so $\log(q / p) \approx \log 2$, and so is its
# mean over $q$. That is one bit: the price of not saying the sign. The rest is the shape of the bump, which is not
# quite Gaussian. At $x = 2$ the bumps are narrower and more Gaussian, and the rest is smaller. With $s = 1$ the two
# bumps run together, and one Gaussian does for both: then $q$ is wide and its mean is zero.
#
# If the *family* of $q$ is too small, no other optimizer can close the gap. Is that the reason? Give $q$ both bumps.

# %%
mu, sigma, _ = holding
two_bumps = np.log(0.5) + np.logaddexp(log_normal(z, mu, sigma), log_normal(z, -mu, sigma))
assert abs(np.sum(np.exp(two_bumps)) * dz - 1) < 1e-12
gap_of_two = kl(two_bumps, log_posterior)
print(f"gap of one Gaussian {gap:.2f}, of two {gap_of_two:.2f}; difference {gap - gap_of_two:.2f} nats, which is log 2")
assert abs(gap - gap_of_two - np.log(2)) < 1e-6

# %% [markdown]
# So a part of the gap of a model is due to the family of $q$, however long one trains.
#
# ## Which models does the bound prefer?
#
# So far the model was given. Now fit one of its parameters. Let the bottom of the parabola lie at $h$:
# $x | z \sim \mathcal N((z - h)^2, s^2)$. The data comes from $h = 0$. We maximise, over $h$, once the exact mean of
# $\log p_h(x)$, and once the mean of the best bound of each datapoint.
#
# **Before you run it:** will both have their maximum at the same $h$?

# %%
nodes = z[np.abs(z) <= 6][::8]
hs = np.linspace(0, 1.2, 13)
q_mus, q_sigmas = np.linspace(-4, 4, 121)[:, None], np.geomspace(0.04, 1.2, 21)


def curves(seed, n=300):
    """Mean of log p_h(x) and mean of the best bound over n datapoints drawn with h = 0: (13,) each, in nats."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal(n) ** 2 + s * rng.standard_normal(n)
    exact, best = np.empty((2, len(hs)))
    for k, h in enumerate(hs):
        log_joints = log_normal(nodes, 0, 1) + log_normal(X[:, None], (nodes - h) ** 2, s)
        exact[k] = np.mean(np.log(np.sum(np.exp(log_joints), axis=1) * 8 * dz))
        all_q = bound_by_moments(q_mus, q_sigmas, X[:, None, None], s, h)
        best[k] = np.mean(np.max(all_q, axis=(1, 2)))
    return exact, best


sets = np.array([curves(seed) for seed in range(6)])  # (6 data sets, 2 curves, 13 values of h)
h_exact, h_bound = hs[np.argmax(sets, axis=2)].T
cost = [exact.max() - exact[np.argmax(best)] for exact, best in sets]
print(f"likelihood: best h = {h_exact.mean():.1f}, range {h_exact.min():.1f} to {h_exact.max():.1f} over 6 data sets")
print(f"bound: best h = {h_bound.mean():.1f}, range {h_bound.min():.1f} to {h_bound.max():.1f}")
cost_error = np.std(cost, ddof=1) / np.sqrt(len(cost))
print(f"the bound's choice loses {np.mean(cost):.3f} +- {cost_error:.3f} nats of likelihood per datapoint")
assert np.mean(cost) > 4 * cost_error
assert np.all(h_bound > h_exact + 0.2) and np.all(sets[:, 1] < sets[:, 0])
gap_at_0 = np.mean(sets[:, 0, 0] - sets[:, 1, 0])
print(f"mean gap at h = 0: {gap_at_0:.1f} nats")
assert abs(gap_at_0 - 0.4) < 0.05

# %%
# figure: variational-bound
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for values, colour, name in zip(
    sets.mean(axis=0), ("k", "tab:blue"), ("mean of log p(x), exact", "mean of the best bound")
):
    ax.plot(hs, values, colour, label=name)
    ax.plot(hs[np.argmax(values)], values.max(), "o", color=colour, ms=8)
ax.axvline(0, color="0.5", ls=":", label="h of the data")
ax.set(
    xlabel="h, where the parabola has its bottom", ylabel="nats per datapoint", title="The bound chooses another model"
)
ax.legend()
ax.grid(alpha=0.3)

# %% [markdown]
# *See:* on average over the data sets the likelihood is highest at the true $h = 0$; the bound is highest at another
# $h$, where the two curves are closer to each other.
#
# (A single data set has its best $h$ up to 0.2 away, by chance. And at $h = 0$ the mean gap is 0.4 nats, below
# $\log 2$, because for $x$ near zero or below, the posterior has one bump.)
#
# Away from $h = 0$ one of the two bumps has more mass than the other, the posterior is more like a Gaussian, and the
# gap is smaller. The bound is the likelihood *minus the gap*. Its maximum gives up some likelihood for a smaller gap. A
# model trained on the bound of a Gaussian $q$ prefers parameters for which posteriors have one bump.
#
# ## A trained model
#
# Tutorial 01 trained a model. With one latent, the sum over the grid measures the gap of a trained model. Three lamps
# are on or off, and depend on one hidden cause. There are only eight possible $x$, so there is a second oracle: their
# probabilities sum to one.
#
# **Before you run it:** how large is the mean gap, beside the $\log 2$ of above?

# %%
lamps = (rng.random((500, 3)) < 0.5 + 0.45 * np.sign(rng.standard_normal((500, 1)))).astype(float)
vae = npvae.VAE(1, hidden_layer_sizes=(), learning_rate=0.1, max_epochs=30, dtype="float64", backend="reference")
parameters = vae.fit(lamps).fitted_.parameters
possible = np.array(list(np.ndindex(2, 2, 2)), float)

logits = z[:, None] @ parameters["decoder.logits.W"] + parameters["decoder.logits.b"]  # (nodes, 3)
p_on = 1 / (1 + np.exp(-logits))
log_px_z = np.log(p_on) @ possible.T + np.log(1 - p_on) @ (1 - possible).T  # log p(x|z), (nodes, 8)
log_p = np.log(np.sum(np.exp(log_prior[:, None] + log_px_z), axis=0) * dz)  # log p(x) of the eight
assert abs(np.sum(np.exp(log_p)) - 1) < 1e-12

means = possible @ parameters["encoder.mu.W"] + parameters["encoder.mu.b"]
log_vars = possible @ parameters["encoder.log_var.W"] + parameters["encoder.log_var.b"]
log_qs = [log_normal(z, *q) for q in zip(means[:, 0], np.exp(log_vars[:, 0] / 2))]
divergences = [kl(log_q, log_prior + log_px_z[:, k] - log_p[k]) for k, log_q in enumerate(log_qs)]
found = quadrature(vae, possible)
np.testing.assert_allclose(found.log_prob, log_p, rtol=1e-8)
np.testing.assert_allclose(found.divergence, divergences, atol=1e-6)
share = np.exp(log_p)
print(f"probabilities of the eight x sum to {share.sum():.6f}; ", end="")
print(f"mean gap of the model {share @ divergences:.2f} nats, by two integrals that agree within 1e-6")
is_top = np.diff(np.sign(np.diff(log_prior[:, None] + log_px_z, axis=0)), axis=0) < 0
assert share @ divergences < 0.1 and np.all(np.sum(is_top, axis=0) == 1)  # each posterior has one bump

# %% [markdown]
# `quadrature` does this for any trained model of at most three latents: it returns $\log p(x)$ and the divergence of
# each row. The gap of this model is small, because each of its posteriors has one bump, nearly a Gaussian one.
#
# ## The divergence in closed form
#
# The rest of this page writes down what training needs, and compares it with the library. Where both densities are
# Gaussian, no grid is needed. For one latent, $q = \mathcal N(\mu, \sigma^2)$:
#
# $$H(q) = -\int q \log q \, dz = \tfrac12 \big(1 + \log 2 \pi + \log \sigma^2\big)$$
#
# $$D_{KL}\big(q \,\|\, \mathcal N(0, 1)\big) = \tfrac12 \big(\mu^2 + \sigma^2 - 1 - \log \sigma^2\big)$$
#
# The second is often written $\tfrac12 (1 + \log \sigma^2 - \mu^2 - \sigma^2)$. That is *minus* the divergence: at
# $\mu = 1$, $\sigma = 1$ it is negative, and a divergence cannot be. Tutorial 06 derives it term by term. For a
# Gaussian $p = \mathcal N(m, t^2)$, measure $z$ from $m$ in units of $t$: this changes no divergence.


# %%
def normal_entropy(sigma):
    """Entropy of N(mu, sigma^2) in nats."""
    return 0.5 * (1 + np.log(2 * np.pi) + np.log(sigma**2))


def normal_kl(mu, sigma, m=0.0, t=1.0):
    """D_KL(N(mu, sigma^2) || N(m, t^2)) in nats."""
    mu, sigma = (mu - m) / t, sigma / t
    return 0.5 * (mu**2 + sigma**2 - 1 - np.log(sigma**2))


mu, sigma = np.array([0.7, -1.2, 0.3]), np.array([0.4, 1.3, 0.8])
m, t = np.array([-0.5, 0.2, 0.6]), np.array([1.1, 0.6, 0.9])
for k in range(3):
    log_q = log_normal(z, mu[k], sigma[k])
    assert abs(normal_entropy(sigma[k]) + np.sum(np.exp(log_q) * log_q) * dz) < 1e-10
    assert abs(normal_kl(mu[k], sigma[k], m[k], t[k]) - kl(log_q, log_normal(z, m[k], t[k]))) < 1e-10
at = np.array([0.1, 0.2, -0.9])
for theirs, ours in (
    (Normal(mu, sigma).log_prob(at), log_normal(at, mu, sigma)),
    (Normal(mu, sigma).entropy(), normal_entropy(sigma)),
    (kl_divergence(Normal(mu, sigma), Normal(m, t)), normal_kl(mu, sigma, m, t)),
):
    np.testing.assert_allclose(theirs, ours, rtol=1e-12)

# %% [markdown]
# The last lines compare with the library. Its other families have entropies too. Here are their log-densities by hand,
# with $y = (z - m) / b$, and beside the library's entropy the integral $-\int q \log q \, dz$.

# %%
m, b = 0.4, 0.7
families = (  # the library's, the log-density of y, and a range of y with all the mass
    (distributions.Laplace(m, b), lambda y: -abs(y) - np.log(2), -40, 40),
    (distributions.Logistic(m, b), lambda y: -y - 2 * np.logaddexp(0, -y), -40, 40),
    (distributions.Gumbel(m, b), lambda y: -y - np.exp(-y), -5, 45),
    (distributions.Triangular(m, b), lambda y: np.log(1 - abs(y)), -1, 1),
    (distributions.Uniform(m, m + b), lambda y: 0.0 * y, 0, 1),
)
for family, log_standard, low, high in families:
    log_q = lambda v, log_standard=log_standard: log_standard((v - m) / b) - np.log(b)
    accurate = {"points": [m + b * (low + high) / 2], "limit": 200, "epsabs": 1e-11}  # a kink is in the middle
    ends = m + b * low, m + b * high
    mass = quad(lambda v, log_q=log_q: np.exp(log_q(v)), *ends, **accurate)[0]
    entropy = quad(lambda v, log_q=log_q: -np.exp(log_q(v)) * log_q(v), *ends, **accurate)[0]
    some = np.linspace(*ends, 11)[1:-1]
    np.testing.assert_allclose(family.log_prob(some), log_q(some), rtol=1e-11)
    assert abs(mass - 1) < 1e-8 and abs(family.entropy() - entropy) < 1e-8
print(f"for {len(families)} more families the entropies of npvae are those of the integral")

# %% [markdown]
# ## Many datapoints and latents at once
#
# A model has $M$ datapoints in a minibatch and $J$ latents. They are independent under $q$, so logarithms add up over
# $j$, and there is one value for each row. From here on $\sigma$ is given as `log_var` $= \log \sigma^2$: any number is
# allowed for it.
#
# With $L$ samples for each datapoint there are $L M$ rows, the first sample of every datapoint first. The library's
# `gaussian_latent` makes the samples $z = \mu + \sigma \epsilon$ of given noise. It also returns the divergence of each
# datapoint in closed form, or, on request, the log-ratio $\log q(z|x) - \log p(z)$ of each sample. The mean of the
# log-ratio is the divergence. How near is it?

# %%
M, J, L = 4, 3, 2
mu, log_var = rng.normal(size=(M, J)), rng.normal(-0.4, 0.5, (M, J))
eps, weights = rng.standard_normal((L * M, J)), rng.uniform(0.5, 2, L * M)
sigma = np.exp(log_var / 2)
samples = np.tile(mu, (L, 1)) + np.tile(sigma, (L, 1)) * eps
log_q = np.sum(log_normal(samples, np.tile(mu, (L, 1)), np.tile(sigma, (L, 1))), axis=1)  # (L * M,)
log_p = np.sum(log_normal(samples, 0, 1), axis=1)
kl_of_rows = np.sum(normal_kl(mu, sigma), axis=1)  # (M,)
for analytic_kl, ours in ((True, kl_of_rows), (False, log_q - log_p)):
    drawn, theirs = reference.gaussian_latent(mu, log_var, eps, analytic_kl)
    np.testing.assert_allclose(drawn, samples, rtol=1e-12)
    np.testing.assert_allclose(theirs, ours, rtol=1e-11, atol=1e-11)

many = rng.standard_normal((100_000 * M, J))
ratios = reference.gaussian_latent(mu, log_var, many, analytic_kl=False)[1].reshape(-1, M)
error = ratios.std(axis=0, ddof=1) / np.sqrt(len(ratios))
assert np.all(np.abs(ratios.mean(axis=0) - kl_of_rows) < 4 * error)  # four standard errors
print(f"mean of 100000 log-ratios {ratios.mean(axis=0)[0]:.3f} +- {error[0]:.3f}, closed form {kl_of_rows[0]:.3f} nats")

# %% [markdown]
# The same density serves a decoder with Gaussian output, $\log p(x|z)$. There mean and variance come from $z$, so they
# differ from sample to sample. `gaussian_log_prob` also returns the gradient of $\sum_r w_r \log p_r$ for given weights
# of the samples (a mean has equal ones): $\partial / \partial \mu = (x - \mu) / \sigma^2$ and
# $\partial / \partial \log \sigma^2 = \tfrac12 \big((x - \mu)^2 / \sigma^2 - 1\big)$. And `add_log_prior` adds
# $\log p(z)$ to what is there, and its gradient $-z$ to another array. The gradients of $-D_{KL}$ are $-\mu$ and
# $\tfrac12 (1 - \sigma^2)$.
#
# Are these gradients right? Move all arguments by a small step in a random direction, forth and back, and divide the
# change of the value by twice the step. The error falls as the square of the step.


# %%
def check_slope(function, arguments, gradients, step=1e-5):
    """Assert that gradients of a number are right, by central differences along a random direction."""
    direction = [rng.normal(size=array.shape) for array in arguments]
    forth, back = (function(*(a + h * d for a, d in zip(arguments, direction))) for h in (step, -step))
    assert abs((forth - back) / (2 * step) - sum(np.sum(g * d) for g, d in zip(gradients, direction))) < 1e-7


def log_density(means, log_vars):
    return np.sum(log_normal(np.tile(x_rows, (L, 1)), means, np.exp(log_vars / 2)), axis=1)


x_rows = rng.normal(size=(M, J))
means, log_vars = rng.normal(size=(L * M, J)), rng.normal(0.3, 0.4, (L * M, J))  # a row for each sample
error, variance = np.tile(x_rows, (L, 1)) - means, np.exp(log_vars)
of_density = weights[:, None] * error / variance, weights[:, None] * 0.5 * (error**2 / variance - 1)
check_slope(lambda means, log_vars: weights @ log_density(means, log_vars), (means, log_vars), of_density)
of_kl = -weights[:M, None] * mu, weights[:M, None] * 0.5 * (1 - sigma**2)
check_slope(lambda mu, v: -weights[:M] @ np.sum(normal_kl(mu, np.exp(v / 2)), axis=1), (mu, log_var), of_kl)

total, dz_total = np.full(L * M, 0.3), np.full((L * M, J), 0.2)
reference.add_log_prior(samples, total, dz_total)
theirs = (
    *reference.gaussian_log_prob(x_rows, means, log_vars, weights),
    *reference.gaussian_latent_backward(mu, log_var, eps, np.zeros_like(eps), True, weights[:M]),
    *(total - 0.3, dz_total - 0.2),
)
for ours, found in zip((log_density(means, log_vars), *of_density, *of_kl, log_p, -samples), theirs, strict=True):
    np.testing.assert_allclose(found, ours, rtol=1e-11, atol=1e-12)

# %% [markdown]
# ## A linear model: the bound without a grid
#
# For `linear`, $x | z \sim \mathcal N(z W + b, \mathrm{diag}(v))$ with $J = 2$ latents, all of it has a closed form.
# The expectation of the squared error under $q = \mathcal N(\mu, \mathrm{diag}(\sigma^2))$ is that at the mean, plus
# what the spread of $z$ adds: $\sum_j \sigma_j^2 W_{jd}^2$ for column $d$. The oracle is again a grid, of two
# dimensions.

# %%
W, b, v = np.array([[1.2, 0.8, -0.5], [0.9, 1.1, 0.3]]), rng.normal(size=3), rng.uniform(0.4, 1.5, 3)
model = LinearGaussian(W, b, v)
x_rows, mu, log_var = rng.normal(size=(4, 3)), rng.normal(0, 0.7, (4, 2)), rng.normal(-0.6, 0.3, (4, 2))
sigma = np.exp(log_var / 2)
expected_error = (x_rows - b - mu @ W) ** 2 + sigma**2 @ W**2  # (M, D)
by_hand = np.sum(-0.5 * np.log(2 * np.pi * v) - 0.5 * expected_error / v, axis=1) - np.sum(normal_kl(mu, sigma), axis=1)

side = np.linspace(-8, 8, 401)
plane = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
area = (side[1] - side[0]) ** 2
expected_log_joint = np.empty(4)  # E_q[log p(x, z)] of each row, by the grid
for k in range(4):
    log_q = np.sum(log_normal(plane, mu[k], sigma[k]), axis=1)
    log_pxz = np.sum(log_normal(plane, 0, 1), axis=1) + np.sum(log_normal(x_rows[k], plane @ W + b, np.sqrt(v)), axis=1)
    expected_log_joint[k] = np.sum(np.exp(log_q) * log_pxz) * area
    assert abs(np.sum(np.exp(log_q)) * area - 1) < 1e-10
    assert abs(by_hand[k] - expected_log_joint[k] + np.sum(np.exp(log_q) * log_q) * area) < 1e-9
    assert abs(model.log_prob(x_rows)[k] - np.log(np.sum(np.exp(log_pxz)) * area)) < 1e-9
np.testing.assert_allclose(model.elbo(x_rows, mu, log_var), by_hand, rtol=1e-12)
np.testing.assert_allclose(by_hand + model.divergence(x_rows, mu, log_var), model.log_prob(x_rows), rtol=1e-11)

# %% [markdown]
# In the library the bound is called `elbo`, for *evidence lower bound*. The last line is the split again: bound plus
# divergence is $\log p(x)$.
#
# **Before you run it:** under the posterior of this model the latents are correlated. Give $q$ the right means, and the
# best variances that independent latents can have. Is a gap left?

# %%
mean, covariance = model.posterior(x_rows)
correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
best_variance = 1 / np.diag(np.linalg.inv(covariance))  # as in tutorial 02
gap_left = model.divergence(x_rows, mean, np.tile(np.log(best_variance), (4, 1)))
print(f"correlation {correlation:.2f}: the gap is {gap_left[0]:.2f} nats for each x, exactly")
np.testing.assert_allclose(gap_left, -0.5 * np.log(1 - correlation**2), rtol=1e-10)
entropy = MultivariateNormal(mean[0], np.linalg.cholesky(covariance)).entropy()
assert abs(entropy - 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]) < 1e-12

# %% [markdown]
# A second reason for a gap: independent latents cannot follow a correlated posterior. The gap is
# $-\tfrac12 \log(1 - \rho^2)$ for a correlation $\rho$.
#
# ## Exercise: the divergence that training needs
#
# Each step of training computes $D_{KL}(q(z|x) \| p(z))$ for a minibatch,
# $q = \mathcal N(\mu, \mathrm{diag}(\sigma^2))$ and $p = \mathcal N(0, I)$. Write it as a function of `mu` and
# `log_var`.
#
# <details><summary>Hint</summary>
#
# $D_{KL} = -H(q) - \mathbb E_q[\log p]$. Under $q$, $\mathbb E[z_j^2] = \mu_j^2 + \sigma_j^2$. The $\log 2 \pi$ of both
# terms cancel. Independent latents: their divergences add up. And $\sigma^2$ is `np.exp(log_var)`.
#
# </details>


# %%
def gaussian_kl(mu, log_var):
    """D_KL(N(mu, exp(log_var)) || N(0, I)) in nats: arrays (M, J) to (M,)."""
    ...  # your code, about 1 line


# %% tags=["hide-cell"]
def gaussian_kl_solution(mu, log_var):
    return 0.5 * np.sum(mu**2 + np.exp(log_var) - 1 - log_var, axis=1)


kl_inputs = np.array([[0.4, -1.1, 0.7], [1.3, 0.2, -0.6]]), np.array([[-0.9, 0.3, -0.2], [0.5, -0.4, 0.8]])
check_gaussian_kl = Exercise(
    solution=gaussian_kl_solution,
    mistakes={
        "it has the wrong sign: a KL divergence is never negative": lambda mu, log_var: (
            -gaussian_kl_solution(mu, log_var)
        ),
        "log_var is the logarithm of sigma^2, and is read as that of sigma": lambda mu, log_var: gaussian_kl_solution(
            mu, 2 * log_var
        ),
        "it is the mean over latents, and the divergences of independent latents add up": lambda mu, log_var: (
            gaussian_kl_solution(mu, log_var) / mu.shape[1]
        ),
        "the 1 is missing, so it is not 0 for q = p": lambda mu, log_var: (
            gaussian_kl_solution(mu, log_var) + mu.shape[1] / 2
        ),
    },
    inputs=[kl_inputs],
    expected=[  # by the grid
        np.sum(
            [[kl(log_normal(z, m, np.exp(a / 2)), log_prior) for m, a in zip(*row)] for row in zip(*kl_inputs)], axis=1
        )
    ],
)

# %%
print(check_gaussian_kl(gaussian_kl))

# %% [markdown]
# ## Exercise: the joint-entropy form
#
# Given $\mathbb E_q[\log p(x, z)]$ of each datapoint, and `log_var` of the Gaussian $q$, return the bound of each
# datapoint. Think: why is the mean of $q$ not needed?
#
# <details><summary>Hint</summary>
#
# $\mathcal L = \mathbb E_q[\log p(x, z)] + H(q)$, and $H(q) = -\mathbb E_q[\log q]$ is a sum over $J$ latents of
# $\tfrac12 (1 + \log 2 \pi + \log \sigma_j^2)$. Moving a density does not change how surprising its draws are.
#
# </details>


# %%
def joint_entropy_form(expected_log_joint, log_var):
    """Bound in nats (M,) from E_q[log p(x, z)] (M,) in nats and log_var (M, J)."""
    ...  # your code, about 2 lines


# %% tags=["hide-cell"]
def joint_entropy_form_solution(expected_log_joint, log_var):
    return expected_log_joint + 0.5 * np.sum(1 + np.log(2 * np.pi) + log_var, axis=1)


check_joint_entropy_form = Exercise(
    solution=joint_entropy_form_solution,
    mistakes={
        "the entropy has the wrong sign: a wider q must raise this term": lambda e, log_var: (
            2 * e - joint_entropy_form_solution(e, log_var)
        ),
        "log_var is the logarithm of sigma^2, and is read as that of sigma": lambda e, log_var: (
            joint_entropy_form_solution(e, 2 * log_var)
        ),
        "the sum runs over the datapoints too: sum over the latents, axis 1": lambda e, log_var: (
            e + 0.5 * np.sum(1 + np.log(2 * np.pi) + log_var)
        ),
        "the 1 + log(2 pi) is counted once, and each of the J latents has its own": lambda e, log_var: (
            e + 0.5 * (1 + np.log(2 * np.pi) + np.sum(log_var, axis=1))
        ),
    },
    inputs=[(expected_log_joint, log_var)],
    expected=[model.log_prob(x_rows) - model.divergence(x_rows, mu, log_var)],
)

# %%
print(check_joint_entropy_form(joint_entropy_form))

# %% [markdown]
# ## Exercise: the Gaussian that covers
#
# The other order, $D_{KL}(p \| q)$, has its minimum over all Gaussians $q$ in closed form. Given $\log p$ on a grid,
# return the mean and the standard deviation of this $q$, without a search. The grid is even, and $p$ sums to one on it.
#
# <details><summary>Hint</summary>
#
# Write $D_{KL}(p \| q) = -H(p) - \mathbb E_p[\log q]$. The first term does not depend on $q$. In the second, set the
# derivatives by $\mu$ and $\sigma$ to zero. An expectation under $p$ is a sum of `np.exp(log_p)` times a function,
# times the distance of two nodes.
#
# </details>


# %%
def covering_gaussian(z, log_p):
    """Mean and standard deviation of the Gaussian q with the smallest KL(p || q); z and log_p are (nodes,)."""
    ...  # your code, about 4 lines


# %% tags=["hide-cell"]
def covering_gaussian_solution(z, log_p):
    p = np.exp(log_p) * (z[1] - z[0])
    mean = np.sum(p * z)
    return mean, np.sqrt(np.sum(p * (z - mean) ** 2))


def holding_gaussian(z, log_p):
    """Fit one bump: its top, and the curvature there."""
    top = np.argmax(log_p)
    curvature = (log_p[top - 1] - 2 * log_p[top] + log_p[top + 1]) / (z[1] - z[0]) ** 2
    return z[top], 1 / np.sqrt(-curvature)


def mixture(share, left, right, sigma):
    """log density of two bumps on the grid, and their mean and standard deviation in closed form."""
    log_p = np.logaddexp(np.log(share) + log_normal(z, left, sigma), np.log(1 - share) + log_normal(z, right, sigma))
    variance = sigma**2 + share * (1 - share) * (right - left) ** 2
    return log_p, (share * left + (1 - share) * right, np.sqrt(variance))


two = [mixture(0.3, -1.1, 1.6, 0.4), mixture(0.6, -0.5, 2.0, 0.3)]
check_covering_gaussian = Exercise(
    solution=covering_gaussian_solution,
    mistakes={
        "it holds one bump: that is near the smallest KL(q || p)": holding_gaussian,
        "the second result is the variance, and the standard deviation is its square root": lambda z, log_p: (
            covering_gaussian_solution(z, log_p)[0],
            covering_gaussian_solution(z, log_p)[1] ** 2,
        ),
        "the spread is taken about zero, and not about the mean": lambda z, log_p: (
            covering_gaussian_solution(z, log_p)[0],
            np.sqrt(np.sum(z**2 * np.exp(log_p)) * (z[1] - z[0])),
        ),
    },
    inputs=[(z, log_p) for log_p, _ in two],
    expected=[moments for _, moments in two],
)

# %%
print(check_covering_gaussian(covering_gaussian))

# %% [markdown]
# ## The answer

# %%
print(f"Answer: {gap:.2f} nats (the same from 3 starts): q holds one of two equal bumps, and log 2 is {np.log(2):.2f}")

# %% [markdown]
# ## What to take with you
#
# $\log p(x)$ is the bound plus the divergence from $q$ to the posterior, exactly and for every $q$; so the bound is a
# bound, and raising it brings $q$ to the posterior. What is left is due to the family of $q$: here $\log 2$ for the
# bump that one Gaussian cannot hold. A parameter fitted to the bound moves to where the posterior is easier for $q$.
#
# From now on `kl_divergence`, `log_prob` and `entropy` of the distributions, `gaussian_latent`, `gaussian_log_prob` and
# `add_log_prior` of the reference backend, and `quadrature` stand for what was written here. Next, tutorial 04: the
# bound is an expectation over a $q$ that we want to change. How do we differentiate it?

# %%
plt.show()
