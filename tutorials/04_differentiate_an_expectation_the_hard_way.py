# %% [markdown]
# # Differentiate an expectation the hard way
#
# **Question:** How much more does the score-function gradient vary than the gradient through $z$, and what do more
# latents do to it?
#
# **You will do:** try to differentiate the bound with respect to the parameters of $q$, fail in the obvious way, repair
# it with an identity, and measure what the repair costs.
#
# **You will learn:** why one of two gradients is easy and the other is not, the score-function estimator and its
# baselines, and three reasons for its noise.
#
# **You need:** tutorial 02 (the model `square`, sums over a grid) and tutorial 03 (the bound); derivatives, the chain
# rule; standard errors of means.

# %%
import matplotlib.pyplot as plt
import numpy as np

from npvae.backends import reference
from npvae.estimators import ScoreFunction
from npvae.exercises import Exercise
from npvae.model import Architecture, Model

# %% [markdown]
# What comes from npvae is written by hand below, and compared, before it is used. `Exercise` checks your answers, and
# `Model` only holds parameters.
#
# ## Goal
#
# We want to climb the bound. For one datapoint $x$ it is
#
# $$\mathcal L(\theta, \phi; x) = \mathbb E_{q_\phi(z|x)}\big[-\log q_\phi(z|x) + \log p_\theta(x, z)\big]$$
#
# $\theta$ are the parameters of the model, $\phi$ those of $q$. To climb, we need both gradients. Our example is
# `square` with a parameter: $z \sim \mathcal N(0, 1)$, $x | z \sim \mathcal N(a z^2, s^2)$ with $s = 0.3$, so
# $\theta = a$. The approximation is $q = \mathcal N(\mu, \sigma^2)$ with $\phi = (\mu, \log \sigma^2)$. In code
# $\log \sigma^2$ is `log_var`: it may be any number, and $\sigma$ stays positive.
#
# The oracle is the bound in closed form, by the moments of a Gaussian, as in tutorial 03.

# %%
# formula: objective
s, x = 0.3, 1.0
z = np.linspace(-9, 9, 7201)
dz = z[1] - z[0]
a, mu, log_var = 0.9, 0.7, np.log(0.25**2)  # theta and phi: where we stand


def log_normal(value, mean, log_var):
    """log N(value; mean, exp(log_var)), element by element, in nats."""
    return -0.5 * (np.log(2 * np.pi) + log_var + (value - mean) ** 2 / np.exp(log_var))


def log_joint(z, a):
    """log p(x, z) in nats, with theta = a."""
    return log_normal(z, 0, 0.0) + log_normal(x, a * z**2, 2 * np.log(s))


def objective(a, mu, log_var):
    """L(theta, phi; x) in nats, as a sum over the grid."""
    log_q = log_normal(z, mu, log_var)
    return np.sum(np.exp(log_q) * (-log_q + log_joint(z, a))) * dz


def objective_by_moments(a, mu, log_var):
    """L(theta, phi; x) in closed form."""
    v = np.exp(log_var)
    square, fourth = mu**2 + v, mu**4 + 6 * mu**2 * v + 3 * v**2
    log_likelihood = -0.5 * np.log(2 * np.pi * s**2) - 0.5 * (x**2 - 2 * x * a * square + a**2 * fourth) / s**2
    return log_likelihood - 0.5 * np.log(2 * np.pi) - 0.5 * square + 0.5 * (np.log(2 * np.pi) + log_var + 1)


log_q = log_normal(z, mu, log_var)
assert abs(np.sum(np.exp(log_q)) * dz - 1) < 1e-12
assert abs(objective(a, mu, log_var) - objective_by_moments(a, mu, log_var)) < 1e-10
print(f"the bound where we stand: {objective(a, mu, log_var):.3f} nats")

# %% [markdown]
# The exact slopes come from the closed form by a tiny *imaginary* step $ih$. A smooth function has
# $F(t + ih) \approx F(t) + ih F'(t)$, so its imaginary part over $h$ is the derivative. Nothing is subtracted, so
# nothing is lost to rounding, and $h$ may be `1e-30`.


# %%
def slope(function, t, h=1e-30):
    """Derivative of a function of one number (or element by element), exact to rounding."""
    return np.imag(function(t + 1j * h)) / h


assert abs(slope(np.exp, 0.7) - np.exp(0.7)) < 1e-15
exact_a = slope(lambda t: objective_by_moments(t, mu, log_var), a)
exact_mu = slope(lambda t: objective_by_moments(a, t, log_var), mu)
exact_log_var = slope(lambda t: objective_by_moments(a, mu, t), log_var)
print(f"exact slopes in nats: by a {exact_a:.3f}, by mu {exact_mu:.3f}, by log_var {exact_log_var:.3f}")

