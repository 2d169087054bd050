# %% [markdown]
# # Model grey values and repair pictures
#
# **Question:** How well does a model complete a face of which one half is hidden, and does it know how well?
#
# **You will do:** write the Gaussian decoder with its gradients, train it on grey pictures, see why a pixel that never
# changes breaks it, and compute what is missing or noisy in a picture by Bayes' rule.
#
# **You will learn:** why the variance should be learnt, what "nats" are of a density, and why one pass through encoder
# and decoder is not inference.
#
# **You need:** tutorials 07 to 09; the normal density.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit, logsumexp
from scipy.stats import norm

import npvae
from npvae.backends import formulas, reference
from npvae.conditional import Cells, Columns, Outputs
from npvae.exercises import Exercise

# %% [markdown]
# ## Frames of a face
#
# The paper's second data set consists of the frames of a video of a face, in grey. We make such frames: $28 \times 20$
# pixels, and two hidden numbers; $a$ turns the head and $b$ opens the mouth. Each pixel has noise, and not the same
# one: the hair, in the upper rows, is rougher than the skin.

# %%
rng = np.random.default_rng(0)
row, column = np.mgrid[:28, :20]  # of each pixel
true_sd = (0.08 + 0.16 * expit(1.5 * (5 - row))).ravel()  # of the noise (D,)


def blob(dx, dy, width, height):
    """A bump of height 1 at (0, 0)."""
    return np.exp(-0.5 * ((dx / width) ** 2 + (dy / height) ** 2))


def face(a, b):
    """Frames (n, D) without noise, for the hidden numbers a, b (n,)."""
    a, b = a[:, None, None], b[:, None, None]
    middle = 9.5 + 1.5 * a
    head = expit(8 * (1 - ((column - 9.5 - 0.5 * a) / 8) ** 2 - ((row - 14) / 12) ** 2))
    eyes = sum(blob(column - middle + side, row - 11, 1.3, 1.0) for side in (-3.5, 3.5))
    mouth = blob(column - middle, row - 20.5, 3.0, 0.7 + 1.2 * expit(1.5 * b))
    return (0.1 + 0.7 * head - 0.5 * eyes - 0.5 * mouth).reshape(len(a), -1)


def make_frames(n):
    """Draw n frames with noise (n, D), and the same without noise."""
    clean = face(*rng.standard_normal((2, n)))
    return clean + true_sd * rng.standard_normal(clean.shape), clean


(X, _), (X_test, clean_test) = make_frames(1500), make_frames(300)
N, D = X.shape


def show(rows, title):
    """Draw rows of frames; ``rows`` maps the name of a row to its frames (n, D). What is NaN is blue."""
    n = min(len(frames) for frames in rows.values())
    grid = np.concatenate([npvae.plots.image_grid(frames[:n], (28, 20), n, np.nan) for frames in rows.values()])
    _, ax = plt.subplots(figsize=(7, len(rows) * 7 / n + 0.4), layout="constrained")
    ax.imshow(grid, cmap=plt.get_cmap("gray").with_extremes(bad="lightsteelblue"), vmin=0, vmax=0.9)
    ax.set_yticks([14 + 28 * i for i in range(len(rows))], list(rows))
    ax.tick_params(length=0)
    ax.set(xticks=[], title=title)


# %%
# figure: gaussian-mlp
show({"frames": X_test[:8], "without\nnoise": clean_test[:8]}, "Two hidden numbers, and noise")

# %% [markdown]
# *See:* the head turns, the mouth opens; the noise is strong in the hair and weak in the face. (The fourth face is
# turned so far that its mouth reaches the edge.)
#
# ## A density for grey values
#
# The Bernoulli decoder of tutorial 07 gives each pixel a probability of being 1; else it is 0. A grey value of $0.3$ is
# neither. For real numbers the paper takes a normal density, whose mean and variance depend on $z$ through a network:
#
# $$\log p(x|z) = \log \mathcal N(x; \mu, \operatorname{diag}(\sigma^2))
# = -\frac{1}{2} \sum_{d=1}^D \left( \log 2 \pi + \log \sigma_d^2 + \frac{(x_d - \mu_d)^2}{\sigma_d^2} \right)$$
#
# $$\mu = W_4 h + b_4, \qquad \log \sigma^2 = W_5 h + b_5, \qquad h = \tanh(W_3 z + b_3)$$
#
# The letters are the paper's. Here the weights are the decoder's, and $h$ is its hidden layer. The encoder of tutorial
# 07 is the same network with $x$ and $z$ exchanged, and weights of its own. (In code each row is a datapoint, hence
# `h @ W`.)
#
# Lecture notes on this method often write the covariance as $\sigma^2 I$. That would be one variance for all pixels.
# Here $\sigma^2$ is a vector, and the covariance is the diagonal matrix of its elements.


