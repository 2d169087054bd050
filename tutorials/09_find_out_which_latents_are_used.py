# %% [markdown]
# # Find out which latents are used
#
# **Question:** What do seventeen latents too many cost?
#
# **You will do:** train models with one to twenty latents on data that has three, take their KL divergence apart latent
# by latent, and draw the pictures that two latents span.
#
# **You will learn:** how to see which latents a model uses, why the others switch themselves off, what they cost, and
# when a model memorizes its data in spite of it.
#
# **You need:** the KL divergence of tutorial 03 and the model of tutorials 07 and 08; means and variances.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import brentq
from scipy.special import expit, logsumexp
from scipy.stats import norm

import npvae
from npvae import plots
from npvae.distributions.divergence import kl_from_standard_normal
from npvae.evaluation import examine
from npvae.exercises import Exercise

# %% [markdown]
# ## Data with three latents, and a truth to compare with
#
# In real data nobody knows the number of latents. So we make data: three standard normal numbers $z$ go through a small
# random network, which gives each of $D = 100$ binary columns its probability. With three latents, the true $p(x)$ is
# an integral in three dimensions, and a sum over a grid computes it. On average over new rows, no model has a higher
# $\log p(x)$: the truth is ahead by a KL divergence, which is never negative.

# %%
rng = np.random.default_rng(0)
W1, W2 = rng.normal(size=(3, 20)), 0.5 * rng.normal(size=(20, 100))


def true_logits(z):
    """The logits (R, D) of the columns, for the true latents z (R, 3)."""
    return np.tanh(z @ W1) @ W2


def make_rows(n):
    """Draw n rows (n, D) of 0 and 1."""
    logits = true_logits(rng.standard_normal((n, 3)))
    return (rng.random(logits.shape) < expit(logits)).astype(float)


def log_truth(x, n_nodes=31):
    """log p(x) (N,) of the process that made the data, in nats: a sum over a grid of n_nodes^3 values of z."""
    axis = np.linspace(-4.5, 4.5, n_nodes)
    z = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    log_weight = norm.logpdf(z).sum(axis=1) + 3 * np.log(axis[1] - axis[0])  # log p(z) dz
    logits = true_logits(z)[:, : x.shape[1]]
    constant = log_weight - np.logaddexp(0, logits).sum(axis=1)
    return np.concatenate([logsumexp(part @ logits.T + constant, axis=1) for part in np.array_split(x, 10)])


X, X_valid, X_test = make_rows(2000), make_rows(500), make_rows(1000)
N, D = X.shape
truth = log_truth(X_test)

# %% [markdown]
# At the other end is the model of independent columns of tutorial 01. It knows nothing but the frequency $p_d$ of each
# column. On the rows that $p_d$ was counted in, its mean log-likelihood is minus the sum of the entropies of columns:
#
# $$\frac{1}{N} \sum_{i=1}^N \log p(x^{(i)}) = \sum_{d=1}^D p_d \log p_d + (1 - p_d) \log (1 - p_d)$$


# %%
def baseline_of_independent_columns(x):
    """The mean log-likelihood of rows x (N, D) of 0 and 1 in the model of independent columns fitted to them: nats."""
    p = x.mean(axis=0)
    return np.sum(p * np.log(p) + (1 - p) * np.log(1 - p))


by_rows = np.sum(np.where(X == 1, np.log(X.mean(axis=0)), np.log(1 - X.mean(axis=0))), axis=1)
baseline = baseline_of_independent_columns(X)
assert abs(baseline - by_rows.mean()) < 1e-10
print(f"independent columns: {baseline:.0f} nats; the truth, on new rows: {truth.mean():.0f} nats")

# %%
# figure: lower-bound-likelihood
fig, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
bins = np.linspace(-85, -25, 61)
ax.hist(by_rows, bins, alpha=0.6, label="independent columns", density=True)
ax.hist(truth, bins, alpha=0.6, label="truth: three latents", density=True)
ax.axvline(by_rows.mean(), color="tab:blue")
ax.axvline(truth.mean(), color="tab:orange")
ax.set(xlabel="log p(x) of a row [nats]", ylabel="density", title="What there is to gain")
_ = ax.legend()

