# %% [markdown]
# # Hold the whole method on one page
#
# **Question:** how much about handwriting does one page of NumPy learn in a few seconds?
#
# **You will do:** write a variational autoencoder with nothing hidden: data, encoder, decoder, the bound, its gradient,
# the optimizer and the training loop. You check the gradient, train, and draw new digits.
#
# **You will learn:** how the parts of Auto-Encoding Variational Bayes fit together. The later tutorials take one part
# each, and say why it is so.
#
# **You need:** matrix products, the chain rule, and the normal distribution. All logarithms are natural ones, and their
# unit is the **nat**: a picture that becomes $e$ times as probable gains one nat.

# %%
import matplotlib.pyplot as plt
import numpy as np

from npvae.backends import reference
from npvae.datasets import make_digits  # all else from npvae is for the comparison at the end only
from npvae.estimators import SGVB
from npvae.model import Architecture, Model
from npvae.optimizers import Optimizer, UpdateRule

rng = np.random.default_rng(0)  # the only source of randomness: the same seed gives the same run
X, X_test = np.split(make_digits(5500)[0] / 255, [5000])  # pixels from 0 to 1: 5000 digits to learn from, 500 new
N, D = X.shape  # N pictures, one a row, of D pixels each

# figure: data
fig, ax = plt.subplots(figsize=(7, 1.6), layout="constrained")
ax.imshow(np.hstack(X[:10].reshape(-1, 28, 28)), cmap="gray")  # the pixels of a row of X form a square
_ = ax.set(xlabel="10 rows of X, 28 pixels wide each", xticks=[], yticks=[])

# %% [markdown]
# *See:* digits, drawn by strokes that vary. The model sees only these pixels, and never which digit it is. A pixel is 1
# where it is white and 0 where it is black; a grey one of $0.3$ counts as three tenths of a white one.
#
# ## Two networks
#
# We imagine that each picture $x$ came about in two steps. First a **code** $z$ of $J$ numbers was drawn from the
# **prior** $p(z) = \mathcal N(0, I)$: independent standard normal numbers. Then the **decoder**, a network with
# parameters $\theta = (W_1, b_1, W_2, b_2)$, turned $z$ into a probability $y_d$ for each pixel $d$ to be white.
#
# Nobody tells us the code of a picture. So a second network, the **encoder** with parameters
# $\phi = (W_3, b_3, W_4, b_4, W_5, b_5)$, looks at $x$ and answers with a distribution over codes, $q(z|x)$: each
# number of the code is normal, with a mean $\mu_j$ and a variance $\sigma_j^2$. The network gives $\log \sigma^2$,
# because a logarithm may be any number, and a variance may not. It also gives $\mu$; both read the same **hidden
# units** $h$.
#
# $$h = \tanh(x W_3 + b_3), \quad \mu = h W_4 + b_4, \quad \log \sigma^2 = h W_5 + b_5$$
#
# $$k = \tanh(z W_1 + b_1), \quad a = k W_2 + b_2, \quad y = 1 / (1 + e^{-a})$$
#
# The numbers $a$ are called **logits**. The last function, the **sigmoid**, turns them into probabilities.
#
# In the code, an array has one row for each picture, or for each code. $M$ is the number of pictures that we treat at
# once, $H$ the number of hidden units, and `p` the dict of all parameters.


# %%
def initial_parameters(D, H, J, rng):
    """Small random weights, and biases of zero: a dict of arrays."""
    shapes = {"W1": (J, H), "W2": (H, D), "W3": (D, H), "W4": (H, J), "W5": (H, J)}  # (inputs, outputs)
    weights = {name: 0.05 * rng.standard_normal(shape) for name, shape in shapes.items()}
    return weights | {f"b{name[1]}": np.zeros(outputs) for name, (_, outputs) in shapes.items()}  # b1 belongs to W1


