# %% [markdown]
# # Be uncertain about the weights too
#
# **Question:** Is the posterior of a weight that full variational Bayes finds too wide or too narrow, and how much?
#
# **You will do:** give a weight a prior, nest one bound in another, write both estimators of the nested bound with
# their gradients, train with them, and compare what they find with the exact posterior.
#
# **You will learn:** what full variational Bayes approximates, why it needs two reparameterizations, in which direction
# it is wrong, and when it is worth its price.
#
# **You need:** the bound of *Bound the likelihood*, the reparameterization of *Move the noise out*, the estimators of
# *Estimate the bound from one minibatch*, and sums over a grid in place of integrals.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from npvae.backends import reference
from npvae.backends.formulas import soft_floor
from npvae.estimators import SGVB, FullVB
from npvae.estimators.full_vb import Noise
from npvae.evaluation import LinearGaussian
from npvae.exercises import Exercise
from npvae.model import Architecture, Model

# %% [markdown]
# ## A model with one weight
#
# So far the latent variables $z$ were random, and the parameters $\theta$ were numbers to be found. *Full* variational
# Bayes treats both alike: what we do not know has a distribution. We take the smallest model that has both, a weight
# $\theta$ that all datapoints share, and a latent variable of its own for each datapoint:
#
# $\theta \sim \mathcal N(0, 1)$, $z_i \sim \mathcal N(0, 1)$,
# $x_i \mid z_i, \theta \sim \mathcal N(\theta + z_i, s^2)$.
#
# Think of $\theta$ as what all measurements have in common and of $z_i$ as what is special about measurement $i$. The
# data is $N = 20$ numbers, with $s = 0.5$. *Given* $\theta$ the datapoints are independent, so that
#
# $$\log p_\theta(X) = \sum_{i=1}^N \log p_\theta(x_i), \qquad p_\theta(x_i) = \int p_\theta(x_i | z) \, p(z) \, dz$$

# %%
s, N, true_theta = 0.5, 20, 0.8
rng = np.random.default_rng(4)
x = true_theta + rng.standard_normal(N) + s * rng.standard_normal(N)
grid = np.linspace(-12, 12, 2401)  # of z, and of theta
width = grid[1] - grid[0]


def log_normal(value, mean, log_var):
    """log N(value; mean, exp(log_var)), element by element, in nats."""
    return -0.5 * (np.log(2 * np.pi) + log_var + (value - mean) ** 2 / np.exp(log_var))


# formula: sum-given-weights
def log_p_given_theta(x, theta):
    """log p_theta(x_i) of each datapoint (N,) at one theta, by a sum over the grid of z, in nats."""
    return np.log(np.exp(log_normal(x[:, None], theta + grid, 2 * np.log(s)) + log_normal(grid, 0, 0)).sum(1) * width)


log_p_X_given = np.array([log_p_given_theta(x, theta).sum() for theta in grid])  # log p_theta(X), for each theta
assert abs(log_p_X_given[1250] - stats.norm(grid[1250], np.sqrt(1 + s**2)).logpdf(x).sum()) < 1e-8

# %% [markdown]
# ## A prior on the weight
#
# A prior $p_\alpha(\theta)$ of a parameter is called a hyper-prior; $\alpha$ are its own settings, here mean 0 and
# variance 1. With it $\theta$ is one more thing to integrate over, and the evidence is that of the *whole* data set:
#
# $$\log p_\alpha(X) = \log \int p_\theta(X) \, p_\alpha(\theta) \, d\theta$$
#
# The oracle is a Gaussian of 20 dimensions: all $x_i$ contain the same $\theta$, so each pair has covariance 1.

# %%
# formula: hyper-prior
log_prior = log_normal(grid, 0, 0)
log_joint = log_p_X_given + log_prior
log_p_X = np.log(np.exp(log_joint - log_joint.max()).sum() * width) + log_joint.max()
posterior = np.exp(log_joint - log_p_X)  # p(theta|X), by Bayes

covariance = (1 + s**2) * np.eye(N) + 1
assert abs(log_p_X - stats.multivariate_normal(np.zeros(N), covariance).logpdf(x)) < 1e-8
assert abs(posterior.sum() * width - 1) < 1e-10 and abs(np.exp(log_prior).sum() * width - 1) < 1e-10


def exact_posterior(x, s):
    """Mean and variance of p(theta|X), in closed form: each datapoint has the variance 1 + s^2 around theta."""
    variance = 1 / (1 + len(x) / (1 + s**2))
    return variance * x.sum() / (1 + s**2), variance


mean, variance = exact_posterior(x, s)

# figure: full-vb
# figure: hyper-priors
fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
ax.plot(grid, np.exp(log_prior), "0.6", label="prior")
for n, colour in ((1, "tab:green"), (5, "tab:orange"), (20, "tab:blue")):
    m, v = exact_posterior(x[:n], s)
    ax.plot(grid, np.exp(log_normal(grid, m, np.log(v))), colour, label=f"posterior, N = {n}")
    ax.plot(m, np.exp(log_normal(m, m, np.log(v))), "o", color=colour)
ax.axvline(true_theta, color="k", lw=1, label="true weight")
ax.set(xlim=(-2.5, 3), xlabel=r"weight $\theta$", ylabel="density", title="MAP keeps the dots, full Bayes the curves")
_ = ax.legend(fontsize=8)
np.testing.assert_allclose(posterior, np.exp(log_normal(grid, mean, np.log(variance))), atol=1e-8)
print(f"log p(X) = {log_p_X:.2f} nats; posterior of theta: {mean:.2f} +- {variance**0.5:.2f}")

# %% [markdown]
# *See:* each curve says how much the data leaves open; the dot on it, the maximum a posteriori (MAP), does not. (The
# number after $\pm$ is the standard deviation, sd for short.)
#
# ## The bound for the weights
#
# In a network nobody can sum over a grid of $\theta$. So we do what we did for $z$: choose a $q_\phi(\theta)$ of a
# simple family, and split the evidence. Nothing new is needed but the name of the unknown, which is $\theta$ now:
#
# $$\log p_\alpha(X) = D_{KL}(q_\phi(\theta) \,\|\, p_\alpha(\theta | X)) + \mathcal L(\phi; X)$$
#
# (Some lecture notes close the bracket of $D_{KL}$ after $q_\phi(\theta)$. A KL divergence compares two densities, and
# both belong inside.) The second term is the bound:
#
# $$\mathcal L(\phi; X) = \int q_\phi(\theta) \left[ \log p_\theta(X) + \log p_\alpha(\theta)
# - \log q_\phi(\theta) \right] d\theta$$


# %%
def average(q, values):
    """Integral of q times values over the grid."""
    return np.sum(q * values) * width


# formula: weights-bound
def weights_bound(mu, log_var):
    """L(phi; X) in nats, for q(theta) = N(mu, exp(log_var))."""
    log_q = log_normal(grid, mu, log_var)
    return average(np.exp(log_q), log_p_X_given + log_prior - log_q)


# formula: weights-evidence-split
def weights_gap(mu, log_var):
    """D_KL(q(theta) || p(theta|X)) in nats, by the grid."""
    log_q = log_normal(grid, mu, log_var)
    return average(np.exp(log_q), log_q - (log_joint - log_p_X))


def gaussian_divergence(m1, v1, m2, v2):
    """D_KL(N(m1, v1) || N(m2, v2)) in nats, in closed form."""
    return 0.5 * (v1 / v2 + (m1 - m2) ** 2 / v2 - 1 - np.log(v1 / v2))


for mu, log_var in ((0.3, -1.0), (1.2, -3.5), (-0.4, -0.5)):
    assert abs(weights_bound(mu, log_var) + weights_gap(mu, log_var) - log_p_X) < 1e-8  # the split
    assert abs(weights_gap(mu, log_var) - gaussian_divergence(mu, np.exp(log_var), mean, variance)) < 1e-8
    assert weights_bound(mu, log_var) < log_p_X
