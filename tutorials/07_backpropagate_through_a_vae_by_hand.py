# %% [markdown]
# # Backpropagate through a VAE by hand
#
# **Question:** which bug passes every gradient check, and how can it be found?
#
# **You will do:** write encoder, decoder and bound of a variational autoencoder, and the gradient of all of it, one
# layer at a time; check each derivative against an oracle that is accurate to the last digits; then plant a bug that no
# such check can see.
#
# **You will learn:** where each term of the gradient comes from, how to check a gradient, and what such a check cannot
# tell.
#
# **You need:** the two estimators A and B of tutorial 06, matrix products, and the chain rule. Functions whose names
# end in `_solution` are solutions of the exercises. The page uses these, so it runs before you have written yours.

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

# %% [markdown]
# ## The whole model as one graph
#
# A picture $x$ of $D$ pixels goes into the **encoder**. One hidden layer $h$ of $H$ units feeds two outputs: the mean
# $\mu$ and the logarithm of the variance $\sigma^2$ of $q(z|x)$, with $J$ numbers each. Noise $\epsilon$ turns them
# into a code $z$. The **decoder** makes a hidden layer $k$ of it, and then one number $a$ for each pixel, its
# **logit**: the pixel is 1 with probability $1 / (1 + e^{-a})$. The **bound** $\mathcal L$ is the mean of
# $\log p(x|z)$, minus the KL divergence of $q(z|x)$ from the prior. (Some texts swap encoder and decoder. The
# generative model $p(x|z)$ is the *decoder*; the approximation $q(z|x)$ is the *encoder*.)
#
# A minibatch has $M$ pictures, and we draw $L$ codes for each. So arrays of the encoder have $M$ rows, and arrays of
# the decoder have $LM$ rows: row $lM + i$ is sample $l$ of picture $i$, both counted from 0.

# %%
# figure: vae
NODES = {  # where, what, and its shape
    "x": (0, 1, "$x$\nM, D"), "h": (1, 1, "$h$\nM, H"), "mu": (2, 1.8, "$\\mu$\nM, J"),
    "log_var": (2, 0.2, "$\\log\\sigma^2$\nM, J"), "eps": (3, 0, "$\\epsilon$\nLM, J"), "z": (3, 1, "$z$\nLM, J"),
    "k": (4, 1, "$k$\nLM, H"), "a": (5, 1, "$a$\nLM, D"), "log_px": (6.1, 1, "$\\log p(x|z)$\nLM"),
    "kl": (3.7, 2.6, "$D_{KL}$\nM"), "bound": (6.1, 2.6, "$\\mathcal{L}$\na number"),
}  # fmt: skip
EDGES = "x-h h-mu h-log_var mu-z log_var-z eps-z z-k k-a a-log_px mu-kl log_var-kl kl-bound log_px-bound"
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
arrow = {"arrowstyle": "->", "shrinkA": 17, "shrinkB": 17}
for start, end in [edge.split("-") for edge in EDGES.split()]:
    ax.annotate("", NODES[end][:2], NODES[start][:2], arrowprops=arrow | {"color": "tab:blue"})
    if start not in ("x", "eps"):  # there is nothing to learn behind these two
        back = {"color": "tab:red", "linestyle": "--", "connectionstyle": "arc3,rad=0.25"}
        ax.annotate("", NODES[start][:2], NODES[end][:2], arrowprops=arrow | back)
for across, up, text in NODES.values():
    ax.text(across, up, text, ha="center", va="center")
ax.plot([], [], "tab:blue", label="forward: values")
ax.plot([], [], "tab:red", linestyle="--", label="backward: gradients, of the same shapes")
ax.legend(loc="upper left")
ax.set(xlim=(-0.3, 6.5), ylim=(-0.3, 3.6))
ax.set_axis_off()

# %% [markdown]
# *See:* each red arrow runs along a blue one, in the other direction, and carries an array of the same shape. Where
# several red arrows meet, their gradients are added. No red arrow enters $\epsilon$ or $x$: there is nothing to learn
# behind them.
#
# Our pictures are digits of 7 x 7 pixels: small, so that we can check every derivative. A pixel is 1 where a square of
# the original digit is more than a quarter white, and otherwise 0. The weights are random, and so are the biases: at
# zero, several mistakes would not show.

# %%
rng = np.random.default_rng(7)
X = 1.0 * (make_digits(600)[0].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49) > 255 / 4)
D, H, J, M, L = 49, 12, 2, 6, 3
x, x_of_z, eps = X[:M], np.tile(X[:M], (L, 1)), rng.standard_normal((L * M, J))  # x_of_z: the picture of each code
shapes = {"W1": (J, H), "W2": (H, D), "W3": (D, H), "W4": (H, J), "W5": (H, J)}  # inputs, outputs
p = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
p |= {f"b{name[1]}": rng.normal(0, 0.4, shape[1]) for name, shape in shapes.items()}

# %% [markdown]
# ## An oracle for derivatives
#
# Before we derive anything, we want a judge. Take a function $f$ that computes with complex numbers, too, and move its
# argument by a tiny *imaginary* step:
#
# $$f(x + ih) = f(x) + ih f'(x) - \tfrac12 h^2 f''(x) - \dots
# \quad\Rightarrow\quad f'(x) \approx \operatorname{Im} f(x + ih) / h$$
#
# Nothing is subtracted, so nothing cancels. The step may be $h = 10^{-20}$, and the derivative is right to the last
# digits.


# %%
def complex_step(f, array):
    """The derivative of f with respect to each entry of an array."""
    derivative = np.empty(array.shape)
    for place in np.ndindex(array.shape):
        moved = array.astype(complex)
        moved[place] += 1e-20j
        derivative[place] = np.imag(f(moved)) / 1e-20
    return derivative


