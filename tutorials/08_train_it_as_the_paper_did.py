# %% [markdown]
# # Train it as the paper did
#
# **Question:** what matters more in the paper's training, the step size or the random start?
#
# **You will do:** write the whole algorithm: minibatches, Adagrad, the prior on the weights, and the loop. You compare
# it with the library to twelve digits, then vary the settings. Last, you take the noise out, to see what an autoencoder
# lacks.
#
# **You will learn:** what each part of the training is for, and which of the paper's settings matter on small data.
#
# **You need:** the gradient of tutorial 07, and what independent pixels are (tutorial 01).

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy import special, stats

import npvae
from npvae.backends import reference
from npvae.datasets import make_digits
from npvae.estimators import SGVB
from npvae.exercises import Exercise
from npvae.model import Architecture, Model
from npvae.optimizers import Optimizer, UpdateRule
from npvae.parameters import Buffers

# %% [markdown]
# ## One step of the algorithm
#
# Auto-Encoding Variational Bayes (AEVB), the paper's Algorithm 1, repeats four lines. Draw a minibatch of $M$ pictures.
# Draw noise $\epsilon$ for each. Compute the gradient $g$ of the estimated bound $\tilde{\mathcal L}$. Move the
# parameters of decoder and encoder, $\theta$ and $\phi$, along it:
#
# $$g = \nabla_{\theta, \phi} \frac1M \sum_{i=1}^M \tilde{\mathcal L}(\theta, \phi; x^{(i)}, \epsilon^{(i)}), \qquad
# (\theta, \phi) \leftarrow (\theta, \phi) + \eta \, g$$
#
# The paper takes $M = 100$ pictures and $L = 1$ sample for each. Encoder and decoder are trained *together*, by the
# same step. The step size $\eta$ is the same for all parameters here; the paper refines this, and so shall we.
#
# The gradient is the library's now: tutorial 07 wrote it by hand. All parameters are in one vector, the weights first
# and then the biases. Our pictures are digits of 14 x 14 pixels.

# %%
X, X_test = np.split(make_digits(1500)[0].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196) / 255, [1000])
N, D, H, J, M = *X.shape, 50, 5, 100  # pictures, pixels, hidden units, latents, pictures in a minibatch
model = Model(Architecture(D, J, (H,)), reference, "float64")
estimator = SGVB(model)  # estimator B, with one sample for each picture


# %%
# formula: aevb
def aevb_step(parameters, x, eps, eta):
    """One step of gradient ascent, in place. Returns the estimate of the bound before it, in nats."""
    result = estimator.value_and_grad(parameters, x, eps)
    parameters.vector += eta * result.gradient.vector
    return result.value


rng = np.random.default_rng(8)
parameters = model.parameters(model.initial(rng, std=0.1))
x, eps = X[:M], rng.standard_normal((M, J))
slope = np.sum(estimator.value_and_grad(parameters, x, eps).gradient.vector ** 2)
value = aevb_step(parameters, x, eps, eta=1e-7)
gain = estimator.value_and_grad(parameters, x, eps).value - value
assert np.isclose(gain, 1e-7 * slope, rtol=1e-3)  # a tiny step along g climbs by eta |g|^2

# %%
# figure: aevb-algorithm
test_noise = rng.standard_normal((len(X_test), J))
single, steps, whole = [], np.arange(0, 201, 10), []
for step in range(steps[-1] + 1):
    if step in steps:
        whole.append(estimator.value_and_grad(parameters, X_test, test_noise).value)
    rows = rng.integers(0, N, M)  # drawn anew each time, as in Algorithm 1
    single.append(aevb_step(parameters, X[rows], rng.standard_normal((M, J)), 0.01))