# %%
# formula: gaussian-decoder
def gaussian_log_prob(x, mu, log_var):
    """log p(x|z) (R,) in nats, of rows x (R, D), for the outputs mu, log_var (R, D) of the decoder."""
    return -0.5 * np.sum(np.log(2 * np.pi) + log_var + (x - mu) ** 2 / np.exp(log_var), axis=1)


M, L, few = 3, 2, 4  # datapoints, samples of z for each, columns: small enough to try everything
some = np.random.default_rng(1)
x_few, mu_few, log_var_few = some.normal(size=(M, few)), some.normal(size=(L * M, few)), some.normal(size=(L * M, few))
weights = some.uniform(0.5, 2, L * M)
rows = np.tile(x_few, (L, 1))  # row l * M + i belongs to datapoint i
value = gaussian_log_prob(rows, mu_few, log_var_few)
assert np.allclose(value, norm.logpdf(rows, mu_few, np.exp(log_var_few / 2)).sum(axis=1), rtol=1e-12)  # SciPy's
line = np.linspace(-30, 30, 30001)[:, None]
for m, v in zip(mu_few[0], log_var_few[0]):
    density = np.exp(gaussian_log_prob(line, m, v))
    assert abs(density.sum() * (line[1, 0] - line[0, 0]) - 1) < 1e-10  # it integrates to one

# %% [markdown]
# ## Exercise: its gradients
#
# To train the decoder, the gradients of the density with respect to the two outputs of the network are needed: those of
# $\sum_r w_r \log p(x_r|z_r)$ with weights $w_r$ for the rows.


# %%
def gaussian_backward(x, mu, log_var, weights):
    """The gradients of sum(weights * log p(x|z)) with respect to mu and log_var, (R, D) each; weights (R,)."""
    ...  # your code, about three lines


# %% [markdown]
# <details><summary>Hint</summary>
#
# Write $v$ for $\log \sigma^2$. The terms of one pixel are $-\frac{1}{2} v - \frac{1}{2} (x - \mu)^2 e^{-v}$. The
# derivative of $e^{-v}$ is $-e^{-v}$.
#
# </details>


# %% tags=["hide-cell"]
def gaussian_backward_solution(x, mu, log_var, weights):
    error, precision = x - mu, np.exp(-log_var)
    return weights[:, None] * error * precision, weights[:, None] * 0.5 * (error**2 * precision - 1)


def by_differences(x, mu, log_var, weights, h=1e-5):
    """The same by central differences of SciPy's density."""

    def slope(term):
        return weights[:, None] * (term(h) - term(-h)) / (2 * h)

    by_mu = slope(lambda step: norm.logpdf(x, mu + step, np.exp(log_var / 2)))
    return by_mu, slope(lambda step: norm.logpdf(x, mu, np.exp((log_var + step) / 2)))


def backward_with(power=1.0, half=0.5, sign=1.0, weighted=True, square=1.0):
    """An attempt with something wrong."""

    def attempt(x, mu, log_var, weights):
        w, precision = weights[:, None] if weighted else 1.0, np.exp(-power * log_var)
        return sign * w * (x - mu) * precision, w * half * ((x - mu) ** 2 * precision**square - 1)

    return attempt


check_gaussian_backward = Exercise(
    solution=gaussian_backward_solution,
    mistakes={
        "it divides by sigma, where the formula has the variance": backward_with(power=0.5),
        "the gradient by log_var lacks the factor 1/2": backward_with(half=1.0),
        "the gradient by mu has the wrong sign: moving mu towards x raises the density": backward_with(sign=-1.0),
        "the weights of the rows are missing": backward_with(weighted=False),
        "by log_var: the square of the error is divided by the variance once": backward_with(square=2.0),
        "it divides by log_var, where the formula has the variance": lambda x, mu, log_var, weights: (
            weights[:, None] * (x - mu) / log_var,
            weights[:, None] * 0.5 * ((x - mu) ** 2 / log_var - 1),
        ),
    },
    inputs=[(rows, mu_few, log_var_few, weights)],
    expected=[by_differences(rows, mu_few, log_var_few, weights)],
    rtol=1e-7,  # of the differences
)

# %%
print(check_gaussian_backward(gaussian_backward))

# %% [markdown]
# Two more things are needed later, and both follow from the sum over pixels. If some pixels were *not seen*, their
# terms are left out, and their gradients are zero. And a table may have binary columns *and* real ones: their
# log-densities add up (likelihood `"mixed"` in npvae, with the binary columns first). The library agrees, in values and
# gradients:

