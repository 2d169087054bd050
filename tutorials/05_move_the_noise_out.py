# %% [markdown]
# # Move the noise out
#
# **Question:** How much quieter is a gradient when the noise does not depend on the parameters?
#
# **You will do:** write a sample as a function of its parameters and of noise, in three ways, for some twenty families
# of distributions; differentiate through the samples; and measure what that is worth against the score function.
#
# **You will learn:** why an expectation over noise may be differentiated sample by sample; what to do for a family
# that is not Gaussian; and two cases in which the trick is worse than what it replaces.
#
# **You need:** tutorial 04 (the score function, and why its estimates are noisy), densities of one variable, and the
# chain rule.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import ConnectionPatch
from scipy import integrate, special, stats

from npvae import distributions
from npvae.exercises import Exercise

# %% [markdown]
# ## Two ways to estimate the same curve
#
# We want to climb $F(\mu) = \mathbb E_q[f(z)]$ by changing the mean $\mu$ of $q = \mathcal N(\mu, \sigma^2)$. Here
# $f(z) = \cos z$, because then the truth is known: $F(\mu) = e^{-\sigma^2/2} \cos \mu$. We estimate $F$ from $L = 20$
# samples, at 121 values of $\mu$. First we draw new samples for each $\mu$. Then we draw twenty numbers
# $\epsilon \sim \mathcal N(0, 1)$ only once, keep them, and use $z = \mu + \sigma \epsilon$ for every $\mu$.
#
# **Before you run it:** both use twenty samples from the right distribution. Which of the two could you differentiate?

# %%
rng, L, sigma = np.random.default_rng(5), 20, 0.8
means = np.linspace(-3, 3, 121)
kept = rng.standard_normal(L)
redrawn_curve = np.array([np.cos(rng.normal(mu, sigma, L)).mean() for mu in means])
kept_curve = np.array([np.cos(mu + sigma * kept).mean() for mu in means])
truth = np.exp(-(sigma**2) / 2) * np.cos(means)

# figure: sgvb
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(means, redrawn_curve, "tab:orange", lw=1, label="new samples for each mean")
ax.plot(means, kept_curve, "tab:blue", lw=2, label="the same noise for each mean")
ax.plot(means, truth, "k--", label="truth")
ax.set(xlabel="mean of q", ylabel="estimate of E[cos z]", title="Twenty samples each")
ax.legend(loc="lower center", fontsize=8)

step = means[1] - means[0]
jumps = {}
for name, curve in (("redrawn", redrawn_curve), ("kept", kept_curve)):
    distance, jumps[name] = np.sqrt(np.mean((curve - truth) ** 2)), np.abs(np.diff(curve)).max()
    print(f"{name}: rms distance from the truth {distance:.2f}, largest step between neighbours {jumps[name]:.2f}")
assert jumps["kept"] <= step < jumps["redrawn"]  # |d cos(mu + sigma eps) / d mu| <= 1, so a step of mu changes no more

# %% [markdown]
# *See:* both estimates are about equally far from the truth, but only the blue one is a smooth curve, with a slope.
#
# The blue curve is off to one side everywhere, because all of its points have the same twenty numbers. Other numbers
# would move it elsewhere; on average it is at the truth, and so is its slope.
#
# Neighbours on the orange line differ because their samples differ, so its slope says nothing about $F$. This is the
# whole idea of this tutorial: first draw noise, from a distribution without parameters; then make the sample from it.
#
# ## A sample as a function
#
# An encoder with parameters $\phi$ looks at $x$ and gives a distribution $q_\phi(z|x)$. A sample of it is written as
#
# $$z = g_\phi(\epsilon, x), \qquad \epsilon \sim p(\epsilon)$$
#
# where $p(\epsilon)$ has no parameters. (Lecture notes on this method often write $\epsilon \in p(\epsilon)$. It
# should be $\epsilon \sim p(\epsilon)$, "drawn from".) The small encoder below has three parameters. We test its
# samples with the Kolmogorov-Smirnov test, which compares their distribution with the one that they should have. A
# small $p$, say below one in a thousand, would be a reason to doubt.


# %%
def same(found, right, tolerance=1e-12):
    """Assert that two arrays are equal up to rounding, relative to the larger of 1 and the right value."""
    assert np.shape(found) == np.shape(right) and np.allclose(found, right, rtol=tolerance, atol=tolerance)


# formula: reparameterized-sample
def encoder(phi, x):
    """Mean and standard deviation of q(z|x) for phi = (a, b, c)."""
    a, b, c = phi
    return a * x, np.exp(b * x + c)


def g(phi, eps, x):
    """z = g_phi(eps, x): a sample of q(z|x) from noise."""
    mu, sigma = encoder(phi, x)
    return mu + sigma * eps


phi, x = (0.7, -0.4, 0.2), 1.5
eps = rng.standard_normal(20_000)
z = g(phi, eps, x)
p_value = stats.kstest(z, stats.norm(*encoder(phi, x)).cdf).pvalue
print(f"20000 samples against N(mu(x), sigma(x)^2): p = {p_value:.2f}")
assert p_value > 1e-3
same(distributions.Normal(*encoder(phi, x)).rsample(eps), z)

# %% [markdown]
# `rsample` of npvae's distributions is our $g$.
#
# ## Nothing is lost: masses are kept
#
# Why is it allowed to replace $q_\phi(z|x)$ by $p(\epsilon)$? Because $g$ carries each small piece of probability
# along: the mass of $p$ between $\epsilon$ and $\epsilon + d\epsilon$ is the mass of $q$ between $g(\epsilon)$ and
# $g(\epsilon + d\epsilon)$.
#
# $$q_\phi(z|x) \, |dz| = p(\epsilon) \, |d\epsilon|$$
#
# In several dimensions $dz$ and $d\epsilon$ are small volumes, and their ratio is the determinant of the derivative of
# $g$ (its absolute value). To see something we need a $g$ that bends: $z = \exp(\mu + \sigma \epsilon)$, which makes
# a log-normal variable.

# %%
mu, sigma = 0.3, 0.6
bent = stats.lognorm(s=sigma, scale=np.exp(mu))  # SciPy's log-normal: the oracle


def bend(eps):
    """z = exp(mu + sigma eps)."""
    return np.exp(mu + sigma * eps)