assert abs(weights_bound(mean, np.log(variance)) - log_p_X) < 1e-8  # tight where q is the posterior

# figure: weights-decomposition
mus = np.linspace(-0.2, 1.4, 65)
bounds = np.array([weights_bound(mu, np.log(variance)) for mu in mus])
fig, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
ax.fill_between(mus, bounds, log_p_X, color="tab:red", alpha=0.3, label=r"$D_{KL}(q(\theta)\,\|\,p(\theta|X))$")
ax.plot(mus, bounds, "tab:blue", label=r"bound $\mathcal{L}(\phi; X)$")
ax.axhline(log_p_X, color="k", lw=1, label=r"$\log p_\alpha(X)$, exact")
ax.set(xlabel=r"mean of $q(\theta)$", ylabel="nats", title="The same split as for z, now for the weight")
_ = ax.legend(fontsize=8)

# %% [markdown]
# *See:* bound and divergence fill the space below one flat line, and touch it where $q(\theta)$ is the posterior.
#
# ## The bound inside the bound
#
# The bound contains $\log p_\theta(X)$, a sum of $\log p_\theta(x_i)$, and each of these hides an integral over $z$. We
# can sum it on the grid; a network cannot. So it is bounded as well, by the bound that all earlier tutorials are about,
# now at one given $\theta$:
#
# $$\log p_\theta(x) = D_{KL}(q_\phi(z|x) \,\|\, p_\theta(z|x)) + \mathcal L(\theta, \phi; x)$$
#
# $$\mathcal L(\theta, \phi; x) = \int q_\phi(z|x) \left[ \log p_\theta(x|z) + \log p(z) - \log q_\phi(z|x) \right] dz$$
#
# The encoder does not know $\theta$: it sees $x$ alone. Ours is as simple as possible, with three numbers $a, c, v$:
# $q_\phi(z|x) = \mathcal N(a x + c, e^v)$.


# %%
# formula: latent-bound
def latent_bound(x, theta, mu_z, log_var_z):
    """L(theta, phi; x) in nats, for q(z|x) = N(mu_z, exp(log_var_z)) and one x."""
    log_q = log_normal(grid, mu_z, log_var_z)
    return average(np.exp(log_q), log_normal(x, theta + grid, 2 * np.log(s)) + log_normal(grid, 0, 0) - log_q)


# formula: evidence-split-given-weights
def latent_gap(x, theta, mu_z, log_var_z):
    """D_KL(q(z|x) || p_theta(z|x)) in nats: given theta, the posterior of z is a Gaussian again."""
    return gaussian_divergence(mu_z, np.exp(log_var_z), (x - theta) / (1 + s**2), s**2 / (1 + s**2))


for x_i, theta, mu_z, log_var_z in ((1.3, 0.4, 0.2, -1.0), (-0.7, 1.1, -0.9, -0.3)):
    log_p_x = log_p_given_theta(np.array([x_i]), theta)[0]
    assert abs(latent_bound(x_i, theta, mu_z, log_var_z) + latent_gap(x_i, theta, mu_z, log_var_z) - log_p_x) < 1e-8
    assert abs(log_p_x - log_normal(x_i, theta, np.log(1 + s**2))) < 1e-8

# %% [markdown]
# Put the inner bound into the outer one, and we have the *nested* bound:
#
# $$\log p_\alpha(X) \ge \int q_\phi(\theta) \Big[ \sum_{i=1}^N \mathcal L(\theta, \phi; x_i) + \log p_\alpha(\theta)
# - \log q_\phi(\theta) \Big] d\theta$$
#
# What is missing from $\log p_\alpha(X)$ are *two* divergences: that of the weight, and the expected sum of those of
# the latent variables.
#
# The encoder below is the best there is: its mean is the posterior mean of $z$ at $\theta = \mu_\theta$, and its
# variance is that of the posterior given $\theta$. Now we make $q(\theta)$ wider and narrower.
#
# **Before you run it:** the divergence of the weight is zero where $q(\theta)$ is exactly as wide as the posterior. Is
# that also where the whole bound is highest?

# %%
nodes, shares = np.polynomial.hermite_e.hermegauss(9)  # nine values of N(0, 1) and their shares: a mean over them is
shares /= shares.sum()  # that over N(0, 1), for every polynomial up to degree 17


def gaps(phi):
    """Return the divergence of theta, and the expected sum of those of all z, in nats."""
    theta = phi["mu"] + np.exp(phi["log_var"] / 2) * nodes[:, None]
    of_z = latent_gap(x, theta, phi["a"] * x + phi["c"], phi["v"]).sum(axis=1)
    return weights_gap(phi["mu"], phi["log_var"]), shares @ of_z


def nested_bound(phi):
    """Return the bound on log p(X) in nats, from what is missing: the oracle of what follows."""
    return log_p_X - sum(gaps(phi))


best_q = {"mu": mean, "log_var": -np.log(1 + N / s**2)}  # log_var: what the experiment will find
best_q |= {"a": 1 / (1 + s**2), "c": -mean / (1 + s**2), "v": -np.log(1 + 1 / s**2)}
for name in best_q:  # a step in any direction lowers the bound
    assert all(nested_bound(best_q | {name: best_q[name] + step}) < nested_bound(best_q) for step in (-0.01, 0.01))

sds = np.linspace(0.05, 0.5, 91)
gap_theta, gap_z = np.array([gaps(best_q | {"log_var": 2 * np.log(sd)}) for sd in sds]).T
nested = log_p_X - gap_theta - gap_z
best = sds[nested.argmax()]
print(f"the bound is highest at sd {best:.2f}; the exact posterior has sd {variance**0.5:.2f}")
assert best < 0.6 * variance**0.5 and abs(best - np.exp(best_q["log_var"] / 2)) < 0.005

# figure: data-likelihood-inside
fig, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
ax.fill_between(sds, nested, nested + gap_z, color="tab:orange", alpha=0.5, label="expected divergences of all z")
ax.fill_between(sds, nested + gap_z, log_p_X, color="tab:red", alpha=0.5, label=r"divergence of $\theta$")
ax.plot(sds, nested, "tab:blue", label="nested bound")
ax.axhline(log_p_X, color="k", lw=1, label=r"$\log p_\alpha(X)$, exact")
ax.axvline(variance**0.5, color="k", ls=":", label="sd of the exact posterior")
ax.plot(best, nested.max(), "o", color="tab:blue")
ax.set(xlabel=r"sd of $q(\theta)$", ylabel="nats", ylim=(log_p_X - 12, log_p_X + 1), title="Two gaps below one line")
_ = ax.legend(fontsize=8)

# %% [markdown]
# *See:* at the dotted line the red gap is closed, but the orange one is still wide: the highest bound is to the left.
#
# No. The $q(z|x)$ were made for one $\theta$. When $\theta$ moves, the true posteriors of all $z_i$ move with it, those
# of $q$ do not, and each of the 20 datapoints pays for that. A $q(\theta)$ that is too narrow pays less. Keep this
# picture: it is the answer to our question, before any training.
#
# The best width even has a closed form. The joint posterior of $(\theta, z_1, \ldots, z_N)$ is a Gaussian here, and the
# best independent Gaussians have variances of one over the diagonal of its precision matrix, the inverse of the
# covariance matrix. That diagonal is $1 + N / s^2$ for $\theta$, and $1 + 1 / s^2$ for each $z_i$.
#
# ## Two reparameterizations
#
# Networks have no grids, so both integrals become averages over samples; and as we want gradients, the noise is moved
# out, once for each unknown:
#
# $$z = g_\phi(\epsilon, x) = \mu_z + \sigma_z \epsilon, \quad \epsilon \sim p(\epsilon), \qquad
# \theta = h_\phi(\zeta) = \mu_\theta + \sigma_\theta \zeta, \quad \zeta \sim p(\zeta)$$
#
# Neither $p(\epsilon)$ nor $p(\zeta)$ depends on $\phi$. Given $(\epsilon, \zeta)$, everything that follows is an
# ordinary function of $\phi$, and can be differentiated.

