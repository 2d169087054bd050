# %% [markdown]
# # Train a model of handwriting in a minute
#
# **Question:** How much more probable is a new digit to a model trained for a minute than to one without hidden causes?
#
# **You will do:** train a variational autoencoder on pictures of digits, write new digits with it, find similar ones,
# and repair damaged ones.
#
# **You will learn:** what such a model is for, what "nats" measure, and the three problems that it solves at once.
#
# **You need:** Python with NumPy, and what a probability is. Start here: nothing of this library is assumed.

# %%
import matplotlib.pyplot as plt
import numpy as np

import npvae
from npvae import plots
from npvae.exercises import Exercise

# %% [markdown]
# ## Five thousand pictures, and no labels
#
# Here is our data: pictures of handwritten digits, drawn at random by a small program that moves the strokes of a few
# templates. Each picture has $28 \times 28$ pixels, and each pixel is ink (1) or paper (0). We keep another thousand
# pictures aside. The model is not trained on those; they will tell whether it has learnt or only remembered.

# %%
grey, digit = npvae.datasets.make_digits(6000, random_state=0)
pictures = grey > 127  # (N, D): True is ink
X, X_test = pictures[:5000], pictures[5000:]
digit, digit_test = digit[:5000], digit[5000:]
N, D = X.shape


def strips(rows, title):
    """Draw rows of pictures one below the other; ``rows`` maps the name of a row to its pictures (n, D)."""
    images = np.concatenate([np.asarray(row, float) for row in rows.values()])
    _, ax = plt.subplots(figsize=(7, 0.75 * len(rows) + 0.4), layout="constrained")
    colours = plt.get_cmap("gray_r").with_extremes(bad="lightsteelblue")  # what is not there
    grid = plots.image_grid(images, (28, 28), columns=len(images) // len(rows), fill=np.nan)
    ax.imshow(grid, cmap=colours, vmin=0, vmax=1)
    ax.set_yticks([14 + 29 * i for i in range(len(rows))], list(rows))
    ax.tick_params(length=0)
    ax.set(xticks=[], title=title)


# %% [markdown]
# We want a model: something that gives each picture a probability. Here is the simplest one, which can only count.
# Pixel $d$ is ink in a share $p_d$ of the pictures. If the pixels were *independent*, a picture $x$, whose pixels $x_d$
# are 0 or 1, would have the probability
#
# $$p(x) = \prod_{d=1}^D p_d^{x_d} (1 - p_d)^{1 - x_d}$$
#
# with $D = 784$ pixels. We compute its logarithm, because a product of so many small numbers is too small for a
# computer. The natural logarithm of a probability is measured in **nats**. A nat more is a factor of $e \approx 2.7$ in
# probability, ten nats more are a factor of 22 thousand.


# %%
def log_independent(x, p):
    """log p(x) of pictures (N, D) whose pixels are independent, ink with the probabilities p (D,): (N,) in nats."""
    return np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), axis=1)


p = (X.sum(axis=0) + 1) / (N + 2)  # as if two more had been seen, one all ink and one all paper: no p is 0 or 1
few = np.array([[(i >> d) & 1 for d in range(6)] for i in range(64)])  # every picture of six pixels
assert abs(np.exp(log_independent(few, p[400:406])).sum() - 1) < 1e-12  # probabilities sum to one
log_baseline = log_independent(X_test, p)
print(f"independent pixels: log p(x) of a new digit is {log_baseline.mean():.0f} nats on average")
print(f"ten nats are a factor of {np.exp(10) / 1000:.0f} thousand")

# %%
# figure: motivation
rng = np.random.default_rng(0)
scattered = rng.random((200, D)) < p  # drawn from the model of independent pixels
strips({"data": X[:8], "independent\npixels": scattered[:8]}, "The same amount of ink in the same places")