y = np.clip(X.mean(axis=0), 1e-3, 1 - 1e-3)  # independent pixels: how often each is white, and nothing more
baseline = np.mean(X_test @ np.log(y) + (1 - X_test) @ np.log(1 - y))
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(single, ".", color="tab:blue", markersize=3, label="estimate of one minibatch")
ax.plot(steps, whole, "tab:orange", label="all test pictures")
ax.axhline(baseline, color="k", linestyle="--", label="independent pixels")
ax.set(xlabel="step", ylabel="bound (nats)", ylim=(-75, baseline + 5))
ax.legend(loc="lower right")
assert whole[0] + 50 < whole[-1] < baseline

# %% [markdown]
# *See:* each dot is what one step knows, a noisy estimate from other pictures and other noise. The bound rises all the
# same: over many steps the noise averages out. But the curve flattens below the dashed line, where a model of
# independent pixels is. (The first dots lie outside of the figure.)
#
# ## Adagrad: a step size for each parameter
#
# Some parameters have large gradients, others small ones: a pixel in the middle is often white, one in the corner
# hardly ever. **Adagrad** adds up the squares of each parameter's own gradients, and divides by the root of that sum:
#
# $$G \leftarrow G + g^2, \qquad w \leftarrow w + \frac{\eta \, g}{\sqrt{G + 10^{-8}}}$$
#
# All operations are entry by entry: $w$ is the vector of parameters, $g$ its gradient, and $G$ starts at zero. Without
# the $10^{-8}$, a parameter that never had a gradient would become $0 / 0$.
#
# ## Exercise: write it
#
# Write one step, from the parameters $w$, the gradient $g$ and the sum $G$ so far to the pair of the new $w$ and $G$.
#
# <details><summary>Hint</summary>
#
# Update $G$ first, and use the new one. We climb, so the step has the sign of $g$.
#
# </details>


# %%
def adagrad_step(w, g, G, eta):
    """One step of Adagrad: from w, g and G (P,) to the new (w, G)."""
    ...  # your code, about 2 lines


# %% tags=["hide-cell"]
def adagrad_step_solution(w, g, G, eta):
    G = G + g**2
    return w + eta * g / np.sqrt(G + 1e-8), G


check_adagrad_step = Exercise(
    solution=adagrad_step_solution,
    mistakes={
        "the root is taken of this gradient's square alone, not of the sum G":
        lambda w, g, G, eta: (w + eta * g / np.sqrt(g**2 + 1e-8), G + g**2),
        "it descends: the bound is to be maximized":
        lambda w, g, G, eta: (w - eta * g / np.sqrt(G + g**2 + 1e-8), G + g**2),
        "it divides by the old G: the present gradient counts as well":
        lambda w, g, G, eta: (w + eta * g / np.sqrt(G + 1e-8), G + g**2),
        "it divides by G, not by its root": lambda w, g, G, eta: (w + eta * g / (G + g**2 + 1e-8), G + g**2),
        "the small number is added under the root, not to the root":
        lambda w, g, G, eta: (w + eta * g / (np.sqrt(G + g**2) + 1e-8), G + g**2),
        "0 / 0 where no gradient ever came: the small number under the root is missing":
        lambda w, g, G, eta: (w + eta * g / np.sqrt(G + g**2), G + g**2),
    },
    # With g = 3 and G = 16 the root is 5; with g = -5 and G = 144 it is 13; the third parameter never moves. For the
    # last, g^2 is as small as the number under the root.
    inputs=[(np.array([1.0, 2.0, 7.0, 3.0]), np.array([3.0, -5.0, 0.0, 1e-4]), np.array([16.0, 144.0, 0.0, 0.0]), 0.5)],
    expected=[(np.array([1 + 1.5 / 5, 2 - 2.5 / 13, 7.0, 3 + 0.5 / np.sqrt(2)]), np.array([25.0, 169.0, 0.0, 1e-8]))],
)  # fmt: skip

# %%
print(check_adagrad_step(adagrad_step))

# %% [markdown]
# Try it on a parabola whose first direction is ten thousand times steeper than its second. After each step, $G$ must be
# the sum of all squares so far:

# %%
# formula: adagrad
start = np.array([0.5, -1.0])  # the optimum is at zero
w, G, gradients, path = start, np.zeros(2), [], []
for _ in range(20):
    gradients.append(-w * np.array([100.0, 0.01]))
    w, G = adagrad_step_solution(w, gradients[-1], G, eta=0.1)
    path.append(w)
sums = np.cumsum(np.square(gradients), axis=0)
assert np.allclose(G, sums[-1], rtol=1e-14)
assert np.allclose(path, start + np.cumsum(0.1 * np.array(gradients) / np.sqrt(sums + 1e-8), axis=0), rtol=1e-10)
assert np.allclose(np.abs(path[0] - start), 0.1, rtol=1e-3)  # the first step: all of eta
print(f"of the way to the optimum, 20 steps have gone {1 - w[0] / start[0]:.2f} and {1 - w[1] / start[1]:.2f}")

# %% [markdown]
# The first gradients differ by a factor of thousands, the ways gone by less than two: Adagrad hardly depends on the
# scale of a gradient. But its first step is bold. There $G = g^2$, so *every* parameter moves by the whole of $\eta$,
# however small its gradient. In the authors' code the first steps therefore only sum up $G$, and move nothing. The
# library does the same.
#
# ## The prior on the weights
#
# The paper puts a prior on the weights $W$, too: $\mathcal N(0, I)$. (It writes $p(\theta)$, of the decoder. Here the
# weights of both networks have it; biases have none.) It pulls each weight a little to zero, which is
# also known as weight decay. Maximum likelihood maximizes $\log p(X)$; **maximum a posteriori** (MAP) adds the log of
# the prior. With the bound in place of $\log p(X)$:
#
# $$\text{maximize} \quad \sum_{i=1}^N \mathcal L(\theta, \phi; x^{(i)}) + \log p(W), \qquad
# \log p(W) = -\frac12 \sum W^2 + \text{const}$$
#
# The prior counts once for the whole data set, not once for each picture or minibatch. But our gradient is that of a
# *mean* over pictures: the whole objective is divided by $N$.
#
# ## Exercise: the gradient with the prior
#
# Given the gradients of the mean bound with respect to weights and biases, return both gradients with the prior.
#
# <details><summary>Hint</summary>
#
# The derivative of $-\frac12 W^2$ is $-W$. Divide it by the number of all pictures, as everything else was.
#
# </details>


# %%
def map_gradient(g_W, W, g_b, b, N, M):
    """From the gradient of the mean bound by W (P,) and b (Q,) to that of (bound + prior) / N: a pair.

    N is the number of pictures in the data, and M in the minibatch.
    """
    ...  # your code, one line


# %% tags=["hide-cell"]
def map_gradient_solution(g_W, W, g_b, b, N, M):
    return g_W - W / N, g_b


numbers = np.array([0.3, -0.1]), np.array([0.5, 2.0]), np.array([0.2]), np.array([-1.5]), 40, 10
slopes = (stats.norm.logpdf(numbers[1] + 0.1) - stats.norm.logpdf(numbers[1] - 0.1)) / 0.2  # exact for a parabola
check_map_gradient = Exercise(
    solution=map_gradient_solution,
    mistakes={
        "the prior counts once for the whole data, so it is divided by N, not by M":
        lambda g_W, W, g_b, b, N, M: (g_W - W / M, g_b),
        "the prior is not divided by N, as the bound is": lambda g_W, W, g_b, b, N, M: (g_W - W, g_b),
        "the prior is divided by N, not multiplied": lambda g_W, W, g_b, b, N, M: (g_W - N * W, g_b),
        "biases have no prior": lambda g_W, W, g_b, b, N, M: (g_W - W / N, g_b - b / N),
        "it pushes weights away from zero": lambda g_W, W, g_b, b, N, M: (g_W + W / N, g_b),
        "the decay is fixed to 1e-4; that of a prior N(0, I) depends on N":
        lambda g_W, W, g_b, b, N, M: (g_W - 1e-4 * W, g_b),
    },
    inputs=[numbers],
    expected=[(numbers[0] + slopes / 40, numbers[2])],
)  # fmt: skip