def close(a, b, tolerance=1e-12):
    """Whether two arrays are equal, up to a share of the largest entry."""
    return np.shape(a) == np.shape(b) and np.max(np.abs(a - b)) <= tolerance * np.max(np.abs(b))


t = np.array([0.3, -1.2, 2.5])
assert close(complex_step(lambda t: np.sum(np.exp(t) * np.sin(t)), t), np.exp(t) * (np.sin(t) + np.cos(t)))

# %% [markdown]
# ## A layer, forward and backward
#
# Both networks are **multilayer perceptrons** with one hidden layer. A layer computes $y = f(a)$ from $a = x W + b$,
# where $f$ is $\tanh$ in the hidden layer, and the identity at the outputs. The hidden units of row $m$ are
#
# $$h_{mo} = \tanh\Big(\sum_i x_{mi} W_{io} + b_o\Big)$$


# %%
# formula: mlp
def dense(x, W, b, f):
    """A layer f(x W + b): x (M, I), W (I, O), b (O,) to (M, O)."""
    return f(x @ W + b)


h = dense(x, p["W3"], p["b3"], np.tanh)
for m, o in np.ndindex(M, H):  # the same symbols, one number at a time
    assert np.isclose(h[m, o], np.tanh(sum(x[m, i] * p["W3"][i, o] for i in range(D)) + p["b3"][o]), rtol=1e-12)

# %% [markdown]
# Now backward. Let $\mathcal L$ be any number that is computed from $y$, and suppose somebody already knows $dy$, the
# derivative of $\mathcal L$ with respect to each entry of $y$. First go back through $f$, entry by entry:
# $da = dy \, f'(a)$. Then ask of each entry of $W$, $b$ and $x$ which entries of $a$ it enters, and add up:
#
# $$\frac{\partial \mathcal L}{\partial W_{io}} = \sum_m x_{mi} \, da_{mo}, \qquad
# \frac{\partial \mathcal L}{\partial b_o} = \sum_m da_{mo}, \qquad
# \frac{\partial \mathcal L}{\partial x_{mi}} = \sum_o da_{mo} W_{io}$$
#
# The weights serve every row, so their gradients are sums over rows. With `einsum` we can write the indices as they
# stand: `mi,mo->io` sums over `m`, the index that is missing on the right. The oracle takes one entry after the other
# of $W$, $b$ and $x$:


# %%
def layer_derivatives(x, W, b, dy):
    """The derivatives of sum(dy * tanh(x W + b)) with respect to W, b and x, by the complex step."""
    return (
        complex_step(lambda W: np.sum(dy * dense(x, W, b, np.tanh)), W),
        complex_step(lambda b: np.sum(dy * dense(x, W, b, np.tanh)), b),
        complex_step(lambda x: np.sum(dy * dense(x, W, b, np.tanh)), x),
    )


dy = rng.normal(size=(M, H))
da = dy * (1 - h**2)  # the derivative of tanh, from its value
dW, db, dx = np.einsum("mi,mo->io", x, da), np.einsum("mo->o", da), np.einsum("mo,io->mi", da, p["W3"])
assert all(map(close, (dW, db, dx), layer_derivatives(x, p["W3"], p["b3"], dy)))

# %% [markdown]
# ## Exercise: the same as matrix products
#
# Sums over a shared index are matrix products, and those are fast. Write the backward pass of a layer without `einsum`.
# The argument `slope` has the numbers $f'(a)$, so that the function serves every $f$.
#
# <details><summary>Hint</summary>
#
# `x.T` has the shape (I, M) and `da` has (M, O). Which product of the two has the shape of `W`? Let the shapes guide
# you for the other two as well, but beware: if `W` is square, a wrong product has the right shape.
#
# </details>


# %%
def dense_backward(x, W, slope, dy):
    """From dy (M, O) to (dW, db, dx): x (M, I), W (I, O), slope (M, O)."""
    ...  # your code, about 2 lines


# %% tags=["hide-cell"]
def dense_backward_solution(x, W, slope, dy):
    da = dy * slope
    return x.T @ da, da.sum(axis=0), da @ W.T


square = [rng.normal(size=shape) for shape in ((4, 4), (4, 4), 4, (4, 4))]  # x, W, b, dy: all products have one shape
slope = 1 - np.tanh(square[0] @ square[1] + square[2]) ** 2
check_dense_backward = Exercise(
    solution=dense_backward_solution,
    mistakes={
        "dx has W where its transpose belongs": lambda x, W, slope, dy: (
            x.T @ (dy * slope), (dy * slope).sum(axis=0), (dy * slope) @ W
        ),
        "dW is transposed": lambda x, W, slope, dy: ((dy * slope).T @ x, (dy * slope).sum(axis=0), (dy * slope) @ W.T),
        "db is a mean over the rows, where their sum is asked for": lambda x, W, slope, dy: (
            x.T @ (dy * slope), (dy * slope).mean(axis=0), (dy * slope) @ W.T
        ),
        "it is a mean over the rows, where their sum is asked for": lambda x, W, slope, dy: (
            x.T @ (dy * slope) / len(x), (dy * slope).mean(axis=0), (dy * slope) @ W.T
        ),
        "the slope of f is forgotten: dy is not yet da": lambda x, W, slope, dy: (x.T @ dy, dy.sum(axis=0), dy @ W.T),
    },
    inputs=[(square[0], square[1], slope, square[3])],
    expected=[layer_derivatives(*square)],
)  # fmt: skip

# %%
print(check_dense_backward(dense_backward))

# %% [markdown]
# ## The prior
#
# Codes come from a normal distribution that is centred, and the same in all directions. It has no parameters:
#
# $$\log p(z) = \log \mathcal N(z; 0, I) = -\frac12 \sum_{j=1}^J (\log 2\pi + z_j^2), \qquad \nabla_z \log p(z) = -z$$