def encode(p, x):
    """From pictures x (M, D) to hidden units h (M, H), and mu and log sigma^2 (M, J) of q(z|x)."""
    h = np.tanh(x @ p["W3"] + p["b3"])
    return h, h @ p["W4"] + p["b4"], h @ p["W5"] + p["b5"]


def decode(p, z):
    """From codes z (R, J) to hidden units k (R, H), and the logits a (R, D) of the pixels."""
    k = np.tanh(z @ p["W1"] + p["b1"])
    return k, k @ p["W2"] + p["b2"]


def sigmoid(a):
    return (1 + np.tanh(a / 2)) / 2  # the same as 1 / (1 + exp(-a)), and it cannot overflow


# %% [markdown]
# ## The bound, and its gradient by hand
#
# We would like to raise $\log p(x)$, the log-probability of the pictures. But $p(x)$ is an integral over all codes that
# nobody can compute. A lower **bound** is easier, and holds whatever the encoder answers:
#
# $$\log p(x) \ge \mathcal L = \mathbb E_{q(z|x)}[\log p(x|z)] - D_{KL}(q(z|x) \| p(z))$$
#
# The first term asks the codes to explain the picture: it is the mean over $q(z|x)$ of
# $\log p(x|z) = \sum_d [x_d \log y_d + (1 - x_d) \log(1 - y_d)]$, and we estimate it with $L$ samples of $z$. (For grey
# pixels this is itself a mean: over black and white pictures whose pixel $d$ is white with probability $x_d$.) The
# second term is the **KL divergence**, the price of an answer that differs from the prior. It is zero if they are
# equal; here it is $\frac12 \sum_j (\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2)$.
#
# The trick is how to draw $z$: take noise $\epsilon$ from $\mathcal N(0, I)$, and let $z = \mu + \sigma \epsilon$. Then
# $z$ has a derivative with respect to $\mu$ and to $\sigma$, so the chain rule leads from the pixels back to the
# encoder. In the code, `da` is the derivative of the bound with respect to `a`, and likewise for the others. The first
# half of the function computes the bound; the second half goes through the same lines in reverse order.


# %%
def bound_and_gradient(p, x, eps):
    """The bound in nats, a mean over M pictures and L samples each, and its gradient: x (M, D), eps (L, M, J)."""
    L, M, J = eps.shape
    h, mu, log_var = encode(p, x)
    sigma = np.exp(log_var / 2)
    z = (mu + sigma * eps).reshape(L * M, J)  # one row a sample, for the decoder
    k, a = decode(p, z)
    x_of_z = np.tile(x, (L, 1))  # the picture of each sample
    log_likelihood = np.sum(x_of_z * a - np.logaddexp(0, a), axis=1)  # x log y + (1 - x) log(1 - y), from the logits
    kl = 0.5 * np.sum(mu**2 + sigma**2 - 1 - log_var, axis=1)

    # Now backward, from the pixels to the encoder.
    da = (x_of_z - sigmoid(a)) / (L * M)  # the chain rule through log and sigmoid leaves x - y; 1 / (L M) is the mean
    dk = (da @ p["W2"].T) * (1 - k**2)  # back through W2, then through tanh, whose derivative is 1 - tanh^2
    dz = (dk @ p["W1"].T).reshape(L, M, J)  # back to the code
    dmu = dz.sum(axis=0) - mu / M  # z moves as mu does; dz has its 1 / (L M) from da
    dlog_var = 0.5 * (dz * sigma * eps).sum(axis=0) - 0.5 * (sigma**2 - 1) / M  # d sigma = sigma / 2 d log_var
    dh = (dmu @ p["W4"].T + dlog_var @ p["W5"].T) * (1 - h**2)  # both outputs of the encoder read h
    into = {"1": (z, dk), "2": (k, da), "3": (x, dh), "4": (h, dmu), "5": (h, dlog_var)}  # of each layer: inputs, d
    gradient = {f"W{layer}": inputs.T @ d for layer, (inputs, d) in into.items()}
    return log_likelihood.mean() - kl.mean(), gradient | {f"b{layer}": d.sum(axis=0) for layer, (_, d) in into.items()}


