# %% [markdown]
# # Generate data, then fail to invert it
#
# **Question:** How many samples of the prior give $\log p(x)$ to a tenth of a nat?
#
# **You will do:** generate data from hidden numbers, ask for the hidden numbers by Bayes' rule where that is possible,
# and measure how fast it becomes impossible.
#
# **You will learn:** what a latent variable model is, how its parameters are estimated (maximum likelihood, maximum a
# posteriori), what "intractable" means in numbers, and what people did before the method of the paper.
#
# **You need:** tutorial 01 for the aim; densities, and Bayes' rule; means, variances and the Gaussian; matrices.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize_scalar

from npvae.distributions import MultivariateNormal, Normal
from npvae.evaluation import LinearGaussian, expectation_maximization
from npvae.evaluation.estimates import log_mean_exp
from npvae.exercises import Exercise

# %% [markdown]
# What comes from npvae is written by hand below, and compared, before it is used. `Exercise` checks your answers.
#
# ## Generate
#
# A *latent variable model* tells a story with two steps. First draw a hidden number $z$ from the *prior* $p(z)$. Then
# draw the visible $x$ from $p_\theta(x|z)$. Both densities may have parameters, which are called $\theta$. To draw in
# this order is called *ancestral sampling*. Our first model, `square`:
#
# - $z \sim \mathcal N(0, 1)$,
# - $x \mid z \sim \mathcal N(z^2, s^2)$ with $s = 0.3$.

# %%
s, rng = 0.3, np.random.default_rng(0)


def sample_square(n):
    """Draw n pairs (z, x): first z from the prior, then x given z."""
    z = rng.standard_normal(n)
    return z, z**2 + s * rng.standard_normal(n)


z_drawn, x_drawn = sample_square(500)
print(f"the first pair: z = {z_drawn[0]:.2f}, x = {x_drawn[0]:.2f}")

# %%
# figure: problem-scenario
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(z_drawn, x_drawn, ".", color="tab:blue", ms=4, alpha=0.6, label="500 draws")
curve = np.linspace(-3, 3, 200)
ax.plot(curve, curve**2, "k", lw=1, label="mean of x given z")
ax.axhline(1, color="tab:red", label="we see x = 1")
ax.set(xlim=(-3, 3), ylim=(-1, 8), xlabel="z, hidden", ylabel="x, visible", title="Generate: from z to x")
ax.legend(loc="upper center")
ax.grid(alpha=0.3)

# %% [markdown]
# *See:* every $z$ gives an $x$ near the parabola, but the red line of one $x$ meets the parabola twice.
#
# The library's `Normal` does the same: `draw` makes the noise, and `rsample` makes samples of it, as mean plus $\sigma$
# times noise.

# %%
eps, loc, scale = rng.standard_normal(3), np.array([0.3, -1.0, 2.0]), np.array([0.5, 1.5, 0.8])
np.testing.assert_allclose(Normal(loc, scale).rsample(eps), loc + scale * eps, rtol=1e-14)
noise = Normal().draw(np.random.default_rng(1), (2, 3))
np.testing.assert_array_equal(noise, np.random.default_rng(1).standard_normal((2, 3)))

# %% [markdown]
# ## Two questions
#
# Somebody sees only $x$, and asks two questions. How probable is this $x$? And which $z$ was behind it? Here both have
# an answer. Because $z$ is one number, an integral over $z$ is a sum over a fine grid.
#
# The probability density of $x$ adds up all the ways in which $x$ can come about:
#
# $$p_\theta(x) = \int p_\theta(x|z) \, p_\theta(z) \, dz$$
#
# It is called the *marginal likelihood*, or *evidence*. In code a density is held as its natural logarithm, in *nats*.

# %%
# formula: marginal-likelihood-of-data
z = np.linspace(-8, 8, 3201)
dz = z[1] - z[0]


def log_normal(value, mean, sigma):
    """log N(value; mean, sigma^2), element by element, in nats."""
    return -0.5 * np.log(2 * np.pi) - np.log(sigma) - 0.5 * ((value - mean) / sigma) ** 2


def evidence(x):
    """p(x) of each x (N,), as a sum over the grid: (N,)."""
    return np.sum(np.exp(log_normal(x[:, None], z**2, s) + log_normal(z, 0, 1)), axis=1) * dz


width = 0.025
middles = np.arange(-1.5, 25, width) + width / 2
assert abs(np.sum(np.exp(log_normal(z, 0, 1))) * dz - 1) < 1e-12
assert abs(np.sum(evidence(middles)) * width - 1) < 1e-5  # p(x) is a density; a share below 1e-6 lies beyond 25