# %% [markdown]
# *See:* to the independent columns all rows are about equally probable. The truth is thirteen nats better on average
# (the lines).
#
# The truth must be checked, too. The probabilities of all rows sum to one, and a finer grid says the same:

# %%
few = np.array([[(i >> d) & 1 for d in range(6)] for i in range(64)])  # every possible row of six columns
assert abs(np.exp(log_truth(few)).sum() - 1) < 1e-4
finer = log_truth(X_test[:100], 41)
assert abs(np.mean(truth[:100] - finer)) < 0.01 and abs(truth[:100] - finer).max() < 0.2

# %% [markdown]
# How many of the thirteen nats does a trained model find, and how does that depend on the number of its latents $J$?
#
# ## More latents than needed
#
# The paper trained networks with one hidden layer of 500 units (lecture notes on this method often write "500 hidden
# layers"; it should be 500 hidden *units*, in one layer) and up to 200 latents, and reports: "superfluous latent
# variables did not result in overfitting". We train five models, with a hidden layer of $40$ units in encoder and
# decoder.
#
# **Before you run it:** the data has three latents. What will the bound on new rows look like against
# $J = 1, 2, 3, 5, 20$: a peak at three? A plateau from three on? Is there a price for each latent too many?


# %%
def train(J, rows, seed=0, passes=40, X_valid=None):
    """Train a model with J latents by the algorithm of tutorial 08."""
    settings = {"batch_size": 50, "learning_rate": 0.05, "backend": "reference", "dtype": "float64"}
    model = npvae.VAE(J, hidden_layer_sizes=(40,), max_epochs=passes, patience=passes, random_state=seed, **settings)
    return model.fit(rows, X_valid=X_valid)


sizes = (1, 2, 3, 5, 20)
models = {J: train(J, X, X_valid=X_valid if J in (3, 20) else None) for J in sizes}
on_training = {J: model.score(X) for J, model in models.items()}
on_test = {J: model.score(X_test) for J, model in models.items()}
for J in sizes:
    print(f"J = {J:2d}: bound {on_training[J]:.1f} nats on training rows, {on_test[J]:.1f} on new rows")
assert on_test[3] - on_test[2] > 2 and on_test[3] - on_test[20] < 0.5 and max(on_test.values()) < truth.mean()

# %%
# figure: lower-bound-likelihood
fig, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
ax.plot(sizes, list(on_training.values()), "o-", label="bound, training rows")
ax.plot(sizes, list(on_test.values()), "s-", label="bound, new rows")
ax.axhline(truth.mean(), color="k", label="truth, log p(x) of new rows")
ax.axhline(baseline, color="k", ls=":", label="independent columns")
ax.axvline(3, color="0.8", zorder=0)
ax.set(xscale="log", xlabel="latents J", ylabel="nats a row", title="A kink at the true number, then a plateau")
ax.set_xticks(sizes, sizes)
_ = ax.legend(loc="center right")

# %% [markdown]
# *See:* each latent up to the third (grey line) gains several nats. From there on the curve is flat, close below the
# truth: it neither gains nor loses.
#
# What is left between the plateau and the truth has two reasons that you know: the bound is below $\log p(x)$ by the KL
# divergence of the encoder from the posterior, and two thousand rows do not fix all weights.
#
# ## Latent by latent
#
# How can seventeen additional inputs of the decoder do nothing? The KL divergence tells us. Both $q(z|x)$ and $p(z)$
# are products over latents, so their logarithms are sums, and the divergence has a term for each latent:
#
# $$D_{KL}(q(z|x) \| p(z)) = \sum_{j=1}^J D_{KL}(q(z_j|x) \| p(z_j))
# = \sum_{j=1}^J \tfrac{1}{2} \left( \mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2 \right)$$
#
# Term $j$, averaged over the data, is what the bound pays for latent $j$. (The formula is often written with the
# opposite signs: $\frac{1}{2} \sum_j (1 + \log \sigma_j^2 - \mu_j^2 - \sigma_j^2)$ is *minus* the divergence.)