def slope_of_bend(eps):
    """dz / d eps, by the chain rule."""
    return sigma * np.exp(mu + sigma * eps)


# formula: change-of-variables
edges = special.ndtri(np.arange(11) / 10)  # ten bins of noise, each of mass 1/10; the outer two are infinite
same(np.diff(bent.cdf(bend(edges))), np.full(10, 0.1))  # the bins of z have the same masses
eps = np.linspace(-4, 4, 81)
q = stats.norm.pdf(eps) / slope_of_bend(eps)  # q(z) = p(eps) / |dz / d eps|
same(q, bent.pdf(bend(eps)))
by_z = lambda z: stats.norm.pdf((np.log(z) - mu) / sigma) / (sigma * z)  # the same q, with eps found from z
same(integrate.quad(by_z, 0, np.inf)[0], 1.0, 1e-9)

# figure: reparameterization-trick
fig, (top, bottom) = plt.subplots(2, 1, figsize=(7, 4.4), layout="constrained")
fig.set_label("thumbnail")
colours = plt.cm.viridis(np.linspace(0.1, 0.9, 10))
fine = np.linspace(-2.6, 2.6, 1041)
for low, high, colour in zip(edges, edges[1:], colours):
    inside = fine[(fine >= low) & (fine <= high)]
    top.fill_between(inside, stats.norm.pdf(inside), color=colour)
    bottom.fill_between(bend(inside), bent.pdf(bend(inside)), color=colour)
for edge in edges[1:-1]:
    join = ConnectionPatch((edge, 0), (bend(edge), bent.pdf(bend(edge))), "data", "data", axesA=top, axesB=bottom)
    join.set(color="0.5", lw=0.8)
    fig.add_artist(join)
top.xaxis.tick_top()
top.xaxis.set_label_position("top")
top.set(ylabel=r"$p(\epsilon)$", xlabel=r"noise $\epsilon$", title="Ten bins of equal mass, before and after $g$")
_ = bottom.set(xlabel=r"sample $z = \exp(\mu + \sigma \epsilon)$", ylabel="$q(z)$", xlim=(0, 6.5))

# %% [markdown]
# *See:* each colour has a tenth of the area above and a tenth below. Where $g$ is steep (on the right) a bin gets wide
# and therefore low; where $g$ is flat it gets narrow and high. (The first and the last bin are infinite; compare the
# others.)
#
# Now put a function $f$ into the integral. The mass at $z$ is the mass at $\epsilon$, so
#
# $$\int q_\phi(z|x) f(z) \, dz = \int p(\epsilon) f(g_\phi(\epsilon, x)) \, d\epsilon
# \approx \frac 1 L \sum_{l=1}^L f(g_\phi(\epsilon^{(l)}, x))$$
#
# The first step is an equality. Only the second one is an estimate. We take $f(z) = \log(1 + z)$ as an example.

# %%
f = np.log1p

# formula: expectation-over-noise
over_z = integrate.quad(lambda z: bent.pdf(z) * f(z), 0, np.inf, epsabs=1e-12, epsrel=1e-12)[0]
over_noise = integrate.quad(lambda e: stats.norm.pdf(e) * f(bend(e)), -9, 9, epsabs=1e-12, epsrel=1e-12)[0]
samples = f(bend(rng.standard_normal(100_000)))
estimate, error = samples.mean(), samples.std() / np.sqrt(samples.size)
print(f"E[f(z)]: over z {over_z:.6f}, over the noise {over_noise:.6f}, by samples {estimate:.3f} +- {error:.3f}")
same(over_z, over_noise, 1e-10)
assert abs(estimate - over_noise) < 4 * error

# %% [markdown]
# ## The gradient moves inside
#
# In $\int p(\epsilon) f(g_\phi(\epsilon, x)) d\epsilon$ the parameters are no longer in the density. They are in an
# ordinary function, so the derivative may be taken under the integral, and the chain rule does the rest:
# $\nabla_\phi f(g_\phi(\epsilon, x)) = f'(z) \, \nabla_\phi g_\phi(\epsilon, x)$. For the Gaussian:
#
# $$\mathbb E_{\mathcal N(z; \mu, \sigma^2)}[f(z)] = \mathbb E_{\mathcal N(\epsilon; 0, 1)}[f(\mu + \sigma \epsilon)]
# \approx \frac 1 L \sum_{l=1}^L f(\mu + \sigma \epsilon^{(l)})$$
#
# with $\partial z / \partial \mu = 1$ and $\partial z / \partial \sigma = \epsilon$. For $f = \cos$ we know the truth,
# $e^{-\sigma^2/2} \cos \mu$, and its derivatives.
#
# **Before you run it:** how many digits of the derivative by $\sigma$ will 100000 samples give?

# %%
mu, sigma = 0.9, 0.8
eps = rng.standard_normal(100_000)

# formula: gaussian-expectation
z = mu + sigma * eps
estimates = {
    "value": np.cos(z),
    "by mu": -np.sin(z) * 1,  # f'(z) dz/dmu
    "by sigma": -np.sin(z) * eps,  # f'(z) dz/dsigma
}
decay = np.exp(-(sigma**2) / 2)
exact = {"value": decay * np.cos(mu), "by mu": -decay * np.sin(mu), "by sigma": -sigma * decay * np.cos(mu)}
for what, each in estimates.items():
    mean, error = each.mean(), each.std() / np.sqrt(each.size)
    print(f"E[cos z], {what:8}: {mean:.3f} +- {error:.3f}; exact {exact[what]:.3f}")
    assert abs(mean - exact[what]) < 4 * error
under = lambda e: stats.norm.pdf(e) * np.cos(mu + sigma * e)
same(integrate.quad(under, -9, 9, epsabs=1e-13)[0], exact["value"], 1e-10)
from_library = distributions.Normal(mu, sigma).pullback(eps, dz=-np.sin(z))
same(from_library["loc"], estimates["by mu"])
same(from_library["scale"], estimates["by sigma"])