_, x_many = sample_square(200_000)
share, counted = np.sum(evidence(middles[middles < 0.5])) * width, np.mean(x_many < 0.5)
error = np.sqrt(share * (1 - share) / x_many.size)
print(f"P(x < 0.5): {share:.3f} by the integral, {counted:.3f} +- {error:.3f} counted in 200000 draws")
assert abs(counted - share) < 4 * error

# %% [markdown]
# The integral and the draws agree: the sum over $z$ knows what ancestral sampling produces. The other question has its
# answer by Bayes' rule: the *posterior*
#
# $$p_\theta(z|x) = \frac{p_\theta(x|z) \, p_\theta(z)}{p_\theta(x)}$$
#
# Draws can check it: of many pairs, those whose $x$ comes out near 1 have a $z$ from the posterior.
#
# **Before you run it:** of a million pairs, what share has an $x$ within $0.02$ of 1?

# %%
# formula: posterior-by-bayes
x_seen = 1.0
log_posterior = log_normal(x_seen, z**2, s) + log_normal(z, 0, 1) - np.log(evidence(np.array([x_seen]))[0])
assert abs(np.sum(np.exp(log_posterior)) * dz - 1) < 1e-12

z_many, x_many = sample_square(1_000_000)
kept = z_many[np.abs(x_many - x_seen) < 0.02]
limit = 1 + dz / 2  # between two nodes of the grid
share = np.sum(np.exp(log_posterior[np.abs(z) > limit])) * dz
counted, error = np.mean(np.abs(kept) > limit), np.sqrt(share * (1 - share) / kept.size)
print(f"P(|z| > 1 given x = 1): {share:.3f} by Bayes' rule, {counted:.3f} +- {error:.3f} counted")
print(f"used: {kept.size / 1e6:.1%} of the draws")
assert abs(counted - share) < 4 * error and 0.005 < kept.size / 1e6 < 0.015

# %%
# figure: problem-scenario
fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3.2), layout="constrained")
left.hist(x_many, bins=np.linspace(-1, 4, 101), density=True, color="0.8", label="draws")
shown = np.linspace(-1, 4, 301)
in_view = np.mean((x_many > -1) & (x_many < 4))  # the histogram has an area of one, of the draws in view
left.plot(shown, evidence(shown) / in_view, "k", label="p(x), the integral")
left.set(xlim=(-1, 4), xlabel="x", ylabel="density", title="How probable is x?")
left.legend()
right.hist(kept, bins=np.linspace(-2, 2, 81), density=True, color="0.8", label="z where x is near 1")
right.plot(z, np.exp(log_posterior), "k", label="Bayes' rule")
right.set(xlim=(-2.5, 2.5), xlabel="z", ylabel="density of z given x", title="Which z was behind x = 1?", ylim=(0, 2))
_ = right.legend(loc="upper center")

# %% [markdown]
# *See:* both integrals lie on the histograms of draws, and the posterior has two bumps, one for each place where the
# red line met the parabola.
#
# The right histogram is Bayes' rule by brute force: draw a million pairs, and keep those whose $x$ is close to what was
# seen. About 99 of 100 draws are thrown away, for one visible number. Remember this.
#
# ## Estimate the parameters
#
# In practice $\theta$ is unknown too. The *likelihood* is $p_\theta(X)$ read as a function of $\theta$, with the data
# $X$ fixed. Datapoints are independent, so the logarithm is a sum. *Maximum likelihood* takes the $\theta$ that makes
# the data most probable:
#
# $$\theta_{ML} = \arg\max_\theta \sum_{i=1}^N \log p_\theta(x^{(i)})$$
#
# An example that can be checked: $z \sim \mathcal N(0, 1)$ and $x | z \sim \mathcal N(\theta + z, t^2)$ with $t = 0.5$.
# Integrating over $z$ leaves $x \sim \mathcal N(\theta, 1 + t^2)$, so the best $\theta$ is the mean of the data. The
# code does not use this: it integrates over $z$ by the grid, and looks for the best $\theta$ on a second grid.

# %%
# formula: maximum-likelihood
t, thetas, step = 0.5, np.linspace(-2, 2, 401), 0.01
nodes = z[::80]  # every 80th node of the grid is enough here