# %%
# formula: kl-by-dimension
def kl_terms(mu, log_var):
    """D_KL(q(z_j|x) || p(z_j)) of each row and latent: arrays (N, J) to (N, J), in nats."""
    return 0.5 * (mu**2 + np.exp(log_var) - 1 - log_var)


def codes(model, x):
    """Mean mu and log-variance log_var of q(z|x), (N, J) each."""
    mean, std = model.encode(x)
    return mean, 2 * np.log(std)


mu, log_var = codes(models[20], X)
z = np.linspace(-12, 12, 4001)
for m, v in zip(mu[3, :4], log_var[3, :4]):  # one row, by a sum over a grid
    q = norm.pdf(z, m, np.exp(v / 2))
    assert abs(q.sum() * (z[1] - z[0]) - 1) < 1e-10
    by_grid = np.sum(q * (norm.logpdf(z, m, np.exp(v / 2)) - norm.logpdf(z))) * (z[1] - z[0])
    assert abs(by_grid - kl_terms(m, v)) < 1e-9
assert np.allclose(kl_terms(mu, log_var), kl_from_standard_normal(mu, log_var), rtol=1e-10, atol=1e-14)  # npvae's

# %%
# figure: superfluous-latents
kl = {J: np.sort(kl_terms(*codes(models[J], X)).mean(axis=0))[::-1] for J in (3, 20)}
fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
ax.plot(range(1, 21), kl[20], "s-", label="J = 20")
ax.plot(range(1, 4), kl[3], "o-", ms=8, mfc="none", label="J = 3")
ax.axvline(3.5, color="0.7", zorder=0)
ax.set(xlabel="latents, sorted", ylabel="KL divergence [nats]", yscale="log", title="What is paid for each latent")
ax.set_xticks([1, 3, 5, 10, 15, 20])
ax.legend()
fig.set_label("thumbnail")
print(f"the three latents of J = 3 cost {kl[3].sum():.1f} nats; the first three of J = 20 {kl[20][:3].sum():.1f} nats")
print(f"the other seventeen cost {kl[20][3:].sum():.1f} nats together")
assert kl[20][2] > 50 * kl[20][3] and kl[20][3:].sum() < 0.2 and kl[20].min() > 0

# %% [markdown]
# *See:* three latents of the large model carry about one nat each, as much as those of the small model. Then the curve
# falls off a cliff: the others carry a fiftieth of that or less. (Which three are used depends on the random start.)
#
# Why are the others not used? Suppose the decoder ignores latent $j$. Then $z_j$ appears in one term of the bound only,
# minus its KL divergence. That is largest, zero, where $q(z_j|x)$ is the prior: mean 0 and standard deviation 1, *for
# every* $x$. Anything else would cost something and gain nothing. Conversely, if the encoder answers with the prior,
# then $z_j$ is pure noise to the decoder, which does best to ignore it.
#
# ## What an unused latent looks like

# %%
# figure: superfluous-latents
per_latent = kl_terms(mu, log_var).mean(axis=0)
order = np.argsort(per_latent)[::-1]
used, spare = order[:3], order[3:]
fig, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
for j, colour in zip(used, ("tab:blue", "tab:green", "tab:purple")):
    ax.plot(mu[:400, j], np.exp(log_var[:400, j] / 2), ".", ms=3, color=colour, label=f"latent {j + 1}, used")
ax.plot(mu[:400, spare].T, np.exp(log_var[:400, spare] / 2).T, ".", ms=2, color="tab:orange")
ax.plot([], [], ".", color="tab:orange", label="the seventeen others")
ax.plot(0, 1, "k*", ms=13, label="the prior")
ax.set(xlabel="mean of q(z_j|x)", ylabel="sd of q(z_j|x)", title="A dot for each row and latent", ylim=(0, 1.75))
ax.legend(fontsize="small", ncols=2, loc="upper center")