# %%
# formula: prior
def log_prior(z):
    """log N(z; 0, I) in nats: (R, J) to (R,)."""
    return -0.5 * np.sum(np.log(2 * np.pi) + z**2, axis=1)


axis = np.linspace(-9, 9, 181)
plane = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)  # a grid over codes of two numbers
cell = (axis[1] - axis[0]) ** 2
assert abs(np.sum(np.exp(log_prior(plane))) * cell - 1) < 1e-12  # a density: it integrates to 1
assert close(log_prior(eps), stats.norm.logpdf(eps).sum(axis=1))
assert close(-eps, complex_step(lambda z: np.sum(log_prior(z)), eps))  # its gradient is -z

# %% [markdown]
# ## The decoder
#
# Pixels are independent given the code, and each is 1 with a probability $y_d$. The network gives its logit $a_d$:
#
# $$\log p(x|z) = \sum_{d=1}^D x_d \log y_d + (1 - x_d) \log(1 - y_d), \qquad
# y = \operatorname{sigmoid}(\tanh(z W_1 + b_1) W_2 + b_2)$$
#
# Written so, it breaks: for $a = 40$ the computer rounds $y$ to 1, and $\log(1 - y)$ becomes $-\infty$. But
# $\log y = a - \operatorname{softplus}(a)$ and $\log(1 - y) = -\operatorname{softplus}(a)$ with
# $\operatorname{softplus}(a) = \log(1 + e^a)$. So the sum is $x_d a_d - \operatorname{softplus}(a_d)$, which never
# touches $y$.


# %%
# formula: bernoulli-decoder
def softplus(a):
    """log(1 + exp(a)) for real or complex a, without overflow."""
    sign = np.sign(np.real(a))
    return np.where(sign > 0, a, 0) + np.log1p(np.exp(-sign * a))  # exp(-|a|) is at most 1


def decode(p, z):
    """From codes z (R, J) to the hidden units k (R, H) and the logits a (R, D)."""
    k = dense(z, p["W1"], p["b1"], np.tanh)
    return k, k @ p["W2"] + p["b2"]


def log_likelihood(x, a):
    """log p(x|z) in nats, from pictures and logits (R, D) to (R,)."""
    return np.sum(x * a - softplus(a), axis=1)


z = rng.standard_normal((L * M, J))
k, a = decode(p, z)
y = special.expit(a)
assert close(log_likelihood(x_of_z, a), np.sum(x_of_z * np.log(y) + (1 - x_of_z) * np.log(1 - y), axis=1))
every_picture = (np.arange(2**10)[:, None] >> np.arange(10)) % 2  # all pictures of ten black or white pixels
assert abs(np.sum(np.exp(log_likelihood(every_picture, a[:1, :10]))) - 1) < 1e-12  # a probability: it sums to 1

# %%
# figure: decoder
logits = np.linspace(-60, 60, 601)
with np.errstate(divide="ignore"):
    naive = np.log(1 - special.expit(logits))
print(f"log(1 - y) as written is minus infinity from a = {logits[~np.isfinite(naive)].min():.0f} on")
assert 36 < logits[~np.isfinite(naive)].min() < 38
fig, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
ax.plot(logits, logits - softplus(logits), label="pixel $x_d = 1$")
ax.plot(logits, -softplus(logits), label="pixel $x_d = 0$")
ax.plot(logits, np.where(np.isfinite(naive), naive, np.nan), "k:", linewidth=3, label=r"$\log(1 - y_d)$ as written")
ax.axvline(logits[np.isfinite(naive)].max(), color="grey")
ax.set(xlabel="logit $a_d$ of the pixel", ylabel="log-probability (nats)")
_ = ax.legend()

# %% [markdown]
# *See:* being sure and wrong costs one nat for each unit of the logit, without limit. The dotted line ends at the grey
# one: beyond it the formula as written is $-\infty$, while the stable form goes on.
#
# ## Exercise: the logarithm of a sigmoid
#
# Write $\log y = \log \operatorname{sigmoid}(a)$ so that it is right for $a = -800$ and for $a = 800$, too.
#
# <details><summary>Hint</summary>
#
# $\log y = -\operatorname{softplus}(-a)$. In NumPy, `np.logaddexp(u, v)` is $\log(e^u + e^v)$ without overflow. Which
# $u$ makes $e^u = 1$?
#
# </details>


# %%
def log_sigmoid(a):
    """log(1 / (1 + exp(-a))), entry by entry."""
    ...  # your code, one line


# %% tags=["hide-cell"]
def log_sigmoid_solution(a):
    return -np.logaddexp(0, -a)


check_log_sigmoid = Exercise(
    solution=log_sigmoid_solution,
    mistakes={
        "at -800 it is minus infinity: exp(800) overflows": lambda a: -np.log(1 + np.exp(-a)),
        "at 800 it is minus infinity: exp(800) overflows": lambda a: a - np.log1p(np.exp(a)),
        "a small number inside the logarithm hides the overflow, and gives a wrong number":
        lambda a: np.log(special.expit(a) + 1e-7),
        "it is the log-probability of a black pixel, log(1 - y)": lambda a: -np.logaddexp(0, a),
    },
    inputs=[(np.array([-800.0, -3.0, 0.4, 800.0]),)],
    expected=[special.log_expit(np.array([-800.0, -3.0, 0.4, 800.0]))],
)  # fmt: skip

# %%
print(check_log_sigmoid(log_sigmoid))