def log_likelihood(theta, x):
    """Sum of log p_theta(x) over the datapoints in nats, for each theta: (T,)."""
    log_joint = log_normal(x[:, None, None], theta[:, None] + nodes, t) + log_normal(nodes, 0, 1)
    return np.sum(np.log(np.sum(np.exp(log_joint), axis=2) * 80 * dz), axis=0)


few, lots = (0.8 + np.sqrt(1 + t**2) * np.random.default_rng(seed).standard_normal(n) for seed, n in ((3, 5), (4, 500)))
log_l = [log_likelihood(thetas, data) for data in (few, lots)]
theta_ml = [thetas[np.argmax(values)] for values in log_l]
for found, values, data in zip(theta_ml, log_l, (few, lots)):
    assert abs(found - data.mean()) <= step / 2 + 1e-9  # the closed form, up to the grid
    np.testing.assert_allclose(values[100], np.sum(log_normal(data, thetas[100], np.sqrt(1 + t**2))), rtol=1e-10)
print(f"the truth is 0.80; maximum likelihood: {theta_ml[0]:.2f} from 5 datapoints, {theta_ml[1]:.2f} from 500")

# %% [markdown]
# With few datapoints, one may know something about $\theta$ beforehand. Say $\theta \sim \mathcal N(0, \tau^2)$ with
# $\tau = 0.5$. *Maximum a posteriori* takes the $\theta$ that is most probable given the data:
#
# $$\theta_{MAP} = \arg\max_\theta \Big[\sum_{i=1}^N \log p_\theta(x^{(i)}) + \log p(\theta)\Big]$$
#
# The prior counts **once**, however many datapoints there are. A common mistake puts it inside the sum.

# %%
# formula: maximum-a-posteriori
tau = 0.5
log_prior_of_theta = log_normal(thetas, 0, tau)
theta_map = [thetas[np.argmax(values + log_prior_of_theta)] for values in log_l]
for found, data in zip(theta_map, (few, lots)):
    closed = data.sum() / (data.size + (1 + t**2) / tau**2)  # the mean, pulled to 0
    assert abs(found - closed) <= step / 2 + 1e-9
print(f"maximum a posteriori: {theta_map[0]:.2f} from 5 datapoints, {theta_map[1]:.2f} from 500")

# %%
# figure: deriving-a-lower-bound
fig, axes = plt.subplots(1, 2, figsize=(6.5, 3.4), layout="constrained", sharex=True)
for ax, values, ml, best, n in zip(axes, log_l, theta_ml, theta_map, (5, 500)):
    for log_f, colour, name in (
        (values, "tab:blue", "likelihood"),
        (log_prior_of_theta, "tab:orange", "prior"),
        (values + log_prior_of_theta, "k", "posterior"),
    ):
        f = np.exp(log_f - log_f.max())
        ax.plot(thetas, f / (f.sum() * step), colour, label=name)
    ax.axvline(ml, color="tab:blue", ls=":", label="ML")
    ax.axvline(best, color="k", ls=":", label="MAP")
    ax.axvline(0.8, color="tab:red", lw=1, label="truth")
    ax.set(xlabel=r"$\theta$", ylabel=r"density of $\theta$", title=f"N = {n}", xlim=(-1.5, 2))
_ = axes[1].legend(loc="upper left")

# %% [markdown]
# *See:* with 5 datapoints the prior pulls the maximum; with 500 the likelihood is so narrow that the prior is flat
# beside it. (Each curve is scaled to an area of one, so that it can be drawn beside the others.)
#
# **Before you run it:** if the truth really is drawn from the prior, which of the two has the smaller squared error at
# $N = 5$? And at $N = 500$?

# %%
runs = 4000
for n in (5, 500):
    truth = tau * rng.standard_normal(runs)
    sums = n * truth + np.sqrt(n * (1 + t**2)) * rng.standard_normal(runs)  # sums of n datapoints
    squares = [(sums / n - truth) ** 2, (sums / (n + (1 + t**2) / tau**2) - truth) ** 2]
    means, errors = np.mean(squares, axis=1), np.std(squares, axis=1, ddof=1) / np.sqrt(runs)
    decimals = 3 if n == 5 else 5
    ml, best = (f"{mean:.{decimals}f} +- {error:.{decimals}f}" for mean, error in zip(means, errors))
    print(f"N = {n}: squared error {ml} (ML), {best} (MAP)")
    exact = np.array([(1 + t**2) / n, 1 / (n / (1 + t**2) + 1 / tau**2)])
    assert np.all(np.abs(means - exact) < 4 * errors)