# %% [markdown]
# ## Is the gradient right?
#
# A gradient written by hand deserves distrust. Nudge one parameter up and down by a small step, look at what the bound
# does, and compare. We do so for every parameter of a tiny network. The noise stays the same, so that the bound is an
# ordinary function.

# %%
tiny = {name: array + rng.normal(0, 0.3, array.shape) for name, array in initial_parameters(5, 4, 3, rng).items()}
x, eps, step = rng.random((6, 5)), rng.standard_normal((2, 6, 3)), 1e-5
_, gradient = bound_and_gradient(tiny, x, eps)
for name, array in tiny.items():
    for place in np.ndindex(array.shape):
        nudge = np.zeros_like(array)
        nudge[place] = step
        up, down = (bound_and_gradient(tiny | {name: array + by}, x, eps)[0] for by in (nudge, -nudge))
        assert abs((up - down) / (2 * step) - gradient[name][place]) < 1e-8, f"the gradient by {name}{place} is wrong"
print(f"{sum(array.size for array in tiny.values())} derivatives agree with finite differences")

# %% [markdown]
# ## The optimizer
#
# **Adagrad** divides each derivative by the root of the sum $G$ of its squares so far, so each parameter gets a step of
# its own size. The weights $W$, but not the biases $b$, also have a prior $\mathcal N(0, 1)$, which keeps them small.
# Its logarithm has the derivative $-W$. We divide it by $N$, because our bound is a mean over pictures, not their sum.


# %%
def adagrad_step(p, gradient, G, step_size, N):
    """Climb: change the parameters p and the sums of squares G in place."""
    for name in p:
        g = gradient[name] - (p[name] / N if name.startswith("W") else 0)
        G[name] += g**2
        p[name] += step_size * g / np.sqrt(G[name] + 1e-8)  # 1e-8: no division by zero


# %% [markdown]
# ## Train
#
# Each step takes a **minibatch** of $M$ pictures and fresh noise; an **epoch** is one pass over all pictures. We
# compare with **independent pixels**, a model that knows how often each pixel is white, and nothing more. The decoder
# starts there, whatever the code: the bias $b_2$ begins as the logits of these frequencies. So what the bound gains, it
# owes to the codes.
#
# **Before you run it:** for new pictures, the mean log-probability under independent pixels is about -184 nats. By how
# much will the bound be higher?