# %% [markdown]
# *See:* the second row has the right amount of ink in the right region, and not one stroke. What makes a digit is how
# pixels *depend on each other*.
#
# So we need a better model. But how can one describe how 784 pixels depend on each other?
#
# ## Hidden causes
#
# Whoever wrote a digit had a few things in mind: which digit, how slanted, how thick a pen. Given all of these, each
# pixel is nearly determined. So let a picture arise in two steps:
#
# 1. A few hidden numbers $z$ are drawn. We choose the simplest distribution for them, the standard normal one. It is
#    called the **prior**.
# 2. A network turns $z$ into a probability of ink for every pixel, and the pixels are drawn. The network is called the
#    **decoder**.
#
# The hidden numbers $z$ are called **latents**, or the **code** of the picture. Given $z$ the pixels are independent
# once more, but they depend on each other through $z$: all of them follow the same hidden stroke.
#
# There is one difficulty, and these tutorials are about it. Nobody has told us the $z$ of any picture. To find the $z$
# that may have led to a picture is called **inference**. If the decoder is a network, it cannot be done exactly;
# tutorial 02 tries, and fails. The method of the paper (Kingma and Welling, "Auto-Encoding Variational Bayes") trains a
# *second* network, the **encoder**, that guesses $z$ from the picture, and says how uncertain its guess is. (Some texts
# swap the two names. The decoder is the model of the data; the encoder is the approximation that inference needs.)
#
# Both networks are trained together. What is raised is a number that is never above $\log p(x)$, a *lower bound*: where
# the bound is high, the pictures are probable to the model. The two networks and the bound are called a **variational
# autoencoder**. The next tutorials derive the bound and show how to raise it. First let us see that it works.
#
# ## Train
#
# We take $10$ latents, $200$ hidden units in each network, and $30$ passes over the data; tutorial 08 explains these
# settings. (The very first run on a computer takes longer: npvae compiles its fast code then, and keeps it.)

# %%
model = npvae.VAE(10, hidden_layer_sizes=(200,), batch_size=20, learning_rate=0.05, max_epochs=30, random_state=0).fit(
    X, X_valid=X_test[:500]
)

# %%
# figure: solution-brief
strips(
    {
        "new digits": X_test[500:508],
        "decoded\nfrom their code": model.reconstruct(X_test[500:508]),
        "written by\nthe model": model.sample(8, mean=True),
    },
    "Ten numbers hold a digit",
)
plt.gcf().set_label("thumbnail")

# %% [markdown]
# *See:* the second row was made from ten numbers a picture, and shows nearly the same digits; the third row was made
# from ten random numbers a picture, and nobody wrote these digits.
#
# Grey is the probability of ink: the model is unsure about the edges of a stroke. Not all pictures of the third row are
# digits. Between the codes of a 3 and those of a 7 there are codes of neither, and a random $z$ may fall there.
#
# ## Watch it learn
#
# **Before you run it:** the model began with random weights. After how many pictures does it overtake the independent
# pixels? And how far will it get: will a new digit be ten times more probable to it, a thousand times, or more?
#
# The curve shows the lower bound (`elbo` for short: *evidence lower bound*). The model's $\log p(x)$ is at least as
# large, so the gain is at least what we find.

# %%
# figure: solution-brief
seen = np.array([epoch.samples_seen for epoch in model.history_])
training, held_out = (np.array([getattr(epoch, name) for epoch in model.history_]) for name in ("elbo", "elbo_valid"))
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(seen, training, "o-", ms=3, label="model, training pictures")
ax.plot(seen, held_out, "s-", ms=3, label="model, pictures held out")
ax.axhline(log_baseline.mean(), color="k", ls="--", label="independent pixels")
ax.set(xscale="log", xlabel="pictures seen", ylabel="nats a picture", title="The bound on log p(x)")
ax.legend(loc="lower right")

bound = model.score_samples(X_test)
gain = bound[500:] - log_baseline[500:]  # pictures that were not even used to watch the training
mean_gain, standard_error = gain.mean(), gain.std() / np.sqrt(len(gain))
print(f"independent pixels are overtaken before {2 * seen[0]} pictures were seen")
print(f"gain on new digits: about {mean_gain:.0f} nats a picture, with a standard error of {standard_error:.1f}")
print(f"as a factor of probability: about 10 to the power {mean_gain / np.log(10):.0f}")
assert held_out[1] > log_baseline.mean() and mean_gain > 20 + 5 * standard_error