# %% [markdown]
# Maximum a posteriori halves the error at $N = 5$, and changes next to nothing at $N = 500$. In tutorial 08 such a
# prior acts on the weights of a network, as weight decay.
#
# Both methods give $\theta$ one number, its best value. The latent $z$ of a datapoint should have a whole distribution,
# its posterior. *Variational inference* is for that: choose an easy family $q$, and make the search for the posterior
# an optimization. We come to it at the end of this page.
#
# ## A model in many dimensions, with exact answers
#
# Pictures have hundreds of visible numbers and tens of latents. To know what happens there we need a model with exact
# answers in any dimension. `linear`: $z \sim \mathcal N(0, I)$ has $J$ latents, and $x = z W + b + e$ has $D$ columns,
# $e \sim \mathcal N(0, \mathrm{diag}(v))$. As a sum of Gaussians, $x$ is Gaussian, with mean $b$ and covariance
# $C = W^\top W + \mathrm{diag}(v)$. In $z$, $\log p(x|z) + \log p(z)$ is a parabola; to complete the square gives a
# Gaussian posterior with covariance $\Sigma$ and mean $m$:
#
# $$\Sigma = \big(I + W \, \mathrm{diag}(v)^{-1} W^\top\big)^{-1}$$
#
# $$m = (x - b) \, \mathrm{diag}(v)^{-1} W^\top \Sigma$$
#
# Here $x$, $z$, $b$ and $m$ are rows, and $W$ is $(J, D)$. One more function says how far the posterior is from the
# prior: the *KL divergence*, the mean of $\log p(z|x) - \log p(z)$ under the posterior. Tutorial 03 is about it. Here
# it is a number of nats that says how much an $x$ tells about its $z$. The oracle is a grid over both latents.

# %%
W, b, v = np.array([[1.2, 0.8, -0.5], [0.9, 1.1, 0.3]]), np.array([0.5, -0.3, 0.1]), np.array([0.4, 0.9, 0.6])


def linear_log_prob(x, W, b, v):
    """log p(x) of each row in nats: (N, D) to (N,)."""
    C = W.T @ W + np.diag(v)
    squares = np.sum((x - b) @ np.linalg.inv(C) * (x - b), axis=1)
    return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * C)[1])


def linear_posterior(x, W, b, v):
    """Mean (N, J) and covariance (J, J) of p(z|x)."""
    covariance = np.linalg.inv(np.eye(len(W)) + W / v @ W.T)
    return (x - b) / v @ W.T @ covariance, covariance


def nats_from_prior(mean, covariance):
    """KL divergence from the posterior to the prior in nats: (N,)."""
    squares = np.trace(covariance) + np.sum(mean**2, axis=1)
    return 0.5 * (squares - len(covariance) - np.linalg.slogdet(covariance)[1])


x = rng.standard_normal((4, 2)) @ W + b + np.sqrt(v) * rng.standard_normal((4, 3))
mean, covariance = linear_posterior(x, W, b, v)
side = np.linspace(-7, 7, 351)
plane = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)  # a grid over both latents
area = (side[1] - side[0]) ** 2
for row in range(4):
    log_px_given_z = np.sum(log_normal(x[row], plane @ W + b, np.sqrt(v)), axis=1)
    log_joint = log_px_given_z + np.sum(log_normal(plane, 0, 1), axis=1)
    log_px = np.log(np.sum(np.exp(log_joint)) * area)
    weight = np.exp(log_joint - log_px) * area  # Bayes' rule, node by node
    log_ratio = log_px_given_z - log_px  # log p(z|x) - log p(z)
    assert abs(weight @ log_ratio - nats_from_prior(mean, covariance)[row]) < 1e-8
    assert abs(log_px - linear_log_prob(x, W, b, v)[row]) < 1e-10
    np.testing.assert_allclose(weight @ plane, mean[row], atol=1e-8)
    np.testing.assert_allclose((weight * (plane - mean[row]).T) @ (plane - mean[row]), covariance, atol=1e-8)

model = LinearGaussian(W, b, v)
np.testing.assert_allclose(model.log_prob(x), linear_log_prob(x, W, b, v), rtol=1e-12)
np.testing.assert_allclose(model.posterior(x)[0], mean, rtol=1e-11)
np.testing.assert_allclose(model.posterior(x)[1], covariance, rtol=1e-12)
factor = np.linalg.cholesky(covariance)  # covariance = factor factor^T
posterior_of_first = MultivariateNormal(mean[0], factor)
eps = posterior_of_first.draw(np.random.default_rng(1), 5)
np.testing.assert_array_equal(eps, np.random.default_rng(1).standard_normal((5, 2)))
np.testing.assert_allclose(posterior_of_first.rsample(eps), mean[0] + eps @ factor.T, rtol=1e-11, atol=1e-12)