# %%
by_mu, by_log_var = gaussian_backward_solution(rows, mu_few, log_var_few, weights)
holes = np.where(some.random((M, few)) < 0.3, np.nan, x_few)
seen = np.tile(~np.isnan(holes), (L, 1))
terms = np.where(seen, norm.logpdf(rows, mu_few, np.exp(log_var_few / 2)), 0)
binary, logits = some.integers(0, 2, (M, 2)).astype(float), some.normal(size=(L * M, 2))
ink, y = np.tile(binary, (L, 1)), expit(logits)
of_binary = np.log(np.where(ink == 1, y, 1 - y)).sum(axis=1)
assert 0 < np.isnan(holes).sum() < M * few and 0 < binary.sum() < 2 * M


def agree(of_library, *by_hand, atol=1e-12):
    """Assert that arrays of the library have the values computed by hand; atol is for those by differences."""
    for found, expected in zip(of_library, by_hand, strict=True):
        assert np.allclose(found.reshape(expected.shape), expected, rtol=1e-12, atol=atol)


agree(reference.gaussian_log_prob(x_few, mu_few, log_var_few, weights), value, by_mu, by_log_var)
of_seen = terms.sum(axis=1), np.where(seen, by_mu, 0), np.where(seen, by_log_var, 0)
agree(reference.gaussian_log_prob(holes, mu_few, log_var_few, weights, missing=True), *of_seen)
of_both = of_binary + value, weights[:, None] * (ink - y), by_mu, by_log_var
agree(reference.mixed_log_prob(np.hstack([binary, x_few]), logits, mu_few, log_var_few, weights), *of_both)

# %% [markdown]
# ## A pixel that never changes
#
# A density is not a probability: it may be larger than 1, and its logarithm is then positive. There is no highest value
# that it could have. Suppose that one pixel has the same value in each frame, and the decoder has found it: $\mu = x$.
# Then only $-\log \sigma - \frac{1}{2} \log 2 \pi$ is left.
#
# **Before you run it:** what does the decoder gain if it makes $\sigma$ ten times smaller? And again?

# %%
pixel, sds = np.full((1, 1), 0.25), np.array([1e-1, 1e-2, 1e-3, 1e-6])
of_constant = [gaussian_log_prob(pixel, pixel, np.full((1, 1), 2 * np.log(sd)))[0] for sd in sds]
for sd, nats in zip(sds, of_constant):
    print(f"sd {sd:g}: {nats:.1f} nats a frame")
print(f"each factor of ten gains {np.log(10):.1f} nats, exactly, and without end")
assert np.allclose(np.diff(of_constant), -np.diff(np.log(sds)), rtol=1e-12)

# %% [markdown]
# Each factor of ten gains 2.3 nats, for nothing. **The bound has no maximum.** One dead pixel of a camera is enough.
# The training would shrink this variance for ever, until numbers overflow, and all other pixels would hardly matter
# beside it.
#
# npvae does two things about it. It looks at the data first, and does not give a constant column to the networks. It
# says so in the report of the fit:

# %%
with_constant = np.column_stack([X[:200, 280:284], np.full(200, 0.25)])
settings = {"learning_rate": 0.05, "backend": "reference", "dtype": "float64"}
told = npvae.VAE(1, hidden_layer_sizes=(4,), max_epochs=2, **settings).fit(with_constant)
print(next(line for line in told.report_ if "constant" in line))
assert told.parameters_["decoder.mu.b"].shape == (4,)  # four columns of the five have outputs

# %% [markdown]
# And it puts a floor below the variance. The smallest useful standard deviation is the rounding error of a pixel of 8
# bits, whose values are $1/255$ apart: a uniform error of that width has the standard deviation $1 / (255 \sqrt{12})$.
# The floor is smooth, so that there is a gradient on both sides:
#
# $$\log \sigma^2 = c + \log \left( 1 + e^{a - c} \right), \qquad c = -2 \log (255 \sqrt{12}), \qquad a = W_5 h + b_5$$

# %%
floor = -2 * np.log(255 * np.sqrt(12))


def soft_floor(a):
    """The log-variance for the output a of the network: nearly a, where a is far above the floor."""
    return floor + np.logaddexp(0, a - floor)


a = np.array([-40.0, -15.1, -13.0, -11.7, -3.3, 0.4])
assert np.allclose(formulas.soft_floor(a), soft_floor(a), rtol=1e-12) and (soft_floor(a) >= floor).all()
slope = (soft_floor(a + 1e-5) - soft_floor(a - 1e-5)) / 2e-5
assert np.allclose(formulas.ACTIVATIONS["soft_floor"].derivative(soft_floor(a)), slope, rtol=0, atol=1e-8)
print(f"the floor: a standard deviation of {np.exp(floor / 2):.4f}")

# %% [markdown]
# ## Train it
#
# `VAE` takes a Gaussian decoder for real numbers. It first *standardizes* each pixel: it subtracts the mean $m_d$ over
# the frames, and divides by the standard deviation $s_d$. A density in other units is another number: the log-density
# of the frame itself is that of the standardized one minus $\sum_d \log s_d$.