# %% [markdown]
# Two to three digits: the error falls as $1/\sqrt L$, here as everywhere. `pullback` takes the derivatives $f'(z)$ of
# whatever was done with the samples, and brings them back to the parameters. This is what backpropagation does at this
# point.
#
# ## For which distributions can we do this?
#
# The paper names three approaches. We write each, for several families, and compare with npvae's. The rest of the
# course needs only the Gaussian. At a first reading you may go on at "What is it worth?".
#
# ### First approach: invert the distribution function
#
# $F(z)$, the probability of a value up to $z$, climbs from 0 to 1. If $\epsilon$ is uniform on $(0, 1)$, then the $z$
# with $F(z) = \epsilon$ has the distribution function $F$:
#
# $$\epsilon \sim U(0, 1), \qquad z = F^{-1}(\epsilon)$$
#
# (The paper writes $U(0, I)$. It means: each component is uniform on $(0, 1)$, and the components are independent.)
# For the exponential distribution, $F(z) = 1 - e^{-\lambda z}$. Solve $1 - e^{-\lambda z} = \epsilon$ for $z$.

# %%
u = (np.arange(20_000) + rng.random(20_000)) / 20_000  # uniform noise, evenly spread


# formula: inverse-cdf
def exponential(eps, rate):
    """The z with 1 - exp(-rate z) = eps."""
    return -np.log1p(-eps) / rate


z = exponential(u, rate=1.7)
same(1 - np.exp(-1.7 * z), u)  # F(z) = eps
same(integrate.quad(lambda z: 1.7 * np.exp(-1.7 * z), 0, np.inf)[0], 1.0)  # the density has mass 1
print(f"exponential: mean of the samples {z.mean():.3f}, exact {1 / 1.7:.3f}")
assert abs(z.mean() - 1 / 1.7) < 4 * z.std() / np.sqrt(z.size)

# %% [markdown]
# ### Exercise: the Gumbel distribution
#
# Its distribution function is $F(z) = \exp(-\exp(-(z - \text{loc}) / \text{scale}))$. Invert it. (The folded
# cell after yours has a solution and the checker. Run it even if you do not open it: the table below uses its
# solution.)
#
# <details><summary>Hint</summary>
#
# Take logarithms twice, and watch the signs: $\log \epsilon$ is negative, so $-\log \epsilon$ has a logarithm.
#
# </details>


# %%
def gumbel_icdf(u, loc, scale):
    """The z with F(z) = u, for u (n,) in (0, 1): an array (n,)."""
    ...  # your code, about one line


# %% tags=["hide-cell"]
def gumbel_icdf_solution(u, loc, scale):
    return loc - scale * np.log(-np.log(u))


_calls = [(np.array([0.03, 0.2, 0.6, 0.95]), -0.4, 1.3), (np.array([0.1, 0.5]), 2.0, 0.7)]
check_gumbel_icdf = Exercise(
    solution=gumbel_icdf_solution,
    mistakes={
        "it has 1 - u for u: right as a sampler, but an inverse distribution function rises with u, and yours falls": (
            lambda u, loc, scale: loc - scale * np.log(-np.log(1 - u))
        ),
        "the sign before scale is wrong: that is a Gumbel variable seen in a mirror": (
            lambda u, loc, scale: loc + scale * np.log(-np.log(u))
        ),
        "scale divides, where it should multiply": lambda u, loc, scale: loc - np.log(-np.log(u)) / scale,
    },
    inputs=_calls,
    expected=[stats.gumbel_r(loc, scale).ppf(u) for u, loc, scale in _calls],
)

# %%
print(check_gumbel_icdf(gumbel_icdf))

# %% [markdown]
# ### A table of inverses, and derivatives without differentiating
#
# Nine families have an inverse in one line. We could differentiate each by hand. But a check should not repeat the
# algebra of what it checks. So we use the *complex step* of tutorial 04: for a function made of powers, logarithms,
# exponentials and the like, $g(a + ih) = g(a) + i h \, g'(a) + \dots$ with $i^2 = -1$. The imaginary part of
# $g(a + 10^{-30} i)$, divided by $10^{-30}$, is the derivative to all digits, because nothing is subtracted.


# %%
def derivative(function, arguments, name):
    """d function(**arguments) / d arguments[name], exact up to rounding, by one complex step."""
    return np.imag(function(**{**arguments, name: arguments[name] + 1e-30j})) / 1e-30


INVERSE_CDF = {  # by their names in npvae
    "Exponential": exponential,
    "Cauchy": lambda eps, loc, scale: loc + scale * np.tan(np.pi * (eps - 0.5)),
    "Logistic": lambda eps, loc, scale: loc + scale * np.log(eps / (1 - eps)),
    "Gumbel": lambda eps, loc, scale: gumbel_icdf_solution(eps, loc, scale),
    "Rayleigh": lambda eps, scale: scale * np.sqrt(-2 * np.log(1 - eps)),
    "Pareto": lambda eps, scale, alpha: scale * (1 - eps) ** (-1 / alpha),
    "Weibull": lambda eps, scale, concentration: scale * (-np.log(1 - eps)) ** (1 / concentration),
    "Reciprocal": lambda eps, low, high: low * (high / low) ** eps,
    "Gompertz": lambda eps, concentration, rate: np.log(1 - np.log(1 - eps) / concentration) / rate,
}
IN_SCIPY = {  # parameters, and the same distribution in SciPy
    "Exponential": ({"rate": 1.7}, stats.expon(scale=1 / 1.7)),
    "Cauchy": ({"loc": -0.6, "scale": 0.7}, stats.cauchy(-0.6, 0.7)),
    "Logistic": ({"loc": 0.3, "scale": 1.4}, stats.logistic(0.3, 1.4)),
    "Gumbel": ({"loc": -0.4, "scale": 1.3}, stats.gumbel_r(-0.4, 1.3)),
    "Rayleigh": ({"scale": 1.8}, stats.rayleigh(scale=1.8)),
    "Pareto": ({"scale": 1.2, "alpha": 3.5}, stats.pareto(3.5, scale=1.2)),
    "Weibull": ({"scale": 2.2, "concentration": 1.6}, stats.weibull_min(1.6, scale=2.2)),
    "Reciprocal": ({"low": 0.5, "high": 4.0}, stats.loguniform(0.5, 4.0)),
    "Gompertz": ({"concentration": 0.8, "rate": 1.9}, stats.gompertz(0.8, scale=1 / 1.9)),
}