# %% [markdown]
# For `linear` the posterior is known at any $J$, without a grid. So maximum likelihood works as well, by
# *expectation-maximization*. If all $z$ were known, the best $W$ would be that of least squares, and the best $v$ the
# mean square of what is left. Take the means of $z$ and of its products under the posterior in their place, compute $W$
# and $v$, and repeat. The likelihood never falls. The start is that of the library, so that both can be compared.


# %%
def em_step(x, W, b, v):
    """One step of expectation-maximization for the linear model: new W and v."""
    mean, covariance = linear_posterior(x, W, b, v)
    cross = mean.T @ (x - b) / len(x)
    W = np.linalg.solve(covariance + mean.T @ mean / len(x), cross)
    return W, np.mean((x - b) ** 2, axis=0) - np.sum(W * cross, axis=0)


data = rng.standard_normal((300, 2)) @ W + b + np.sqrt(v) * rng.standard_normal((300, 3))
centre = data.mean(axis=0)
W_fit, v_fit = 0.1 * np.random.default_rng(5).standard_normal((1, 3)) * data.std(axis=0), data.var(axis=0)
heights = [linear_log_prob(data, W_fit, centre, v_fit).mean()]
for _ in range(20):
    W_fit, v_fit = em_step(data, W_fit, centre, v_fit)
    heights.append(linear_log_prob(data, W_fit, centre, v_fit).mean())
fitted, history = expectation_maximization(data, 1, steps=20, random_state=5, tolerance=0.0)
np.testing.assert_allclose(fitted.W, W_fit, rtol=1e-9)
np.testing.assert_allclose(fitted.variance, v_fit, rtol=1e-9)
np.testing.assert_allclose(history, heights[:20], rtol=1e-10)
print(f"mean log-likelihood: {heights[0]:.2f} nats at the start, {heights[-1]:.2f} after 20 steps; it never fell")
assert np.all(np.diff(heights) > 0)

# %% [markdown]
# ## Fail to invert
#
# Now forget that `linear` has a closed form. What would we do for a model that has none, such as one whose decoder is a
# neural network? A grid of `100` nodes an axis has $100^J$ nodes. The other way is to read the integral as an average
# over the prior, and to draw $z^{(l)} \sim p(z)$:
#
# $$p_\theta(x) = \mathbb E_{p(z)}\big[p_\theta(x|z)\big] \approx \frac1n \sum_{l=1}^n p_\theta(x|z^{(l)})$$
#
# The densities may be too small for float64. So divide by the largest one first, and add its logarithm back. The mean
# of $n$ numbers has a standard error, their standard deviation over $\sqrt n$. Divided by the mean, it is the standard
# error of the logarithm.


# %%
def log_mean_exp_by_hand(log_values):
    """Logarithm of the mean of exp(log_values) over the first axis, and its standard error, in nats."""
    peak = np.max(log_values, axis=0)
    values = np.exp(log_values - peak)
    mean = np.mean(values, axis=0)
    error = np.std(values, axis=0, ddof=1) / np.sqrt(len(values)) / mean
    return peak + np.log(mean), error


log_values = np.log([[1.0, 4.0], [2.0, 5.0], [3.0, 9.0]])
for shift in (0.0, -2000.0, 3000.0):
    log_mean, error = log_mean_exp_by_hand(log_values + shift)
    np.testing.assert_allclose(log_mean, np.log([2.0, 6.0]) + shift, rtol=1e-13)
    np.testing.assert_allclose(error, [np.sqrt(1 / 3) / 2, np.sqrt(7 / 3) / 6], rtol=1e-12)
    np.testing.assert_allclose(log_mean_exp(log_values + shift), (log_mean, error), rtol=1e-13)
with np.errstate(divide="ignore"):
    naive = np.log(np.mean(np.exp(log_values - 2000.0), axis=0))
print(f"numbers near exp(-2000): naive {naive[0]}, with the trick {log_mean_exp(log_values - 2000.0)[0][0]:.1f} nats")
assert np.all(np.isneginf(naive))

log_means, errors = log_mean_exp(rng.normal(0, 0.5, (400, 2000)))  # 2000 sets of 400 numbers
assert abs(log_means.std() / errors.mean() - 1) < 0.1  # the log-means scatter by their standard error