# %%
model = npvae.VAE(2, hidden_layer_sizes=(60,), batch_size=50, max_epochs=30, **settings).fit(X)
shift, scale = X.mean(axis=0), X.std(axis=0)
parameters = model.parameters_


def decode(z):
    """The mean and the standard deviation of p(x|z), in grey values: (R, D) each, for z (R, J)."""
    h = np.tanh(z @ parameters["decoder.hidden1.W"] + parameters["decoder.hidden1.b"])
    mu = h @ parameters["decoder.mu.W"] + parameters["decoder.mu.b"]
    log_var = soft_floor(h @ parameters["decoder.log_var.W"] + parameters["decoder.log_var.b"])
    return shift + scale * mu, scale * np.exp(log_var / 2)


z = np.random.default_rng(2).standard_normal((5, 2))
assert np.allclose(model.inverse_transform(z), decode(z)[0], rtol=0, atol=1e-10)  # npvae's E[x|z]
code, code_sd = model.encode(X_test)
mu, sd = decode(code)
assert np.allclose(model.reconstruct(X_test), mu, rtol=0, atol=1e-10)

# %% [markdown]
# The bound by hand, with twenty draws of $z$, and npvae's score, which makes one draw a frame, agree within the
# standard error of that draw. The baseline of independent pixels is a normal density for each pixel.

# %%
kl = 0.5 * np.sum(code**2 + code_sd**2 - 1 - 2 * np.log(code_sd), axis=1)
outputs = [decode(code + code_sd * eps) for eps in np.random.default_rng(0).standard_normal((20, *code.shape))]
by_hand = np.array([gaussian_log_prob(X_test, m, 2 * np.log(s)) for m, s in outputs]) - kl  # in nats of the grey values
error = np.sqrt(np.mean(by_hand.var(axis=0)) / len(X_test))
baseline = -0.5 * np.sum(np.log(2 * np.pi * X.var(axis=0)) + 1)
assert abs(model.score(X_test) - by_hand.mean()) < 4 * error
assert abs(model.health_.baseline - baseline) < 1e-8 and model.health_.at_floor == 0
gain = by_hand.mean() - norm.logpdf(X_test, shift, scale).sum(axis=1).mean()
print(f"bound of new frames: {gain:.0f} nats above independent pixels")
print(f"the units alone, the sum of log s_d, make {-np.log(scale).sum():.0f} nats: only differences mean something")
assert gain > 20

# %%
# figure: gaussian-mlp
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.6), width_ratios=(1, 1, 1.3, 1.6), layout="constrained")
for ax, picture, name in zip(axes, (mu[0], sd[0], true_sd), ("mean of p(x|z)", "sd, learnt", "sd, truth")):
    colours, white = ("gray", 0.9) if ax is axes[0] else ("viridis", 0.3)
    drawn = ax.imshow(picture.reshape(28, 20), cmap=colours, vmin=0, vmax=white)
    ax.set(title=name, xticks=[], yticks=[])
fig.colorbar(drawn, ax=axes[2], label="grey values")
residuals, line = ((X_test - mu) / sd).ravel(), np.linspace(-4, 4, 201)
axes[3].hist(residuals, line[::5], density=True, alpha=0.6)
axes[3].plot(line, norm.pdf(line), "k", label="N(0, 1)")
axes[3].set(title="what is left of x", xlabel="(x - mean) / sd", ylabel="density", ylim=(0, 0.52))
axes[3].legend(fontsize="small")
ratio = sd.mean(axis=0) / true_sd
print(f"sd of (x - mean) / sd on new frames: {residuals.std():.2f}; 1 would be perfect")
print(f"learnt sd over true sd: {np.median(ratio):.1f} in the median over pixels, {ratio.max():.1f} at most")
assert abs(residuals.std() - 1) < 0.1 and 0.9 < np.median(ratio) < 1.1

# %% [markdown]
# *See:* the decoder has found out which pixels are rough, without being told: the bright band is the hair. Divided by
# the learnt standard deviations, what is left of new frames looks like standard normal noise.
#
# Where the learnt value is larger than the true one, the mean is not quite right: at the edges of mouth and eyes. The
# variance has to pay for the errors of the mean.
#
# ## Learn the variance, or fix it?
#
# Many programs train with the squared error $(x - \mu)^2$. That is this density with one fixed variance for all pixels,
# and it is rarely said which.
#
# **Before you run it:** keep the means that the model has learnt. How many nats a frame are lost with one variance for
# all pixels, the best one there is? How many with $\sigma = 1$ grey value, to which the squared error amounts?