def check(family, g, parameters, oracle, eps, log_noise=np.zeros_like):
    """Compare a family of npvae with g and with SciPy; return the p-value of the samples that npvae draws.

    The noise is eps, (n,) or (n, K) if a sample needs K numbers; log_noise is its log-density, 0 if it is uniform.
    """
    q, z = family(**parameters), np.real(g(eps, **parameters))
    same(q.rsample(eps), z, 1e-11)
    same(q.log_prob(z), oracle.logpdf(z), 1e-10)
    same(q.log_prob_noise(eps), log_noise(eps))
    density_ratio = lambda p: np.exp(q.log_prob(oracle.ppf(p)) - oracle.logpdf(oracle.ppf(p)))
    same(integrate.quad(density_ratio, 0, 1)[0], 1.0, 1e-9)  # the mass of q: dz = dp / F'(z) for z = F^-1(p)
    names = list(parameters) + ["eps"] * (eps.ndim == 1)
    by_step = {name: derivative(g, {"eps": eps, **parameters}, name) for name in names}
    gradients, dz = q.gradients(eps), np.cos(9 * z)  # dz: any derivatives f'(z) to bring back
    assert gradients.keys() == by_step.keys()
    for name in names:
        same(gradients[name], by_step[name], 1e-10)
    for name, found in q.pullback(eps, dz).items():
        same(found, dz * by_step[name], 1e-10)
    if eps.ndim == 1:  # q(z) |dz| = p(eps) |d eps|
        same(q.log_prob(z) + np.log(np.abs(by_step["eps"])), log_noise(eps), 1e-10)
    if hasattr(q, "entropy"):
        same(q.entropy(), oracle.entropy(), 1e-8)
    if hasattr(q, "icdf"):
        same(q.icdf([0.02, 0.3, 0.5, 0.96]), oracle.ppf([0.02, 0.3, 0.5, 0.96]), 1e-9)
    return stats.kstest(q.rsample(q.draw(rng, 20_000)), oracle.cdf).pvalue


u, p_values = np.linspace(0.02, 0.98, 49), {}
for name, inverse in INVERSE_CDF.items():
    p_values[name] = check(getattr(distributions, name), inverse, *IN_SCIPY[name], u)
print(
    f"{len(INVERSE_CDF)} inverses agree with npvae; the smallest p of npvae's samples is {min(p_values.values()):.2f}"
)
assert min(p_values.values()) > 1e-3

# %% [markdown]
# (The paper's list has a tenth, the Erlang distribution. Its distribution function has no inverse in closed form. It
# belongs to the third approach.)
#
# ### Second approach: location and scale
#
# A family that keeps its shape when it is moved and stretched needs only its standard member:
#
# $$z = \text{location} + \text{scale} \cdot \epsilon, \qquad \epsilon \sim \text{standard}$$
#
# The derivatives are the simplest possible: 1 for the location, $\epsilon$ for the scale.


# %%
# formula: location-scale
def move_and_stretch(eps, loc, scale):
    """z = loc + scale eps."""
    return loc + scale * eps


LOCATION_SCALE = {  # name in npvae: (location, scale, the same in SciPy, log-density of the noise)
    "Normal": (1.5, 0.6, stats.norm(1.5, 0.6), lambda eps: -0.5 * np.log(2 * np.pi) - eps**2 / 2),
    "Laplace": (0.2, 1.4, stats.laplace(0.2, 1.4), lambda eps: -np.log(2) - np.abs(eps)),
    "Triangular": (0.9, 2.5, stats.triang(0.5, 0.9 - 2.5, 5.0), lambda eps: np.log(1 - np.abs(eps))),
}
eps = np.linspace(-0.97, 0.98, 50)
for name, (loc, scale, oracle, log_noise) in LOCATION_SCALE.items():
    family, parameters = getattr(distributions, name), {"loc": loc, "scale": scale}
    p_values[name] = check(family, move_and_stretch, parameters, oracle, eps, log_noise)
between, ends = lambda eps, low, high: low + (high - low) * eps, {"low": -0.9, "high": 2.5}
p_values["Uniform"] = check(distributions.Uniform, between, ends, stats.uniform(-0.9, 3.4), u)
print("p-values:", ", ".join(f"{name} {p_values[name]:.2f}" for name in [*LOCATION_SCALE, "Uniform"]))
assert min(p_values.values()) > 1e-3

# %% [markdown]
# For vectors the scale is a matrix. $z = \text{loc} + L \epsilon$ with independent standard normal $\epsilon$ has the
# covariance $L L^\top$, and $L$ may be taken lower triangular (the Cholesky factor). The chain rule for
# $z_j = \text{loc}_j + \sum_k L_{jk} \epsilon_k$ gives $\partial z_j / \partial L_{jk} = \epsilon_k$. Noise that has
# Student's t distribution instead makes a vector with heavier tails.

# %%
loc, factor = np.array([0.5, -1.0, 0.3]), np.array([[1.2, 0, 0], [0.7, 0.8, 0], [-0.4, 0.5, 1.5]])
eps, dz = rng.standard_normal((2, 7, 3))
z, axis = loc + eps @ factor.T, np.arange(-16, 16.1, 0.5)
grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1)  # for a smooth density, the sum over a grid is nearly exact
normal, student = distributions.MultivariateNormal(loc, factor), distributions.MultivariateStudentT(loc, factor, df=6.0)
same(np.exp(normal.log_prob(grid)).sum() * 0.5**3, 1.0, 1e-9)
same(normal.pullback(eps, dz)["loc"], dz)
same(normal.pullback(eps, dz)["scale_tril"], [np.tril(np.outer(d, e)) for d, e in zip(dz, eps)])
for q, oracle, one_axis in (
    (normal, stats.multivariate_normal(loc, factor @ factor.T), stats.norm),
    (student, stats.multivariate_t(loc, factor @ factor.T, df=6), stats.t(6)),
):
    same(q.rsample(eps), z)
    same(q.log_prob(z), oracle.logpdf(z), 1e-10)
    same(q.log_prob(z) + np.log(np.diag(factor)).sum(), q.log_prob_noise(eps), 1e-10)  # q(z) det L = p(eps)
    same(q.entropy(), oracle.entropy(), 1e-8)
    drawn = q.rsample(q.draw(rng, 20_000))[:, 1]
    assert stats.kstest((drawn - loc[1]) / np.hypot(0.7, 0.8), one_axis.cdf).pvalue > 1e-3