# %% [markdown]
# *See:* after one or two passes the model is above the dashed line; then each further nat takes longer. (The first
# value of the training curve is a mean over the whole first pass, with its beginning.)
#
# Did you guess a factor like this one? Probabilities of whole pictures are tiny, and models differ by huge factors.
# That is why one speaks of nats.
#
# The two curves part in the end: the model knows its training pictures a little better than new ones. Tutorial 09 comes
# back to this.
#
# ## One picture and its code
#
# The encoder does not answer with one code, but with a distribution: a mean and a standard deviation (sd) for each
# latent. It is written $q(z|x)$, and says what $z$ may have been, once $x$ was seen.

# %%
# figure: solution-brief
x = X_test[505:506]
mean, std = model.encode(x)
codes = model.sample_posterior(x, 4, random_state=0)[:, 0]  # four draws of z from q(z|x)
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.7), width_ratios=(1, 2.6, 2), layout="constrained")
axes[0].imshow(x.reshape(28, 28), cmap="gray_r")
axes[0].set(title="x", xticks=[], yticks=[])
axes[1].axhspan(-1, 1, color="0.9", label="prior: mean 0, sd 1")
axes[1].errorbar(range(1, 11), mean[0], std[0], fmt="o", capsize=3, label="q(z|x): mean, sd")
axes[1].set(xlabel="latent", ylabel="value of z", title="its code", xticks=range(1, 11), ylim=(-5.2, 3.6))
axes[1].legend(loc="lower center", ncols=2, fontsize="small", frameon=False)
axes[2].imshow(plots.image_grid(model.inverse_transform(codes), (28, 28), 2, fill=0.5), cmap="gray_r", vmin=0, vmax=1)
axes[2].set(title="decoded: four draws of z", xticks=[], yticks=[])
print(f"the sd of q(z|x), on average over latents: {std.mean():.1f} (the prior's is 1)")
assert np.all(std < 1)

# %% [markdown]
# *See:* the bars of the code are much shorter than the grey band of the prior, so the picture has told a lot about each
# latent. (A few means lie outside of the band. So does one draw in three from a normal distribution.) Codes drawn from
# $q(z|x)$ all decode to this digit, written slightly differently.
#
# ## Three problems, one model
#
# The paper names three related problems. The model that we have trained solves all of them.
#
# **1. Find the parameters**, the weights of the decoder. With them we can imitate the process that made the data: the
# digits "written by the model" came from them.
#
# **2. Find the latents of a picture.** A code is a short description, good for a search: which pictures are like this
# one? Pixels seem bad at it: a digit that is moved aside by three pixels has little in common with itself.
#
# **Before you run it:** for each new digit we look for the most similar training picture, and count how often it shows
# the same digit: once by comparing all pixels, once by comparing codes. Which is right more often?


# %%
def nearest(queries, rows):
    """For each query (n, J), the number of the row of rows (N, J) at the smallest squared distance: (n,)."""
    return np.argmin(np.sum(rows**2, axis=1) - 2 * queries @ rows.T, axis=1)  # |q|^2 is the same for all rows


images = X_test.reshape(-1, 28, 28)
kept = np.sum(images & np.roll(images, 3, axis=2), axis=(1, 2)) / images.sum(axis=(1, 2))
print(f"moved by three pixels, a digit keeps {100 * kept.mean():.0f} % of its ink in place")
Z, Z_test = model.transform(X), model.transform(X_test)  # means of q(z|x), (N, 10)
by_code, by_pixels = nearest(Z_test, Z), nearest(X_test.astype(float), X.astype(float))
hits = {name: digit[found] == digit_test for name, found in (("codes", by_code), ("pixels", by_pixels))}
for name, hit in hits.items():
    print(f"the nearest by {name} shows the same digit in {100 * hit.mean():.0f} % of {len(hit)} searches", end="")
    print(f" (standard error {100 * hit.std() / np.sqrt(len(hit)):.1f})")
loss = hits["pixels"].astype(float) - hits["codes"]
print(f"codes lose {100 * loss.mean():.0f} % (standard error {100 * loss.std() / np.sqrt(len(loss)):.1f})", end=" ")
print(f"and compare {Z.shape[1]} numbers in place of {D}")
assert loss.mean() + 3 * loss.std() / np.sqrt(len(loss)) < 0.05