# %%
one = np.sqrt(np.mean((X - model.reconstruct(X)) ** 2))  # the best single standard deviation on training frames
learnt = gaussian_log_prob(X_test, mu, 2 * np.log(sd))
lost = {
    "one for all": learnt - gaussian_log_prob(X_test, mu, np.full_like(mu, 2 * np.log(one))),
    "sd = 1": learnt - gaussian_log_prob(X_test, mu, np.zeros_like(mu)),
}
for name, nats in lost.items():
    print(f"variance {name}: {nats.mean():.0f} nats a frame lost (standard error {nats.std() / len(nats) ** 0.5:.0f})")
assert lost["one for all"].mean() > 50 and lost["sd = 1"].mean() > 500

# %% [markdown]
# A lot, for the same means. And it is not only a matter of bookkeeping: the variance weighs the reconstruction against
# the KL divergence, as we shall see below. So if you use the squared error, say which variance you mean.
#
# (The paper kept the means of its Frey Face decoder between 0 and 1 by a sigmoid. npvae's means are free.)
#
# ## Half a face
#
# Now hide the right half of a face. What was it?
#
# What is often done is *one pass*: put something into the hole, the mean frame for example, encode, decode, and read
# off the hole. But the encoder was trained on whole faces, and takes the mean half-face for evidence, too: it says that
# the head is not turned.
#
# Bayes' rule says: use only what is there. Write $x_s$ for the pixels seen and $x_m$ for those missing.
# They are independent given $z$, so
#
# $$p(z|x_s) = \frac{p(z) \, p(x_s|z)}{\int p(z') \, p(x_s|z') \, dz'}, \qquad
# \mathbb E[x_m | x_s] = \int \mathbb E[x_m | z] \, p(z|x_s) \, dz$$
#
# and the variance has two parts, the noise of the pixels and the doubt about $z$:
#
# $$\operatorname{Var}[x_m | x_s] = \mathbb E [ \sigma_m^2(z) | x_s ] + \operatorname{Var} [ \mu_m(z) | x_s ]$$
#
# We have two latents: both integrals are sums over a grid of codes. No encoder is needed.

# %%
axis = np.linspace(-6.5, 6.5, 141)
codes = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)  # (G, 2)
log_prior = norm.logpdf(codes).sum(axis=1) + 2 * np.log(axis[1] - axis[0])  # log p(z) dz
mu_grid, sd_grid = decode(codes)
assert abs(np.exp(log_prior).sum() - 1) < 1e-6


def posterior_weights(x, mean, sd):
    """p(z|seen) dz of each code (M, G), for frames x (M, D) with NaN where nothing was seen; mean, sd (G, D)."""
    there, filled, precision = ~np.isnan(x), np.nan_to_num(x), 1 / sd**2
    squares = filled**2 @ precision.T - 2 * filled @ (mean * precision).T + there @ (mean**2 * precision).T
    log_weight = log_prior - 0.5 * (there @ np.log(2 * np.pi * sd**2).T + squares)
    return np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))


def complete(x):
    """E[x|seen] and the sd of x given what was seen, (M, D) each; where x was seen, it is as it is."""
    weight = posterior_weights(x, mu_grid, sd_grid)
    mean, within = weight @ mu_grid, weight @ sd_grid**2
    between = weight @ mu_grid**2 - mean**2
    return np.where(np.isnan(x), mean, x), np.where(np.isnan(x), np.sqrt(within + between), 0)


hidden = np.arange(D) % 20 >= 10  # the right half
half = np.where(hidden, np.nan, X_test)
weight = posterior_weights(half[:2], mu_grid, sd_grid)
assert np.allclose(weight.sum(axis=1), 1)
for row, of_row in zip(half[:2], weight):  # the same code by code, with SciPy's density
    best = np.argsort(of_row)[-5:]
    log_joint = [norm.logpdf(row[~hidden], mu_grid[g, ~hidden], sd_grid[g, ~hidden]).sum() + log_prior[g] for g in best]
    assert np.allclose(np.diff(log_joint), np.diff(np.log(of_row[best])), rtol=0, atol=1e-8)
filled, filled_sd = complete(half)

# %% [markdown]
# `VAE.impute` computes the same for any number of latents: it samples $p(z|x_s)$ by Markov chains (tutorial 11) in
# place of a grid. Its answers have the error of so many draws.

# %%
sampled, sampled_sd = model.impute(half[:10], return_std=True, n_samples=1024)
assert np.array_equal(sampled[:, ~hidden], X_test[:10, ~hidden]) and (sampled_sd[:, ~hidden] == 0).all()
off, spread = (sampled - filled[:10])[:, hidden], filled_sd[:10][:, hidden]
print(f"impute against the grid: means differ by less than {0.01} grey values, standard deviations by less than 5 %")
assert np.abs(off).max() < 0.01 and np.abs(sampled_sd[:, hidden] / spread - 1).max() < 0.05