# %%
H, J, M, n_epochs, step_size = 100, 5, 100, 20, 0.05
y = X.mean(axis=0).clip(1 / N, 1 - 1 / N)  # independent pixels: how often each is white
baseline = X_test @ np.log(y) + (1 - X_test) @ np.log(1 - y)  # the log-probability of each new digit
p = initial_parameters(D, H, J, rng)
p["b2"] = np.log(y / (1 - y))  # the logits of y: a decoder of independent pixels
G = {name: np.zeros_like(array) for name, array in p.items()}
eps_test = rng.standard_normal((1, len(X_test), J))  # the same noise each time
train, test = [], []
for _ in range(n_epochs):
    values = []
    for rows in np.split(rng.permutation(N), N // M):  # minibatches of M pictures, in a new order each epoch
        value, gradient = bound_and_gradient(p, X[rows], rng.standard_normal((1, M, J)))
        adagrad_step(p, gradient, G, step_size, N)
        values.append(value)
    train.append(np.mean(values))
    test.append(bound_and_gradient(p, X_test, eps_test)[0])

bounds = [bound_and_gradient(p, X_test[i : i + 1], eps_test[:, i : i + 1])[0] for i in range(len(X_test))]
gain, error = np.mean(bounds - baseline), np.std(bounds - baseline) / np.sqrt(len(X_test))
print(f"bound on new digits: {np.mean(bounds):.0f} nats; independent pixels: {baseline.mean():.0f} nats", end=" ")
print(f"(on training digits {np.mean(X @ np.log(y) + (1 - X) @ np.log(1 - y)):.0f} nats)")
assert gain > 40 and test[-1] > test[0] + 10

# %%
# figure: one-page
reconstructed = sigmoid(decode(p, encode(p, X_test[:10])[1])[1])  # decode the mean code of each picture
drawn = sigmoid(decode(p, rng.standard_normal((10, J)))[1])  # decode codes drawn from the prior
fig, (top, bottom) = plt.subplots(2, 1, figsize=(6.5, 5), layout="constrained")
top.plot(N * np.arange(1, n_epochs + 1), np.transpose([train, test]), label=["training digits", "new digits"])
top.axhline(baseline.mean(), color="k", linestyle="--", label="independent pixels")
top.set(xlabel="pictures seen in training", ylabel="bound (nats)")
top.legend()
pictures = [np.hstack(row.reshape(-1, 28, 28)) for row in (X_test[:10], reconstructed, drawn)]
bottom.imshow(np.vstack(pictures), cmap="gray")
bottom.set(xlabel="28 pixels each", xticks=[])
bottom.set_yticks([14, 42, 70], ["new digits", "decoded codes", "from the prior"])
fig.set_label("thumbnail")

# %% [markdown]
# *See:* the bound leaves independent pixels at once. (The curve of the training digits is lower for two reasons: it is
# a mean over each epoch, while the model improves; and the new digits are a little easier, as independent pixels also
# find.) Each digit of the middle row went through a code of five numbers. Most came back recognizable, some as another
# digit. The last row decodes codes from the prior: some of these pictures look like digits, which nobody drew; others
# are mixtures of two digits.

# %%
print(f"Answer: the bound on new digits comes to {gain:.0f} nats (+- {error:.0f}) above independent pixels")

# %% [markdown]
# ## The same step by the library
#
# The library needs several files for this page, because it has other likelihoods, estimators and machines, too. With
# the same parameters and the same noise it must take the same step. Three steps, with two samples for each picture:

# %%
model = Model(Architecture(D, J, (H,)), reference, "float64")
layers = ["decoder.hidden1", "decoder.logits", "encoder.hidden1", "encoder.mu", "encoder.log_var"]
theirs, estimator = model.parameters(np.zeros(model.layout.size)), SGVB(model, n_samples=2)
named = {name: f"{layers[int(name[1]) - 1]}.{name[0]}" for name in p}  # W1 is called decoder.hidden1.W there
for name in p:
    theirs[named[name]][...] = p[name]
rule = UpdateRule(step_size, weight_decay=1 / N, accumulate_only=0, n_weights=model.layout.n_weights)
optimizer = Optimizer("adagrad", reference, rule, model.layout.size, "float64")
G = {name: np.zeros_like(array) for name, array in p.items()}
for rows in np.arange(3 * M).reshape(3, M):
    eps = rng.standard_normal((2, M, J))
    value, gradient = bound_and_gradient(p, X[rows], eps)
    result = estimator.value_and_grad(theirs, X[rows], eps.reshape(2 * M, J))
    pairs = [(np.array(value), result.value)] + [(gradient[n], result.gradient[named[n]].copy()) for n in p]
    adagrad_step(p, gradient, G, step_size, N)
    optimizer.step(theirs, result.gradient)
    pairs += [(p[n], theirs[named[n]]) for n in p]
    assert all(np.abs(ours - other).max() < 1e-12 * np.abs(ours).max() for ours, other in pairs)
print("value, gradient and parameters of three steps: equal to those of npvae")

# %% [markdown]
# ## What to take with you
#
# A variational autoencoder is two small networks, one bound, and the chain rule through $z = \mu + \sigma \epsilon$.
# `npvae.fit` does what this page does, and more. Tutorial 01 shows what such a model is good for; 02 to 06 derive the
# bound, 07 goes through the gradient line by line, and 08 through the training.

# %%
plt.show()