# %% [markdown]
# ### Third approach: compose
#
# Build the variable from others that we can already make:
#
# $$z = h(z_1, z_2, \dots), \qquad z_k = g_k(\epsilon_k)$$
#
# A log-normal variable is the exponential of a normal one. A sum of $n$ independent exponential variables with the
# same rate has a Gamma distribution of shape $n$, called Erlang.


# %%
# formula: composition
def sum_of_exponentials(eps, rate):
    """z = h(z_1, z_2, ...) = z_1 + z_2 + ... with z_k = F^-1(eps_k): a sample for each row of uniform noise eps."""
    return exponential(eps, rate).sum(axis=1)


def exp_of_normal(eps, loc, scale):
    """z = h(z_1) = exp(z_1) with z_1 = loc + scale eps."""
    return np.exp(move_and_stretch(eps, loc, scale))


args = {"loc": 0.3, "scale": 0.6}, bent, np.linspace(-2.5, 2.5, 51), LOCATION_SCALE["Normal"][-1]
p_values["LogNormal"] = check(distributions.LogNormal, exp_of_normal, *args)
u3 = np.stack([u, u[::-1] ** 0.5, u**2], axis=1)  # three columns of uniform noise
args = {"rate": 1.9}, stats.gamma(3, scale=1 / 1.9), u3
p_values["Erlang"] = check(lambda rate: distributions.Erlang(3, rate), sum_of_exponentials, *args)
print("p-values:", ", ".join(f"{name} {p_values[name]:.2f}" for name in ("LogNormal", "Erlang")))
assert min(p_values.values()) > 1e-3

# %% [markdown]
# ## A Gamma variable whose shape is not a whole number
#
# Texts often say "Gamma: a sum of exponentially distributed variables". For shape $2.5$, the sum of how many?
#
# **Before you run it:** suppose you take two, or three. How far will the distribution of the sum be from Gamma(2.5)?
# The distance that we print is that of Kolmogorov and Smirnov: the largest difference of the two distribution
# functions. For 20000 samples of the right distribution it is below 0.01 nearly always.

# %%
noise = rng.random((20_000, 3))
target = stats.gamma(2.5)
tests = {n: stats.kstest(sum_of_exponentials(noise[:, :n], 1.0), target.cdf) for n in (2, 3)}
right = stats.kstest(sum_of_exponentials(noise, 1.0), stats.gamma(3).cdf)
for n, test in tests.items():
    print(f"{n} exponentials against Gamma(2.5): distance {test.statistic:.2f}, p below 1e-6: {test.pvalue < 1e-6}")
print(f"3 exponentials against Gamma(3): distance below 0.01: {right.statistic < 0.01}, p = {right.pvalue:.2f}")
assert all(test.pvalue < 1e-6 for test in tests.values()) and right.pvalue > 1e-3 and right.statistic < 0.01

# %% [markdown]
# Wrong, and visibly so. The rule holds for whole numbers only. Worse: a whole number has no derivative, so even where
# the sum is right, nothing can be learnt about the shape through it. The same holds for chi-squared variables, which
# are twice a Gamma variable of shape $\text{df}/2$ (df: degrees of freedom), and for whatever is built from those.
#
# ### The way out: differentiate the inverse without having it
#
# Numerically, the $z$ with $F(z; a) = \epsilon$ can be found for any shape $a$; SciPy does it. The paper says the same
# of its last resort: a good approximation of the inverse. Its derivatives come from the equation that it solves. If
# $a$ and $\epsilon$ change a little, $z$ must change so that both sides stay equal:
# $q(z; a) \, dz + \frac{\partial F}{\partial a} da = d\epsilon$. This is the implicit function theorem, and
#
# $$dz = \frac{d\epsilon - \frac{\partial F}{\partial a} \, da}{q(z; a)}, \qquad
# \frac{\partial F(z; a)}{\partial a} = \int_0^z q(t; a) \, (\log t - \psi(a)) \, dt$$
#
# The second formula is the derivative of $F = \int_0^z q \, dt$ under the integral: since
# $q(t; a) = t^{a-1} e^{-t} / \Gamma(a)$, it is $\partial q / \partial a = q \, (\log t - \psi(a))$, where $\psi$ is the
# derivative of $\log \Gamma$. (The bracket is the score function, as in tutorial 04.) In the code, $d\epsilon$ and $da$
# are the imaginary parts of a complex step. So this $g$ hands derivatives on like any other function.


# %%
def gamma(eps, a):
    """The z of shape a and rate 1 with F(z; a) = eps, for eps (n,); imaginary parts are small steps of eps and a."""
    shape, z = np.real(a), special.gammaincinv(np.real(a), np.real(eps))
    q = lambda t: np.exp((shape - 1) * np.log(t) - t - special.gammaln(shape))
    score = lambda t: np.log(t) - special.digamma(shape)
    dF = [integrate.quad(lambda t: q(t) * score(t), 0, end, epsabs=1e-13, epsrel=1e-13)[0] for end in z]
    return z + 1j * (np.imag(eps) - np.array(dF) * np.imag(a)) / q(z)


few = np.array([0.03, 0.2, 0.45, 0.8, 0.97])
by_shape, h = derivative(gamma, {"eps": few, "a": 2.5}, "a"), 1e-4
by_difference = (special.gammaincinv(2.5 + h, few) - special.gammaincinv(2.5 - h, few)) / (2 * h)
print(f"dz/da at the noise 0.03 .. 0.97: {by_shape.round(3)}")
same(target.cdf(np.real(gamma(few, 2.5))), few)
same(by_shape, by_difference, 1e-6)  # the error of a central difference is of the order h^2

# %% [markdown]
# With this one family, composition reaches the rest: chi-squared, Beta, F, Student's t, Dirichlet.
#
# ### Exercise: Beta from two Gamma variables
#
# If $z_1$ and $z_2$ are independent Gamma variables with shapes $a$ and $b$ (and equal rates), then
# $z_1 / (z_1 + z_2)$ is Beta distributed with these shapes. Write it for real shapes, from two columns of uniform
# noise. SciPy's inverse distribution function of a Gamma variable is `special.gammaincinv(a, u)`.
#
# <details><summary>Hint</summary>
#
# Make $z_1$ from the first column with shape $a$, and $z_2$ from the second one with shape $b$.
#
# </details>