at_zero, *turned = models[20].inverse_transform(np.vstack([np.zeros(20), np.eye(20)]))  # one latent from 0 to 1
effects = np.abs(turned - at_zero).mean(axis=1)  # how much the probabilities of x change (J,)
width = np.exp(log_var / 2).mean(axis=0)
print(f"mean sd of q(z_j|x): {width[used].mean():.1f} for used latents, {width[spare].mean():.1f} for the others")
print(
    f"a used latent, from 0 to 1, changes the probabilities by {effects[used].min():.2f} to {effects[used].max():.2f}"
)
print(f"another one changes them by {effects[spare].max():.2f} at most")
assert effects[used].min() > 4 * effects[spare].max() and width[used].max() < 0.5 and width[spare].min() > 0.9

# %% [markdown]
# *See:* means of the used latents spread as widely as the prior, and each is known to about a third of the prior's
# width, less well far from the middle. The others crowd around the star: whatever the row, the encoder answers with
# nearly the prior.
#
# Lecture notes on this method often write that unused latents "collapse to $\mathcal N(0, 1)$". It is $q(z_j|x)$ that
# does, for each $x$; and it comes close without arriving: none of the twenty divergences is zero.
#
# ## Counting
#
# So how many latents does the model use? We need a rule. Two are common. The first counts KL divergences above some
# number of nats. The second (Burda, Grosse and Salakhutdinov, 2016) calls a latent *active* if the mean of $q(z_j|x)$
# depends on $x$:
#
# $$\operatorname{Var}_x \left[ \mu_j(x) \right] > 0.01$$
#
# **Before you run it:** the cliff has three latents above it. Will both rules say three?


# %%
def is_active(mu, threshold=0.01):
    """Whether each latent is active (J,), from the means (N, J) of q(z|x)."""
    return np.mean((mu - mu.mean(axis=0)) ** 2, axis=0) > threshold


counts = {f"variance of the mean above {least}": is_active(mu, least).sum() for least in (0.01, 0.1)}
counts |= {f"KL divergence above {least}": np.sum(per_latent > least) for least in (0.01, 0.1)}
for rule, count in counts.items():
    print(f"{rule}: {count} of 20")
assert counts["KL divergence above 0.1"] == counts["variance of the mean above 0.1"] == 3
assert counts["variance of the mean above 0.01"] > 3  # the usual threshold counts more than there are

# %% [markdown]
# The usual threshold counts more than three. The reason: where $\sigma_j$ is about 1, only $\mu_j^2 / 2$ is left of the
# divergence, and its mean is about half the variance $v$ of $\mu_j$. At $v = 0.01$ that is a two-hundredth of a nat,
# far down the cliff. So report a number of active latents with its threshold, or better: show the sorted divergences.
#
# npvae measures all of this after each fit, and keeps it as `health_`. The bound in it is made with one draw of $z$ for
# each row; ours, with twenty, agrees within the standard error.

# %%
health, fitted = models[20].health_, models[20].fitted_
assert np.allclose(health.kl, per_latent, rtol=1e-9, atol=1e-12)
assert health.active == tuple(is_active(mu).tolist())
assert abs(health.baseline - baseline) < 1e-10 and health.at_floor == 0  # the last is of tutorial 10
assert examine(fitted, fitted.data(X), models[20].history_) == health

noise = np.random.default_rng(1).standard_normal((20, *mu.shape))
y = np.array([models[20].inverse_transform(z) for z in mu + np.exp(log_var / 2) * noise])  # (L, N, D)
bounds = np.sum(np.where(X == 1, np.log(y), np.log1p(-y)), axis=2) - kl_terms(mu, log_var).sum(axis=1)
assert abs(health.elbo - bounds.mean()) < 4 * bounds.std(axis=0).mean() / np.sqrt(N)
print(health)

# %% [markdown]
# ## What the spare latents cost
#
# The plateau says: next to nothing. But that was one training, and only its end. In the beginning each spare latent is
# noise of full strength in the decoder, which has to learn to ignore it.
#
# **Before you run it:** how many nats are seventeen spare latents behind after six to ten passes over the data, and
# after forty? We train each model with three random starts.