# %%
phi = {"mu": 0.6, "log_var": -2.5, "a": 0.7, "c": -0.4, "v": -1.2}  # any q: this one is not a good one


# formula: reparameterized-twice
def g(phi, eps, x):
    """Draw z from q(z|x): noise eps and data x to z, element by element."""
    return phi["a"] * x + phi["c"] + np.exp(phi["v"] / 2) * eps


def h(phi, zeta):
    """Draw theta from q(theta)."""
    return phi["mu"] + np.exp(phi["log_var"] / 2) * zeta


def mean_over_noise(function, x):
    """Mean of function(x, eps, zeta) over both noises, for each datapoint: (N,)."""
    return np.einsum("e,z,ezn->n", shares, shares, function(x, nodes[:, None, None], nodes[:, None]))


x_0 = x[np.argmin(np.abs(x - true_theta))]
# An expectation over z and theta on their grids is one over eps and zeta; and q(theta) dtheta = p(zeta) dzeta
by_noise = mean_over_noise(lambda x, eps, zeta: log_normal(x, h(phi, zeta) + g(phi, eps, x), 2 * np.log(s)), x_0[None])
q_of_z = np.exp(log_normal(grid, phi["a"] * x_0 + phi["c"], phi["v"]))
q_of_theta = np.exp(log_normal(grid, phi["mu"], phi["log_var"]))
by_grid = q_of_z @ log_normal(x_0, grid + grid[:, None], 2 * np.log(s)) @ q_of_theta * width**2
assert abs(by_noise[0] - by_grid) < 1e-8
log_q = log_normal(h(phi, nodes), phi["mu"], phi["log_var"])
np.testing.assert_allclose(log_q + phi["log_var"] / 2, log_normal(nodes, 0, 0), atol=1e-12)

# figure: reparameterization-twice
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
eps, zeta = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9))
look = {"c": eps, "s": 20 + 15 * (zeta + 2), "cmap": "coolwarm", "edgecolor": "k", "lw": 0.3}
left.scatter(eps, zeta, **look)
right.scatter(g(phi, eps, x_0), h(phi, zeta), **look)
right.axline((0.0, x_0), slope=-1, color="k", lw=1, label=r"$\theta + z = x$")
left.set(xlabel=r"$\epsilon$", ylabel=r"$\zeta$", title="The noise knows nothing", aspect="equal")
right.set(xlabel="z", ylabel=r"$\theta$", title="q places it", aspect="equal", xlim=(-1.3, 1.7), ylim=(-0.8, 2.2))
_ = right.legend(fontsize=8)

# %% [markdown]
# *See:* $q$ shifts and stretches the lattice along its axes. It cannot turn it, though the data asks for it: only the
# sum of $\theta$ and $z$ is seen, so the exact posterior lies along the line.
#
# ## One function for all terms
#
# Take *one* datapoint $x$, drawn at random among the $N$, one $z$ and one $\theta$. All terms of the nested bound are
# collected in
#
# $$f_\phi(x, z, \theta) = N \left( \log p_\theta(x|z) + \log p(z) - \log q_\phi(z|x) \right)
# + \log p_\alpha(\theta) - \log q_\phi(\theta)$$
#
# Lecture notes on this method often write "$\log p_\theta(x|z) = \log p_\theta(z) - \ldots$" within the bracket. It
# should be "$+$": five log-densities are added or subtracted, and nothing is claimed to be equal. Note what $N$
# multiplies. One datapoint stands for all $N$, and each has its own $z$; but $\theta$ is there once.


# %%
# formula: full-vb-f
def f(phi, x, z, theta, N):
    """Compute f_phi(x, z, theta) in nats, element by element."""
    log_p_x = log_normal(x, theta + z, 2 * np.log(s))
    log_q_z = log_normal(z, phi["a"] * x + phi["c"], phi["v"])
    log_q_theta = log_normal(theta, phi["mu"], phi["log_var"])
    return N * (log_p_x + log_normal(z, 0, 0) - log_q_z) + log_normal(theta, 0, 0) - log_q_theta


def f_of_noise(phi, x, eps, zeta, N):
    """Compute f_phi at the z and theta that the noise makes."""
    return f(phi, x, g(phi, eps, x), h(phi, zeta), N)


bound = nested_bound(phi)
assert abs(mean_over_noise(lambda *noise: f_of_noise(phi, *noise, N), x).mean() - bound) < 1e-8

# %% [markdown]
# The bound is the expectation of $f_\phi$, and an average over samples estimates it:
#
# $$\mathcal L(\phi; X) \approx \frac 1 L \sum_{l=1}^L
# f_\phi(x^{(l)}, g_\phi(\epsilon^{(l)}, x^{(l)}), h_\phi(\zeta^{(l)}))$$
#
# Each term has its own datapoint $x^{(l)}$, its own $\epsilon^{(l)}$ and its own $\zeta^{(l)}$.


# %%
# formula: full-vb-estimator
def draw_estimates(phi, x, L, repeats, rng):
    """Estimates (repeats,) of the bound on log p(X) in nats, each from L datapoints and samples."""
    x_l = x[rng.integers(len(x), size=(repeats, L))]
    eps, zeta = rng.standard_normal((2, repeats, L))
    return f_of_noise(phi, x_l, eps, zeta, len(x)).mean(axis=1)


sampled = draw_estimates(phi, x, 5, 20000, rng)
error = sampled.std() / np.sqrt(len(sampled))
print(f"bound {bound:.1f}; mean of 20000 estimates within {abs(sampled.mean() - bound) / error:.0f} standard errors")
assert abs(sampled.mean() - bound) < 4 * error

# %% [markdown]
# ## Exercise: the estimator, from its densities
#
# Write the estimator once more, from the values of the five log-densities at the $L$ samples, without looking up: every
# sign is now your decision, and so is the place of $N$.
#
# <details><summary>Hint</summary>
#
# Which densities belong to one datapoint of many, and which to all of them at once? Then take the mean over $l$.
#
# </details>


# %%
def full_vb_estimator(log_p_x, log_p_z, log_q_z, log_p_theta, log_q_theta, N):
    """Estimate of the bound on log p(X), one number in nats, from five arrays (L,) and the number N of datapoints."""
    ...  # your code, about one line


# %% tags=["hide-cell"]
def full_vb_estimator_solution(log_p_x, log_p_z, log_q_z, log_p_theta, log_q_theta, N):
    return np.mean(N * (log_p_x + log_p_z - log_q_z) + log_p_theta - log_q_theta)


check_full_vb_estimator = Exercise(
    solution=full_vb_estimator_solution,
    mistakes={
        "log p(z) is subtracted; like log p(x|z) it is a density of the model, and is added": (
            lambda x, z, q_z, theta, q_theta, N: np.mean(N * (x - z - q_z) + theta - q_theta)
        ),
        "log p(z) is missing, as if the misprinted '=' ended the sum": (
            lambda x, z, q_z, theta, q_theta, N: np.mean(N * (x - q_z) + theta - q_theta)
        ),
        "N multiplies the terms of theta too; all datapoints share one theta, so these count once": (
            lambda x, z, q_z, theta, q_theta, N: np.mean(N * (x + z - q_z + theta - q_theta))
        ),
        "it is the sum over the samples; the estimate is their mean": (
            lambda x, z, q_z, theta, q_theta, N: np.sum(N * (x + z - q_z) + theta - q_theta)
        ),
    },
    inputs=[(np.array([-1.0, -3.0]), np.array([-2.0, -1.0]), np.array([-0.5, -1.5]), np.array([-4.0, -5.0]),
             np.array([-0.25, -2.25]), 10)],
    expected=[(10 * -2.5 - 3.75 + 10 * -2.5 - 2.75) / 2],
)  # fmt: skip

# %%
print(check_full_vb_estimator(full_vb_estimator))