# %%
def beta_from_gammas(u, a, b):
    """A sample of Beta(a, b) for each row of uniform noise u (n, 2): an array (n,)."""
    ...  # your code, about two lines


# %% tags=["hide-cell"]
def beta_from_gammas_solution(u, a, b):
    z1, z2 = special.gammaincinv(a, u[:, 0]), special.gammaincinv(b, u[:, 1])
    return z1 / (z1 + z2)


_uniform = np.array([[0.1, 0.4], [0.6, 0.2], [0.9, 0.75]])
_calls = [(_uniform, 2.4, 0.8), (_uniform, 0.6, 3.3)]
check_beta_from_gammas = Exercise(
    solution=beta_from_gammas_solution,
    mistakes={
        "the shapes are rounded, as for a sum of exponentials: that is right for whole numbers only": (
            lambda u, a, b: beta_from_gammas_solution(u, round(a), round(b))
        ),
        "the shapes are swapped: z1 of shape a is above the line": lambda u, a, b: beta_from_gammas_solution(u, b, a),
        "it is z1 / z2, which is not confined to (0, 1)": (
            lambda u, a, b: special.gammaincinv(a, u[:, 0]) / special.gammaincinv(b, u[:, 1])
        ),
        "an exponential variable is stretched by the shape: that is not a Gamma variable of this shape": (
            lambda u, a, b: 1 / (1 + b * np.log(1 - u[:, 1]) / (a * np.log(1 - u[:, 0])))
        ),
        "both Gamma variables have the same noise: they must be independent": (
            lambda u, a, b: beta_from_gammas_solution(u[:, [0, 0]], a, b)
        ),
    },
    inputs=_calls,
    expected=[1 / (1 + stats.gamma(b).ppf(u[:, 1]) / stats.gamma(a).ppf(u[:, 0])) for u, a, b in _calls],
)

# %%
print(check_beta_from_gammas(beta_from_gammas))

# %% [markdown]
# F is the ratio of two chi-squared variables, each divided by its degrees of freedom; the factors 2 cancel. Student's
# t is a normal variable over the root of a chi-squared one divided by its degrees of freedom, then moved and
# stretched. A Dirichlet vector has the shares $z_k / \sum_j z_j$ of several Gamma variables.

# %%
COMPOSED = {
    "Gamma": lambda eps, concentration, rate: gamma(eps, concentration) / rate,
    "Chi2": lambda eps, df: 2 * gamma(eps, df / 2),
    "Beta": lambda eps, concentration1, concentration0: (
        1 / (1 + gamma(eps[:, 1], concentration0) / gamma(eps[:, 0], concentration1))
    ),
    "FisherSnedecor": lambda eps, df1, df2: gamma(eps[:, 0], df1 / 2) / df1 / (gamma(eps[:, 1], df2 / 2) / df2),
    "StudentT": lambda eps, df, loc, scale: loc + scale * eps[:, 0] / np.sqrt(2 * gamma(eps[:, 1], df / 2) / df),
}
u2, mixed = u3[:, :2], np.stack([special.ndtri(u3[:, 2]), u], axis=1)  # mixed: a normal number and a uniform one
log_mixed = lambda eps: np.stack([stats.norm.logpdf(eps[:, 0]), np.zeros(len(eps))], axis=1)
rows = {  # parameters, the same distribution in SciPy, noise and its log-density
    "Gamma": ({"concentration": 2.5, "rate": 1.9}, stats.gamma(2.5, scale=1 / 1.9), u),
    "Chi2": ({"df": 5.3}, stats.chi2(5.3), u),
    "Beta": ({"concentration1": 2.4, "concentration0": 0.8}, stats.beta(2.4, 0.8), u2),
    "FisherSnedecor": ({"df1": 4.8, "df2": 1.6}, stats.f(4.8, 1.6), u2),
    "StudentT": ({"df": 5.3, "loc": 0.4, "scale": 1.3}, stats.t(5.3, 0.4, 1.3), mixed, log_mixed),
}
p_values |= {name: check(getattr(distributions, name), COMPOSED[name], *row) for name, row in rows.items()}


def shares(eps, concentration):
    """A vector of shares (K,) for each row of noise."""
    gammas = np.stack([gamma(column, a) for column, a in zip(eps.T, concentration)], axis=1)
    return gammas / gammas.sum(axis=1, keepdims=True)


shapes, dz = np.array([2.4, 0.8, 1.7]), np.cos(9 * u3)
q, z = distributions.Dirichlet(shapes), np.real(shares(u3, shapes))
same(q.rsample(u3), z, 1e-11)
same(q.log_prob(z), [stats.dirichlet(shapes).logpdf(row) for row in z], 1e-9)
for k, step in enumerate(1e-30j * np.eye(3)):  # the gradient of sum_j dz_j z_j by each concentration
    by_step = np.imag(np.sum(dz * shares(u3, shapes + step), axis=1)) / 1e-30
    same(q.pullback(u3, dz)["concentration"][:, k], by_step, 1e-10)
p_values["Dirichlet"] = stats.kstest(q.rsample(q.draw(rng, 20_000))[:, 0], stats.beta(2.4, 2.5).cdf).pvalue
print("p-values:", ", ".join(f"{name} {p_values[name]:.2f}" for name in [*rows, "Dirichlet"]))
assert min(p_values.values()) > 1e-3

# %% [markdown]
# All three approaches at one look: quantiles of samples made by our $g$, against those that they should have. (A
# quantile is the value below which a given share of the samples lies.)

# %%
noise = rng.random((20_000, 2))
pairs = {
    name: (INVERSE_CDF[name](noise[:, 0], **IN_SCIPY[name][0]), IN_SCIPY[name][1]) for name in ("Cauchy", "Gumbel")
}
pairs["Laplace"] = move_and_stretch(rng.laplace(size=20_000), 0.2, 1.4), LOCATION_SCALE["Laplace"][2]
pairs["log-normal"] = exp_of_normal(rng.standard_normal(20_000), 0.3, 0.6), bent
pairs["Erlang"] = sum_of_exponentials(rng.random((20_000, 3)), 1.9), stats.gamma(3, scale=1 / 1.9)
pairs["Gamma(2.5)"] = special.gammaincinv(2.5, noise[:, 0]), target
pairs["Beta"] = beta_from_gammas_solution(noise, 2.4, 0.8), stats.beta(2.4, 0.8)
pairs["2 exponentials\nas Gamma(2.5)"] = sum_of_exponentials(noise, 1.0), target