# %% [markdown]
# **Before you run it:** we compare with the frames *without* noise, in the hidden half. Order these from the worst to
# the best: the mean frame; one pass; $\mathbb E[x_m|x_s]$; and encoding and decoding the *whole* frame, with nothing
# hidden.

# %%
one_pass = np.where(hidden, model.reconstruct(np.where(hidden, shift, X_test)), X_test)
from_all = posterior_weights(X_test, mu_grid, sd_grid) @ mu_grid  # E[E[x|z] | x], nothing hidden
guesses = {
    "the mean frame": np.where(hidden, shift, X_test),
    "one pass": one_pass,
    "Bayes' rule, half hidden": filled,
    "encode and decode, nothing hidden": mu,
    "Bayes' rule, nothing hidden": from_all,
}
rms = {name: np.sqrt(np.mean((guess - clean_test)[:, hidden] ** 2, axis=1)) for name, guess in guesses.items()}
for name, errors in rms.items():
    print(f"{name}: rms error {errors.mean():.3f} (standard error {errors.std() / np.sqrt(len(errors)):.4f})")


def better(first, second):
    """By how many standard errors the first guess has a smaller error than the second, frame by frame."""
    difference = rms[second] - rms[first]
    return difference.mean() / (difference.std() / np.sqrt(len(difference)))


assert better("one pass", "the mean frame") > 5 and better("Bayes' rule, half hidden", "one pass") > 5
assert better("Bayes' rule, half hidden", "encode and decode, nothing hidden") > 3  # the surprise
assert better("Bayes' rule, nothing hidden", "Bayes' rule, half hidden") > 3

# %% [markdown]
# Did you expect this? *Bayes' rule with half of the frame hidden is nearer to the truth than encoder and decoder are
# with the whole frame.* The last line shows that it is not the decoder's fault. One pass decodes a single code, the
# mean of $q(z|x)$, and $q$ is only an approximation of the posterior. Bayes' rule takes the posterior itself, which
# takes longer.
#
# Do the standard deviations tell the truth? If they do, about 95 % of the hidden pixels lie within two of them.

# %%
within = np.mean(np.abs((X_test - filled)[:, hidden]) < 2 * filled_sd[:, hidden], axis=1)  # of each frame
coverage, coverage_error = 100 * within.mean(), 100 * within.std() / np.sqrt(len(within))
normal = 100 * (norm.cdf(2) - norm.cdf(-2))
print(f"within two standard deviations: {coverage:.0f} % of hidden pixels (standard error {coverage_error:.1f})")
print(f"of a normal distribution: {normal:.0f} %")
assert abs(coverage - normal) < 2

# %%
# figure: repair
turned = np.argsort(rms["one pass"])[-25:-5:4]  # five frames where one pass is bad
show(
    {
        "seen": half[turned],
        "one pass": one_pass[turned],
        "Bayes'\nrule": filled[turned],
        "without\nnoise": clean_test[turned],
    },
    "The right half was hidden",
)
plt.gcf().set_label("thumbnail")

# %% [markdown]
# *See:* where one pass is bad, the mouth and the eye of its right half do not fit the left half. Bayes' rule continues
# them.
#
# ## Noise is half a hole
#
# In a noisy frame every pixel was seen, but none as it is. Let a pixel be $v_d = x_d + t \epsilon$ with noise of known
# standard deviation $t$. Given $z$, both $x_d$ and the noise are normal, so $v_d$ is normal, and $x_d$ is, given $v_d$:
#
# $$p(v_d|z) = \mathcal N(v_d; \mu_d, \sigma_d^2 + t^2), \qquad
# \mathbb E[x_d | z, v_d] = \mu_d + g_d (v_d - \mu_d), \qquad g_d = \frac{\sigma_d^2}{\sigma_d^2 + t^2}$$
#
# and $x_d$ has the variance $g_d t^2$ given $z$ and $v_d$. For $t = 0$ the pixel is as seen; for $t = \infty$ it is a
# hole. The rest of the calculation stays as it was: weigh the codes by $p(z) p(v|z)$, and average.


# %%
def denoise(v, t):
    """E[x|v] of noisy frames v (M, D)."""
    weight = posterior_weights(v, mu_grid, np.sqrt(sd_grid**2 + t**2))
    gain = sd_grid**2 / (sd_grid**2 + t**2)
    return weight @ (mu_grid * (1 - gain)) + v * (weight @ gain)


# the formulas for one pixel: x on a grid
m, s, t, v = 0.3, 0.7, 0.4, 0.9
x_line = np.linspace(-6, 6, 12001)
joint = norm.pdf(x_line, m, s) * norm.pdf(v, x_line, t) * (x_line[1] - x_line[0])
assert abs(joint.sum() - norm.pdf(v, m, np.hypot(s, t))) < 1e-10
gain = s**2 / (s**2 + t**2)
mean_of_pixel = (joint * x_line).sum() / joint.sum()
assert abs(mean_of_pixel - (m + gain * (v - m))) < 1e-10
assert abs((joint * x_line**2).sum() / joint.sum() - mean_of_pixel**2 - gain * t**2) < 1e-10

