"""Measure every estimator of log p(x) on models where it is known: the data file and the table of likelihood.md.

``python docs/likelihood.py``. It takes two minutes on one core.
"""

import time
import warnings
from functools import partial

import numpy as np
import tables

import npvae
from npvae.backends.formulas import soft_floor
from npvae.evaluation import METHODS, Estimates, LinearGaussian, marginal, marginal_likelihood
from npvae.evaluation.appendix_d import DENSITIES

LATENTS, ROWS, COLUMNS = range(1, 21), 50, 50

#: Columns of the data file: mean and root mean square of the errors in nats, mean standard error in nats, share of rows
#: that a diagnosis warns of, seconds for all rows.
NAMES = "latents", "method", "bias", "rms", "standard_error", "doubtful", "seconds"


def exact_model(n_components, *, rows=ROWS, seed=0, **settings):
    """Return a VAE whose log p(x) is known, rows drawn from it, their exact log p(x), and the linear-Gaussian model.

    x = z W + b + noise with weights from N(0, 0.3^2). The encoder is the best one of its family: q(z|x) has the mean of
    the posterior, and in each dimension the variance given all others.
    """
    rng = np.random.default_rng([seed, n_components])
    scale, shift = rng.uniform(0.5, 2, COLUMNS), rng.normal(size=COLUMNS)
    fit = {"hidden_layer_sizes": (), "likelihood": "gaussian", "max_epochs": 1, "learning_rate": 0.01} | settings
    vae = npvae.VAE(n_components, **fit).fit(shift + scale * rng.standard_normal((100, COLUMNS)))
    parameters = vae.parameters_
    parameters["decoder.mu.W"][...] = 0.3 * rng.standard_normal((n_components, COLUMNS))
    parameters["decoder.mu.b"][...] = 0.1 * rng.standard_normal(COLUMNS)
    parameters["decoder.log_var.b"][...] = rng.uniform(-0.2, 0.2, COLUMNS)
    for part in "encoder", "decoder":
        parameters[f"{part}.log_var.W"][...] = 0
    arrays = (np.array(parameters[f"decoder.{name}"], float) for name in ("mu.W", "mu.b", "log_var.b"))
    W, b, head = arrays
    model = LinearGaussian(W, b, np.exp(soft_floor(head)))
    mean_of = lambda x: model.posterior(x)[0]
    zero, precision = mean_of(np.zeros((1, COLUMNS))), np.linalg.inv(model.posterior(b[None])[1])
    parameters["encoder.mu.W"][...] = mean_of(np.eye(COLUMNS)) - zero
    parameters["encoder.mu.b"][...] = zero[0]
    parameters["encoder.log_var.b"][...] = -np.log(np.diag(precision))
    noise = np.sqrt(model.variance) * rng.standard_normal((rows, COLUMNS))
    X = vae.preprocessor_.restore(rng.standard_normal((rows, n_components)) @ W + b + noise)
    data = vae.fitted_.data(X)
    exact = model.log_prob((data.X - data.scaling.shift) * data.scaling.scale) + data.log_jacobian
    return vae, X, exact, model


def first_set_again(vae, X, model, n_samples=50):
    """Estimate log p(x) as Appendix D does, from exact samples, but with those that q(z) was fitted to."""
    fitted, rng, values = vae.fitted_, np.random.default_rng(0), []
    data = fitted.data(X)
    mean, covariance = model.posterior((data.X - data.scaling.shift) * data.scaling.scale)
    for x, of_row in zip(X, mean):
        z = rng.multivariate_normal(of_row, covariance, n_samples)
        q, log_joint = DENSITIES["gaussian"], fitted.log_joint(x)
        log_q = q.log_prob(q.fit(z[:, None]), z[:, None])[:, 0]
        values.append(marginal_likelihood(log_q, log_joint(z)[0]))
    return Estimates(np.array(values), np.full(len(X), np.nan), {})


def measure(n_components):
    """Yield a row of the data file for each method."""
    vae, X, exact, model = exact_model(n_components)
    fitted, of_appendix_d = vae.fitted_, METHODS["marginal"].n_samples
    runs = {
        name: partial(lambda method, X: method.estimate(fitted, fitted.data(X), method.n_samples), method)
        for name, method in METHODS.items()
        if n_components <= method.most_latents
    }
    runs["marginal, kernel density"] = lambda X: marginal(fitted, fitted.data(X), of_appendix_d, "kernel")
    runs["marginal, first set again"] = lambda X: first_set_again(vae, X, model)
    for name, run in runs.items():
        run(X[:1])  # compile
        began = time.perf_counter()
        found = run(X)
        seconds, error = time.perf_counter() - began, found.log_prob - exact
        limits = METHODS[name.partition(",")[0]].limits
        doubtful = np.zeros(len(X), bool)
        for of, values in found.diagnosis.items():
            doubtful |= limits[of].exceeded(values)
        rms = np.sqrt(np.mean(error**2))
        yield (
            n_components,
            name,
            *(f"{value:.4g}" for value in (error.mean(), rms, found.error.mean(), doubtful.mean(), seconds)),
        )


def main():
    """Measure, write the data file, and put the table where the page has it."""
    with warnings.catch_warnings(action="ignore"):
        rows = [row for n_components in LATENTS for row in measure(n_components)]
    tables.save("results/likelihood-exact.csv", [NAMES, *rows])
    tables.write(tables.HERE / "likelihood.md")


if __name__ == "__main__":
    main()