# %% [markdown]
# ## Exercise: the gradient of the decoder's logits
#
# What is $\partial \log p(x|z) / \partial a_d$? The path through $y$ is $\frac{x_d}{y_d} - \frac{1 - x_d}{1 - y_d}$,
# times $\partial y_d / \partial a_d = y_d (1 - y_d)$. Simplify on paper before you write. Row $r$ counts with
# `weights[r]`: for a mean over $R$ rows, each weight is $1/R$.
#
# <details><summary>Hint</summary>
#
# Multiply out: $x_d (1 - y_d) - (1 - x_d) y_d$. Two terms cancel. Nothing of $y_d (1 - y_d)$ is left.
#
# </details>


# %%
def bernoulli_backward(x, a, weights):
    """The gradient of sum(weights * log p(x|z)) by the logits: x, a (R, D), weights (R,) to (R, D)."""
    ...  # your code, about one line


# %% tags=["hide-cell"]
def bernoulli_backward_solution(x, a, weights):
    return weights[:, None] * (x - special.expit(a))


few = x_of_z[:4, 20:25], a[:4, 20:25], np.array([0.5, 0.1, 0.7, 0.2])  # some pixels with ink
check_bernoulli_backward = Exercise(
    solution=bernoulli_backward_solution,
    mistakes={
        "it goes through the sigmoid twice: y (1 - y) has cancelled already":
        lambda x, a, weights: weights[:, None] * (x - special.expit(a)) * special.expit(a) * special.expit(-a),
        "it is the derivative by y, not by the logit":
        lambda x, a, weights: weights[:, None] * (x - special.expit(a)) / (special.expit(a) * special.expit(-a)),
        "it has the sign of a loss: we climb": lambda x, a, weights: weights[:, None] * (special.expit(a) - x),
        "the weights of the rows are forgotten": lambda x, a, weights: x - special.expit(a),
    },
    inputs=[few],
    expected=[complex_step(lambda a: np.sum(few[2] * log_likelihood(few[0], a)), few[1])],
)  # fmt: skip

# %%
print(check_bernoulli_backward(bernoulli_backward))

# %% [markdown]
# ## The encoder
#
# $q(z|x)$ is a normal distribution whose mean and variance are outputs of a network. Each latent has its own variance,
# and the latents are independent given $x$:
#
# $$\log q(z|x) = \log \mathcal N(z; \mu, \operatorname{diag}(\sigma^2))
# = -\frac12 \sum_{j=1}^J \Big(\log 2\pi + \log \sigma_j^2 + \frac{(z_j - \mu_j)^2}{\sigma_j^2}\Big)$$
#
# Lecture notes on this method often write $\mathcal N(z; \mu, \sigma^2 I)$. With one $\sigma_j$ for each latent it
# should be $\operatorname{diag}(\sigma^2)$. They also say that the network's outputs are the mean and the standard
# deviation. In practice they are the mean and $\log \sigma^2$, which may be any number, so that no output can make a
# variance negative.


# %%
# formula: gaussian-encoder
def encode(p, x):
    """From pictures x (M, D) to the hidden units h (M, H), and mu and log sigma^2 (M, J)."""
    h = dense(x, p["W3"], p["b3"], np.tanh)
    return h, h @ p["W4"] + p["b4"], h @ p["W5"] + p["b5"]


def log_q(z, mu, log_var):
    """log q(z|x) in nats, for each row of z, mu and log_var (R, J)."""
    return -0.5 * np.sum(np.log(2 * np.pi) + log_var + (z - mu) ** 2 * np.exp(-log_var), axis=1)


h, mu, log_var = encode(p, x)
for i in range(M):
    assert abs(np.sum(np.exp(log_q(plane, mu[i], log_var[i]))) * cell - 1) < 1e-6  # it integrates to 1
mu_of_z, log_var_of_z = np.tile(mu, (L, 1)), np.tile(log_var, (L, 1))
by_scipy = stats.norm.logpdf(z, mu_of_z, np.exp(log_var_of_z / 2)).sum(axis=1)
assert close(log_q(z, mu_of_z, log_var_of_z), by_scipy)

# %% [markdown]
# ## The noise in the middle
#
# A sample must be a differentiable function of $\mu$ and $\sigma$, or no gradient could pass:
#
# $$z^{(i,l)} = \mu^{(i)} + \sigma^{(i)} \odot \epsilon^{(i,l)}, \qquad
# \epsilon^{(i,l)} \sim \mathcal N(0, I), \qquad \sigma = e^{\frac12 \log \sigma^2}$$
#
# ($\odot$ multiplies entry by entry.) The derivatives are $\partial z_j / \partial \mu_j = 1$ and
# $\partial z_j / \partial \log \sigma_j^2 = \frac12 \sigma_j \epsilon_j$, because $\sigma_j$ is the exponential of half
# of $\log \sigma_j^2$. The $L$ samples of a picture share its $\mu$ and $\sigma$, so their gradients are added.


# %%
# formula: reparameterized-latent
def draw(mu, log_var, eps):
    """Codes z (L * M, J) from mu and log_var (M, J) and noise (L * M, J)."""
    return (mu + np.exp(log_var / 2) * eps.reshape(-1, *mu.shape)).reshape(eps.shape)


def draw_backward(log_var, eps, dz):
    """From dz (L * M, J) to (dmu, dlog_var), (M, J) each."""
    dz, eps = dz.reshape(-1, *log_var.shape), eps.reshape(-1, *log_var.shape)
    return dz.sum(axis=0), 0.5 * np.exp(log_var / 2) * (dz * eps).sum(axis=0)  # the L samples of a picture add up


z = draw(mu, log_var, eps)
assert close(z[M + 2], mu[2] + np.exp(log_var[2] / 2) * eps[M + 2])  # row l M + i, here of l = 1 and i = 2
assert close(log_q(z, mu_of_z, log_var_of_z), log_prior(eps) - 0.5 * log_var_of_z.sum(axis=1))  # q(z) dz = p(eps) deps
dz = rng.normal(size=z.shape)
dmu, dlog_var = draw_backward(log_var, eps, dz)
assert close(dmu, complex_step(lambda mu: np.sum(dz * draw(mu, log_var, eps)), mu))
assert close(dlog_var, complex_step(lambda log_var: np.sum(dz * draw(mu, log_var, eps)), log_var))