# %% [markdown]
# npvae has these formulas in a class, `Cells`, for noise that differs from column to column. The library agrees, in
# values, gradients and moments:

# %% tags=["hide-cell"]
t_few = np.array([0.4, 0.9, 0.2, 1.3])
nothing = np.zeros(0)  # no binary columns; shift 0 and scale 1 for the real ones
cells = Cells.with_gaussian_noise(
    Columns(np.arange(few), np.zeros(few), np.ones(few), 0, nothing, nothing), x_few, t_few
)
outputs = Outputs(np.zeros((L, M, 0)), mu_few.reshape(L, M, few), log_var_few.reshape(L, M, few))


def of_noisy(mu, log_var):
    return norm.logpdf(rows, mu, np.sqrt(np.exp(log_var) + t_few**2))


h = 1e-5
by_mu = (of_noisy(mu_few + h, log_var_few) - of_noisy(mu_few - h, log_var_few)) / (2 * h)
by_log_var = (of_noisy(mu_few, log_var_few + h) - of_noisy(mu_few, log_var_few - h)) / (2 * h)
gain = np.exp(log_var_few) / (np.exp(log_var_few) + t_few**2)
found, slopes = cells.log_prob(outputs)
agree([found], of_noisy(mu_few, log_var_few).sum(axis=1))
agree([slopes.mu, slopes.log_var], by_mu, by_log_var, atol=1e-8)
agree(cells.moments(outputs)[:2], mu_few + gain * (rows - mu_few), gain * t_few**2)

# %% [markdown]
# **Before you run it:** noise of $t = 0.3$ is added, several times that of the skin. What we want back is the frame as
# it was, *with* its own roughness: that is $x$. What is the error of one pass, and of Bayes' rule?

# %%
t = 0.3
noisy = X_test + t * np.random.default_rng(5).standard_normal(X_test.shape)
denoised, by_one_pass = denoise(noisy, t), model.reconstruct(noisy)
assert np.abs(model.denoise(noisy[:10], sigma=t, n_samples=1024) - denoised[:10]).max() < 0.02  # npvae's
left = {}
for name, guess in {"noisy": noisy, "one pass": by_one_pass, "Bayes' rule": denoised}.items():
    errors = left[name] = np.sqrt(np.mean((guess - X_test) ** 2, axis=1))
    print(f"{name}: rms error {errors.mean():.2f} (standard error {errors.std() / np.sqrt(len(errors)):.4f})")
difference = left["one pass"] - left["Bayes' rule"]
assert difference.mean() > 5 * difference.std() / np.sqrt(len(difference))
assert left["noisy"].mean() > 2 * left["Bayes' rule"].mean()

# %%
# figure: repair
show({"frame": X_test[:8], "noisy": noisy[:8], "one pass": by_one_pass[:8], "Bayes'\nrule": denoised[:8]}, "Noise")

# %% [markdown]
# *See:* one pass gives smooth faces, Bayes' rule gives the face and some of its roughness: the gain $g_d$ keeps a part
# of each pixel.
#
# ## What a wrong variance does to the latents
#
# Why does the variance matter for more than bookkeeping? Take the decoder with the same means and make its standard
# deviations larger by a factor. A frame then says less about its code: the posterior comes nearer to the prior.
#
# **Before you run it:** how many nats of KL divergence from the prior does $p(z|x)$ have with the learnt $\sigma$, and
# how many with $\sigma = 1$ grey value, as of the squared error?

# %%
information = {}
for name, sd_of_codes in {"learnt": sd_grid, "learnt, times 3": 3 * sd_grid, "1": np.ones_like(sd_grid)}.items():
    weight = posterior_weights(X_test, mu_grid, sd_of_codes)
    nats = information[name] = np.sum(weight * (np.log(np.maximum(weight, 1e-300)) - log_prior), axis=1)
    print(f"sd {name}: {nats.mean():.1f} nats in the code (standard error {nats.std() / np.sqrt(len(nats)):.2f})")
assert information["learnt"].mean() > 3 * information["1"].mean()

# %% [markdown]
# With $\sigma = 1$ the same frame tells next to nothing about its code: the reconstruction has little weight beside the
# KL divergence. A latent that can tell so little may be switched off as in tutorial 09, though the data needs it.
#
# ## Exercise: fill in without a grid
#
# With more than three latents there is no grid. Here is another way that needs no Markov chains. Draw codes $z_l$ from
# the *prior*, decode them all, and weigh each draw by how well it explains what was seen: $w_l \propto p(x_s|z_l)$.
# (The prior is in the draws already, so it is not in the weights.)