*right_ones, wrong_one = (stats.kstest(samples, oracle.cdf).pvalue for samples, oracle in pairs.values())
assert min(right_ones) > 1e-3 and wrong_one < 1e-6

# figure: three-approaches
levels = np.linspace(0.03, 0.97, 33)
fig, axes = plt.subplots(2, 4, figsize=(7, 4.2), layout="constrained")
for ax, (name, (samples, oracle)) in zip(axes.flat, pairs.items()):
    ax.plot(oracle.ppf(levels), oracle.ppf(levels), "k", lw=1)
    ax.plot(oracle.ppf(levels), np.quantile(samples, levels), ".", color="tab:red" if "\n" in name else "tab:blue")
    ax.set_title(name, fontsize=10)
    ax.set(xticks=[], yticks=[])  # each family has its own scale; only the line matters
fig.supxlabel("quantile of the distribution (truth)", fontsize=10)
_ = fig.supylabel("quantile of the samples", fontsize=10)

# %% [markdown]
# *See:* blue points, samples $g(\epsilon)$ of seven families, lie on the line where sample and truth agree; the red
# ones, the sum of two exponentials that should be Gamma(2.5), leave it.
#
# ### Exercise: a gradient through Laplace samples
#
# Put the chain rule to work. Given $n$ numbers of standard Laplace noise and the derivatives $f'(z)$ at the samples
# $z = \text{loc} + \text{scale} \cdot \epsilon$, what is the gradient of the *mean* of $f$ over the samples?
#
# <details><summary>Hint</summary>
#
# The shape of the noise's density plays no part. Only $\partial z / \partial \text{loc}$ and
# $\partial z / \partial \text{scale}$ do.
#
# </details>


# %%
def laplace_gradient(eps, df):
    """d mean(f) / d loc and d mean(f) / d scale (two numbers) from noise eps (n,) and derivatives df = f'(z) (n,)."""
    ...  # your code, about one line


# %% tags=["hide-cell"]
def laplace_gradient_solution(eps, df):
    return np.mean(df), np.mean(df * eps)


def _mean_of_cubes(eps, loc, scale):
    return np.mean((loc + scale * eps) ** 3)


_noise = np.array([-1.7, -0.2, 0.4, 2.3])
_settings = [{"eps": _noise, "loc": 0.6, "scale": 1.4}, {"eps": _noise[:3], "loc": -0.9, "scale": 0.5}]
check_laplace_gradient = Exercise(
    solution=laplace_gradient_solution,
    mistakes={
        "the sum over samples, where the mean is asked for": lambda eps, df: (np.sum(df), np.sum(df * eps)),
        "the derivative of z by scale is eps, not its sign": lambda eps, df: (np.mean(df), np.mean(df * np.sign(eps))),
        "f' and eps are averaged apart: their product is needed sample by sample": (
            lambda eps, df: (np.mean(df), np.mean(df) * np.mean(eps))
        ),
    },
    inputs=[(s["eps"], 3 * (s["loc"] + s["scale"] * s["eps"]) ** 2) for s in _settings],
    expected=[tuple(derivative(_mean_of_cubes, s, name) for name in ("loc", "scale")) for s in _settings],
)

# %%
print(check_laplace_gradient(laplace_gradient))

# %% [markdown]
# ## What is it worth?
#
# We compare the two gradients of $\mathbb E_q[z^2]$ for an exponential variable of rate $\lambda$. Truth:
# $\mathbb E[z^2] = 2 / \lambda^2$, so the gradient is $-4 / \lambda^3$.
#
# - *Along the path:* $\frac{d}{d\lambda} z^2 = 2 z \cdot (-z / \lambda)$.
# - *Score function* (tutorial 04): $z^2 \, \frac{d}{d\lambda} \log q(z) = z^2 (1 / \lambda - z)$.
#
# Their variances for $\lambda = 1$ need only $\mathbb E[z^k] = k!$. The path: $4 (4! - 2!^2) = 80$. The score:
# $\mathbb E[z^4 (1 - z)^2] - 4^2 = 4! - 2 \cdot 5! + 6! - 16 = 488$, where $4^2$ is the squared mean.
#
# **Before you run it:** how many times as many samples does the score function need for the same error? Will the
# measured ratio agree?


# %%
def both_gradients(rate, u):
    """One-sample gradients of E[z^2] by the rate: along the path, and by the score function; (n,) each."""
    z = exponential(u, rate)
    return 2 * z * (-z / rate), z**2 * (1 / rate - z)


def ratio_of_variances(one, other, pieces=50):
    """var(other) / var(one) with its standard error, from independent pieces of the samples."""
    ratios = [b.var() / a.var() for a, b in zip(np.split(one, pieces), np.split(other, pieces))]
    return other.var() / one.var(), np.std(ratios) / np.sqrt(pieces)


path, score = both_gradients(1.0, rng.random(1_000_000))
factor_exact = 488 / 80
factor, factor_error = ratio_of_variances(path, score)
print(f"gradient of E[z^2] at rate 1: path {path.mean():.2f}, score {score.mean():.2f}, exact {-4.0:.2f}")
print(f"variance: score / path = {factor:.1f} +- {factor_error:.1f}; exact 488/80 = {factor_exact:.1f}")
for each in (path, score):
    assert abs(each.mean() + 4) < 4 * each.std() / 1000
assert abs(factor - factor_exact) < 5 * factor_error

# figure: why-it-matters
rates = np.geomspace(0.5, 3, 9)
table = np.array([[(e.mean(), e.std() / 40) for e in both_gradients(r, rng.random(1600))] for r in rates])
assert np.all(table[:, 0, 1] < table[:, 1, 1])
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.axhline(-4, color="k", label="exact")
for i, (label, colour, shift) in enumerate((("path", "tab:blue", 0.985), ("score function", "tab:orange", 1.015))):
    mean, error = table[:, i].T * rates**3
    ax.errorbar(rates * shift, mean, 2 * error, fmt="o", color=colour, ms=4, capsize=2, label=label)