# %% [markdown]
# ## With Gaussians, less is left to chance
#
# $\theta$ was one number. A network has many, and we let them be independent Gaussians under $q$, each with a mean and
# a variance of its own, and the same for $z$ with the outputs of the encoder:
#
# $$\log q_\phi(\theta) = \log \mathcal N(\theta; \mu_\theta, \text{diag}(\sigma_\theta^2))$$
#
# $$\log q_\phi(z|x) = \log \mathcal N(z; \mu_z, \text{diag}(\sigma_z^2))$$
#
# (Often written $\sigma_\theta^2 I$, but the variances differ.) The priors are standard normal. Lecture notes sometimes
# copy $p_\alpha(\theta) = \mathcal N(z; 0, I)$; it should be $\mathcal N(\theta; 0, I)$, a density of $\theta$.

# %%
mu_theta, log_var_theta = rng.normal(size=(4, 2)), rng.normal(-1, 0.5, (4, 2))  # a matrix of weights
mu_latent, log_var_latent = rng.normal(size=(3, 2)), rng.normal(-1, 0.5, (3, 2))  # M = 3 datapoints, J = 2 latents


# formula: weights-posterior
def log_q_of_theta(theta, mu, log_var):
    """log q(theta), one number in nats: the sum over all weights, whatever the shape of their matrix."""
    return np.sum(log_normal(theta, mu, log_var))


# formula: latent-posterior
def log_q_of_z(z, mu, log_var):
    """log q(z|x), (M,) in nats: the sum over the J latent dimensions of each datapoint."""
    return np.sum(log_normal(z, mu, log_var), axis=1)


theta, z = rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
by_scipy = stats.multivariate_normal(mu_theta.ravel(), np.diag(np.exp(log_var_theta.ravel()))).logpdf(theta.ravel())
assert abs(log_q_of_theta(theta, mu_theta, log_var_theta) - by_scipy) < 1e-10
for row in range(3):
    by_scipy = stats.multivariate_normal(mu_latent[row], np.diag(np.exp(log_var_latent[row]))).logpdf(z[row])
    assert abs(log_q_of_z(z, mu_latent, log_var_latent)[row] - by_scipy) < 1e-10
assert abs(np.exp(log_normal(grid, 0.5, -1.0)).sum() * width - 1) < 1e-10  # each factor, and so their product

# %% [markdown]
# Four of the five densities are Gaussian now, and their expectations need no samples. For each datapoint, the terms of
# $z$ make a KL divergence from the prior, with a minus:
#
# $$-D_{KL}(q_\phi(z|x) \,\|\, p(z))
# = \frac 1 2 \sum_{j=1}^J \left( 1 + \log \sigma_{z,j}^2 - \mu_{z,j}^2 - \sigma_{z,j}^2 \right)$$
#
# and those of $\theta$ make another, over the *components of theta*:
#
# $$-D_{KL}(q_\phi(\theta) \,\|\, p_\alpha(\theta))
# = \frac 1 2 \sum_k \left( 1 + \log \sigma_{\theta,k}^2 - \mu_{\theta,k}^2 - \sigma_{\theta,k}^2 \right)$$
#
# (Often the $\frac 1 2$ and the sum are lost when the terms are listed; the second sum is written up to $J$, the number
# of latent dimensions; and both are called divergences, though each is *minus* one.)


# %%
# formula: latent-kl
def minus_kl_of_z(mu, log_var):
    """-D_KL(q(z|x) || p(z)) of each datapoint: (M, J) to (M,), in nats."""
    return 0.5 * np.sum(1 + log_var - mu**2 - np.exp(log_var), axis=1)


# formula: weights-kl
def minus_kl_of_theta(mu, log_var):
    """-D_KL(q(theta) || p(theta)), one number in nats, for an array of weights of any shape."""
    return 0.5 * np.sum(1 + log_var - mu**2 - np.exp(log_var))


def divergences_by_grid(mu, log_var, prior_var=1.0):
    """D_KL(N(mu, exp(log_var)) || N(0, prior_var)) of each element, by the grid: the oracle."""
    log_q = log_normal(grid[:, None], mu.ravel(), log_var.ravel())
    log_ratio = log_q - log_normal(grid[:, None], 0, np.log(prior_var))
    return np.sum(np.exp(log_q) * log_ratio, axis=0).reshape(mu.shape) * width


of_z, of_theta = divergences_by_grid(mu_latent, log_var_latent), divergences_by_grid(mu_theta, log_var_theta)
np.testing.assert_allclose(-minus_kl_of_z(mu_latent, log_var_latent), of_z.sum(axis=1), rtol=1e-9)
np.testing.assert_allclose(-minus_kl_of_theta(mu_theta, log_var_theta), of_theta.sum(), rtol=1e-9)

# %% [markdown]
# The fifth density is the likelihood, the fit to the data, and it alone still needs the samples $z^{(l)}$ and
# $\theta^{(l)}$:
#
# $$\log p_{\theta^{(l)}}(x^{(l)} | z^{(l)}), \qquad z^{(l)} = \mu_z + \sigma_z \epsilon^{(l)}, \quad
# \theta^{(l)} = \mu_\theta + \sigma_\theta \zeta^{(l)}$$
#
# (You may see it as "$\log p_\theta(x^{(i)} z^{(i)})$", without the bar: that would be the joint density, with
# $\log p(z)$ counted a second time.) In our model even its expectation is known. It tells what the two widths cost:
#
# $$\mathbb E[\log p_\theta(x|z)] = \log \mathcal N(x; \mu_\theta + \mu_z, s^2)
# - \frac {\sigma_\theta^2 + \sigma_z^2} {2 s^2}$$


# %%
# formula: likelihood-term
def likelihood_term(phi, x, eps, zeta):
    """log p_theta(x|z) at sampled z and theta, element by element, in nats."""
    return log_normal(x, h(phi, zeta) + g(phi, eps, x), 2 * np.log(s))


costs = (np.exp(phi["log_var"]) + np.exp(phi["v"])) / (2 * s**2)
expected = log_normal(x, phi["mu"] + phi["a"] * x + phi["c"], 2 * np.log(s)) - costs
by_nodes = mean_over_noise(lambda *noise: likelihood_term(phi, *noise), x)
np.testing.assert_allclose(by_nodes, expected, rtol=1e-10)

# %% [markdown]
# Together they are the estimator for the Gaussian case:
#
# $$\mathcal L(\phi; X) \approx \frac 1 L \sum_{l=1}^L \Big[ N \Big(
# \frac 1 2 \sum_{j=1}^J (1 + \log \sigma_{z,j}^2 - \mu_{z,j}^2 - \sigma_{z,j}^2)
# + \log p_{\theta^{(l)}}(x^{(l)} | z^{(l)}) \Big)
# + \frac 1 2 \sum_k (1 + \log \sigma_{\theta,k}^2 - \mu_{\theta,k}^2 - \sigma_{\theta,k}^2) \Big]$$
#
# $\mu_z$ and $\sigma_z$ are those of the datapoint $x^{(l)}$; $\mu_\theta$ and $\sigma_\theta$ belong to no datapoint
# and have no index $l$, though you may see them with one. The left side is the bound $\mathcal L$;
# "$\mathcal N(\phi; X)$" has been printed, but it is no density.


# %%
# formula: full-vb-gaussian
def f_gaussian(phi, x, eps, zeta, N):
    """The term of one sample, with both divergences in closed form, in nats."""
    mu_z = phi["a"] * x + phi["c"]
    of_z = 0.5 * (1 + phi["v"] - mu_z**2 - np.exp(phi["v"]))
    of_theta = 0.5 * (1 + phi["log_var"] - phi["mu"] ** 2 - np.exp(phi["log_var"]))
    return N * (of_z + likelihood_term(phi, x, eps, zeta)) + of_theta