# %%
# figure: three-problems
chosen = range(510, 518)
strips(
    {
        "new digits": X_test[chosen],
        "nearest code": X[by_code[chosen]],
        "nearest pixels": X[by_pixels[chosen]],
    },
    "The most similar of five thousand",
)

# %% [markdown]
# *See:* both searches find strokes of much the same shape.
#
# Did you expect the code to win? It does not: among five thousand pictures there is nearly always one that agrees in
# most pixels. What the code offers is ten numbers in place of 784, at next to no loss. (It is often said that codes are
# "better" than pixels. Measure it.)
#
# **3. Fill in what was not seen.** A model of whole pictures knows what the rest may look like when a part is given. We
# damage new digits in two ways: each pixel is flipped with probability $0.1$, or the lower half is torn off. `denoise`
# and `impute` compute what the model expects, given what is left; tutorial 10 shows how.
#
# **Before you run it:** about a tenth of the pixels are wrong after the noise. How many after the repair? And does the
# model guess a torn half better than the frequencies $p_d$ do?

# %%
rng = np.random.default_rng(3)
clean = X_test[520:544]
noisy = clean ^ (rng.random(clean.shape) < 0.1)
torn = clean.astype(float)
torn[:, D // 2 :] = np.nan
repaired = model.denoise(noisy, salt_and_pepper=0.2)  # a fifth replaced by ink or paper: half of these change
completed = model.impute(torn)


def wrong(guess, where=slice(None)):
    """Share of wrong pixels, in %: mean over pictures and its standard error. Above 1/2 a guess counts as ink."""
    shares = 100 * np.mean((guess > 0.5)[:, where] != clean[:, where], axis=1)
    return shares.mean(), shares.std() / np.sqrt(len(shares))


lower = slice(D // 2, None)
errors = {
    "noisy": wrong(noisy),
    "repaired": wrong(repaired),
    "lower half, by the most frequent value of each pixel": wrong(np.tile(p, (len(clean), 1)), lower),
    "lower half, by the model": wrong(completed, lower),
}
for name, (mean_wrong, error) in errors.items():
    print(f"{name}: {mean_wrong:.0f} % of pixels wrong (standard error {error:.1f})")
assert errors["repaired"][0] < errors["noisy"][0] / 2
by_frequency, by_model = list(errors.values())[2:]
assert by_model[0] + 3 * by_model[1] < by_frequency[0]

# %%
# figure: three-problems
strips(
    {
        "the truth": clean[:8],
        "noisy": noisy[:8],
        "repaired": repaired[:8],
        "torn": torn[:8],
        "completed": completed[:8],
    },
    "Repairs",
)

# %% [markdown]
# *See:* most of the noise goes away. The missing halves are good guesses, and sometimes wrong ones: where the
# upper half may belong to two digits, the model answers with a grey mixture of both. It cannot know.
#
# ## Exercise: rank four kinds of pictures
#
# Which pictures does the trained model find probable? First a warning: "probable" and "looks like a digit" are two
# things. To the model of independent pixels, the most probable picture of all has ink wherever a pixel is more often
# ink than paper. That is a small blot in the middle of the page. Even the empty page is more probable to it than a
# digit. To the trained model, it is not.

# %%
blot, empty = (p > 0.5)[None], np.zeros((1, D))
log_blot, log_empty = log_independent(blot, p)[0], log_independent(empty, p)[0]
print(f"independent pixels: a blot of {blot.sum()} pixels {log_blot:.0f} nats, the empty page {log_empty:.0f}", end=" ")
print(f"nats, a digit {log_baseline.mean():.0f} nats")
print(f"trained model: the empty page {model.score(empty):.0f} nats, a digit {bound.mean():.0f} nats")
assert log_blot > log_empty > log_baseline.mean() + 40 and log_blot > log_independent(pictures, p).max()
assert model.score(empty) < bound.mean() - 100

# %% [markdown]
# Now the trained model, and four kinds of pictures: `0` new digits, `1` new digits upside down (the rows of pixels in
# reverse order), `2` scattered ink as in the first figure, `3` scattered ink that is equally frequent in all places, as
# much of it as in a digit. Put them in order, from the highest bound to the lowest. Predict, then check.


# %%
def rank_by_score():
    """Return the numbers of the four kinds, the one with the highest bound first: a list of four integers."""
    ...  # your answer, one line


# %% [markdown]
# <details><summary>Hint</summary>
#
# The model believes in strokes. Which of the kinds have strokes? Among those without: which has its ink where the data
# has some?
#
# </details>


# %% tags=["hide-cell"]
def rank_by_score_solution():
    return [0, 1, 2, 3]


everywhere = np.random.default_rng(0).random((200, D)) < X.mean()
upside_down = X_test[:200].reshape(-1, 28, 28)[:, ::-1].reshape(-1, D)
measured = [model.score(kind) for kind in (X_test[:200], upside_down, scattered, everywhere)]
check_rank_by_score = Exercise(
    solution=rank_by_score_solution,
    mistakes={
        "the worst kind is first, where the best is asked for": lambda: [3, 2, 1, 0],
        "scattered ink has ink in the right places, but not one stroke; digits upside down have": lambda: [0, 2, 1, 3],
        "that is the answer of independent pixels; the trained model knows strokes": lambda: [2, 0, 1, 3],
        "scattered ink at least leaves the margin empty, as the data does": lambda: [0, 1, 3, 2],
    },
    inputs=[()],
    expected=[np.argsort(measured)[::-1]],
)

# %%
print(check_rank_by_score(rank_by_score))

# %% [markdown]
# ## Exercise: retrieve
#
# Write the search for one picture of the collection: return the number of the picture that is most similar *by code* to
# picture $i$, other than $i$ itself. Similar means: at the smallest squared distance, as in `nearest`. You are given
# the codes and the pictures; only one of them is needed.


# %%
def retrieve(i, Z, X):
    """Return the number of the row whose code is nearest to that of row i: codes Z (N, J), pictures X (N, D)."""
    ...  # your code, about three lines


# %% [markdown]
# <details><summary>Hint</summary>
#
# Squared distances are a sum over latents. Nothing is nearer to row $i$ than row $i$: exclude it with `np.inf`.
#
# </details>


# %% tags=["hide-cell"]
def retrieve_solution(i, Z, X):
    squared = np.sum((Z - Z[i]) ** 2, axis=1)
    squared[i] = np.inf
    return np.argmin(squared)


def retrieve_slowly(i, Z, X):
    distances = {j: sum((a - b) ** 2 for a, b in zip(Z[i], Z[j])) for j in range(len(Z)) if j != i}
    return min(distances, key=distances.get)


def retrieve_by_product(i, Z, X):
    products = Z @ Z[i]
    products[i] = -np.inf
    return np.argmax(products)


some = Z[:300].astype(float), X[:300].astype(float)
some[0][1] = some[0][0]  # two pictures with the same code: each is the nearest to the other
check_retrieve = Exercise(
    solution=retrieve_solution,
    mistakes={
        "it searches in pixel space: the codes are Z": lambda i, Z, X: retrieve_solution(i, X, Z),
        "it finds the picture itself, at distance 0": lambda i, Z, X: i,
        "the second in order may be the picture itself: another one may have the same code": lambda i, Z, X: np.argsort(
            np.sum((Z - Z[i]) ** 2, axis=1), kind="stable"
        )[1],
        "it takes the largest product of codes, which favours codes far from 0": retrieve_by_product,
    },
    inputs=[(i, *some) for i in range(5)],
    expected=[retrieve_slowly(i, *some) for i in range(5)],
)

# %%
print(check_retrieve(retrieve))

# %% [markdown]
# ## The answer

# %%
print(
    f"Answer: by about {round(mean_gain, -1):.0f} nats a picture (standard error {standard_error:.0f}), "
    f"a factor of 10 to the power {round(mean_gain / np.log(10), -1):.0f}"
)

# %% [markdown]
# ## What to take with you
#
# A model with hidden causes makes new digits more probable by a huge factor, because it knows how pixels depend on each
# other. One training solves three problems: it finds the decoder's weights, the latents of each
# picture, and what is missing in a picture. `npvae.VAE(...).fit(X)` does all this; tutorial 02 begins to take it apart,
# with the question of why $z$ is so hard to find.

# %%
plt.show()
