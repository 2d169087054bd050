"""Measure what stands in samplers.md: the sandwich on a model of MNIST, and the time of a transition beside blackjax.

With NPVAE_DATA set to a folder that holds MNIST: ``python docs/samplers.py``. It takes half an hour on one core.
``python docs/samplers.py sandwich`` or ``speed`` measures one of the two; ``speed`` compares with blackjax if that is
installed, and needs no data.
"""

import statistics
import sys
import time

import numpy as np
import tables

import npvae
from npvae import backends, datasets
from npvae.evaluation import importance_sampling, sandwich
from npvae.model import Architecture, Model
from npvae.preprocessing import Data, Scaling
from npvae.samplers import Noise, initial, transition

# The sandwich ---------------------------------------------------------------------------------------------------------

#: Settings of the model; its data are the images of MNIST, black or white.
MODEL = {"hidden_layer_sizes": (200,), "optimizer": "adam", "learning_rate": 0.001, "max_epochs": 15}
LATENTS = 10

#: Datapoints drawn from the model, chains for each, samples of importance sampling, and (start, densities, leapfrog).
ROWS, CHAINS, IMPORTANCE_SAMPLES = 30, 16, 5000
RUNS = (
    ("encoder", 20, 2),
    ("encoder", 100, 2),
    ("encoder", 500, 2),
    ("encoder", 1000, 1),
    ("encoder", 100, 10),
    ("prior", 500, 2),
    ("prior", 1500, 2),
)

#: Columns of the data file. Bounds are means over the datapoints in nats.
SANDWICH = "start", "densities", "leapfrog", "low", "high", "gap", "gap_error", "standard_error", "size", "seconds"


def measure_sandwich():
    """Train a model, and yield a row of the data file for each run, and one for importance sampling."""
    X = (datasets.load_mnist().X_train > 127).astype(np.uint8)
    fitted = npvae.VAE(LATENTS, **MODEL).fit(X).fitted_
    for start, n_densities, n_leapfrog in RUNS:
        began = time.perf_counter()
        found = sandwich(fitted, ROWS, CHAINS, start=start, n_densities=n_densities, n_leapfrog=n_leapfrog)
        seconds, gap, low = (time.perf_counter() - began) / 2, found.gap, found.lower
        bounds = low.log_prob.mean(), found.upper.log_prob.mean(), gap.mean(), gap.std(ddof=1) / np.sqrt(ROWS)
        size = low.diagnosis["effective sample size"].mean() / CHAINS
        row = start, n_densities, n_leapfrog, *bounds, low.error.mean(), size, seconds / ROWS
        print(*row, flush=True)
        yield row
    data = Data(found.x, Scaling(np.zeros(found.x.shape[1]), np.ones(found.x.shape[1])), 0.0, np.zeros(len(found.x)))
    began = time.perf_counter()
    low = importance_sampling(fitted, data, IMPORTANCE_SAMPLES)
    seconds, size = time.perf_counter() - began, low.diagnosis["effective sample size"].mean() / IMPORTANCE_SAMPLES
    row = low.log_prob.mean(), *("",) * 3, low.error.mean(), size, seconds / ROWS
    yield f"importance, {IMPORTANCE_SAMPLES} samples", "", "", *row


# The time of a transition ---------------------------------------------------------------------------------------------

#: Chains, each with a datapoint of its own; leapfrog steps; times that each of the two is measured.
N_CHAINS, N_LEAPFROG, REPEATS, STEP_SIZE = 10_000, 10, 5, 0.05

#: Hidden units and latents of decoders of 784 pixels.
DECODERS = ((500, 20), (100, 3))

#: Columns of the data file.
SPEED = "decoder", "contestant", "median s", "shortest s", "longest s", "npvae / this"


def measure_speed():
    """Yield rows of the data file: both run in turn."""
    for H, J in DECODERS:
        rng = np.random.default_rng(0)
        model = Model(Architecture(784, J, (H,)), backends.get("cpu"))
        parameters = model.parameters(0.05 * rng.standard_normal(model.layout.size))
        x, z = (rng.random((N_CHAINS, 784)) < 0.3).astype(np.float32), rng.standard_normal((N_CHAINS, J))
        contestants = {"npvae": ours(model, parameters, x, z)}
        try:
            contestants["blackjax"] = blackjax(parameters, x, z)
        except ModuleNotFoundError:
            print("blackjax is not installed")
        seconds = {name: [] for name in contestants}
        for repeat in range(REPEATS + 1):
            for name, take in contestants.items():
                began = time.perf_counter()
                accepted = take()
                if repeat:  # the first one compiles
                    seconds[name].append(time.perf_counter() - began)
                print(f"784-{H}-{J} {name}: {seconds[name][-1:]} s, {accepted:.2f} accepted", flush=True)
        median = {name: statistics.median(times) for name, times in seconds.items()}
        for name, times in seconds.items():
            ratio = f"{median['npvae'] / median[name]:.2f}"
            yield f"784-{H}-{J}", name, *(f"{s:.3f}" for s in (median[name], min(times), max(times))), ratio


def ours(model, parameters, x, z):
    """Return a function that takes a transition of all chains, and returns the mean acceptance."""
    log_density, rng = model.log_density(parameters, x), np.random.default_rng(0)
    state = initial(log_density, z)

    def take():
        nonlocal state
        noise = Noise.draw(rng, *z.shape)
        state, info = transition(log_density, state, noise, np.full(len(z), STEP_SIZE), N_LEAPFROG)
        return info.acceptance.mean()

    return take


def blackjax(parameters, x, z):
    """Return the same function of blackjax, compiled: a kernel for one chain, mapped over all."""
    import jax
    import jax.numpy as jnp
    from blackjax.mcmc import hmc

    W1, b1, W2, b2 = (
        jnp.asarray(parameters[f"decoder.{name}"]) for name in ("hidden1.W", "hidden1.b", "logits.W", "logits.b")
    )
    x, kernel, inverse_mass = jnp.asarray(x), hmc.build_kernel(), jnp.ones(z.shape[1])

    def log_density(z, x):
        logits = jnp.tanh(z @ W1 + b1) @ W2 + b2
        return jnp.sum(x * logits - jax.nn.softplus(logits)) - jnp.sum(z**2 + jnp.log(2 * jnp.pi)) / 2

    def transition(key, state, x):
        return kernel(key, state, lambda z: log_density(z, x), STEP_SIZE, inverse_mass, N_LEAPFROG)

    step = jax.jit(jax.vmap(transition))
    state = jax.vmap(lambda z, x: hmc.init(z, lambda z: log_density(z, x)))(jnp.asarray(z, jnp.float32), x)
    key = jax.random.key(0)

    def take():
        nonlocal state, key
        key, *keys = jax.random.split(key, 2)
        state, info = step(jax.random.split(keys[0], len(z)), state, x)
        return float(info.acceptance_rate.mean())

    return take


PARTS = {"sandwich": (SANDWICH, measure_sandwich), "speed": (SPEED, measure_speed)}


def main(parts=tuple(PARTS)):
    """Measure, write the data files, and put the tables where the page has them."""
    for part in parts:
        names, measure = PARTS[part]
        tables.save(f"results/samplers-{part}.csv", [names, *measure()])
    tables.write(tables.HERE / "samplers.md")


if __name__ == "__main__":
    main(sys.argv[1:] or tuple(PARTS))