def exact_mean(phi):
    """Mean of f_gaussian over datapoints and both noises."""
    return mean_over_noise(lambda *noise: f_gaussian(phi, *noise, N), x).mean()


assert abs(exact_mean(phi) - bound) < 1e-8  # the same bound

# %% [markdown]
# The paper says that this estimator has the lower variance, and lecture notes repeat it. In *Estimate the bound from
# one minibatch* you saw that it depends. We compare both at the poor $q$ used until now, and at the best one of its
# family.
#
# **Before you run it:** which of the two has less variance at the best $q$?


# %%
def spread(values):
    """Say the standard deviation of values, with its standard error."""
    squares = (values - values.mean()) ** 2
    sd = np.sqrt(squares.mean())
    return f"{sd:.1f} +- {squares.std() / np.sqrt(len(values)) / (2 * sd):.1f}"


fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
for ax, q, name in zip(axes, (phi, best_q), ("a poor q", "the best q of its family")):
    noise = x[rng.integers(N, size=40000)], *rng.standard_normal((2, 40000))
    both = f_of_noise(q, *noise, N), f_gaussian(q, *noise, N)
    print(f"{name}: sd of one sample {spread(both[0])} nats with f, {spread(both[1])} in closed form")
    assert both[1].std() > 1.2 * both[0].std()
    for values, label, colour in zip(both, ("f", "closed-form divergences"), ("tab:orange", "tab:blue")):
        assert abs(values.mean() - nested_bound(q)) < 4 * values.std() / 200
        ax.hist(values, np.linspace(-160, 40, 81), histtype="step", color=colour, label=label)
        below = -500 if label == "f" else -1100  # mean and sd, below the histograms
        ax.errorbar(values.mean(), below, xerr=values.std(), fmt="o", color=colour, capsize=3)
    ax.axvline(nested_bound(q), color="k", lw=1, label="bound, exact")
    ax.set(xlabel="estimate of the bound, nats", title=name)
axes[0].set(ylabel="samples")
_ = axes[0].legend(fontsize=8)
# figure: monte-carlo-estimator

# %% [markdown]
# *See:* below the histograms are the means, on the line, with bars of one sd: the blue bars are *longer*, because of
# the long tails to the left.
#
# That contradicts what is said of it. In $f_\phi$ the sampled $\log p_\theta(x|z) + \log p(z)$ and $-\log q_\phi(z|x)$
# move against each other: where $q$ is the posterior given $\theta$, their sum does not depend on $z$ at all. The
# closed form removes one of the partners. For training, though, what counts is the noise of the *gradient*. We measure
# it at the poor $q$, with the same samples for both, by the trick of a complex step:
# $\mathrm{Im}\, f(\phi + i h) / h$ is the derivative, exact to the last digit, because nothing is subtracted.


# %%
def derivative(function, phi, name):
    """Derivative of function(phi) with respect to one number of phi, by a complex step."""
    return np.imag(function(phi | {name: phi[name] + 1e-30j})) / 1e-30


for name, what in (("mu", "mean of the weight"), ("a", "encoder, a"), ("c", "encoder, c"), ("v", "encoder, v")):
    sampled = derivative(lambda q: f_of_noise(q, *noise, N), phi, name)
    closed = derivative(lambda q: f_gaussian(q, *noise, N), phi, name)
    exact = derivative(exact_mean, phi, name)
    for values in (sampled, closed):
        assert abs(values.mean() - exact) < 4 * values.std() / 200
    print(f"{what}: sd of the gradient {spread(sampled)} with f, {spread(closed)} in closed form")
    assert closed.std() < (1.01 if name == "mu" else 0.9) * sampled.std()

# %% [markdown]
# So the saying is true of the encoder's gradient here, and we train with the closed form. The gradient of the weight
# hardly gains: its noise comes from $N$ times the likelihood, which both estimators sample.
#
# ## Exercise: the price of a weight
#
# The hyper-prior has settings, $\alpha$. Let the prior of every weight be $\mathcal N(0, \tau^2)$ with `prior_var`
# $= \tau^2$, and write $D_{KL}(q(\theta) \,\|\, p_\alpha(\theta))$ for a whole matrix of weights: what the bound on
# $\log p_\alpha(X)$ pays for them, *once*, whatever the number of datapoints.
#
# <details><summary>Hint</summary>
#
# Divide $\theta$ by $\tau$. Its prior is then $\mathcal N(0, 1)$; what are the mean and the variance of $q$? A KL
# divergence does not change when the unit does.
#
# </details>


# %%
def theta_kl(mu, log_var, prior_var):
    """D_KL(q(theta) || N(0, prior_var I)), one number in nats, from the arrays mu and log_var (I, O)."""
    ...  # your code, about one line


# %% tags=["hide-cell"]
def theta_kl_solution(mu, log_var, prior_var):
    return 0.5 * np.sum((mu**2 + np.exp(log_var)) / prior_var - 1 - log_var + np.log(prior_var))


check_theta_kl = Exercise(
    solution=theta_kl_solution,
    mistakes={
        "it has the wrong sign: a KL divergence is never negative": lambda mu, log_var, prior_var: (
            -theta_kl_solution(mu, log_var, prior_var)
        ),
        "log_var is read as log sigma": lambda mu, log_var, prior_var: theta_kl_solution(mu, 2 * log_var, prior_var),
        "the sum stops after as many components as the first row has; theta has as many as there are weights": (
            lambda mu, log_var, prior_var: theta_kl_solution(mu[0], log_var[0], prior_var)
        ),
        "it is the mean over the weights; each weight has its price, and they add up": (
            lambda mu, log_var, prior_var: theta_kl_solution(mu, log_var, prior_var) / mu.size
        ),
        "log prior_var is missing: with it a wide prior costs more": lambda mu, log_var, prior_var: (
            theta_kl_solution(mu, log_var, prior_var) - 0.5 * mu.size * np.log(prior_var)
        ),
    },
    inputs=[(mu_theta, log_var_theta, 0.49), (mu_latent, log_var_latent, 2.25)],
    expected=[
        divergences_by_grid(mu_theta, log_var_theta, 0.49).sum(),
        divergences_by_grid(mu_latent, log_var_latent, 2.25).sum(),
    ],
)

# %%
print(check_theta_kl(theta_kl))

# %% [markdown]
# ## The algorithm
#
# One step: draw a minibatch, draw $\epsilon$ for each of its datapoints, draw $\zeta$ for the weights, differentiate,
# and go uphill. All datapoints of the minibatch are decoded with the *same* draw of the weights: a network of its own
# for each image would cost as much to draw as to use. (Our toy takes all $N$ datapoints in each step.)
#
# The gradient is by hand, as always. Everything is divided by $N$, so that one step size serves every $N$. With the
# error $r = (x - \theta - z) / s^2$ of a sample, the chain rule through $\theta = \mu_\theta + \sigma_\theta \zeta$
# gives the mean of $r$ for $\mu_\theta$, and the mean of $r \zeta \sigma_\theta / 2$ for $\log \sigma_\theta^2$. The
# divergences add the rest.


# %%
def value_and_grad(phi, x, eps, zeta, N, s):
    """The Gaussian estimator over N, in nats, and its gradient: x (M,), eps (L, M), zeta (L, 1)."""
    mu_z, sigma_z, sigma_theta = phi["a"] * x + phi["c"], np.exp(phi["v"] / 2), np.exp(phi["log_var"] / 2)
    theta, z = phi["mu"] + sigma_theta * zeta, mu_z + sigma_z * eps
    kl_z = 0.5 * (mu_z**2 + sigma_z**2 - 1 - phi["v"])
    kl_theta = 0.5 * (phi["mu"] ** 2 + sigma_theta**2 - 1 - phi["log_var"])
    value = np.mean(log_normal(x, theta + z, 2 * np.log(s))) - np.mean(kl_z) - kl_theta / N
    r = (x - theta - z) / s**2
    d_mu_z = r.mean(axis=0) - mu_z  # of each datapoint
    return value, {
        "mu": np.mean(r) - phi["mu"] / N,
        "log_var": np.mean(r * zeta) * sigma_theta / 2 - (sigma_theta**2 - 1) / (2 * N),
        "a": np.mean(d_mu_z * x),
        "c": np.mean(d_mu_z),
        "v": np.mean(r * eps) * sigma_z / 2 - (sigma_z**2 - 1) / 2,
    }