# %%
seeds = (0, 1, 2)
pairs = [(models[3], models[20])] + [[train(J, X, seed, X_valid=X_valid) for J in (3, 20)] for seed in seeds[1:]]
curves = np.array([[[epoch.elbo_valid for epoch in model.history_] for model in pair] for pair in pairs])
cost = curves[:, 0] - curves[:, 1]  # (seed, pass): how far twenty latents are behind three, on validation rows
early = cost[:, 5:10].mean(axis=1)
final = np.array([three.score(X_test) - twenty.score(X_test) for three, twenty in pairs])
by_row = np.mean([three.score_samples(X_test) - twenty.score_samples(X_test) for three, twenty in pairs], axis=0)
row_error = by_row.std() / np.sqrt(len(by_row))
print(f"in passes six to ten, on validation rows: {early.min():.1f} to {early.max():.1f} nats behind (three starts)")
print(f"after forty passes, on new rows: {final.min():.1f} to {final.max():.1f} nats over three starts")
print(f"mean of the three: less than 0.2 nats, with a standard error over rows of {row_error:.2f}")
assert early.min() > 0.3 and abs(final.mean()) < 0.2 and row_error < 0.1

# %%
# figure: superfluous-latents
fig, ax = plt.subplots(figsize=(6.5, 2.9), layout="constrained")
for seed, values in zip(seeds, cost):
    ax.plot(np.arange(4, 41), values[3:], label=f"start {seed}")
ax.axhline(0, color="k", lw=1, label="no cost")
ax.set(
    xscale="log", xlabel="passes over the data", ylabel="J = 3 less J = 20 [nats]", title="The cost of spare latents"
)
ax.set_xticks([4, 6, 10, 20, 40], [4, 6, 10, 20, 40])
ax.set_xticks([], minor=True)
_ = ax.legend()

# %% [markdown]
# *See:* the price is paid in training time. After five to ten passes the large model is behind, and then it catches up.
# (The first three passes are left out: they depend on the settings of Adagrad more than on the latents.)
#
# So the claim holds here, if the training is long enough. It was also claimed for a reason that we look at now.
#
# ## "The model does not memorize"
#
# Lecture notes on this method often write that because the bound regularizes itself, "the model does not memorize". The
# KL divergence does hold back the *latents*. It does not hold back the weights of the networks, and so far we had
# plenty of rows.
#
# **Before you run it:** take the same two models, but only $100$ rows, and $300$ passes over them. How far will
# training rows be above new ones? And will seventeen spare latents still cost nothing?

# %%
small = X[:100]
gaps = {}
for J in (3, 20):
    trained = [train(J, small, seed, passes=300) for seed in seeds]
    gaps[J] = np.array([(model.score(small), model.score(X_test)) for model in trained])  # (seed, 2)
truth_small = log_truth(small).mean()
for J, scores in gaps.items():
    training, new = scores.mean(axis=0)
    print(f"100 rows, J = {J:2d}: training {training:.0f} nats, new rows {new:.0f}", end=" ")
    print(f"(range over three starts {np.ptp(scores, axis=0).max():.1f})")
behind = gaps[3][:, 1] - gaps[20][:, 1]
print(f"the truth has {truth_small:.0f} nats on the same training rows")
print(f"with 100 rows, spare latents cost {behind.min():.1f} to {behind.max():.1f} nats on new rows")
assert all((scores[:, 0] > truth_small + 1).all() for scores in gaps.values())  # above the truth: it is memorized
assert behind.min() > 0.3

# %%
# figure: superfluous-latents
fig, ax = plt.subplots(figsize=(6.5, 2.9), layout="constrained")
rows = [("2000 rows, J = 3", on_training[3], on_test[3]), ("2000 rows, J = 20", on_training[20], on_test[20])]
rows += [(f"100 rows, J = {J}", *scores.mean(axis=0)) for J, scores in gaps.items()]
for place, (_, training, new) in enumerate(rows[::-1]):
    ax.plot([training, new], [place, place], color="0.7", lw=3, zorder=0)
    ax.plot(training, place, "o", color="tab:blue", label="training rows" if place == 0 else None)
    ax.plot(new, place, "s", color="tab:orange", label="new rows" if place == 0 else None)