# %% [markdown]
# **Before you run it:** take $D = 20$ visible numbers, noise $s = 0.5$, and `100000` samples of the prior. How far is
# this estimate of $\log p(x)$ from the exact one with $J = 1$ latent? With 2, 5, 10, 20? Guess the last one in nats.

# %%
latents, sizes, noise, D = (1, 2, 5, 10, 20), (10, 100, 1000, 10_000, 100_000), 0.5, 20


def prior_sampling(J, rng, n_rows=20):
    """Errors of log p(x) by prior samples, (sizes, rows), and the nats from prior to posterior of each row."""
    W, v = rng.standard_normal((J, D)), np.full(D, noise**2)
    x = rng.standard_normal((n_rows, J)) @ W + noise * rng.standard_normal((n_rows, D))
    decoded = rng.standard_normal((sizes[-1], J)) @ W
    squares = np.sum(decoded**2, axis=1)[:, None] - 2 * decoded @ x.T + np.sum(x**2, axis=1)
    log_likelihoods = -0.5 * squares / noise**2 - D * np.log(noise * np.sqrt(2 * np.pi))
    estimates = np.array([log_mean_exp(log_likelihoods[:n])[0] for n in sizes])
    mean, covariance = linear_posterior(x, W, np.zeros(D), v)
    return estimates - linear_log_prob(x, W, np.zeros(D), v), nats_from_prior(mean, covariance)


found = {J: prior_sampling(J, np.random.default_rng(J)) for J in latents}
mean_error = {J: errors.mean(axis=1) for J, (errors, _) in found.items()}
standard_error = {J: errors.std(axis=1, ddof=1) / np.sqrt(errors.shape[1]) for J, (errors, _) in found.items()}
typical = {J: np.sqrt(np.mean(errors**2, axis=1)) for J, (errors, _) in found.items()}  # root mean square
enough = {J: next((n for n, error in zip(sizes, typical[J]) if error < 0.1), "more") for J in latents}
for J, (_, nats) in found.items():
    off = np.round(mean_error[J][-1], 1) + 0.0  # no "-0.0"
    print(
        f"J = {J:2}: 100000 samples are off by {off:6.1f} +- {standard_error[J][-1]:.1f} nats; "
        f"{nats.mean():4.1f} nats from prior to posterior; enough for 0.1 nats: {enough[J]}"
    )
assert mean_error[10][-1] < -4 * standard_error[10][-1] and mean_error[20][-1] < -50
below_exact = np.mean([errors[:-1] < 0 for errors, _ in found.values()])
print(f"of all estimates by fewer than 100000 samples, {below_exact:.0%} are too low")
assert below_exact > 0.6
assert enough[1] < enough[2] and enough[5] == enough[10] == enough[20] == "more"

# %%
# figure: intractability
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
fig.set_label("thumbnail")
for J, colour in zip(latents, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(latents)))):
    errors = found[J][0]
    ax.fill_between(sizes, errors.min(axis=1), errors.max(axis=1), color=colour, alpha=0.15)
    ax.plot(sizes, mean_error[J], "o-", color=colour, label=f"J = {J}")
ax.axhline(0, color="k", lw=1, label="exact")
ax.set_yscale("symlog", linthresh=1)
ax.set(xscale="log", xlabel="samples of the prior", ylabel="error of log p(x), nats", title="More latents: never there")
ax.set_ylim(-1000, 300)
ax.legend(ncols=3, loc="upper center")
ax.grid(alpha=0.3)