# %%
def inpaint(x, mu, sd):
    """Fill in the NaN of x (D,) by their mean, given the others; mu, sd (L, D) are of p(x|z_l), z_l from the prior."""
    ...  # your code, about five lines


# %% [markdown]
# <details><summary>Hint</summary>
#
# Sum the log-densities over the pixels seen, subtract the largest before you take `np.exp`, and divide the weights by
# their sum. What was seen stays as it is.
#
# </details>


# %% tags=["hide-cell"]
def weighted(x, mu, sd, log_weight, keep=True):
    weight = np.exp(log_weight - log_weight.max())
    mean = weight @ mu / weight.sum()
    return np.where(np.isnan(x), mean, x) if keep else mean


def log_densities(x, mu, sd):
    there = ~np.isnan(x)
    return norm.logpdf(x[there], mu[:, there], sd[:, there])


def inpaint_solution(x, mu, sd):
    return weighted(x, mu, sd, log_densities(x, mu, sd).sum(axis=1))


def inpaint_slowly(x, mu, sd):
    """The same in floating-point products of densities: fit for few pixels only."""
    seen = [d for d in range(len(x)) if not np.isnan(x[d])]
    weights = [np.prod([norm.pdf(x[d], m[d], s[d]) for d in seen]) for m, s in zip(mu, sd)]
    return np.array([x[d] if d in seen else weights @ mu[:, d] / sum(weights) for d in range(len(x))])


draws = np.random.default_rng(7)
mu_draws, sd_draws = draws.normal(size=(30, 6)), draws.uniform(0.3, 2, (30, 6))
to_fill = [(np.where(draws.random(6) < 0.4, np.nan, draws.normal(size=6)), mu_draws, sd_draws) for _ in range(3)]
expected = [inpaint_slowly(*arguments) for arguments in to_fill]
# each pixel 400 times, with the sd 20 in place of 1: the same weights, but products of densities underflow
x, mu_of_x, _ = to_fill[0]
to_fill.append((np.tile(x, 400), np.tile(mu_of_x, 400), np.full((30, 2400), 20.0)))
expected.append(np.tile(inpaint_slowly(x, mu_of_x, np.ones((30, 6))), 400))
check_inpaint = Exercise(
    solution=inpaint_solution,
    mistakes={
        "it overwrites what is known: pixels that were seen stay as they are": lambda x, mu, sd: weighted(
            x, mu, sd, log_densities(x, mu, sd).sum(axis=1), keep=False
        ),
        "the mean of log-densities over the pixels seen, where their sum is asked for": lambda x, mu, sd: weighted(
            x, mu, sd, log_densities(x, mu, sd).mean(axis=1)
        ),
        "log sigma is missing from the density: it is not the same for all draws": lambda x, mu, sd: weighted(
            x, mu, sd, np.nansum(-0.5 * ((x - mu) / sd) ** 2, axis=1)
        ),
        "all draws have the same weight: what was seen is not used": lambda x, mu, sd: weighted(
            x, mu, sd, np.zeros(len(mu))
        ),
        "the best draw alone: the doubt between draws is lost": lambda x, mu, sd: np.where(
            np.isnan(x), mu[log_densities(x, mu, sd).sum(axis=1).argmax()], x
        ),
    },
    inputs=to_fill,
    expected=expected,
)

# %%
print(check_inpaint(inpaint))

# %% [markdown]
# How good is it with a real model? With two latents, draws from the prior find the right codes. With twenty they would
# not: tutorial 02 has shown how that ends, and tutorial 11 shows what to do.

# %%
outputs = decode(np.random.default_rng(8).standard_normal((5000, 2)))
by_draws = np.array([inpaint_solution(frame, *outputs) for frame in half[:20]])
off = np.sqrt(np.mean((by_draws - filled[:20]) ** 2))
print(f"draws from the prior against the grid: rms difference {off:.2f}")
assert off < 0.02

# %% [markdown]
# ## The answer

# %%
of_mean, of_bayes = rms["the mean frame"].mean(), rms["Bayes' rule, half hidden"].mean()
print(
    f"Answer: rms error {of_bayes:.2f}, where the mean frame has {of_mean:.2f}; "
    f"within two of its sd lie {coverage:.0f} % of the hidden pixels (normal: {normal:.0f} %)"
)

# %% [markdown]
# ## What to take with you
#
# A Gaussian decoder learns how sure it is of each pixel; its variance needs a floor, and data that varies. What is
# missing or noisy in a picture is found by Bayes' rule through the latents, which beats a pass through the encoder, and
# comes with standard deviations that can be checked. `VAE(likelihood="gaussian")`, `impute` and `denoise` stand for
# what you wrote; tutorial 11 asks how probable the model finds a picture, $\log p(x)$ itself, and samples the
# posterior.

# %%
plt.show()