# %%
# figure: goal
fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3.2), layout="constrained", sharey=True)
here = objective(a, mu, log_var)
for ax, title, name, at, derivative, function in (
    (left, "Parameter of the model", r"a (of $\theta$)", a, exact_a, lambda t: objective_by_moments(t, mu, log_var)),
    (right, "Parameter of q", r"$\mu$ (of $\phi$)", mu, exact_mu, lambda t: objective_by_moments(a, t, log_var)),
):
    t = np.linspace(at - 0.6, at + 0.8, 200)
    ax.plot(t, function(t), "tab:blue", label="bound")
    ax.plot([at - 0.3, at + 0.3], [here - 0.3 * derivative, here + 0.3 * derivative], "k", label="slope wanted")
    ax.plot(at, here, "ko")
    ax.set(xlabel=name, ylabel="bound, nats", ylim=(-9, 0), title=title)
    ax.legend(loc="lower center")
    ax.grid(alpha=0.3)

# %% [markdown]
# *See:* two slices through the bound, and the slope that each gradient must find at the black dot.
#
# ## The easy gradient
#
# $q_\phi$ does not depend on $\theta$. The density that we average over stands still, so the gradient moves inside:
#
# $$\nabla_\theta \mathcal L = \mathbb E_{q_\phi(z|x)}\big[\nabla_\theta \log p_\theta(x, z)\big]$$
#
# Draw $z$ from $q$, and average. Here $\partial \log p / \partial a = (x - a z^2) z^2 / s^2$.

# %%
# formula: gradient-theta
rng = np.random.default_rng(0)