ax.axvline(truth.mean(), color="k", lw=1, label="truth, new rows")
ax.set_yticks(range(4), [name for name, *_ in rows[::-1]])
ax.set(xlabel="bound [nats a row]", title="Few rows are memorized")
_ = ax.legend(fontsize="small", loc="upper left")

# %% [markdown]
# *See:* with two thousand rows both symbols sit near the truth. With a hundred, the model claims far more about its
# training rows than the true process could know, and is far below on new rows.
#
# It memorizes. And spare latents now cost something: they help it to memorize. What is true is the careful sentence:
# with enough rows, and enough steps, superfluous latents do not add to overfitting. The paper's Figure 3, left side, is
# for a thousand training pictures: it shows a wide gap between training and test.
#
# ## Exercise: active units
#
# Somebody has drawn $z$ from $q(z|x)$ for each row, and calls a latent active if the variance of $z_j$ exceeds the
# threshold. By that rule all latents of every model are active. Why? Write the right one.


# %%
def active_units(mean, std, threshold):
    """Whether each latent is active: arrays (N, J) to (J,), True or False; the variance is np.var."""
    ...  # your code, about two lines


# %% [markdown]
# <details><summary>Hint</summary>
#
# The variance of $z_j$ over all rows is the variance of $\mu_j$ plus the mean of $\sigma_j^2$. What is it for a latent
# that is switched off? Only one of the two parts tells whether the latent depends on $x$.
#
# </details>


# %% tags=["hide-cell"]
def active_units_solution(mean, std, threshold):
    return 1 * (mean.var(axis=0) > threshold)


mean_of_units = np.array([[0.5, 0.09, 0.30, 0.02], [-0.7, -0.12, 0.31, -0.01], [0.1, 0.08, 0.29, 0.00]])
std_of_units = np.array([[0.5, 0.9, 0.2, 1.0], [0.4, 0.8, 0.2, 1.0], [0.6, 0.9, 0.2, 1.0]])
check_active_units = Exercise(
    solution=active_units_solution,
    mistakes={
        "it is the variance of z, not of its mean: noise of q(z|x) counts as use": lambda m, s, t: (
            1 * (m.var(axis=0) + np.mean(s**2, axis=0) > t)
        ),
        "it is the mean square, not the variance: a mean that is the same for all rows says nothing": lambda m, s, t: (
            1 * (np.mean(m**2, axis=0) > t)
        ),
        "it compares the standard deviation with a threshold for the variance": lambda m, s, t: 1 * (m.std(axis=0) > t),
    },
    inputs=[(mean_of_units, std_of_units, t) for t in (0.01, 0.005)],
    expected=[np.array([1, 0, 0, 0]), np.array([1, 1, 0, 0])],  # variances 0.249, 0.0086, 0.00007, 0.00016
)

# %%
print(check_active_units(active_units))

# %% [markdown]
# ## Exercise: a map of the latent space
#
# With two latents one can draw everything that a model knows: decode a grid of codes. Which grid? The prior puts as
# much of its mass between 0 and 0.25 as between 1 and 1.55. A grid of equal steps in $z$ spends many pictures on codes
# that the prior hardly ever draws. So take equal steps in *probability*: the middles of `side` equal parts of $(0, 1)$,
# sent through the inverse of the normal CDF. Each picture then stands for the same share of the prior, as in the
# paper's Figure 4.
#
# The first latent (column 0) grows from left to right, the second from bottom to top. The pictures are in the order in
# which one reads: from the top left, line by line.

# %%
print(
    f"mass of the prior from 0 to 0.25: {norm.cdf(0.25) - 0.5:.2f}, from 1 to 1.55: {norm.cdf(1.55) - norm.cdf(1):.2f}"
)