ax.set(xscale="log", xlabel=r"rate $\lambda$", ylabel=r"gradient times $\lambda^3$")
ax.set(title="1600 samples for each point; bars are two standard errors")
ax.set_xticks([0.5, 1, 2, 3], ["0.5", "1", "2", "3"])
ax.minorticks_off()
_ = ax.legend()

# %% [markdown]
# *See:* both scatter about the truth; at each rate the blue bar is the shorter one, with the same number of samples.
#
# The score function needs six times as many samples for the same error, and this is one latent variable. Tutorial 04
# showed how the ratio grows with their number.
#
# ## Does the path always win?
#
# Lecture notes on this method often write that the new estimator "has low variance", as if that were a property of the
# trick. Look at the formulas. The score function uses the *value* of $f$, the path uses its *slope*. So take a
# function whose values are small and whose slopes are large: $f(z) = \cos(k z)$ under $q = \mathcal N(\mu, 1)$.
#
# **Before you run it:** at $k = 1$ the path is better. What happens at $k = 4$?

# %%
mu, sigma = 0.9, 1.0


def exact_variances(k):
    """Variances of both one-sample gradients of E[cos(k z)] by mu, in closed form; sigma = 1."""
    mean_cos_2k = np.cos(2 * k * mu) * np.exp(-2 * k**2)
    gradient = -k * np.sin(k * mu) * np.exp(-(k**2) / 2)
    path = k**2 * (1 - mean_cos_2k) / 2 - gradient**2
    score = (1 + np.cos(2 * k * mu) * (1 - 4 * k**2) * np.exp(-2 * k**2)) / 2 - gradient**2
    return path, score


eps = rng.standard_normal(1_000_000)
z = mu + sigma * eps
ks, reverse = np.geomspace(0.2, 8, 200), {}
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for k in (1, 4):
    path, score = -k * np.sin(k * z), np.cos(k * z) * eps / sigma
    reverse[k], error = ratio_of_variances(path, score)
    expected = exact_variances(k)[1] / exact_variances(k)[0]
    print(f"k = {k}: variance of score / path = {reverse[k]:.3f} +- {error:.3f}; exact {expected:.3f}")
    assert abs(reverse[k] - expected) < 5 * error
    ax.plot([k, k], [path.var(), score.var()], "ko", label="measured" if k == 1 else None)
assert reverse[1] > 1 > reverse[4]

# figure: why-it-matters
for values, label, colour in zip(exact_variances(ks), ("path", "score function"), ("tab:blue", "tab:orange")):
    ax.loglog(ks, values, colour, label=label)
ax.set(xlabel="k, the frequency of f(z) = cos(kz)", ylabel="variance of one gradient", title="The lines cross")
ax.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["0.25", "0.5", "1", "2", "4", "8"])
ax.minorticks_off()
_ = ax.legend(loc="lower right")

# %% [markdown]
# *See:* the score function's variance hardly depends on the frequency of $f$; the path's grows, and the lines (exact)
# cross near $k = 1$, where one standard deviation of $q$ turns the cosine by one radian.
#
# So the rule is: the path wins where $f$ is smooth on the scale of $q$. A trained bound is such a function: the
# decoder changes little over the width of $q(z|x)$, and the values of $f$ are large (minus a hundred nats for a
# picture).
#
# ## And where there is no slope at all
#
# A coin with probability $p$ of heads is $z = 1$ if $u < p$, else $0$. That is a function of noise and a parameter,
# $z = g(u, p)$. The exact gradient of $\mathbb E[f(z)] = p f(1) + (1 - p) f(0)$ is $f(1) - f(0)$.
#
# **Before you run it:** what will the path give?

# %%
p, f = 0.3, lambda z: (z - 0.6) ** 2
u = rng.random(100_000)
coin = lambda p: (u < p).astype(float)
h = 1e-9
path = (f(coin(p + h)) - f(coin(p))) / h  # the derivative of each sample
score = f(coin(p)) * np.where(coin(p) == 1, 1 / p, -1 / (1 - p))  # the derivative of log p^z (1 - p)^(1 - z)
exact_gradient = f(1) - f(0)
score_error = score.std() / np.sqrt(score.size)
print(f"a coin: path {path.mean():.2f}, score {score.mean():.3f} +- {score_error:.3f}, exact {exact_gradient:.3f}")
assert np.all(path == 0) and abs(score.mean() - exact_gradient) < 4 * score_error
bernoulli = distributions.Bernoulli(logits=np.log(p / (1 - p)))
same(bernoulli.log_prob([1.0, 0.0]), np.log([p, 1 - p]))
same(np.exp(bernoulli.log_prob([1.0, 0.0])).sum(), 1.0)
same([bernoulli.probs, bernoulli.entropy()], [p, -p * np.log(p) - (1 - p) * np.log(1 - p)])

# %% [markdown]
# Zero, from every sample, without any noise: the quietest estimate of this tutorial is wrong. As a function of $p$ the
# sample jumps. Its derivative is zero almost everywhere, and the jump, where all the change happens, is never met. To
# move the gradient inside, $g$ must be differentiable in the parameters. This is why the paper's latent variables are
# continuous.

# %%
print(
    f"Answer: E[z^2] of an exponential: the score function has {factor:.1f} +- {factor_error:.1f} times the variance; "
    f"cos(4z) of a Gaussian: the path has {1 / reverse[4]:.0f} times"
)

# %% [markdown]
# ## What to take with you
#
# Draw noise from a distribution without parameters and make the sample from it by a differentiable function; then the
# gradient of an expectation is the expectation of a gradient. An inverse distribution function, location and scale, or
# a composition gives such a function; for a Gamma shape, the implicit function theorem gives the derivative without
# it. The path is the quieter gradient where $f$ is smooth over the width of $q$, and no gradient at all where samples
# jump.
#
# From here on, `npvae.distributions` stands for what you wrote: `rsample` is $g$, `log_prob` the density, and
# `pullback` the chain rule. In tutorial 06 the function $f$ is that of the bound.

# %%
plt.show()