def mean_and_error(values):
    """Mean and its standard error over the first axis."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


gradient_a = lambda z: (x - a * z**2) * z**2 / s**2
assert abs(np.sum(np.exp(log_q) * gradient_a(z)) * dz - exact_a) < 1e-9
drawn = mu + np.exp(log_var / 2) * rng.standard_normal(100_000)
mean, error = mean_and_error(gradient_a(drawn))
print(f"by a: {mean:.2f} +- {error:.2f} nats from samples, exact {exact_a:.2f}")
assert abs(mean - exact_a) < 4 * error

# %% [markdown]
# ## The hard gradient
#
# For $\phi$, write the bracket of the objective as a function $f$:
#
# $$f(z) = \log p_\theta(x, z) - \log q_\phi(z|x)$$


# %%
# formula: f
def f(z, mu=mu, log_var=log_var):
    """log p(x, z) - log q(z|x) in nats."""
    return log_joint(z, a) - log_normal(z, mu, log_var)


assert abs(np.sum(np.exp(log_q) * f(z)) * dz - objective_by_moments(a, mu, log_var)) < 1e-10

# %% [markdown]
# We want
#
# $$\nabla_\phi \mathcal L = \nabla_\phi \, \mathbb E_{q_\phi(z|x)}\big[f(z)\big]$$
#
# and the density under the expectation moves with $\phi$.
#
# **Before you run it:** do it wrong on purpose. Move $\nabla_\phi$ inside, as for $\theta$: draw $z$ from $q$, keep it
# fixed, average $\nabla_\phi f(z)$. Will the result be right, too small, or of the wrong sign?

# %%
# formula: gradient-phi
inside = slope(lambda t: f(drawn, t, log_var), mu)  # derivative of f by mu at fixed z
mean, error = mean_and_error(inside)
print(f"gradient moved inside: {mean:.2f} +- {error:.2f} nats; exact {exact_mu:.2f}")
assert abs(mean) < 4 * error and abs(mean - exact_mu) > 20 * error
assert abs(np.sum(np.exp(log_q) * slope(lambda t: f(z, t, log_var), mu)) * dz) < 1e-12  # by the grid
assert abs(slope(lambda t: objective(a, t, log_var), mu) - exact_mu) < 1e-9  # q moves with mu, as it should

# %% [markdown]
# Zero comes out, whatever the data. In $f$, only $-\log q$ depends on $\phi$, and
# $\mathbb E_q[\nabla_\phi \log q] = \int \nabla_\phi q \, dz = \nabla_\phi 1 = 0$. A program with this error runs,
# reports a bound, and never trains its encoder.
#
# What was lost? As $\mu$ grows, $q$ takes mass away on its left side and puts it on its right. The bound changes
# because the mass now sits where $f$ is larger or smaller.

# %%
# figure: gradient-issue
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
moved = slope(lambda t: np.exp(log_normal(z, t, log_var)), mu)
ax.fill_between(z, 0, np.maximum(moved, 0), color="tab:green", alpha=0.4, label=r"mass arrives: $\nabla_\mu q > 0$")
ax.fill_between(z, np.minimum(moved, 0), 0, color="tab:red", alpha=0.4, label=r"mass leaves: $\nabla_\mu q < 0$")
ax.plot(z, np.exp(log_q), "tab:blue", label="q(z|x)")
ax.plot(z, f(z), "k", label="f(z), nats")
ax.set(
    xlim=(-0.3, 1.7), ylim=(-11, 6), xlabel="z", ylabel="density, its change; nats", title="The density moves under f"
)
ax.legend(loc="lower center", ncols=2)
ax.grid(alpha=0.3)

# %% [markdown]
# *See:* the mean of $f$ changes because mass leaves the red side and arrives on the green side, where $f$ has other
# values.
#
# ## An identity
#
# The change, $\int f \, \nabla_\phi q \, dz$, is an integral but not an expectation: $\nabla_\phi q$ is negative in
# places, and we cannot draw from it. Multiply and divide by $q$. Since $\nabla \log q = \nabla q / q$,
#
# $$\nabla_\phi q_\phi(z) = q_\phi(z) \, \nabla_\phi \log q_\phi(z)$$
#
# $\nabla_\phi \log q_\phi(z)$ is called the *score function*. For a Gaussian with `log_var`
#
# $$\frac{\partial \log q}{\partial \mu} = \frac{z - \mu}{\sigma^2}$$
#
# $$\frac{\partial \log q}{\partial \log \sigma^2} = \frac12 \Big(\frac{(z - \mu)^2}{\sigma^2} - 1\Big)$$


# %%
# formula: log-derivative
def score(z, mu, log_var):
    """Derivatives of log N(z; mu, exp(log_var)) by mu and by log_var, element by element."""
    variance = np.exp(log_var)
    return (z - mu) / variance, 0.5 * ((z - mu) ** 2 / variance - 1)


q = np.exp(log_q)
by_mu, by_log_var = score(z, mu, log_var)
np.testing.assert_allclose(moved, q * by_mu, atol=1e-12)
np.testing.assert_allclose(slope(lambda t: np.exp(log_normal(z, mu, t)), log_var), q * by_log_var, atol=1e-12)
assert abs(np.sum(q * by_mu) * dz) < 1e-12 and abs(np.sum(q * by_log_var) * dz) < 1e-12  # the mean score is zero

# %% [markdown]
# In npvae this is `gaussian_log_q`, for $M$ datapoints, $J$ latents, and $L$ samples each: rows $l M + i$ of $z$ belong
# to datapoint $i$. It takes a weight for each sample, and returns $\log q$ of every row, and the gradient of
# $\sum_r w_r \log q(z_r)$ summed over the samples of a datapoint. By hand:

# %%
L, M, J = 3, 4, 2
some_z, weights = rng.normal(size=(L * M, J)), rng.normal(size=L * M)
some_mu, some_log_var = rng.normal(size=(M, J)), rng.normal(-0.3, 0.6, (M, J))
tiled = np.tile(some_mu, (L, 1)), np.tile(some_log_var, (L, 1))
log_q_rows = np.sum(log_normal(some_z, *tiled), axis=1)
by_hand = [(weights[:, None] * part).reshape(L, M, J).sum(axis=0) for part in score(some_z, *tiled)]
found = reference.gaussian_log_q(some_z, some_mu, some_log_var, weights)
for ours, theirs in zip((log_q_rows, *by_hand), found):
    np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-12)


def weighted_log_q(mu, log_var):
    return weights @ np.sum(log_normal(some_z, np.tile(mu, (L, 1)), np.tile(log_var, (L, 1))), axis=1)


toward = rng.normal(size=(2, M, J))  # a random direction for both
along = slope(lambda t: weighted_log_q(some_mu + t * toward[0], some_log_var + t * toward[1]), 0.0)
assert abs(np.sum(by_hand * toward) - along) < 1e-11

# %% [markdown]
# Let $f$ not depend on $\phi$. Put the identity into the integral, and the density is back:
#
# $$\nabla_\phi \, \mathbb E_{q_\phi(z)}\big[f(z)\big]
# = \mathbb E_{q_\phi(z)}\big[f(z) \, \nabla_\phi \log q_\phi(z)\big]$$
#
# Two remarks. First, lecture notes on this method often write $\nabla_{q_\phi(z)} \log q_\phi(z)$. There is no gradient
# with respect to a density: it should be $\nabla_\phi$, with respect to the parameters, at a fixed $z$. Second, our $f$
# does depend on $\phi$, through $-\log q$. The product rule adds a second term,
# $\mathbb E_q[\nabla_\phi f] = -\mathbb E_q[\nabla_\phi \log q]$. It is the gradient that was moved inside above, and
# it is zero. So it may be left out.

# %%
# formula: score-function
for exact, part in ((exact_mu, by_mu), (exact_log_var, by_log_var)):
    assert abs(np.sum(q * f(z) * part) * dz - exact) < 1e-9
print(f"by mu: identity {np.sum(q * f(z) * by_mu) * dz:.2f}, exact {exact_mu:.2f} nats")

# %% [markdown]
# Nobody has the integral for a real model. So draw $z^{(l)} \sim q_\phi(z|x)$ and average:
#
# $$\nabla_\phi \mathcal L \approx \frac1L \sum_{l=1}^L f(z^{(l)}) \, \nabla_\phi \log q_\phi(z^{(l)})$$
#
# One sample is enough to be right on average. Its rival is the subject of tutorial 05: write
# $z = \mu + \sigma \epsilon$ with noise $\epsilon \sim \mathcal N(0, 1)$, keep $\epsilon$ fixed, and differentiate
# $f$ through $z$. There
# $\log q(z) = -\tfrac12 (\log 2 \pi + \log \sigma^2 + \epsilon^2)$ does not contain $\mu$. So the derivative by $\mu$
# is $\partial \log p(x, z) / \partial z$. Here it serves for comparison only.
#
# **Before you run it:** both estimators have the same mean. How many times larger is the variance of the score
# function?


# %%
# formula: score-function-estimate
def score_gradient(z, mu, log_var, f):
    """One-sample estimates of the gradient by mu, a value for each z."""
    return f * score(z, mu, log_var)[0]


def pathwise_gradient(z):
    """Derivative by mu of f(mu + sigma eps), a value for each z: for fixed eps, log q does not change with mu."""
    return -z + (x - a * z**2) * 2 * a * z / s**2


eps = rng.standard_normal(100_000)
drawn = mu + np.exp(log_var / 2) * eps
hard, rival = score_gradient(drawn, mu, log_var, f(drawn)), pathwise_gradient(drawn)
check = slope(lambda t: log_joint(t + np.exp(log_var / 2) * eps[:100], a) - log_normal(eps[:100], 0, 0.0), mu)
np.testing.assert_allclose(rival[:100], check, rtol=1e-10, atol=1e-10)
for name, values in (("score function", hard), ("rival", rival)):
    mean, error = mean_and_error(values)
    print(f"{name:14}: {mean:.2f} +- {error:.2f} nats (exact {exact_mu:.2f}), variance {values.var():.0f}, ", end="")
    print(f"{np.mean(values < 0):.0%} of the wrong sign")
    assert abs(mean - exact_mu) < 4 * error
assert abs(np.mean(hard < 0) - 0.5) < 0.02
mean, error = mean_and_error(f(drawn) * score(drawn, mu, log_var)[1])
assert abs(mean - exact_log_var) < 4 * error

# %%
# figure: score-function
fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3.4), layout="constrained")
bins = np.linspace(-150, 60, 141)
for values, colour, name in ((hard, "tab:red", "score function"), (rival, "tab:blue", "rival")):
    left.hist(values, bins=bins, histtype="step", color=colour, label=name, log=True)
    n = np.geomspace(10, len(values), 60).astype(int)
    total, squares = np.cumsum(values)[n - 1] / n, np.cumsum(values**2)[n - 1] / n
    band = 2 * np.sqrt((squares - total**2) / n)
    right.fill_between(n, total - band, total + band, color=colour, alpha=0.2)
    right.plot(n, total, colour, label=name)
left.axvline(exact_mu, color="k", lw=1, label="exact")
left.set(xlabel="one-sample gradient by mu, nats", ylabel="samples", title="100000 estimates")
left.legend(loc="upper left")
right.axhline(exact_mu, color="k", lw=1, label="exact")
right.set(xscale="log", xlabel="samples averaged", ylabel="gradient by mu, nats", title="Mean, 2 standard errors")
right.grid(alpha=0.3)

# %% [markdown]
# *See:* both running means arrive at the exact slope, that of the score function late; its single estimates are widely
# spread, and about half of them have the wrong sign.
#
# ## Why is it so noisy?
#
# The estimate is a product: a number $f(z)$ times a direction, the score. Three reasons, each measured.
#
# **The size of $f$.** A constant $c$ that is added to $f$ does not change the mean of the estimate, because
# $\mathbb E_q[c \, \nabla \log q] = 0$. But it multiplies the score of every single sample.
#
# **Before you run it:** add 100 to $f$. What happens to the mean, and what to the variance?

# %%
shifted = score_gradient(drawn, mu, log_var, f(drawn) + 100)
mean, error = mean_and_error(shifted)
ratio = np.var(shifted) / np.var(hard)
print(f"with 100 added: {mean:.1f} +- {error:.1f} nats (exact {exact_mu:.1f}); variance {ratio:.0f} times as large")
assert abs(mean - exact_mu) < 4 * error and ratio > 50

# %% [markdown]
# This case is not invented: the bound of a picture is often near minus one hundred nats.
#
# **The size of the score.** A narrow $q$ has large scores:
# $\mathrm{Var}[\partial \log q / \partial \mu] = 1 / \sigma^2$. The better the encoder knows its datapoint, the noisier
# its gradient, for an $f$ of the same size.
#
# **Before you run it:** $\sigma$ is halved. What happens to the variance of the score?

# %%
for sigma in (0.5, 0.25, 0.125):
    scores = score(mu + sigma * eps, mu, 2 * np.log(sigma))[0]
    print(f"sigma = {sigma:g}: variance of the score {scores.var():.0f}, of the closed form {1 / sigma**2:.0f}")
    assert abs(scores.var() * sigma**2 - 1) < 4 * np.sqrt(2 / len(eps))

# %% [markdown]
# **More latents.** $f$ is a sum over all latents and all pixels. The score of one $\mu_j$ multiplies *all* of it, also
# the parts that $z_j$ has no influence on. The rival differentiates, and those parts vanish.
#
# There is a cure for the first reason: subtract a *baseline* $b$ from $f$. The mean stays right if $b$ does not depend
# on the sample $z$ that it is used with. We measure $J$ independent latents, $x_j | z_j \sim \mathcal N(z_j, 1)$ and
# $x_j = 1$, with $q = \mathcal N(0.3, 0.8^2)$ for each.
#
# **Before you run it:** how does the variance grow with $J$, with and without a baseline? And who wins at $J = 1$?

# %%
latents, runs, blocks = (1, 2, 5, 10, 20, 50, 100), 20_000, 10
at, spread = 0.3, 2 * np.log(0.8)


def gradients_of_first(J, rng):
    """One-sample gradients by mu_1: score function, with a baseline, rival: (3, runs)."""
    z = at + np.exp(spread / 2) * rng.standard_normal((runs, J))
    f = np.sum(log_normal(z, 0, 0.0) + log_normal(1.0, z, 0.0) - log_normal(z, at, spread), axis=1)
    first = score(z[:, 0], at, spread)[0]
    baseline = (f.sum() - f) / (runs - 1)  # the mean of f over all other samples
    return np.array([f * first, (f - baseline) * first, -z[:, 0] + (1.0 - z[:, 0])])


def with_error(value, error):
    digits = max(0, int(np.ceil(-np.log10(error))))  # as many as the error has
    return f"{value:.{digits}f} +- {error:.{digits}f}"


variances = np.empty((len(latents), 3))
ratios, ratio_errors = np.empty((2, len(latents), 2))
for k, J in enumerate(latents):
    estimates = gradients_of_first(J, np.random.default_rng(J))
    means, errors = mean_and_error(estimates.T)
    assert np.all(np.abs(means - (1.0 - 2 * at)) < 4 * errors)  # exact: E[-z + (x - z)]
    variances[k] = estimates.var(axis=1)
    parts = estimates.reshape(3, blocks, -1).var(axis=2)
    ratios[k], ratio_errors[k] = mean_and_error((parts[:2] / parts[2]).T)
    if J in (1, 10, 100):
        plain, better = map(with_error, ratios[k], ratio_errors[k])
        print(f"J = {J:3}: variance over that of the rival {plain}, with a baseline {better}")
assert ratios[-1, 0] > 1000 and ratios[0, 1] < 1 < ratios[-1, 1]
growth = np.polyfit(np.log(latents[3:]), np.log(variances[3:, :2]), 1)[0]
print(f"from J = 10 on: variance grows as J to the power {growth[0]:.1f}, with a baseline {growth[1]:.1f}")
assert abs(growth[0] - 2) < 0.1 and abs(growth[1] - 1) < 0.15

# %% [markdown]
# Why these powers? For many latents $f$ and the score of the first are nearly independent. So the variance of their
# product is $\mathbb E[f^2] / \sigma^2$. With the mean $c$ and the variance $w$ of one latent's part of $f$,
#
# $$\mathrm{Var} \approx \frac{J^2 c^2 + J w}{\sigma^2}, \qquad \text{with a baseline} \quad \frac{J w}{\sigma^2}$$

# %%
q_one = np.exp(log_normal(z, at, spread))
f_one = log_normal(z, 0, 0.0) + log_normal(1.0, z, 0.0) - log_normal(z, at, spread)
c = np.sum(q_one * f_one) * dz
w = np.sum(q_one * (f_one - c) ** 2) * dz
law = np.array([(J**2 * c**2 + J * w, J * w) for J in latents]) / np.exp(spread)
plain, better = variances[-1, :2] / law[-1]
print(f"at J = 100, measured over law: {plain:.1f}; with a baseline {better:.1f}")
np.testing.assert_allclose((plain, better), 1, atol=0.05)

# %%
# figure: why-high-variance
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
for values, colour, name in zip(
    variances.T, ("tab:red", "tab:orange", "tab:blue"), ("score function", "with a baseline", "rival: through z")
):
    ax.plot(latents, values, "o-", color=colour, label=name)
ax.plot(latents, law[:, 0], "k:", lw=1, label="the law")
ax.plot(latents, law[:, 1], "k:", lw=1)
ax.axhline(4 * np.exp(spread), color="k", lw=1, label="rival, exact")
ax.set(xscale="log", yscale="log", xlabel="latents J", ylabel="variance of the gradient, nats$^2$")
ax.set_title("Each latent is noise for all the others")
ax.legend()
ax.grid(alpha=0.3)
fig.set_label("thumbnail")

# %% [markdown]
# *See:* the rival's variance does not depend on the number of latents $J$; that of the score function grows as $J^2$,
# and with a baseline as $J$. The law is for many latents; for few it is too low.
#
# A baseline takes away the mean of $f$, the part that grows as the square. What is left is the variance of $f$, a sum
# of $J$ parts. The left end may surprise: with a baseline and few latents, the hard way has *less* variance than its
# rival. In this example each part of $q$ is near its posterior, so the variance $w$ of a part of $f$ is small. If $q$
# is the posterior, $f$ is $\log p(x)$ for every $z$: a constant, which the baseline removes altogether.

# %%
z_any = rng.normal(0.5, 1.0, 20)  # the posterior of z_j for x_j = 1 is N(0.5, 0.5)
f_at_posterior = log_normal(z_any, 0, 0.0) + log_normal(1.0, z_any, 0.0) - log_normal(z_any, 0.5, np.log(0.5))
print(f"with the posterior for q, f varies by {np.ptp(f_at_posterior):.3f} nats")
assert np.ptp(f_at_posterior) < 1e-12

# %% [markdown]
# Lecture notes on this method often call the high variance structural, not accidental. That is so with many latents.
# With one latent, a good $q$ and a baseline there is none. But models have tens of latents, and an encoder begins far
# from the posterior.
#
# ## Baselines in practice
#
# Which baselines can be had for free? npvae has two. *Running*: the mean of $f$ over earlier minibatches, updated as
# $0.9$ of the old plus $0.1$ of the new. *Leave one out*: with $L > 1$ samples of a datapoint, the mean of $f$ over the
# *other* samples of the same datapoint.
#
# **Before you run it:** take the mean over *all* $L = 2$ samples as baseline, the sample itself included. What goes
# wrong?

# %%
pairs = mu + np.exp(log_var / 2) * rng.standard_normal((2, 50_000))  # L = 2 samples for each of many repeats
f_pairs, scores = f(pairs), score(pairs, mu, log_var)[0]
for name, baseline, target in (
    ("the other sample", f_pairs[::-1], exact_mu),
    ("the mean of both", f_pairs.mean(axis=0), exact_mu / 2),
):
    mean, error = mean_and_error(np.mean((f_pairs - baseline) * scores, axis=0))
    print(f"baseline is {name}: {mean:.2f} +- {error:.2f} nats, exact {exact_mu:.2f}")
    assert abs(mean - target) < 4 * error

# %% [markdown]
# With the sample itself in the baseline, the estimate is half of what it should be. There is no error message, only
# slow training.
#
# ## The whole estimator, on a small model
#
# Now a model with an encoder. To see every line, encoder and decoder are linear, and $x$ is binary:
# $\mu = x W_\mu + b_\mu$ and $\log \sigma^2 = x W_v + b_v$; with the logits $\ell = z W + b$, $x_d$ is 1 with the
# probability $y_d = 1 / (1 + e^{-\ell_d})$. npvae's `Model` holds the six arrays by name. By hand, for $M$ datapoints
# and $L$ samples:
#
# 1. draw $z = \mu + \sigma \epsilon$, and compute $f$ of each of the $L M$ samples;
# 2. weights: $(f - \text{baseline}) / (L M)$. From here on $z$ and the weights are *held constant*;
# 3. encoder: $\sum_r w_r \nabla_\phi \log q(z_r)$, through `score` and the chain rule, $\nabla_W = x^\top \nabla_\mu$;
# 4. decoder: the mean of $\nabla_\theta \log p(x|z)$. For the logits this is $x - y$ (tutorial 07 derives it).

# %%
L, M, D, J = 3, 5, 4, 2
model = Model(Architecture(D, J, hidden_layer_sizes=()), reference, "float64")
parameters = model.parameters(model.initial(rng, std=0.7) + 0.2 * rng.standard_normal(model.layout.size))
x_rows, eps = rng.integers(0, 2, (M, D)).astype(float), rng.standard_normal((L * M, J))


def encode(parameters):
    return [x_rows @ parameters[f"encoder.{head}.W"] + parameters[f"encoder.{head}.b"] for head in ("mu", "log_var")]


def log_likelihood_rows(parameters, z):
    """log p(x|z) of each row of z in nats, (L M,), and the probabilities y (L M, D)."""
    logits = z @ parameters["decoder.logits.W"] + parameters["decoder.logits.b"]
    y = 1 / (1 + np.exp(-logits))
    x_tiled = np.tile(x_rows, (L, 1))
    return np.sum(x_tiled * np.log(y) + (1 - x_tiled) * np.log(1 - y), axis=1), y


mu_rows, log_var_rows = encode(parameters)
tiled = np.tile(mu_rows, (L, 1)), np.tile(log_var_rows, (L, 1))
z_rows = tiled[0] + np.exp(tiled[1] / 2) * eps
log_px_z, y = log_likelihood_rows(parameters, z_rows)
f_rows = log_px_z + np.sum(log_normal(z_rows, 0, 0.0) - log_normal(z_rows, *tiled), axis=1)


def gradient_by_hand(weights):
    """Gradients by name, with z and the weights held constant."""
    d_mu, d_log_var = ((weights[:, None] * part).reshape(L, M, J).sum(axis=0) for part in score(z_rows, *tiled))
    d_logits = (np.tile(x_rows, (L, 1)) - y) / (L * M)
    return {
        "encoder.mu.W": x_rows.T @ d_mu,
        "encoder.mu.b": d_mu.sum(axis=0),
        "encoder.log_var.W": x_rows.T @ d_log_var,
        "encoder.log_var.b": d_log_var.sum(axis=0),
        "decoder.logits.W": z_rows.T @ d_logits,
        "decoder.logits.b": d_logits.sum(axis=0),
    }


def value_with(parameters, weights):
    """Mean of log p(x|z) plus the sum of weights * log q(z|x), a function of the parameters only."""
    log_q = np.sum(log_normal(z_rows, *(np.tile(rows, (L, 1)) for rows in encode(parameters))), axis=1)
    return log_likelihood_rows(parameters, z_rows)[0].mean() + weights @ log_q


some_weights = rng.normal(size=L * M)
direction = {name: rng.normal(size=np.shape(array)) for name, array in parameters.items()}
moved = lambda t: {name: parameters[name] + t * direction[name] for name in direction}
along = slope(lambda t: value_with(moved(t), some_weights), 0.0)
by_hand = gradient_by_hand(some_weights)
assert abs(sum(np.sum(by_hand[name] * direction[name]) for name in direction) - along) < 1e-11

# %% [markdown]
# The gradient by hand is right: it agrees with the imaginary step along a random direction in all parameters. Now the
# library, with each of its baselines. It keeps the running one in a `State`.

# %%
old = -2.5  # a running baseline of earlier minibatches, in nats
others = (f_rows.reshape(L, M).sum(axis=0) - f_rows.reshape(L, M)) / (L - 1)
new = 0.9 * old + 0.1 * f_rows.mean()
for kind, before, baseline, after in (
    (None, None, 0.0, None),
    ("running", None, 0.0, f_rows.mean()),  # the first minibatch has no baseline yet
    ("running", old, old, new),
    ("leave-one-out", None, others.ravel(), None),
):
    weights = (f_rows - baseline) / (L * M)
    estimator = ScoreFunction(model, L, kind)
    state = None if before is None else estimator.State(np.array([before]))
    samples, later = estimator.sample(parameters, x_rows, np.arange(M), eps, state)
    result = estimator.value_and_grad(parameters, x_rows, samples)
    by_hand = gradient_by_hand(weights)
    numbers = [(samples.z, z_rows), (samples.weights, weights), (samples.elbo, f_rows.mean())]
    numbers += [(result.value, value_with(parameters, weights)), (result.elbo, f_rows.mean())]
    numbers += [(result.gradient[name], by_hand[name]) for name in by_hand]
    for theirs, ours in numbers:
        np.testing.assert_allclose(theirs, ours, rtol=1e-10, atol=1e-12)
    assert later is None if after is None else abs(later.mean[0] - after) < 1e-12
print(f"by hand = npvae for 3 baselines and {model.layout.size} parameters; the bound here is {f_rows.mean():.1f} nats")

noise = ScoreFunction(model, L).draw(np.random.default_rng(1), M)
np.testing.assert_array_equal(noise, np.random.default_rng(1).standard_normal((L * M, J), np.float32))

# %% [markdown]
# The estimator returns a `value`, the mean of $\log p(x|z)$ plus $\sum_r w_r \log q(z_r)$. Its gradient, with $z$ and
# weights held constant, is the estimate. But the value is *not* the bound. The mean of $f$ is: it is called `elbo`.
#
# ## Exercise: the score by another parameter
#
# Some programs let the encoder give $\log \sigma$ in place of $\log \sigma^2$. Write the derivatives of
# $\log \mathcal N(z; \mu, \sigma^2)$ by $\mu$ and by $\log \sigma$.
#
# <details><summary>Hint</summary>
#
# $\log q = -\tfrac12 \log 2 \pi - u - \tfrac12 (z - \mu)^2 e^{-2 u}$ with $u = \log \sigma$. The derivative of
# $e^{-2 u}$ by $u$ is $-2 e^{-2 u}$. Mind that $\mu$ has a minus in front of it.
#
# </details>


# %%
def score_gaussian(z, mu, log_sigma):
    """Derivatives of log N(z; mu, exp(log_sigma)^2) by mu and by log_sigma, as two arrays like z, (M, J)."""
    ...  # your code, about 2 lines


# %% tags=["hide-cell"]
def score_gaussian_solution(z, mu, log_sigma):
    error = (z - mu) / np.exp(log_sigma)
    return error / np.exp(log_sigma), error**2 - 1


def score_with(change):
    """Make a mistake: a function of the two right derivatives and of sigma."""
    return lambda z, mu, log_sigma: change(*score_gaussian_solution(z, mu, log_sigma), np.exp(log_sigma))


score_inputs = some_z[:4], some_mu, some_log_var / 2
check_score_gaussian = Exercise(
    solution=score_gaussian_solution,
    mistakes={
        "the first derivative is that by z, and has the other sign": score_with(lambda d_mu, d_u, sigma: (-d_mu, d_u)),
        "the second derivative is that by log sigma^2 = 2 log sigma: the factor 2 is missing": score_with(
            lambda d_mu, d_u, sigma: (d_mu, d_u / 2)
        ),
        "the second derivative is that by sigma: the factor sigma is missing": score_with(
            lambda d_mu, d_u, sigma: (d_mu, d_u / sigma)
        ),
        "it is the score by log sigma^2, at log_sigma: sigma^2 is exp(2 log_sigma)": lambda z, mu, log_sigma: score(
            z, mu, log_sigma
        ),
    },
    inputs=[score_inputs],
    expected=[  # by an imaginary step
        (
            slope(lambda t: log_normal(score_inputs[0], t, 2 * score_inputs[2]), score_inputs[1]),
            slope(lambda t: log_normal(score_inputs[0], score_inputs[1], 2 * t), score_inputs[2]),
        )
    ],
)

# %%
print(check_score_gaussian(score_gaussian))

# %% [markdown]
# ## Exercise: the best baseline
#
# A constant baseline $b$ leaves the mean right, so the best one makes the mean square of $(f - b) \, g$ smallest, where
# $g$ is the score. Is it the mean of $f$?
#
# <details><summary>Hint</summary>
#
# $\mathbb E[(f - b)^2 g^2]$ is a parabola in $b$. Its derivative is $-2 \, \mathbb E[(f - b) g^2]$. Set it to zero.
#
# </details>


# %%
def best_baseline(f, g):
    """Baseline b, a number, with the smallest mean of ((f - b) g)^2 over samples: f (n,) in nats, g (n,)."""
    ...  # your code, about 1 line


# %% tags=["hide-cell"]
def best_baseline_solution(f, g):
    return np.mean(f * g**2) / np.mean(g**2)


baseline_inputs = [(f(drawn[k : k + 40]), score(drawn[k : k + 40], mu, log_var)[0]) for k in (0, 40)]
check_best_baseline = Exercise(
    solution=best_baseline_solution,
    mistakes={
        "it is the mean of f: samples with a large score should count for more": lambda f, g: np.mean(f),
        "the weights are g, and should be g^2: look at the square of (f - b) g": lambda f, g: (
            np.mean(f * g) / np.mean(g)
        ),
        "g is squared in one of the two means, and should be in both": lambda f, g: np.mean(f * g) / np.mean(g**2),
        "it is the mean of f g, the gradient itself": lambda f, g: np.mean(f * g),
    },
    inputs=baseline_inputs,
    expected=[np.linalg.lstsq(g[:, None], f * g)[0][0] for f, g in baseline_inputs],  # least squares: f g = b g
)

# %%
print(check_best_baseline(best_baseline))

# %%
scores = score(drawn, mu, log_var)[0]
best = best_baseline_solution(f(drawn), scores)
left_over = [np.var((f(drawn) - b) * scores) for b in (0.0, f(drawn).mean(), best)]
print(
    f"baseline 0: variance {left_over[0]:.0f}; mean of f, {f(drawn).mean():.1f} nats: {left_over[1]:.0f}; "
    f"the best, {best:.1f} nats: {left_over[2]:.0f}"
)
assert left_over[2] <= min(left_over[:2])

# %% [markdown]
# ## The answer

# %%
plain, better = (" and ".join(with_error(ratios[k, way], ratio_errors[k, way]) for k in (0, -1)) for way in (0, 1))
print(f"Answer: {plain} times the variance at J = 1 and 100 (growth J^2); with a baseline {better} (growth J)")

# %% [markdown]
# ## What to take with you
#
# The gradient by $\theta$ moves inside the expectation; the gradient by $\phi$ does not, and moved inside it is zero.
# The score function repairs this for any $q$ whose log-density can be differentiated, and needs no derivative of $f$.
# Its price is noise that grows with the size of $f$ and with the number of latents. A baseline removes the first cause.
#
# From now on `gaussian_log_q` and `ScoreFunction` stand for what was written here. Next, tutorial 05: move the noise
# out of $q$, and the gradient moves inside after all.

# %%
plt.show()