# %% [markdown]
# *See:* the mean error (the lines) reaches zero with one or two latents; with five it is still on its way; with ten and
# twenty it never comes near. The bands show the smallest and the largest error over 20 datapoints. The vertical axis is
# even between -1 and 1, and logarithmic beyond.
#
# This is what *intractable* means. No single term is hard to compute. But of all the $z$ that the prior proposes,
# almost none could have made this $x$. The printed lines say how few. If the posterior is $k$ nats from the prior, only
# a share of about $e^{-k}$ of the prior lies where the posterior is, and one needs about $e^{k}$ samples to hit it
# *once*. For an error of a tenth of a nat one needs hundreds of hits, for every datapoint. And $k$ differs from one
# datapoint to the next; its mean is printed. With five latents, `100000`, which is $e^{11.5}$, is not enough.
#
# Most of the errors are negative. The mean of the densities is right on average, but rare huge values carry it, and a
# run that has not met one yet is too low. The logarithm adds to this. Its curve flattens, so it loses more by a mean
# that is too low than it gains by one that is too high: $\mathbb E[\log \text{mean}] \le \log \mathbb E[\text{mean}]$.
# What is a trouble here becomes the idea of the next tutorial: a *lower bound*.
#
# The paper names two more troubles. Without $p_\theta(x)$ there is no posterior, so expectation-maximization cannot
# take its first step. And to draw from the posterior of every datapoint, again and again, is too slow where there is
# much data. One wants to learn from small random parts of it (*minibatches*), one after the other.
#
# ## What people did: mean field
#
# *Variational inference* picks a family of easy densities and takes the member closest to the posterior: the one with
# the smallest mean of $\log q(z) - \log p(z|x)$ under $q$, the KL divergence from $q$. The classical family has
# independent parts:
#
# $$q(z) = \prod_{i} q_i(z_i)$$
#
# Update one $q_i$ at a time, with the others held fixed. The best one is
# $\log q_i(z_i) = \mathbb E[\log p(x, z)] +$ constant, the expectation taken over all the other parts. For `linear`
# this expectation is known. With $\Lambda = \Sigma^{-1}$, the best $q_i$ is a Gaussian with variance
# $1 / \Lambda_{ii}$ and mean $\mu_i = m_i - \sum_{j \ne i} \Lambda_{ij} (\mu_j - m_j) / \Lambda_{ii}$, where $m$ is
# the mean of the posterior, and $\mu_j$ are the means of the other parts of $q$.
#
# **Before you run it:** the two latents of this posterior are correlated, and a product cannot be. Will the means of
# $q$ be right? Its variances: right, too large, or too small?

# %%
# formula: mean-field
m, precision = mean[0], np.linalg.inv(covariance)
mu, variance = np.zeros(2), 1 / np.diag(precision)
for _ in range(60):
    for i in range(2):
        others = np.arange(2) != i
        mu[i] = m[i] - precision[i, others] @ (mu - m)[others] / precision[i, i]
log_p = posterior_of_first.log_prob(plane)


def log_q(variances):
    """Logarithm of the product of two densities on the grid of both latents."""
    return np.sum(log_normal(plane, mu, np.sqrt(variances)), axis=1)


def distance(variances):
    """KL divergence from q to the posterior in nats, by the grid of both latents."""
    return np.sum(np.exp(log_q(variances)) * (log_q(variances) - log_p)) * area


for log_density in (log_q(variance), log_p):
    assert abs(np.sum(np.exp(log_density)) * area - 1) < 1e-10
np.testing.assert_allclose(mu, m, rtol=1e-8)  # the mean is right
for factors in ((0.9, 1), (1.1, 1), (1, 0.9), (1, 1.1)):  # all other variances are farther from the posterior
    assert distance(variance) < distance(variance * np.array(factors))
ratio = variance / np.diag(covariance)
correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
print(f"the latents have a correlation of {correlation:.2f}; the variances of q are {ratio[0]:.2f} times the true ones")
np.testing.assert_allclose(ratio, 1 - correlation**2, rtol=1e-10)

# %% [markdown]
# The mean is exact, and the variances are all too small, by $1 - \rho^2$ for a correlation $\rho$. A product cannot
# lean; so it shrinks until it fits inside.
#
# Each update needed $\mathbb E[\log p(x, z)]$ in closed form. For a decoder that is a network there is none, not even
# under a product. Here the paper begins: it *learns* $q_\phi(z|x)$, an encoder, by gradients of samples.
#
# ## Exercise: the logarithm of a weighted mean
#
# Nodes of a grid, or samples that count differently, have weights. Write $\log \sum_l w_l e^{v_l}$ for weights $w_l$
# that sum to one, so that it works where `np.exp` of -2000 or of 900 does not.
#
# <details><summary>Hint</summary>
#
# With $a$ the largest value: $\log \sum_l w_l e^{v_l} = a + \log \sum_l w_l e^{v_l - a}$. Now no exponential is above
# 1.
#
# </details>


# %%
def stable_log_mean(log_values, weights):
    """Logarithm of the weighted mean of exp(log_values) over the first axis, in nats: (n, N) and (n,) to (N,)."""
    ...  # your code, about 2 lines


# %% tags=["hide-cell"]
def stable_log_mean_solution(log_values, weights):
    peak = log_values.max(axis=0)
    return peak + np.log(weights @ np.exp(log_values - peak))