# %%
# figure: prior
# figure: encoder
# figure: reparameterization
fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 3.6), layout="constrained", sharex=True, sharey=True)
noise, angle = rng.standard_normal((150, 2)), np.linspace(0, 2 * np.pi, 100)
circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
left.plot(*noise.T, ".", color="grey", markersize=3, label=r"noise $\epsilon$")
for radius in (1, 2):
    left.plot(*(radius * circle).T, "k", linewidth=0.8, label=f"{radius} standard deviations")
left.legend(fontsize=8, loc="upper left")
left.set(xlabel="first number", ylabel="second number", title=r"$p(\epsilon)$, the same as $p(z)$")
_, means, log_vars = encode(p | {"W4": 2 * p["W4"], "W5": 2 * p["W5"], "b5": p["b5"] - 1}, x)  # larger differences
for i, colour in ((1, "tab:blue"), (2, "tab:orange"), (4, "tab:green")):
    of_picture = means[i : i + 1], log_vars[i : i + 1]
    right.plot(*draw(*of_picture, noise).T, ".", color=colour, markersize=2)
    right.plot(*draw(*of_picture, 2 * circle).T, colour, label=f"picture {i}, 2 standard deviations")
right.plot(*(2 * circle).T, "k", linewidth=0.8, label="prior")
right.legend(fontsize=8, loc="upper left")
_ = right.set(
    xlabel="$z_1$", ylabel="$z_2$", title=r"$q(z|x)$: $z = \mu + \sigma \epsilon$", xlim=(-4.5, 4.5), ylim=(-4, 6)
)

# %% [markdown]
# *See:* the left cloud is drawn from the prior. On the right, each picture moves and stretches that same cloud along
# the axes: its ellipse cannot tilt, because the variance is diagonal. The black circle is the prior again.
#
# ## The bound that is trained
#
# Prior and $q$ are both normal, so the KL divergence needs no sampling. For one picture:
#
# $$\mathcal L(\theta, \phi; x^{(i)}) \approx
# \frac12 \sum_{j=1}^J \big(1 + \log (\sigma_j^{(i)})^2 - (\mu_j^{(i)})^2 - (\sigma_j^{(i)})^2\big)
# + \frac1L \sum_{l=1}^L \log p(x^{(i)} | z^{(i,l)})$$
#
# The first sum is *minus* the divergence; lecture notes on this method often lose that sign. We take the mean over the
# $M$ pictures. This is estimator B of tutorial 06. Estimator A has the sampled $\log p(z) - \log q(z|x)$ in place of
# the first sum; we need it at the end.


# %%
# formula: vae-bound
def bounds(p, x, eps, draw=draw):
    """The bound of each sample in nats, (L * M,) each: by estimator B, and by estimator A."""
    _, mu, log_var = encode(p, x)
    samples = len(eps) // len(x)
    z = draw(mu, log_var, eps)
    log_px = log_likelihood(np.tile(x, (samples, 1)), decode(p, z)[1])  # log p(x|z)
    minus_kl = 0.5 * np.sum(1 + log_var - mu**2 - np.exp(log_var), axis=1)
    ratio = log_prior(z) - log_q(z, np.tile(mu, (samples, 1)), np.tile(log_var, (samples, 1)))
    return np.tile(minus_kl, samples) + log_px, ratio + log_px


def bound(p, x, eps, draw=draw):
    """Estimator B of the bound in nats, a mean over M pictures and L samples."""
    return bounds(p, x, eps, draw)[0].mean()


many = rng.standard_normal((4000, J))
by_samples = bounds(p, x[:1], many)[0]
grid_q = np.exp(log_q(plane, mu[0], log_var[0])) * cell  # the oracle: both terms as sums over the plane of codes
log_px_on_plane = log_likelihood(x[0], decode(p, plane)[1])
exact = np.sum(grid_q * (log_px_on_plane + log_prior(plane) - log_q(plane, mu[0], log_var[0])))
error = by_samples.std() / np.sqrt(len(many))
print(f"the bound of one picture: {by_samples.mean():.2f} +- {error:.2f} nats by samples, {exact:.2f} nats on a grid")
assert abs(by_samples.mean() - exact) < 4 * error
log_px = special.logsumexp(log_px_on_plane + log_prior(plane)) + np.log(cell)
print(f"log p(x) on the grid: {log_px:.2f} nats")
assert exact < log_px  # it is a lower bound

# %% [markdown]
# ## Its gradient
#
# Now go back through the graph of the first figure, from the right to the left. One place needs thought: $\mu$ and
# $\log \sigma^2$ reach the bound in two ways, through $z$ and through the divergence. The derivatives of minus the
# divergence are $-\mu_j$ with respect to $\mu_j$, and $\frac12 (1 - \sigma_j^2)$ with respect to $\log \sigma_j^2$.