eps, zeta = rng.standard_normal((3, 7)), rng.standard_normal((3, 1))  # L = 3, M = 7
value, gradient = value_and_grad(phi, x[:7], eps, zeta, N, s)
assert abs(value - np.mean(f_gaussian(phi, x[:7], eps, zeta, N)) / N) < 1e-12
for name in phi:
    by_complex_step = derivative(lambda q: np.mean(f_gaussian(q, x[:7], eps, zeta, N)) / N, phi, name)
    assert abs(gradient[name] - by_complex_step) < 1e-12, name


def train(x, s, rng, log_var=-5.0, steps=2000, L=10, step_size=0.3):
    """Full variational Bayes by Adagrad. Return phi, averaged over the second half of the steps, and its path."""
    phi = {"mu": 0.0, "log_var": log_var, "a": 0.0, "c": 0.0, "v": 0.0}
    squares, path = dict.fromkeys(phi, 0.0), []
    for _ in range(steps):
        noise = rng.standard_normal((L, len(x))), rng.standard_normal((L, 1))
        _, gradient = value_and_grad(phi, x, *noise, len(x), s)
        for name in phi:
            squares[name] += gradient[name] ** 2
            phi[name] += step_size * gradient[name] / np.sqrt(squares[name])
        path.append(dict(phi))
    return {name: np.mean([q[name] for q in path[steps // 2 :]]) for name in phi}, path


found, path = train(x, s, rng, log_var=0.0, steps=4000)  # q starts as wide as the prior
print("found, and best:", *(f"{name} {found[name]:.1f}, {best_q[name]:.1f};" for name in found))
assert all(abs(found[name] - best_q[name]) < 0.1 for name in best_q)

# figure: full-vb-algorithm
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
steps = np.unique(np.geomspace(1, len(path), 60).astype(int))
left.semilogx(steps, [nested_bound(path[i - 1]) for i in steps], "tab:blue", label="bound of q")
left.axhline(nested_bound(best_q), color="tab:blue", ls=":", label="best q of its family")
left.axhline(log_p_X, color="k", lw=1, label=r"$\log p_\alpha(X)$, exact")
left.set(xlabel="step", ylabel="nats", ylim=(-46, -32), title="The bound rises")
left.legend(fontsize=8)
right.loglog(steps, [np.exp(path[i - 1]["log_var"] / 2) for i in steps], "tab:blue", label=r"sd of $q(\theta)$")
right.axhline(np.exp(best_q["log_var"] / 2), color="tab:blue", ls=":", label="best q of its family")
right.axhline(variance**0.5, color="k", lw=1, label=r"sd of $p(\theta|X)$, exact")
right.set(xlabel="step", ylabel=r"sd of $\theta$", title="The width falls past the truth", ylim=(0.08, 1.3))
_ = right.legend(fontsize=8)

# %% [markdown]
# *See:* on the left the bound arrives where theory says. On the right the sd of $q(\theta)$ falls *through* that of the
# exact posterior and stays below.
#
# ## Too wide or too narrow?
#
# **Before you run it:** for data with much noise ($s = 2$) and with little ($s = 0.25$), how many times too wide or too
# narrow will the trained $q(\theta)$ be? Is more data a remedy?
#
# We train on three data sets each, from a narrow $q(\theta)$, as the library starts. (After a wide start Adagrad
# remembers the steep first gradients, and with little noise it would need many more steps.) Beside the result we print
# the closed form: the exact variance is $1 / (1 + N / (1 + s^2))$, the best one of the family $1 / (1 + N / s^2)$, as
# if all $z_i$ were known. For many datapoints the ratio of the standard deviations is $\sqrt{(1 + s^2) / s^2}$.


# %%
def trained_sds(s, n, seed):
    """Standard deviations of theta: of the exact posterior, and of the trained q."""
    rng = np.random.default_rng(seed)
    x = true_theta + rng.standard_normal(n) + s * rng.standard_normal(n)
    found, _ = train(x, s, rng)
    return exact_posterior(x, s)[1] ** 0.5, np.exp(found["log_var"] / 2)


too_narrow = {}  # for each s: how many times, three data sets
for noise in (0.25, 0.5, 1.0, 2.0):
    exact_sds, sds = np.array([trained_sds(noise, 200, seed) for seed in range(3)]).T
    ratios, limit = exact_sds / sds, np.sqrt((1 + noise**2) / noise**2)
    too_narrow[noise] = ratios
    print(f"s = {noise:g}: too narrow by {ratios.min():.2f} to {ratios.max():.2f} times; closed form {limit:.2f}")
    assert np.all(np.abs(ratios / np.sqrt((1 + 200 / noise**2) / (1 + 200 / (1 + noise**2))) - 1) < 0.03)

sizes = np.array([2, 8, 32, 128, 512])
exact_sds, sds = np.array([[trained_sds(s, n, seed) for seed in range(3)] for n in sizes]).T  # (seeds, sizes) each
ratios = exact_sds / sds
low, high = ratios.mean(axis=0)[[0, -1]]
print(f"N = 2 to 512, s = 0.5: {low:.1f} to {high:.1f} times, seeds differ by {np.ptp(ratios, axis=0).max():.2f}")
assert np.all(ratios > 1.5) and high > low

fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
fig.set_label("thumbnail")
theta, z_mean = np.linspace(-0.2, 1.5, 171), np.linspace(-0.9, 0.9, 181)[:, None]
inner = s**2 / ((1 + s**2) * N)  # variance of the mean of all z, given theta
log_exact = log_normal(theta, mean, np.log(variance)) + log_normal(
    z_mean, (x.mean() - theta) / (1 + s**2), np.log(inner)
)
log_found = log_normal(theta, found["mu"], found["log_var"]) + log_normal(
    z_mean, found["a"] * x.mean() + found["c"], found["v"] - np.log(N)
)
for log_density, colour in ((log_exact, "k"), (log_found, "tab:blue")):
    assert abs(np.exp(log_density).sum() * (theta[1] - theta[0]) * (z_mean[1, 0] - z_mean[0, 0]) - 1) < 0.01
    left.contour(theta, z_mean[:, 0], log_density - log_density.max(), [-4.5, -2, -0.5], colors=colour, linestyles="-")
left.plot([], [], "k", label="exact posterior")
left.plot([], [], "tab:blue", label="q, trained")
left.set(xlabel=r"weight $\theta$", ylabel="mean of all z", title="q cannot lean")
left.legend(fontsize=8)
many = np.geomspace(2, 512)
best_ratios = np.sqrt((1 + many / s**2) / (1 + many / (1 + s**2)))
right.semilogx(many, best_ratios, "tab:blue", ls=":", label="best q of its family")
right.semilogx(sizes, ratios.mean(axis=0), "o", color="tab:blue", label="q, trained")
right.axhline(1, color="k", lw=1, label="exact posterior")
right.set(xlabel="datapoints N", ylabel="sd of posterior / sd of q", title="More data is no remedy", ylim=(0.8, 2.5))
_ = right.legend(fontsize=8)
# figure: gaussian-example

# %% [markdown]
# *See:* the exact posterior is a narrow ridge: a larger $\theta$ and smaller $z$ explain the data as well. $q$ is
# upright, and fits *into* the ridge. On the right, the ratio does not come down to the line of the exact posterior.
#
# Always too narrow. A larger $N$ does not heal it, for each new datapoint brings a new $z$ with it; less noise makes it
# worse, for the ridge gets sharper. The cause is the family: under $q$, $\theta$ and $z$ are independent. It is no
# accident of this model: for every Gaussian posterior, one over an entry of the precision matrix's diagonal is at most
# the variance. So read a standard deviation from full variational Bayes as a lower limit of what the data leaves open,
# not as an error bar.
#
# ## Exercise: the gradient at mean and variance
#
# Backpropagation through the decoder, which you know, gives `d_theta`: the gradient at the *drawn* weights
# $\theta = \mu + \sigma \zeta$ of the bound per datapoint (already a mean, not a sum over $N$). Turn it into the
# gradient at `mu` and `log_var`, and add that of $-\frac 1 N D_{KL}(q(\theta) \,\|\, \mathcal N(0, I))$. Beside the
# draw itself, these two lines are all that full variational Bayes adds to a training step.
#
# <details><summary>Hint</summary>
#
# $\theta$ depends on `log_var` through $\sigma$ = exp(log_var / 2). Its derivative is $\sigma / 2$, times the noise.
#
# </details>


# %%
def weights_gradient(d_theta, mu, log_var, zeta, N):
    """Gradients (d_mu, d_log_var) per datapoint, arrays of the shape of mu, from d_theta of that shape."""
    ...  # your code, about two lines


# %% tags=["hide-cell"]
def weights_gradient_solution(d_theta, mu, log_var, zeta, N):
    return d_theta - mu / N, d_theta * zeta * np.exp(log_var / 2) / 2 - (np.exp(log_var) - 1) / (2 * N)


def weights_gradient_by_complex_step(d_theta, mu, log_var, zeta, N):
    """The objective sum(d_theta theta) - KL / N, differentiated element by element: it is a sum over elements."""

    def objective(mu, log_var):
        kl = 0.5 * (mu**2 + np.exp(log_var) - 1 - log_var)
        return d_theta * (mu + np.exp(log_var / 2) * zeta) - kl / N

    return np.imag(objective(mu + 1e-30j, log_var)) / 1e-30, np.imag(objective(mu, log_var + 1e-30j)) / 1e-30


generic = (np.array([[0.3, -1.2], [0.8, 0.5]]), np.array([[1.1, -0.4], [0.2, 0.7]]),
           np.array([[-1.3, -0.2], [0.4, -2.1]]), np.array([[0.9, -0.6], [1.4, 0.35]]), 12)  # fmt: skip
check_weights_gradient = Exercise(
    solution=weights_gradient_solution,
    mistakes={
        "the prior is counted N times: per datapoint, its part is divided by N": (
            lambda d_theta, mu, log_var, zeta, N: weights_gradient_solution(d_theta, mu, log_var, zeta, 1)
        ),
        "the gradient of the divergence has the wrong sign": (
            lambda d_theta, mu, log_var, zeta, N: weights_gradient_solution(d_theta, mu, log_var, zeta, -N)
        ),
        "the noise zeta is missing in the gradient of log_var": lambda d_theta, mu, log_var, zeta, N: (
            d_theta - mu / N,
            d_theta * np.exp(log_var / 2) / 2 - (np.exp(log_var) - 1) / (2 * N),
        ),
        "it is the gradient at sigma: times sigma / 2 it is that at log_var": lambda d_theta, mu, log_var, zeta, N: (
            d_theta - mu / N,
            d_theta * zeta - (np.exp(log_var / 2) - np.exp(-log_var / 2)) / N,
        ),
    },
    inputs=[generic],
    expected=[weights_gradient_by_complex_step(*generic)],
)

# %%
print(check_weights_gradient(weights_gradient))

# %% [markdown]
# ## The library's estimator
#
# `FullVB` does the same for a variational autoencoder, with a posterior over all weights and biases of the decoder. We
# write its forward pass by hand for a small network with $M = 3$ datapoints out of $N = 50$, $L = 2$ samples and
# $J = 2$ latents, once with both divergences in closed form and once with $f_\phi$. The gradient is checked for *every*
# parameter by a complex step through our own code, and then by the two lines of the exercise.

# %%
model = Model(Architecture(4, 2, (5,), random_weights="decoder"), reference, "float64")
parameters = model.parameters(rng.normal(0, 0.6, model.layout.size))
for name in model.weight_posterior.log_var_shapes():
    parameters[name][...] = rng.normal(-2, 0.5, parameters[name].shape)
X = rng.integers(0, 2, (3, 4)).astype(float)
noise = Noise(eps=rng.standard_normal((2 * 3, 2)), zeta=rng.standard_normal(model.weight_posterior.layout.size))
random_names = list(model.weight_posterior.layout.shapes)
assert all(name.startswith("decoder") for name in random_names) and len(random_names) == 4


def draw_weights(p, zeta):
    """Theta = mu + sigma zeta of each random array, with its divergence from N(0, I): in closed form, and sampled."""
    zeta, theta, closed, sampled = model.weight_posterior.layout.view(zeta), {}, 0, 0
    for name in random_names:
        mu, log_var = p[name], p[name + ".log_var"]
        theta[name] = mu + np.exp(log_var / 2) * zeta[name]
        closed = closed - minus_kl_of_theta(mu, log_var)
        sampled = sampled + log_q_of_theta(theta[name], mu, log_var) - log_q_of_theta(theta[name], 0, 0)
    return theta, closed, sampled


def by_hand(p, X, noise, N, closed_form):
    """Value over N and bound without the weights' divergence, in nats, for parameters p by name."""
    theta, *kl_of_theta = draw_weights(p, noise.zeta)
    hidden = np.tanh(X @ p["encoder.hidden1.W"] + p["encoder.hidden1.b"])
    mu, log_var = (hidden @ p[f"encoder.{head}.W"] + p[f"encoder.{head}.b"] for head in ("mu", "log_var"))
    z = mu + np.exp(log_var / 2) * noise.eps.reshape(-1, *mu.shape)  # (L, M, J)
    hidden = np.tanh(z @ theta["decoder.hidden1.W"] + theta["decoder.hidden1.b"])
    logits = hidden @ theta["decoder.logits.W"] + theta["decoder.logits.b"]
    elbo = np.sum(X * logits - np.log(1 + np.exp(logits)), axis=2).mean()
    if closed_form:
        elbo = elbo + minus_kl_of_z(mu, log_var).mean()
    else:
        elbo = elbo + np.sum(log_normal(z, 0, 0) - log_normal(z, mu, log_var), axis=2).mean()
    return elbo - kl_of_theta[0 if closed_form else 1] / N, elbo


for closed_form in (True, False):
    estimator = FullVB(model, n_samples=2, n_datapoints=50, analytic_kl=closed_form)
    value, elbo, gradient = estimator.value_and_grad(parameters, X, noise)
    np.testing.assert_allclose([value, elbo], by_hand(parameters, X, noise, 50, closed_form), rtol=1e-12)
    ours = np.empty(model.layout.size)
    for k in range(model.layout.size):
        shifted = parameters.vector.astype(complex)
        shifted[k] += 1e-30j
        ours[k] = by_hand(model.layout.view(shifted), X, noise, 50, closed_form)[0].imag / 1e-30
    np.testing.assert_allclose(gradient.vector, ours, rtol=1e-10, atol=1e-13)

print(f"{model.layout.size} derivatives of the library agree with those of the code above")

# %% tags=["hide-cell"]
# What the library does for the weights: the draw with its divergence, and the gradient
posterior, drawn = model.weight_posterior, model.parameters(parameters.vector)
theta, *kls = draw_weights(parameters, noise.zeta)
for kl, closed_form in zip(kls, (True, False)):
    np.testing.assert_allclose(posterior.sample(parameters, noise.zeta, closed_form, drawn), kl, rtol=1e-12)
np.testing.assert_allclose(posterior.divergence(parameters), kls[0], rtol=1e-12)
gradient = FullVB(model, 2, 50).value_and_grad(parameters, X, noise).gradient
d_theta = SGVB(model, 2).value_and_grad(drawn, X, noise.eps).gradient  # the drawn weights, as if they were fixed
draws = np.array([of_one.vector.copy() for of_one in posterior.draws(parameters, seed=0, n=4000)])
for name, zeta in posterior.layout.view(noise.zeta).items():
    mu, log_var = parameters[name], parameters[name + ".log_var"]
    np.testing.assert_allclose(drawn[name], theta[name], rtol=1e-14)
    d_mu, d_log_var = weights_gradient_solution(d_theta[name], mu, log_var, zeta, 50)
    np.testing.assert_allclose(gradient[name], d_mu, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(gradient[name + ".log_var"], d_log_var, rtol=1e-12, atol=1e-15)
    errors = (draws[:, model.layout.slices[name]] - mu.ravel()) / np.exp(log_var.ravel() / 2)  # zeta once more
    assert np.all(np.abs(errors.mean(axis=0)) < 5 / np.sqrt(4000))
    assert np.all(np.abs(errors.std(axis=0) - 1) < 5 / np.sqrt(2 * 4000))
many = [estimator.draw(rng, 3) for _ in range(500)]
for name in Noise._fields:  # and the noise that the estimator draws for itself
    values = np.concatenate([np.ravel(getattr(one, name)) for one in many])
    assert abs(values.mean()) < 5 / np.sqrt(values.size) and abs(values.std() - 1) < 5 / np.sqrt(2 * values.size)

# %% [markdown]
# ## Does it pay?
#
# A model that knows what it does not know should be better on data it has not seen. We can measure it exactly on a
# linear model, $x = z W + b + \text{noise}$, with ten features, two latents, and random $W$ and $b$; the truth is drawn
# from the prior, and $\log p(x)$ of given weights has a closed form. Both methods use the same prior and the same
# Adagrad:
#
# - MAP: one number for each weight, where bound and log-prior together are highest.
# - Full variational Bayes: a posterior. To predict, $p(x)$ is averaged over $50$ draws of the weights.
#
# **Before you run it:** with how few datapoints will the difference be more than a nat? And with $200$?


# %%
D, J = 10, 2


def fit(X, full, rng, steps=1000, step_size=0.1):
    """Train on all rows of X at once; return the model and its parameters."""
    random_weights = "decoder.mu" if full else None
    architecture = Architecture(D, J, (), likelihood="gaussian", constant_log_var=True, random_weights=random_weights)
    model = Model(architecture, reference, "float64")
    estimator = FullVB(model, 2, len(X)) if full else SGVB(model, 2)
    parameters, squares = model.parameters(model.initial(rng, 0.1)), 0
    for name in model.weight_posterior.log_var_shapes():
        parameters[name][...] = -4  # log sigma^2
    decay = model.gradient()  # of log p(theta) / N, where weights are fixed
    for _ in range(steps):
        gradient = estimator.value_and_grad(parameters, X, estimator.draw(rng, len(X))).gradient
        if not full:
            for name in ("decoder.mu.W", "decoder.mu.b"):
                decay[name][...] = -parameters[name] / len(X)
        ascent = gradient.vector + decay.vector
        squares = squares + ascent**2
        parameters.vector[...] += step_size * ascent / np.sqrt(squares + 1e-12)
    return model, parameters


def log_p(weights, X):
    """log p(x) of each row (N,) at given weights, in nats: exact, for the model is linear and Gaussian."""
    variance = np.exp(soft_floor(weights["decoder.log_var.b"]))
    return LinearGaussian(weights["decoder.mu.W"], weights["decoder.mu.b"], variance).log_prob(X)


def held_out(n, seed):
    """Mean log p of new data minus that of the truth, in nats: MAP, full VB, and the mean over draws of log p."""
    rng = np.random.default_rng(100 + seed)
    truth = LinearGaussian(rng.standard_normal((J, D)), rng.standard_normal(D), np.ones(D))
    X = rng.standard_normal((n + 500, J)) @ truth.W + truth.b + rng.standard_normal((n + 500, D))
    X, new = X[:n], X[n:]
    best = truth.log_prob(new).mean()
    _, at_map = fit(X, False, rng)
    model, parameters = fit(X, True, rng)
    of_draws = np.array([log_p(weights, new) for weights in model.weight_posterior.draws(parameters, seed, 50)])
    averaged = np.log(np.exp(of_draws).mean(axis=0)).mean()
    return np.array([log_p(at_map, new).mean(), averaged, of_draws.mean()]) - best


sizes = np.array([8, 16, 32, 64, 200])
below = np.array([[held_out(n, seed) for seed in range(4)] for n in sizes])  # (sizes, seeds, 3)
gain = below[..., 1] - below[..., 0]
for n, of_seeds, of_gain in zip(sizes, -below.mean(axis=1), gain):
    print(
        f"N = {n}: below the truth by {of_seeds[0]:.1f} nats (MAP), {of_seeds[1]:.1f} (full VB), "
        f"{of_seeds[2]:.1f} (mean of log p over draws); gain {of_gain.min():.1f} to {of_gain.max():.1f}"
    )
assert np.all(gain[0] > 1) and np.all(gain[1] > 0.3) and np.all(np.abs(gain[-1]) < 0.1)
assert np.all(below[..., 2] < below[..., 1])  # by Jensen
assert np.all(below[2:, :, 2] < below[2:, :, 0]) and np.all(gain[2] > 0)  # N >= 32: lower than MAP; q is not

# figure: takeaway
fig, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
rows = (("MAP", "tab:orange"), ("full VB, averaged", "tab:blue"), ("full VB, mean of log p over draws", "tab:cyan"))
for k, (label, colour) in enumerate(rows):
    ax.semilogx(sizes, below[..., k].mean(axis=1), "o-", color=colour, label=label)
    ax.vlines(sizes, below[..., k].min(axis=1), below[..., k].max(axis=1), color=colour)
ax.axhline(0, color="k", lw=1, label="the true model")
ax.set(xlabel="datapoints N", ylabel="log p - that of the truth, nats", title="Full VB pays where data is scarce")
ax.set_xticks(sizes, [str(n) for n in sizes])
ax.minorticks_off()
_ = ax.legend(fontsize=8)

# %% [markdown]
# *See:* with eight datapoints the orange line is far below the blue one; from 64 on they are one line. Bars are the
# range of four data sets.
#
# With few datapoints MAP is sure of weights that it cannot know, and pays for it. With 200 there is nothing left to
# gain. The third line is the surprise. It is the *mean over draws of log p*: the data is scored once for each draw of
# the weights, and the scores are averaged. From 32 datapoints on it is lower than MAP; and at 32, the same $q(\theta)$
# predicts better than MAP if probabilities are averaged. By Jensen's inequality, the mean of a logarithm is below the
# logarithm of the mean. So do not compare such a score with a model of fixed weights: average the probabilities first
# (`VAE.log_likelihood` does).
#
# This is a model whose prior is true, with 30 random weights. A network for images has a hundred thousand, its prior is
# a convention, and its encoder overfits whatever the weights do: the library's page on full variational Bayes reports a
# measurement on 1000 digits where random weights did not help. Uncertainty is not a gift: $q(\theta)$ is a choice, and
# it is too narrow.

# %%
ratios = too_narrow[0.5]
assert np.ptp(ratios) < 0.1
print(f"Answer: too narrow, by {ratios.mean():.1f} +- 0.1 times (s = 0.5, N = 200): the posterior leans, q cannot")

# %% [markdown]
# ## What to take with you
#
# Full variational Bayes is the same bound twice, one inside the other, with one noise for the latent variables and one
# for the weights; a training step needs two more lines. Its $q(\theta)$ is too narrow, because the family lets neither
# weights nor latents lean on each other. It paid where data was scarce and the prior was true.
# `npvae.estimators.FullVB` and `npvae.VAE(estimator="full-vb")` now stand for what you wrote. This was the last of the
# twelve: *Make one kernel fast* shows how the library computes all this quickly, and *Measure the likelihood* is worth
# a second look with random weights in mind.

# %%
plt.show()