offset = np.array([0.0, -2000.0, 900.0])
check_stable_log_mean = Exercise(
    solution=stable_log_mean_solution,
    mistakes={
        "exp underflows to 0, or overflows: subtract the largest value first": lambda log_values, weights: np.log(
            weights @ np.exp(log_values)
        ),
        "it is the mean of the logarithms: that is a lower bound of the logarithm of the mean": (
            lambda log_values, weights: weights @ log_values
        ),
        "the largest value was subtracted, and not added back to the logarithm": lambda log_values, weights: (
            stable_log_mean_solution(log_values, weights) - log_values.max(axis=0)
        ),
        "all values count the same: the weights are not used": lambda log_values, weights: log_mean_exp(log_values)[0],
    },
    inputs=[(np.log([[1.0, 4.0, 2.0], [2.0, 5.0, 2.5], [3.0, 9.0, 6.0], [2.0, 7.0, 1.5]]) + offset, np.r_[1:5] / 10)],
    expected=[np.log([2.2, 6.9, 3.1]) + offset],  # such as 0.1 * 1 + 0.2 * 2 + 0.3 * 3 + 0.4 * 2
)

# %%
print(check_stable_log_mean(stable_log_mean))

# %% [markdown]
# ## Exercise: maximum a posteriori
#
# For $x \sim \mathcal N(\theta, t^2)$ and a prior with its own mean, $\theta \sim \mathcal N(m, \tau^2)$, write the
# $\theta$ that maximises $\sum_i \log p_\theta(x^{(i)}) + \log p(\theta)$.
#
# <details><summary>Hint</summary>
#
# Set the derivative to zero: $\sum_i (x^{(i)} - \theta) / t^2 + (m - \theta) / \tau^2 = 0$, and solve for $\theta$.
#
# </details>


# %%
def map_estimate(x, t, m, tau):
    """Maximum a posteriori estimate of theta from x (N,) with sigma t, and a prior with mean m and sigma tau."""
    ...  # your code, about 1 line


# %% tags=["hide-cell"]
def map_estimate_solution(x, t, m, tau):
    return (x.sum() + m * t**2 / tau**2) / (len(x) + t**2 / tau**2)


def highest(x, t, m, tau):
    """Search for the best theta, without the closed form."""
    return minimize_scalar(lambda theta: -np.sum(log_normal(x, theta, t)) - log_normal(theta, m, tau), tol=1e-10).x


map_inputs = [(few, 1.2, -0.4, 0.5), (lots[:20], 0.7, 2.1, 0.3)]
check_map_estimate = Exercise(
    solution=map_estimate_solution,
    mistakes={
        "it is maximum likelihood: the prior does not count": lambda x, t, m, tau: x.mean(),
        "the prior counts once for each datapoint, and should count once": lambda x, t, m, tau: map_estimate_solution(
            x, t, m, tau / np.sqrt(len(x))
        ),
        "t and tau enter by their squares, the variances": lambda x, t, m, tau: map_estimate_solution(
            x, np.sqrt(t), m, np.sqrt(tau)
        ),
        "the prior pulls to its own mean m, and not to 0": lambda x, t, m, tau: map_estimate_solution(x, t, 0.0, tau),
        "the pull of the prior is upside down: a narrow prior must pull more": lambda x, t, m, tau: (
            map_estimate_solution(x, tau, m, t)
        ),
    },
    inputs=map_inputs,
    expected=[highest(*arguments) for arguments in map_inputs],
    rtol=1e-6,
)

# %%
print(check_map_estimate(map_estimate))

# %% [markdown]
# ## The answer

# %%
misses = (f"{-mean_error[J][-1]:.0f} +- {standard_error[J][-1]:.0f} nats at J = {J}" for J in (10, 20))
print(
    f"Answer: {enough[1]} at J = 1, {enough[2]} at J = 2 (typical error < 0.1); {sizes[-1]} miss by {', '.join(misses)}"
)

# %% [markdown]
# ## What to take with you
#
# To generate is easy, one draw after the other; to invert needs $p_\theta(x)$, an integral over all hidden numbers.
# Where posterior and prior are $k$ nats apart, samples of the prior find it once in about $e^{k}$ draws: here hopeless
# from ten latents on. Closed forms and mean field go further, but need expectations that a neural network does not
# have.
#
# From now on `Normal` (its draws), `log_mean_exp` and `LinearGaussian` stand for what was written here. Next, tutorial
# 03: a lower bound on $\log p(x)$ that can be computed, and what it costs.

# %%
plt.show()