# %%
print(check_map_gradient(map_gradient))

# %%
# formula: map
n_weights = model.layout.n_weights


def objective(vector, x, eps):
    """The bound of the minibatch plus log p(W) / N, in nats."""
    value = estimator.value_and_grad(model.parameters(vector), x, eps).value
    return value - 0.5 * np.sum(vector[:n_weights] ** 2) / N


def objective_gradient(vector, x, eps):
    g = estimator.value_and_grad(model.parameters(vector), x, eps).gradient.vector.copy()
    (W, b), (g_W, g_b) = np.split(vector, [n_weights]), np.split(g, [n_weights])
    return np.concatenate(map_gradient_solution(g_W, W, g_b, b, N, M))


w = rng.normal(0, 0.3, model.layout.size)
way = rng.normal(size=w.shape)  # the derivative along a random direction, by central differences
difference = (objective(w + 1e-5 * way, x, eps) - objective(w - 1e-5 * way, x, eps)) / 2e-5
assert np.isclose(difference, objective_gradient(w, x, eps) @ way, rtol=1e-7)

# %% [markdown]
# The library's optimizer does both. Five steps, of which the first two only sum up, must agree:

# %%
rule = UpdateRule(0.02, weight_decay=1 / N, accumulate_only=2, n_weights=n_weights)
optimizer = Optimizer("adagrad", reference, rule, model.layout.size, "float64")
theirs, ours, G = model.parameters(w), w, np.zeros_like(w)
for step in range(5):
    x, eps = X[step * M : (step + 1) * M], rng.standard_normal((M, J))
    optimizer.step(theirs, estimator.value_and_grad(theirs, x, eps).gradient)
    ours, G = adagrad_step_solution(ours, objective_gradient(ours, x, eps), G, 0.0 if step < 2 else 0.02)
    assert np.abs(ours - theirs.vector).max() < 1e-12 and np.allclose(G, optimizer.state.arrays["squares"], rtol=1e-10)

# %% [markdown]
# ## The loop
#
# Now we put everything together. An epoch takes all pictures in a new random order, $M$ at a time. The weights start at
# random from $\mathcal N(0, s^2)$. Here the paper can be misread: it says $\mathcal N(0, 0.01)$. If $0.01$ is a
# variance, then $s = 0.1$; in the authors' code the *standard deviation* is $s = 0.01$. We try both below. (Lecture
# notes on this method often call the generative model the encoder and the approximation the decoder; it should be the
# other way round. They also speak of equally many hidden "layers"; it should be hidden units, in one layer each.)
#
# To compare with the library, we draw from generators with the same seeds in the same order: one for the weights, one
# for the order of the pictures and the noise. The library draws noise in single precision.