def manifold_codes(side):
    """The codes (side * side, 2) of the pictures of the map."""
    ...  # your code, about four lines


# %% [markdown]
# <details><summary>Hint</summary>
#
# `(np.arange(side) + 0.5) / side` are the middles; `scipy.stats.norm.ppf` is the inverse CDF. `np.meshgrid` makes the
# grid; reverse one of its axes.
#
# </details>


# %% tags=["hide-cell"]
def manifold_codes_solution(side, values=None):
    values = norm.ppf((np.arange(side) + 0.5) / side) if values is None else values
    across, up = np.meshgrid(values, values[::-1])
    return np.column_stack([across.ravel(), up.ravel()])


def manifold_codes_slowly(side):
    """The same picture by picture, with a search for the zero of CDF less share."""
    values = [brentq(lambda z, i=i: norm.cdf(z) - (i + 0.5) / side, -9, 9, xtol=1e-13) for i in range(side)]
    return np.array([[values[column], values[side - 1 - line]] for line in range(side) for column in range(side)])


check_manifold_codes = Exercise(
    solution=manifold_codes_solution,
    mistakes={
        "a linear grid: equal steps in z, not in probability": lambda side: manifold_codes_solution(
            side, np.linspace(-1, 1, side) * norm.ppf(1 - 0.5 / side)
        ),
        "the ends 0 and 1 of the probabilities have infinite codes; take the middles": lambda side: (
            manifold_codes_solution(side, norm.ppf(np.linspace(0, 1, side)))
        ),
        "the second latent grows downwards": lambda side: manifold_codes_solution(side) * [1, -1],
        "the two latents are exchanged": lambda side: manifold_codes_solution(side)[:, ::-1],
    },
    inputs=[(3,), (4,)],
    expected=[manifold_codes_slowly(3), manifold_codes_slowly(4)],
)

# %%
print(check_manifold_codes(manifold_codes))

# %% [markdown]
# Now the map itself, of the digits of tutorial 01. `npvae.plots.manifold` draws it; by hand it is the same. Of a model
# with more latents it draws the two whose means vary most, and sets the others to zero.

# %%
# figure: superfluous-latents
digits = npvae.datasets.make_digits(3000, random_state=0)[0] > 127
two = npvae.VAE(2, hidden_layer_sizes=(100,), batch_size=20, learning_rate=0.05, max_epochs=20).fit(digits)
_, ax = plt.subplots(figsize=(6.5, 6.5), layout="constrained")
elsewhere = Figure().add_subplot()
for model, x, shape, side, where in ((two, digits, (28, 28), 15, ax), (models[20], X, (10, 10), 3, elsewhere)):
    plots.manifold(model, x, shape, side=side, ax=where)
    means = model.encode(x)[0]
    z = np.zeros((side**2, means.shape[1]))
    z[:, np.sort(np.argsort(means.var(axis=0))[-2:])] = manifold_codes_solution(side)
    by_hand = plots.image_grid(model.inverse_transform(z), shape, columns=side, fill=np.nan)
    drawn = where.get_images()[0].get_array().filled(np.nan)
    assert np.allclose(drawn, by_hand, rtol=0, atol=1e-5, equal_nan=True)  # float32

# %% [markdown]
# *See:* digits pass into each other without a break: neighbours in the map are neighbours in shape.
#
# ## The answer

# %%
print(
    f"Answer: less than 0.2 nats (three starts) after forty passes over 2000 rows, but about {early.max():.0f} nat "
    f"early in training, and {behind.mean():.0f} nat with only 100 rows"
)

# %% [markdown]
# ## What to take with you
#
# A latent that the decoder does not need costs its KL divergence and gains nothing, so the bound switches it off: look
# at the sorted divergences, not at a count. Spare latents cost training time and, where rows are few, some overfitting;
# the bound does not protect the weights from memorizing. From now on `model.health_` (`npvae.evaluation.examine`) and
# `plots.manifold` stand for what you wrote; tutorial 10 leaves binary data for grey values.

# %%
plt.show()