# %%
def bound_gradient(p, x, eps, draw=draw, draw_backward=draw_backward):
    """The gradient of `bound` with respect to all parameters: a dict of arrays."""
    h, mu, log_var = encode(p, x)  # forward, and keep what the way back needs
    z = draw(mu, log_var, eps)
    k, a = decode(p, z)
    R = len(eps)  # L M
    da = bernoulli_backward_solution(np.tile(x, (R // len(x), 1)), a, np.full(R, 1 / R))
    dW2, db2, dk = dense_backward_solution(k, p["W2"], np.ones_like(a), da)
    dW1, db1, dz = dense_backward_solution(z, p["W1"], 1 - k**2, dk)
    dmu, dlog_var = draw_backward(log_var, eps, dz)  # through z
    dmu, dlog_var = dmu - mu / len(x), dlog_var + 0.5 * (1 - np.exp(log_var)) / len(x)  # and through the divergence
    dW4, db4, dh = dense_backward_solution(h, p["W4"], np.ones_like(mu), dmu)
    dW5, db5, more_dh = dense_backward_solution(h, p["W5"], np.ones_like(mu), dlog_var)
    dW3, db3, _ = dense_backward_solution(x, p["W3"], 1 - h**2, dh + more_dh)  # two outputs read h: add
    names = ("W1", "b1", "W2", "b2", "W3", "b3", "W4", "b4", "W5", "b5")
    return dict(zip(names, (dW1, db1, dW2, db2, dW3, db3, dW4, db4, dW5, db5)))


gradient = bound_gradient(p, x, eps)
exact_gradient = {name: complex_step(lambda array, n=name: bound(p | {n: array}, x, eps), p[name]) for name in p}
assert all(close(gradient[name], exact_gradient[name]) for name in p)
print(f"all {sum(array.size for array in p.values())} derivatives agree with the complex step to 12 digits")

# %% [markdown]
# That is the whole of backpropagation: a few lines, each of which we have checked alone.
#
# ## The library agrees
#
# The library must have the same gradient with the same noise, also that of estimator A, which samples
# $\log p(z) - \log q(z|x)$. There, $\log p(z)$ adds $-z$ to `dz`. By the change of variables
# $\log q(z|x) = \log p(\epsilon) - \frac12 \sum_j \log \sigma_j^2$, and the noise has no gradient: so $-\log q(z|x)$
# adds $\frac12$ to the derivative with respect to each $\log \sigma_j^2$.

# %%
LAYERS = ["decoder.hidden1", "decoder.logits", "encoder.hidden1", "encoder.mu", "encoder.log_var"]
named = {name: f"{LAYERS[int(name[1]) - 1]}.{name[0]}" for name in p}  # W1 is decoder.hidden1.W in the library
model = Model(Architecture(D, J, (H,)), reference, "float64")
theirs = model.parameters(np.zeros(model.layout.size))
for name, array in p.items():
    theirs[named[name]][...] = array
for analytic, which in ((True, 0), (False, 1)):  # B, then A
    result = SGVB(model, L, analytic_kl=analytic).value_and_grad(theirs, x, eps)
    assert abs(result.value - bounds(p, x, eps)[which].mean()) < 1e-12 * abs(result.value)
    for name in p:
        right = complex_step(lambda array, n=name, w=which: bounds(p | {n: array}, x, eps)[w].mean(), p[name])
        assert close(result.gradient[named[name]], right)

# %% [markdown]
# Its parts agree, too, in cases that our model does not have. There are four functions $f$, of which `soft_floor` keeps
# a log-variance above a floor (for tutorial 10). A pixel that was not observed is `nan`, and adds nothing. The weights
# of the rows may differ.

# %%
FLOOR = -2 * np.log(255 * np.sqrt(12))
ACTIVATIONS = {  # each with its slope, from the value y
    "identity": (lambda a: a, np.ones_like),
    "tanh": (np.tanh, lambda y: 1 - y**2),
    "sigmoid": (special.expit, lambda y: y * (1 - y)),
    "soft_floor": (lambda a: FLOOR + np.logaddexp(0, a - FLOOR), lambda y: 1 - np.exp(FLOOR - y)),
}
for name, (f, slope_of) in ACTIVATIONS.items():
    W, b = 3 * p["W3"], p["b3"] + (FLOOR if name == "soft_floor" else 0)
    y = dense(x, W, b, f)
    dW, db, dx = right = dense_backward_solution(x, W, slope_of(y), dy)
    theirs = np.empty_like(dW), np.empty_like(db), np.ones_like(dx)
    reference.dense_backward(x, W, y, dy.copy(), name, (*theirs, False))
    assert close(reference.dense(x, W, b, name), y) and all(map(close, theirs, right))
    reference.dense_backward(x, W, y, dy.copy(), name, (None, None, theirs[2], True))  # adds that of a second output
    assert close(theirs[2], 2 * dx)

log_prob, dz = np.full(L * M, 0.7), np.full((L * M, J), 0.3)
reference.add_log_prior(eps, log_prob, dz)  # adds to what is there
assert close(log_prob, 0.7 + log_prior(eps)) and close(dz, 0.3 - eps)

weights, seen = rng.uniform(0.1, 1, L * M), np.arange(D) % 5 > 0  # every fifth pixel is missing
right = log_likelihood(x_of_z, a), bernoulli_backward_solution(x_of_z, a, weights)
assert all(map(close, reference.bernoulli_log_prob(x, a, weights), right))
right = log_likelihood(x_of_z[:, seen], a[:, seen]), seen * right[1]
assert all(map(close, reference.bernoulli_log_prob(np.where(seen, x, np.nan), a, weights, missing=True), right))

dmu, dlog_var = draw_backward(log_var, eps, dz)  # B: one weight for each picture
right = dmu - weights[:M, None] * mu, dlog_var + 0.5 * weights[:M, None] * (1 - np.exp(log_var))
assert all(map(close, reference.gaussian_latent_backward(mu, log_var, eps, dz, True, weights[:M]), right))
dmu, dlog_var = draw_backward(log_var, eps, dz - weights[:, None] * z)  # A: one for each sample
right = dmu, dlog_var + 0.5 * weights.reshape(L, M, 1).sum(axis=0)
assert all(map(close, reference.gaussian_latent_backward(mu, log_var, eps, dz, False, weights), right))

# %% [markdown]
# ## Finite differences, and their valley
#
# The complex step needs functions that take complex numbers. Most code does not, and there one uses the **central
# difference**, which takes two real steps:
#
# $$f'(x) \approx \frac{f(x + h) - f(x - h)}{2h}$$
#
# **Before you run it:** what happens to its error as $h$ becomes smaller and smaller? And what will the curve look like
# for a gradient that is wrong by one part in a thousand?

# %%
steps, directions = np.logspace(-10, -0.5, 20), [{n: rng.normal(size=a.shape) for n, a in p.items()} for _ in range(15)]


def errors(step, gradient):
    """The error of central differences along random directions: a root mean square, relative to the slopes."""
    slopes = np.array([sum(np.sum(gradient[n] * way[n]) for n in p) for way in directions])
    up, down = ([bound({n: p[n] + s * way[n] for n in p}, x, eps) for way in directions] for s in (step, -step))
    return np.sqrt(np.mean((np.subtract(up, down) / (2 * step) - slopes) ** 2) / np.mean(slopes**2))


right = np.array([errors(step, gradient) for step in steps])
wrong = np.array([errors(step, {n: 1.001 * a for n, a in gradient.items()}) for step in steps])
ratio = errors(2e-2, gradient) / errors(1e-2, gradient)
print(f"the smallest error is below {10 ** np.ceil(np.log10(right.min())):.0e};", end=" ")
print(f"a step of twice the length has {ratio:.1f} times the error")
assert right.min() < 1e-8 and 1e-6 < steps[right.argmin()] < 1e-3 and abs(ratio - 4) < 0.4
assert abs(wrong[(steps > 1e-7) & (steps < 1e-3)] - 1e-3).max() < 1e-4

fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
ax.loglog(steps, right, ".-", label="the right gradient")
ax.loglog(steps, wrong, ".-", color="tab:red", label="wrong by one part in a thousand")
ax.axhline(1e-3, color="k", linestyle=":", linewidth=0.8)
ax.set(xlabel="step $h$", ylabel="relative error")
_ = ax.legend()

# %% [markdown]
# *See:* the right gradient makes a valley. To the right of its bottom the error grows with the square of the step: the
# function is not a parabola. To the left it grows again: two nearly equal numbers are subtracted, and
# their rounding errors are divided by a small $h$. The wrong gradient has no valley: for small steps its curve
# is flat, at the error of the gradient.
#
# There is a way to do better. Call the central difference $D(h)$. Its error is nearly $c h^2$, so $D(h)$ and $D(h/2)$
# together tell $c$, and that error can be removed. What remains is of the order $h^4$. With $D(h/4)$, that can be
# removed as well, and so on:
#
# $$f'(x) \approx \frac{4 D(h/2) - D(h)}{3}$$

# %%
t = np.array([0.7, -1.1, 0.4])
rough = [((t + h) ** 4 - (t - h) ** 4) / (2 * h) for h in (0.5, 0.25)]
assert close((4 * rough[1] - rough[0]) / 3, 4 * t**3)  # exact for a polynomial of degree 4, even with a long step
(checked,) = npvae.check_gradient(lambda t: (np.sum(t**10), 10 * t**9), t, step=0.5).differences
assert checked.error < 1e-10  # the library does this with five steps: exact up to degree 10

# %% [markdown]
# `npvae.check_gradient` extrapolates so, and `npvae.gradcheck` does it for a whole model. We compare it with one step
# of each entry by hand. It must also see one part in a thousand in a single array.


# %%
def central_differences(f, array, step=1e-4):
    """The derivative of f with respect to each entry of an array."""
    nudges = step * np.eye(array.size).reshape(-1, *array.shape)
    return np.array([(f(array + nudge) - f(array - nudge)) / (2 * step) for nudge in nudges]).reshape(array.shape)


by_hand = {}
for name in p:
    difference = central_differences(lambda array, n=name: bound(p | {n: array}, x, eps), p[name]) - gradient[name]
    by_hand[name] = np.linalg.norm(difference) / np.linalg.norm(gradient[name])
report = npvae.check_gradient(lambda p: (bound(p, x, eps), bound_gradient(p, x, eps)), p, full=False)
print(report)
assert report.passed and max(*by_hand.values(), *(check.error for check in report.differences)) < 1e-7
slightly_wrong = gradient | {"b4": 1.001 * gradient["b4"]}
assert npvae.check_gradient(lambda p: (bound(p, x, eps), slightly_wrong), p, full=False).failed == ["b4"]
vae = npvae.VAE(J, hidden_layer_sizes=(H,), likelihood="bernoulli", n_samples=L, backend="reference")
assert npvae.gradcheck(vae, X[:20], n_rows=M).passed

fig, ax = plt.subplots(figsize=(6.5, 3), layout="constrained")
ax.bar(list(by_hand), list(by_hand.values()), label="by hand: one step of $10^{-4}$")
ax.plot([c.name for c in report.differences], [c.error for c in report.differences], "kx", label="npvae.check_gradient")
ax.axhline(1e-7, color="tab:red", label="the limit")
ax.set(yscale="log", xlabel="array of parameters", ylabel="relative error", ylim=(1e-15, 1e-3))
_ = ax.legend(loc="upper right", ncols=2)

# %% [markdown]
# *See:* every array lies below the limit, and the extrapolated differences (crosses) far below. A check should report
# each array: if one bar stood out, you would know which line to read again.
#
# ## The bug that passes
#
# Here is a common bug: the noise is scaled by $e^{\log \sigma^2}$, the variance, and not by $\sigma$. The forward pass
# is wrong in one line. The backward pass is the correct derivative of that line:
# $\partial z_j / \partial \log \sigma_j^2$ is now $\sigma_j^2 \epsilon_j$.


# %%
def draw_bug(mu, log_var, eps):
    """The bug: exp(log_var) is the variance, not the standard deviation."""
    return (mu + np.exp(log_var) * eps.reshape(-1, *mu.shape)).reshape(eps.shape)


def draw_bug_backward(log_var, eps, dz):
    """The backward pass of the bug, correctly differentiated."""
    dz, eps = dz.reshape(-1, *log_var.shape), eps.reshape(-1, *log_var.shape)
    return dz.sum(axis=0), np.exp(log_var) * (dz * eps).sum(axis=0)


def train(p, rng, sampler):
    """Plain gradient ascent on minibatches with fresh noise."""
    for _ in range(3000):
        rows, noise = rng.integers(0, len(X), 50), rng.standard_normal((50, J))
        gradient = bound_gradient(p, X[rows], noise, *sampler)
        p = {name: array + 0.05 * gradient[name] for name, array in p.items()}
    return p


# %% [markdown]
# We train from the same start with the right sampler and with the bug, and check the gradient of each result. Then we
# compare the means of the two estimators: $\mathbb E[A] = \mathbb E[B]$, because both estimate the same bound. That is
# a statement about *values*. A gradient check says nothing about it: it only compares a function with its own
# derivative.
#
# For the bug we can say what to expect. $A$ has $\log p(z) - \log q(z|x)$ where $B$ has its mean under the *right*
# sampler. With $z = \mu + \sigma^2 \epsilon$, the mean of $z_j^2$ is $\mu_j^2 + \sigma_j^4$, and that of
# $(z_j - \mu_j)^2 / \sigma_j^2$ is $\sigma_j^2$. Both together give
#
# $$\mathbb E[A] - \mathbb E[B] = -\frac12 \sum_{j=1}^J (1 - \sigma_j^2)^2$$
#
# It is never positive, and zero only for $\sigma = 1$.
#
# **Before you run it:** will the gradient check notice? Will the bound rise with the bug, and as far as without?

# %%
SAMPLERS = {"right": (draw, draw_backward), "bug": (draw_bug, draw_bug_backward)}
start = {n: 0.5 * array if n[0] == "W" else 0 * array for n, array in p.items()}  # biases start at zero
result = {}
for name, sampler in SAMPLERS.items():
    gaps, bounds_after = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        trained = train(start, rng, sampler)
        step = lambda p, s=sampler: (bound(p, x, eps, s[0]), bound_gradient(p, x, eps, *s))
        assert npvae.check_gradient(step, trained, full=False).passed
        noise = rng.standard_normal((50 * len(X), J))
        b, a = (values.reshape(50, -1).mean(axis=0) for values in bounds(trained, X, noise, sampler[0]))  # each picture
        gaps.append((a - b).mean())
        expected = -0.5 * np.sum((1 - np.exp(encode(trained, X)[2])) ** 2, axis=1).mean() if name == "bug" else 0
        assert abs(gaps[-1] - expected) < 4 * (a - b).std() / np.sqrt(len(X))
        bounds_after.append([b.mean(), bound(trained, X, noise)])  # by the sampler of the training, by the right one
    error, (claimed, true) = (a - b).std() / np.sqrt(len(X)), np.mean(bounds_after, axis=0)
    result[name] = {"a": a, "b": b, "gap": np.mean(gaps), "error": error, "claimed": claimed, "true": true}
    print(
        f"{name:5}: all gradient checks passed; E[A] - E[B] = {min(gaps):.2f} to {max(gaps):.2f} nats (three runs,",
        end=" ",
    )
    print(f"each +- {error:.3f}); bound as trained {claimed:.1f}, by the right sampler {true:.1f} nats")
right, bug = result["right"], result["bug"]
assert abs(bug["gap"]) > 10 * bug["error"] and max(bug["error"], right["error"]) < 0.01
assert bug["claimed"] > max(bug["true"], right["claimed"]) + 0.3 and (bug["a"] < bug["b"]).all()
assert right["claimed"] > bound(start, X, noise) + 5 and encode(trained, X)[2].mean() < 0  # with the bug, sigma < 1

# %%
# figure: final-elbo
fig, axes = plt.subplots(1, 2, figsize=(6.5, 3), layout="constrained", sharey=True, sharex=True)
for ax, of, title in zip(axes, (right, bug), (r"noise times $\sigma$", r"the bug: noise times $\sigma^2$")):
    ax.plot(of["b"], of["a"] - of["b"], ".", markersize=3, label="a picture")
    ax.axhline(0, color="k", label="the truth: no difference")
    ax.set(xlabel="bound by B (nats)", title=title)
axes[0].set(ylabel="A - B (nats)")
axes[1].legend(loc="upper left")
fig.set_label("thumbnail")

# %% [markdown]
# *See:* each dot is a picture, and a mean over 50 samples. With the right sampler the dots scatter about zero: that is
# the noise of the samples. With the bug every dot lies below zero, as the formula says: A and B estimate two different
# things.
#
# The bug does not only pass the check; it looks *better*. Its bound rises further than the right one, because the
# objective is too easy: for $\sigma < 1$ the variance is smaller than $\sigma$, so the codes have less noise than the
# divergence was computed for. Put the right sampler into the model that was trained with the bug, and the bound falls.
# What the bug maximized is not the bound on $\log p(x)$.

# %%
print(
    f"Answer: noise scaled by the variance: no gradient check shows it, but E[A] - E[B] = {bug['gap']:.1f} nats,",
    end=" ",
)
print(f"not {abs(right['gap']):.1f} (+- 0.01)")

# %% [markdown]
# ## What to take with you
#
# A backward pass is a list of small steps, and each can be checked alone against an oracle. A gradient check tells
# whether the gradient belongs to your function, and never whether it is the right function. For that, compare values
# that must be equal in expectation, or compare with an exact answer. `npvae.nn` and `npvae.backends.reference` now
# stand for the layers, `npvae.check_gradient` and `npvae.gradcheck` for the checks. Tutorial 08 takes this gradient and
# trains with it, as the paper did.

# %%
plt.show()