# %%
def train(n_epochs, eta=0.02, s=0.1, seed=0, n_sum_up=None, look=lambda vector: None, n_steps=None):
    """Train by hand. Returns the parameters (P,), and what `look` saw before the training and after each epoch."""
    w = np.zeros(model.layout.size)
    w[:n_weights] = s * np.random.default_rng([seed, *b"weights"]).standard_normal(n_weights)  # biases start at zero
    rng = np.random.default_rng([seed, *b"training"])
    n_sum_up = min(100, n_epochs * N // M // 10) if n_sum_up is None else n_sum_up  # a tenth of the steps, or 100
    G, t, seen = np.zeros_like(w), 0, [look(w)]
    for _ in range(n_epochs):
        for rows in np.split(rng.permutation(N), N // M):
            eps = rng.standard_normal((M, J), dtype=np.float32).astype(float)
            g, t = objective_gradient(w, X[rows], eps), t + 1
            w, G = adagrad_step_solution(w, g, G, eta if t > n_sum_up else 0.0)
            if t == n_steps:
                return w, seen
        seen.append(look(w))
    return w, seen


settings = {"hidden_layer_sizes": (H,), "likelihood": "bernoulli", "backend": "reference", "dtype": "float64"}
vae = npvae.VAE(J, learning_rate=0.02, max_epochs=5, **settings).fit(X)
ours, _ = train(5)
assert np.abs(ours - vae.parameters_.vector).max() < 1e-12
print(f"{5 * N // M} steps by hand: the parameters are those of npvae to 1e-12")

# %% [markdown]
# ## Step size and initial weights
#
# The paper chose the step size from $\{0.01, 0.02, 0.1\}$, by the training bound after the first few steps.
#
# **Before you run it:** which of the three will win in the end? Will the training diverge with $0.1$? And which start
# is better, $s = 0.01$ or $s = 0.1$?


# %%
def test_bound(vector):
    """The bound of the test pictures in nats, with the same noise each time."""
    return estimator.value_and_grad(model.parameters(vector), X_test, test_noise).value


n_epochs, seeds, ETAS, SCALES = 60, (0, 1, 2), (0.01, 0.02, 0.1), (0.01, 0.1)
runs = {  # the name of each setting, and its curves: seeds, epochs
    (eta, s): np.array([train(n_epochs, eta, s, seed, look=test_bound)[1] for seed in seeds])
    for eta in ETAS
    for s in SCALES
}
eager = np.array([train(n_epochs, 0.02, 0.1, seed, n_sum_up=0, look=test_bound)[1] for seed in seeds])
as_many = eager[:, n_epochs - n_epochs // 10]  # the other runs use a tenth of their steps only to sum up
for (eta, s), curves in runs.items():
    final = curves[:, -1]
    print(f"step size {eta}, start N(0, {s}^2): {final.mean():.1f} nats", end=" ")
    print(f"(three seeds: {final.min():.1f} to {final.max():.1f})")
print(f"step size 0.02, start N(0, 0.1^2), moving from the first step on: {eager[:, -1].mean():.1f} nats,", end=" ")
print(f"and {as_many.mean():.1f} nats after as many steps that move; independent pixels: {baseline:.1f} nats")
by_step = runs[0.1, 0.1][:, -1] - runs[0.01, 0.1][:, -1]  # of each seed
by_start = max(abs(np.mean(runs[eta, 0.1][:, -1] - runs[eta, 0.01][:, -1])) for eta in ETAS)
assert runs[0.1, 0.1][:, -1].min() > baseline + 2 and by_step.min() > 4 and by_start < by_step.min() / 3
below = sum(curves[:, -1].mean() < baseline for curves in runs.values())
print(f"{below} of the {len(runs)} settings end below independent pixels")
assert below == 4 and as_many.min() > runs[0.02, 0.1][:, -1].max()

# %%
# figure: training
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
seen = N * np.arange(1, n_epochs + 1)
for (eta, s), curves in runs.items():
    colour = {0.01: "tab:blue", 0.02: "tab:orange", 0.1: "tab:green"}[eta]
    ax.semilogx(
        seen, curves.mean(axis=0)[1:], "-" if s == 0.1 else ":", color=colour, label=rf"$\eta$ = {eta}, $s$ = {s}"
    )
ax.semilogx(seen, eager.mean(axis=0)[1:], "-.", color="tab:red", label=r"$\eta$ = 0.02, $s$ = 0.1, eager")
ax.axhline(baseline, color="k", linestyle="--", label="independent pixels")
ax.set(xlabel="pictures seen in training", ylabel="test bound (nats)", ylim=(-62, -36))
ax.legend(fontsize=9, loc="upper left", ncols=2)
fig.set_label("thumbnail")

# %% [markdown]
# *See:* the green curves, of the largest step, lead; nothing diverges. Solid and dotted curves of the same colour
# differ less than curves of different colours: here the random start matters less than the step size.
#
# Four of the six settings even end below independent pixels. Their biases start at zero, and have to learn how often
# each pixel is white; the page of tutorial 00 gave its decoder that at the start.
#
# The "eager" runs skip the steps that only sum up. They end above the solid orange curve, even if we count only the
# steps that move. The reason is that $G$ never forgets. The first gradients are the largest; summed up many times
# before anything moves, they make every later step shorter. Waiting protects against a bold first step, and costs
# speed.
#
# These are facts about this data set and this length of training, not about the method. So the best step size must be
# tried, as the paper did. The protocol by hand: a short trial for each step size, from the same start and with the same
# noise. We add a step of $1$ to the paper's three.

# %%
trials, still = {}, np.random.default_rng(0).standard_normal((N, J))  # the same noise for all
for eta in (*ETAS, 1.0):
    w, _ = train(n_epochs, eta, n_steps=60 + 200)  # of 600 steps, the first 60 only sum up; then 200 that move
    trials[eta] = estimator.value_and_grad(model.parameters(w), X, still).value
    print(f"step size {eta}: training bound {trials[eta]:.0f} nats after the trial")
chosen = max(ETAS, key=trials.get)
automatic = npvae.VAE(J, learning_rate="auto", max_epochs=n_epochs, **settings).fit(X)
print(f"by hand we choose {chosen}, and the library chooses {automatic.learning_rate_}")
assert chosen == automatic.learning_rate_ and trials[1.0] < trials[chosen] - 10

# %% [markdown]
# A step of $1$ is too large: its bound after the trial is far below the others.
#
# ## What an autoencoder lacks
#
# Look at the two terms of the objective again:
#
# $$\tilde{\mathcal L}(\theta, \phi; x) = \underbrace{-D_{KL}(q(z|x) \| p(z))}_{\text{regularizer}}
# + \underbrace{\frac1L \sum_{l=1}^L \log p(x | z^{(l)})}_{\text{minus the reconstruction error}}$$
#
# An **autoencoder** maximizes the second term alone, and without noise: $z = \mu$. So we get one by taking two things
# away from our model. Here are the library's parts, put together by hand, with a weight for the first term:

# %%
# formula: autoencoder
flat = Model(Architecture(D, 2, (H,)), reference, "float64")  # two latents, to see them


def terms_and_gradient(vector, x, eps, kl_weight):
    """The means of log p(x|z) and of the KL divergence in nats; the gradient of the first - kl_weight * the second."""
    parameters, gradient, buffers = flat.parameters(vector), flat.gradient(), Buffers(reference, "float64")
    encoded = flat.encode(parameters, x, buffers)
    z, kl = flat.latent(encoded, eps, True, buffers)
    decoded = flat.decode(parameters, z, buffers)
    log_px = flat.log_likelihood(x, decoded, np.full(len(x), 1 / len(x)), buffers)
    dz = np.empty_like(z)
    flat.decoder.backward(parameters, z, decoded, gradient, buffers, dz)
    weights = np.full(len(x), kl_weight / len(x))
    reference.gaussian_latent_backward(*encoded.outputs, eps, dz, True, weights, encoded.doutputs)
    flat.encoder.backward(parameters, x, encoded, gradient, buffers)
    return log_px.mean(), kl.mean(), gradient.vector


start, eps = flat.initial(np.random.default_rng(1), 0.1), rng.standard_normal((M, 2))
log_px, kl, g = terms_and_gradient(start, x, eps, 1.0)
result = SGVB(flat).value_and_grad(flat.parameters(start), x, eps)
assert np.isclose(log_px - kl, result.value, rtol=1e-12)
assert np.abs(g - result.gradient.vector).max() < 1e-12 * np.abs(g).max()
way = rng.normal(size=g.shape)  # and the autoencoder's gradient, by central differences along a random direction
up, down = (terms_and_gradient(start + by * way, x, 0 * eps, 0.0)[0] for by in (1e-5, -1e-5))
assert np.isclose((up - down) / 2e-5, terms_and_gradient(start, x, 0 * eps, 0.0)[2] @ way, rtol=1e-7)

# %% [markdown]
# Train both from the same start. As the test, we compute the $\log p(x)$ that each decoder gives to new pictures, with
# codes from the prior. With two latents we can do this integral on a grid.
#
# **Before you run it:** which of the two reconstructs better? Which gives new pictures the larger probability? And
# where will the autoencoder put its codes?

# %%
axis = np.linspace(-5, 5, 201)
plane = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
prior = stats.norm.pdf(plane).prod(axis=1) * (axis[1] - axis[0]) ** 2
assert abs(prior.sum() - 1) < 1e-5  # p(z) integrates to 1, up to what lies beyond the grid


def train_flat(noise, kl_weight, n_epochs=80):
    """Train with Adagrad. Returns the parameters, and the two terms on the test pictures after each epoch."""
    w, G, rng, terms = start, np.zeros_like(start), np.random.default_rng(2), []
    still = noise * rng.standard_normal((len(X_test), 2))
    for _ in range(n_epochs):
        terms.append(terms_and_gradient(w, X_test, still, kl_weight)[:2])
        for rows in np.split(rng.permutation(N), N // M):
            g = terms_and_gradient(w, X[rows], noise * rng.standard_normal((M, 2)), kl_weight)[2]
            g[: flat.layout.n_weights] -= w[: flat.layout.n_weights] / N
            w, G = adagrad_step_solution(w, g, G, 0.1)
    return w, np.array(terms)


models, buffers = {}, Buffers(reference, "float64")
radius = np.sqrt(-2 * np.log(0.05))  # of the circle that holds 95 % of the prior
for name, noise, kl_weight in (("autoencoder", 0.0, 0.0), ("VAE", 1.0, 1.0)):
    w, terms = train_flat(noise, kl_weight)
    logits = flat.decode(flat.parameters(w), plane, buffers).outputs[0]
    log_px_of_z = X_test @ logits.T - np.logaddexp(0, logits).sum(axis=1)  # each picture, each code of the grid
    log_px = special.logsumexp(log_px_of_z, b=prior, axis=1)
    codes = flat.encode(flat.parameters(w), X_test, buffers).outputs[0].copy()
    reconstruction = terms_and_gradient(w, X_test, np.zeros_like(codes), 0.0)[0]
    far = np.mean(np.linalg.norm(codes, axis=1) > radius)
    models[name] = {
        "w": w,
        "terms": terms,
        "log_px": log_px,
        "codes": codes,
        "log_px_of_code": reconstruction,
        "far": far,
    }
    print(f"{name:11}: reconstruction {reconstruction:.0f} nats, log p(x) {log_px.mean():.0f} nats,", end=" ")
    print(f"{far:.0%} of the codes beyond the circle that holds 95% of the prior")
ae, vae = models["autoencoder"], models["VAE"]
loss = vae["log_px"] - ae["log_px"]
error = loss.std() / np.sqrt(len(loss))
print(f"the autoencoder gives new pictures {loss.mean():.1f} +- {error:.1f} nats less than the VAE")
assert abs(ae["log_px_of_code"] - vae["log_px_of_code"]) < 2
assert loss.mean() > 10 * error and ae["far"] > 0.5 > 0.1 > vae["far"]

# %%
# figure: connection-to-autoencoders
fig, axes = plt.subplots(2, 2, figsize=(6.5, 5), layout="constrained", height_ratios=(3, 1))
draws = np.random.default_rng(3).standard_normal((16, 2))
angle = np.linspace(0, 2 * np.pi, 200)
for (top, bottom), (name, of) in zip(axes.T, models.items()):
    top.plot(*of["codes"].T, ".", markersize=3, label="test pictures")
    top.plot(radius * np.cos(angle), radius * np.sin(angle), "k", label="95% of the prior")
    top.set(xlabel="$z_1$", ylabel="$z_2$", title=name, xlim=(-10, 4), ylim=(-7, 5), aspect="equal")
    pictures = special.expit(flat.decode(flat.parameters(of["w"]), draws, buffers).outputs[0].reshape(2, 8, 14, 14))
    bottom.imshow(np.vstack([np.hstack(row) for row in pictures]), cmap="gray")
    bottom.set(xlabel="16 codes from the prior, decoded", xticks=[], yticks=[])
_ = axes[0, 1].legend(loc="lower left")

# %% [markdown]
# *See:* nearly all codes of the autoencoder lie outside of the circle, in a wide cloud: nothing holds them at the
# prior. The codes of the VAE fill the circle. So the VAE's decoder knows codes from the prior, and draws digits; the
# autoencoder's has hardly seen any like them, and most of its pictures are blurs that look alike.
#
# The first answer surprises. The autoencoder has no noise and pays no divergence, and still it reconstructs new
# pictures no better. Here the regularizer costs nothing in reconstruction, and gains a model of the pictures.
#
# **Before you run it:** will the divergence of the VAE rise or fall during the training? We also ask how much of it is
# the price of the *mean* code of all pictures: a shift that all codes share says nothing about any picture.

# %%
first, _ = train_flat(1.0, 1.0, n_epochs=1)
early = flat.encode(flat.parameters(first), X_test, buffers).outputs[0].copy()
shared = [0.5 * np.sum(codes.mean(axis=0) ** 2) for codes in (early, vae["codes"])]
log_px_of_z, divergence = vae["terms"].T
lowest = divergence[1:].min()
print(f"divergence: {divergence[0]:.1f} nats at the start, {divergence[1]:.0f} after one epoch,", end=" ")
print(f"then down to {lowest:.0f}, and {divergence[-1]:.0f} in the end")
print(f"of it the mean code of all pictures costs {shared[0]:.1f} nats after one epoch, {shared[1]:.1f} in the end")
assert divergence[0] < 0.3 and min(divergence[1], divergence[-1]) > 1.5 * lowest
assert shared[0] > 0.7 * divergence[1] and shared[1] < 0.2 * divergence[-1]
noise = np.random.default_rng(4).standard_normal((20 * len(X_test), 2))
log_px, kl, _ = terms_and_gradient(vae["w"], np.tile(X_test, (20, 1)), noise, 1.0)
gap = vae["log_px"].mean() - (log_px - kl)
print(f"log p(x) minus the bound, in the end: {gap:.1f} nats")
assert 0 < gap < 1

fig, (top, bottom) = plt.subplots(2, 1, figsize=(6.5, 4.4), layout="constrained", sharex=True)
seen = N * np.arange(80)
top.plot(seen, divergence, "tab:red")
top.set(ylabel="KL divergence (nats)")
bottom.plot(seen, log_px_of_z, label=r"$\log p(x|z)$")
bottom.plot(seen, log_px_of_z - divergence, label="bound")
bottom.axhline(vae["log_px"].mean(), color="k", linestyle="--", label=r"$\log p(x)$ in the end, on the grid")
bottom.set(xlabel="pictures seen in training", ylabel="nats", ylim=(-60, -35))
_ = bottom.legend()

# %% [markdown]
# *See:* the divergence leaps in the first epoch. Most of that is the price of the shift that all codes share: a bias in
# disguise. Then the shift is given back, and the divergence falls while the bound rises. Later it rises again, slowly,
# and this time the codes differ: the likelihood gains more than they cost. The bound ends a little below $\log p(x)$,
# as a bound must.

# %%
low, high = by_step.min(), by_step.max()
print(f"Answer: the step size: 0.1 in place of 0.01 gains {low:.0f} to {high:.0f} nats (three seeds);", end=" ")
print(f"the scale of the random start is worth {by_start:.0f} at most")

# %% [markdown]
# ## What to take with you
#
# The algorithm is a loop of four lines. Adagrad gives each parameter its own step size, and a prior on the weights
# makes the result an approximate MAP estimate; which step size is best must be tried on the data. The noise and the
# divergence are what an autoencoder lacks to be a model of its data. From now on `npvae.VAE` and `npvae.training` stand
# for this loop, and `npvae.optimizers` for its step. Tutorial 09 asks what the latents of a trained model are used for.

# %%
plt.show()
