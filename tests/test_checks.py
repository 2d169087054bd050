"""Gradients of every decoder, estimator and backend by finite differences, and the checker against wrong gradients."""

import re
from pathlib import Path

import numpy as np
import pytest

import npvae
from npvae.checks import (
    TOLERANCE,
    ArrayCheck,
    Report,
    check_gradient,
    compare_gradients,
    compare_with_differences,
    gradient_problem,
    relative_error,
)
from npvae.estimators import ESTIMATORS
from npvae.model import LIKELIHOODS, POSTERIORS

SMALL = {"n_components": 2, "hidden_layer_sizes": (3, 4)}


@pytest.fixture
def X(rng):
    return rng.random((12, 4))


def suited(X, likelihood):
    """Return the data, for columns of several kinds with a column of 0 and 1."""
    return np.where(np.arange(X.shape[1]) == 1, X > 0.5, X) if likelihood == "mixed" else X


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_parameter(X, backend, likelihood, estimator):
    name = backend.__name__.rpartition(".")[2]
    settings = {"likelihood": likelihood, "estimator": estimator, "backend": name, "n_samples": 2}
    report = npvae.gradcheck(npvae.VAE(**SMALL, **settings), suited(X, likelihood))
    assert report.passed, str(report)
    decoder = 4 + 2 * len(LIKELIHOODS[likelihood].heads)
    encoder = 8 if ESTIMATORS[estimator].has_encoder else 0
    arrays = encoder + decoder * (2 if estimator.startswith("full-vb") else 1)
    assert len(report.differences) == len(report.precision) == arrays


@pytest.mark.parametrize("estimator", ["sgvb-a", "sgvb-b"])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_every_posterior(X, backend, posterior, estimator):
    name = backend.__name__.rpartition(".")[2]
    settings = {"posterior": posterior, "estimator": estimator, "backend": name, "n_samples": 2, "dtype": "float64"}
    report = npvae.gradcheck(npvae.VAE(2, hidden_layer_sizes=(4,), **settings), X)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": (4,), "activation": "sigmoid"},
        {"hidden_layer_sizes": (4, 3, 2), "n_samples": 3},
    ],
)
def test_other_architectures(X, backend, settings):
    name = backend.__name__.rpartition(".")[2]
    report = npvae.gradcheck(npvae.VAE(2, likelihood="gaussian", backend=name, **settings), X)
    assert report.passed, str(report)


@pytest.mark.slow(reason="a net of 0.8 million numbers, half a minute on each backend")
def test_large_net_along_directions(rng, backend):
    """The sizes of the paper's MNIST model; each array moves along one random direction."""
    model = npvae.VAE(20, hidden_layer_sizes=(500,), backend=backend.__name__.rpartition(".")[2])
    report = npvae.gradcheck(model, rng.random((20, 784)))
    assert report.passed, str(report)


def test_constant_log_var(make_model, rng, backend):
    model, parameters = make_model(backend, likelihood="gaussian", constant_log_var=True)
    estimator = ESTIMATORS["sgvb-b"].make(model, 2, 6)
    x = rng.random((6, 7))
    noise = estimator.draw(rng, 6)
    checks = compare_with_differences(lambda p: estimator.value_and_grad(p, x, noise)[::2], parameters)
    assert all(check.passed for check in checks), checks


def test_an_estimator_that_does_not_suit_the_model_is_refused(X):
    model = npvae.VAE(**SMALL, learning_rate=0.05, max_epochs=1, backend="reference").fit(X)
    with pytest.raises(ValueError, match="'full-vb', but the model was fitted with another one, for fixed weights"):
        npvae.gradcheck(model.set_params(estimator="full-vb"), X)


def test_fitted_model(X):
    model = npvae.VAE(**SMALL, learning_rate=0.05, max_epochs=20, likelihood="gaussian").fit(X)
    assert npvae.gradcheck(model, X).passed


def scaled(function, name, factor):
    """Return a gradient function that is wrong by a factor in one array."""

    def wrong(parameters):
        value, gradient = function(parameters)
        gradient = gradient.layout.view(gradient.vector.copy())
        gradient[name][...] *= factor
        return value, gradient

    return wrong


@pytest.mark.parametrize("estimator", ["sgvb-a", "sgvb-b", "score-function-leave-one-out"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("full", [True, False], ids=["full", "directions"])
def test_a_gradient_wrong_by_a_thousandth_is_caught(X, full, likelihood, estimator):
    """In any single array, and in that array only; in float64 and in float32."""
    settings = {"likelihood": likelihood, "estimator": estimator, "n_samples": 2}
    model = npvae.VAE(2, hidden_layer_sizes=(3,), init_std=0.5, **settings)
    problem = gradient_problem(model, suited(X[:, :3], likelihood), 5, 0)
    reference = problem.reference(problem.parameters)[1]
    for name in problem.parameters.layout.shapes:
        checks = compare_with_differences(scaled(problem.exact, name, 1.001), problem.parameters, full=full)
        assert [check.name for check in checks if not check.passed] == [name]
        trained = scaled(problem.trained, name, 1.001)(problem.parameters)[1]
        checks = compare_gradients(trained, reference, problem.n_terms, problem.of_rows())
        assert [check.name for check in checks if not check.passed] == [name]


def test_nan_zero_and_swapped_gradients_are_caught(X):
    problem = gradient_problem(npvae.VAE(2, hidden_layer_sizes=(3,), backend="reference"), X, 5, 0)
    for factor in (np.nan, 0.0, -1.0):
        checks = compare_with_differences(scaled(problem.exact, "encoder.mu.W", factor), problem.parameters)
        assert [check.name for check in checks if not check.passed] == ["encoder.mu.W"]


def test_report_names_the_worst_and_the_failed(X, monkeypatch):
    from npvae.backends import reference

    def wrong(*arguments):
        dmu, dlog_var = right(*arguments)
        dlog_var *= 1.001
        return dmu, dlog_var

    right = reference.gaussian_latent_backward
    monkeypatch.setattr(reference, "gaussian_latent_backward", wrong)
    report = npvae.gradcheck(npvae.VAE(3, hidden_layer_sizes=(), backend="reference"), X)
    assert not report.passed
    assert report.failed == ["encoder.log_var.W", "encoder.log_var.b"]
    assert report.worst.name in report.failed
    assert "FAILED in encoder.log_var.W, encoder.log_var.b; worst: encoder.log_var" in str(report)


# Other minibatches ----------------------------------------------------------------------------------------------------


def beyond_64_rows(mu, eps, sizes):
    return np.arange(len(mu)) >= 64


def with_another_number_of_rows(mu, eps, sizes):
    return np.full(len(mu), len(mu) != sizes[0])


def after_a_larger_minibatch(mu, eps, sizes):
    return np.full(len(mu), len(mu) < max(sizes[-2:]))


def with_several_samples(mu, eps, sizes):
    return np.full(len(mu), len(eps) > len(mu))


def plant(monkeypatch, module, where, dtype=None):
    """Make the gradient by the encoder's log-variances wrong by a thousandth in some rows, or for a dtype alone."""
    right, sizes = module.gaussian_latent_backward, []

    def wrong(mu, log_var, eps, *arguments):
        dmu, dlog_var = right(mu, log_var, eps, *arguments)
        if dtype in (None, mu.dtype):
            sizes.append(len(mu))
            dlog_var[where(mu, eps, sizes)] *= 1.001 if dtype is None else 1.1
        return dmu, dlog_var

    monkeypatch.setattr(module, "gaussian_latent_backward", wrong)


FAULTS = [beyond_64_rows, with_another_number_of_rows, after_a_larger_minibatch, with_several_samples]


@pytest.mark.parametrize("n_rows", [12, 200])
@pytest.mark.parametrize("where", FAULTS)
def test_faults_of_other_minibatches_are_caught(rng, backend, monkeypatch, where, n_rows):
    """They do not show on the first rows; X may have fewer rows than it takes to show them."""
    name = backend.__name__.rpartition(".")[2]
    model, X = npvae.VAE(**SMALL, backend=name), rng.random((n_rows, 4))
    assert npvae.gradcheck(model, X).passed
    plant(monkeypatch, backend, where)
    report = npvae.gradcheck(model, X)
    # A fault of the first call alone is gone when the arrays are looked at one by one.
    named = ["all arrays"] if where is after_a_larger_minibatch else ["encoder.log_var.W", "encoder.log_var.b"]
    assert set(named) <= set(report.failed) and not any("decoder" in name for name in report.failed)
    assert report.worst.where and f"; {report.worst.where}" in str(report)
    assert npvae.gradcheck(model, X, n_rows=10, full=False).minibatches == ()


@pytest.mark.parametrize("where", FAULTS)
def test_faults_in_the_precision_of_training_alone_are_caught(X, monkeypatch, where):
    from npvae.backends import cpu

    plant(monkeypatch, cpu, where, np.float32)
    report = npvae.gradcheck(npvae.VAE(**SMALL, backend="cpu"), X)
    assert {"encoder.log_var.W", "encoder.log_var.b"} <= set(report.failed)
    assert not any("decoder" in name for name in report.failed)


def test_faults_beyond_64_rows_of_a_large_net(rng, monkeypatch):
    from npvae.backends import reference

    plant(monkeypatch, reference, beyond_64_rows)
    report = npvae.gradcheck(npvae.VAE(4, hidden_layer_sizes=(40,), backend="reference"), rng.random((20, 60)))
    assert {"encoder.log_var.W", "encoder.log_var.b"} <= set(report.failed)
    assert not any("decoder" in name for name in report.failed)


def test_which_minibatches(X):
    """Each of them with all arrays together, and with the worst array in the precision of training."""
    report = npvae.gradcheck(npvae.VAE(**SMALL, backend="reference"), X)
    where = [check.where for check in report.minibatches]
    assert where[::2] == where[1::2] == ["131 rows, L = 1", "37 rows, L = 1", "29 rows, L = 3", "11 rows, L = 3"]
    assert [check.name for check in report.minibatches[::2]] == ["all arrays"] * 4
    report = npvae.gradcheck(npvae.VAE(**SMALL, backend="reference", n_samples=4), X)
    assert [check.where for check in report.minibatches[::2]] == ["131 rows, L = 4", "37 rows, L = 4"]
    assert "both on other minibatches, one after the other" in str(report)


# Saturated units ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "activation, likelihood",
    [("tanh", "bernoulli"), ("tanh", "sigmoid-gaussian"), ("sigmoid", "bernoulli"), ("sigmoid", "gaussian")],
)
@pytest.mark.parametrize("bias", [5.0, 12.0, 17.0])
def test_saturated_units_are_healthy(X, backend, rng, dtype, activation, likelihood, bias):
    """Their derivative, 1 - y^2 for example, has no digits left; a wrong gradient elsewhere is caught all the same."""
    settings = {"dtype": dtype, "activation": activation, "likelihood": likelihood, "learning_rate": 0.02}
    name = backend.__name__.rpartition(".")[2]
    model = npvae.VAE(**SMALL, **settings, backend=name, max_epochs=1, verbose=False).fit(X)
    for array in (a for n, a in model.parameters_.items() if "hidden" in n and n.endswith(".b")):
        array[...] = np.where(rng.random(array.shape) < 0.5, bias, -bias)
    report = npvae.gradcheck(model, X, full=bias == 12)
    assert report.passed, str(report)
    problem = gradient_problem(model, X, 10, 0)
    name = [name for name in problem.parameters.layout.shapes if name.startswith("decoder")][-1]  # of the last bias
    wrong = scaled(problem.trained, name, 1.001)(problem.parameters)[1]
    reference, rounding = problem.reference(problem.parameters)[1], problem.rounding_trained()
    checks = compare_gradients(wrong, reference, problem.n_terms, problem.of_rows(), rounding)
    assert [check.name for check in checks if not check.passed] == [name]


def test_gradients_below_rounding_are_named(X):
    model = npvae.VAE(**SMALL, learning_rate=0.02, max_epochs=1, backend="reference").fit(X)
    model.parameters_["encoder.hidden1.b"][...] = 12
    report = npvae.gradcheck(model, X)
    assert report.passed
    small = [check for checks in report for check in checks if check.below_rounding]
    assert {check.name for check in small} >= {"encoder.hidden1.W"} and all("hidden1" in check.name for check in small)
    assert str(small[0]).endswith("not checked: the gradient is below rounding errors")


def test_a_model_that_is_not_one_and_numbers_out_of_range_are_refused(X):
    with pytest.raises(TypeError, match="model is of type ndarray; expected a VAE"):
        npvae.gradcheck(X, X)
    for n_rows in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"n_rows is {n_rows}; expected an integer of at least 1"):
            npvae.gradcheck(npvae.VAE(2), X, n_rows=n_rows)
    with pytest.raises(ValueError, match="full is 'yes'; expected one of None, True, False"):
        npvae.gradcheck(npvae.VAE(2), X, full="yes")
    with pytest.raises(ValueError, match="random_state is -1; expected an integer of at least 0"):
        npvae.gradcheck(npvae.VAE(2), X, random_state=-1)


def test_named_views_of_a_vector():
    """What a model's parameters are: moved in place, and restored."""
    from npvae.parameters import Layout

    layout = Layout({"a.W": (2, 3), "a.b": (3,)})

    def value_and_grad(parameters):
        value = np.sum(np.sin(parameters["a.W"])) + np.sum(parameters["a.b"] ** 3)
        gradient = layout.view(np.empty(layout.size))
        gradient["a.W"][...] = np.cos(parameters["a.W"])
        gradient["a.b"][...] = 3 * parameters["a.b"] ** 2
        return value, gradient

    parameters = layout.view(np.linspace(0.1, 1, layout.size))
    before = parameters.vector.copy()
    assert max(check.error for check in compare_with_differences(value_and_grad, parameters)) < TOLERANCE / 1000
    np.testing.assert_array_equal(parameters.vector, before)


def test_relative_error():
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.ones(2), np.zeros(2)) == 1
    assert np.isnan(relative_error(np.array([np.nan]), np.ones(1)))


# check_gradient -------------------------------------------------------------------------------------------------------


def smooth(p):
    """A function of arrays of every shape, and its gradient; a fresh dict."""
    value = np.sum(np.sin(p["w"])) + p["w"].sum() * p["s"] ** 2 + np.sum(np.exp(p["b"])) + np.sum(p["none"])
    dw = np.cos(p["w"]) + p["s"] ** 2
    return value, {"s": 2 * p["s"] * p["w"].sum(), "w": dw, "b": np.exp(p["b"]), "none": np.zeros((0, 3))}


@pytest.fixture
def arrays(rng):
    return {"w": rng.random((3, 4)), "b": rng.random(5), "s": np.array(0.7), "none": np.zeros((0, 3))}


@pytest.mark.parametrize("full", [True, False, None])
def test_dict_of_arrays(arrays, full):
    before = {name: array.copy() for name, array in arrays.items()}
    report = check_gradient(smooth, arrays, full=full)
    assert isinstance(report, Report) and report.passed and report.failed == [] and report.precision == ()
    assert [check.name for check in report.differences] == ["w", "b", "s", "none"]
    assert report.worst.error < TOLERANCE / 1000
    assert str(report).splitlines()[-1].startswith("passed; worst: ")
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("given", [np.array([0.3, -2.0]), [0.3, -2.0], np.array([[2, 3]]), 0.5, np.float64(3), 2])
def test_one_array(given):
    """A list and a number serve as an array; integers are moved as floats."""

    def f(x):
        assert type(x) is np.ndarray and x.dtype == np.float64 and x.shape == np.shape(given)
        return np.sum(x**3), 3 * x**2

    assert check_gradient(f, given).passed
    report = check_gradient(lambda x: (f(x)[0], 3.003 * x**2), given)
    assert report.failed == ["parameters"] and "FAILED in parameters" in str(report)


@pytest.mark.parametrize("place", [("w", (1, 2)), ("b", (4,)), ("s", ())])
@pytest.mark.parametrize("factor", [1.001, 0.999, np.nan, np.inf, -1.0, 0.0])
def test_one_wrong_entry_is_named(arrays, place, factor):
    name, index = place

    def wrong(p):
        value, gradient = smooth(p)
        gradient[name] = np.array(gradient[name])
        gradient[name][index] *= factor
        return value, gradient

    report = check_gradient(wrong, arrays)
    assert report.failed == [name] and report.worst.name == name and report.worst.entry.place == index
    where = f"at [{', '.join(map(str, index))}]: gradient " if index else "gradient "
    assert f"FAILED (at most 1e-06); {where}" in str(report)
    right = smooth(arrays)[1][name][index]
    np.testing.assert_allclose(report.worst.entry[1:], (factor * right, right), rtol=1e-9)
    report = check_gradient(wrong, arrays, full=False)
    assert report.failed == [name] and report.worst.entry is None


def test_more_parameters_than_are_moved_one_by_one(rng):
    calls = []

    def f(p):
        calls.append(p)
        return np.sum(np.sin(p["w"])), {"w": np.cos(p["w"])}

    assert check_gradient(f, {"w": rng.random((50, 50))}).passed
    assert len(calls) < 20
    assert not check_gradient(lambda p: (f(p)[0], {"w": 1.001 * np.cos(p["w"])}), {"w": rng.random((50, 50))}).passed


def test_functions_that_overwrite_or_keep_what_they_are_given(arrays):
    """Each call is given arrays of its own, and what it returned is not changed by a later call."""
    kept, buffer = [], np.empty(5)

    def f(p):
        kept.append((p["b"], p["b"].copy()))
        value = np.sum(p["b"] ** 3)
        np.multiply(3, p["b"] ** 2, out=buffer)
        p["w"][...] = np.nan
        del p["w"]
        return value, {"w": np.zeros((3, 4)), "b": buffer}

    report = check_gradient(f, {"w": arrays["w"], "b": arrays["b"]})
    assert report.passed, report
    assert np.isfinite(arrays["w"]).all()
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


def test_arrays_of_the_caller_are_not_touched():
    """Not while the check runs, nor if the function fails; one array may have two names."""
    array = np.array([0.2, 0.4])
    array.setflags(write=False)

    def f(p):
        assert array[0] == 0.2 and array[1] == 0.4
        return np.sum(p["a"] ** 2) + np.sum(p["b"] ** 3), {"a": 2 * p["a"], "b": 3 * p["b"] ** 2}

    assert check_gradient(f, {"a": array, "b": array}).passed


def test_float32_is_checked_in_float64_copies():
    single = np.linspace(0.1, 1, 4, dtype=np.float32)
    assert check_gradient(lambda x: (np.sum(np.exp(x)), np.exp(x)), single).passed
    assert single.dtype == np.float32

    def computes_in_float32(x):
        x = x.astype(np.float32)
        return np.sum(np.exp(x)), np.exp(x)

    with pytest.raises(TypeError, match="the value that f returned is float32.*expected to compute in float64"):
        check_gradient(computes_in_float32, single)
    with pytest.raises(TypeError, match="the gradient that f returned is float32.*expected to compute in float64"):
        check_gradient(lambda x: (float(computes_in_float32(x)[0]), computes_in_float32(x)[1]), single)


def test_tolerance_and_step():
    """A value computed to 1e-5 needs a larger tolerance; parameters much smaller than the step need a smaller one."""

    def rounded(x):
        return np.round(np.sum(np.exp(x)), 5), np.exp(x)

    assert not check_gradient(rounded, np.ones(3)).passed
    assert check_gradient(rounded, np.ones(3), tolerance=1e-3).passed

    def entropy(p):
        return np.sum(np.log(p) * p), np.log(p) + 1

    with np.errstate(invalid="ignore"):
        report = check_gradient(entropy, np.full(2, 1e-4))
    assert report.failed == ["parameters"] and np.isnan(report.worst.error)
    assert check_gradient(entropy, np.full(2, 1e-4), step=1e-5, full=False).passed
    assert check_gradient(entropy, np.full(2, 1e-4), step=1e-5).passed
    assert check_gradient(lambda x: (2.0, 0.0), 1.0, tolerance=0).passed


def test_infinite_entries_of_both_signs():
    for full in (True, False):
        report = check_gradient(lambda x: (np.sum(x), np.array([np.inf, -np.inf, 1, 1])), np.ones(4), full=full)
        assert not report.passed and np.isnan(report.worst.error)


def test_values_that_are_not_finite_nearby():
    """Steps that leave the domain do not count where shorter ones stay in it."""
    with np.errstate(invalid="ignore"):
        assert check_gradient(lambda x: (np.log(x), 1 / x), 0.015).passed
        report = check_gradient(lambda x: (np.where(x == 1, 0.0, np.inf)[()], 1.0), 1.0)
    assert not report.passed and np.isnan(report.worst.error) and "nan  FAILED" in str(report)


def fixed(value, gradient):
    return lambda p: (value, gradient)


ONE, TWO = {"w": np.ones(2)}, {"w": np.ones(2), "b": np.ones(3)}


@pytest.mark.parametrize(
    "f, parameters, error, message",
    [
        (3, ONE, TypeError, "f is of type int; expected a function"),
        (smooth, {}, ValueError, "parameters is an empty dict; expected at least one array"),
        (smooth, {0: np.ones(2)}, TypeError, "parameters has the name 0; expected strings"),
        (smooth, None, TypeError, "parameters is None; expected an array of real numbers, or a dict of such arrays"),
        (smooth, "w", TypeError, "parameters is of type <U1; expected an array of real numbers"),
        (smooth, [np.ones(2), np.ones(3)], TypeError, "parameters is of type list, with parts of different shapes"),
        (smooth, {"w": {"v": 1.0}}, TypeError, r"parameters\['w'\] is of type dict; expected an array"),
        (smooth, {"w": np.array([True])}, TypeError, r"parameters\['w'\] is of type bool; expected"),
        (smooth, {"w": np.ones(2) * 1j}, TypeError, r"parameters\['w'\] is of type complex128; expected"),
        (smooth, {"w": [[1, np.nan]]}, ValueError, r"parameters\['w'\] is nan at \[0, 1\]; expected finite numbers"),
        (smooth, -np.inf, ValueError, "parameters is -inf; expected finite numbers"),
        (lambda p: 1.0, ONE, TypeError, r"f returned an object of type float; expected a pair \(value, gradient\)"),
        (lambda p: (1.0, {}, 0), ONE, TypeError, r"f returned 3 things; expected a pair \(value, gradient\)"),
        (fixed(np.ones(2), ONE), ONE, ValueError, r"the value that f returned has the shape \(2,\); expected a number"),
        (fixed("high", ONE), ONE, TypeError, "the value that f returned is of type <U4; expected a real number"),
        (fixed(None, ONE), ONE, TypeError, "the value that f returned is None; expected"),
        (fixed(1j, ONE), ONE, TypeError, "the value that f returned is of type complex128; expected"),
        (fixed(np.nan, ONE), ONE, ValueError, "f returned the value nan at the given parameters; expected a finite"),
        (fixed(-np.inf, ONE), ONE, ValueError, "f returned the value -inf at the given parameters"),
        (fixed(1.0, np.ones(2)), ONE, TypeError, "the gradient that f returned is of type ndarray; expected a dict"),
        (fixed(1.0, ONE), np.ones(2), TypeError, "the gradient that f returned is of type dict; expected an array"),
        (fixed(1.0, None), np.ones(2), TypeError, "the gradient that f returned is None; expected an array"),
        (fixed(1.0, ONE), TWO, ValueError, "f returned lacks 'b'; expected the names 'w', 'b'"),
        (fixed(1.0, TWO), ONE, ValueError, "f returned has 'b'; expected the names 'w'"),
        (fixed(1.0, {"v": 1}), TWO, ValueError, "f returned lacks 'w', 'b' and has 'v'; expected the names 'w', 'b'"),
        (fixed(1.0, {"w": 1.0}), ONE, ValueError, r"by 'w' that f returned has the shape \(\); expected \(2,\)"),
        (fixed(1.0, np.ones((2, 1))), [1, 2], ValueError, r"f returned has the shape \(2, 1\); expected \(2,\)"),
        (fixed(1.0, {"w": [1, None]}), ONE, TypeError, "the gradient by 'w' that f returned is of type list; expected"),
    ],
)
def test_bad_input_is_refused(f, parameters, error, message):
    with pytest.raises(error, match=message):
        check_gradient(f, parameters)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"full": "yes"}, "full is 'yes'; expected one of None, True, False"),
        ({"tolerance": -1.0}, "tolerance is -1.0; expected a number of at least 0"),
        ({"step": 0.0}, "step is 0.0; expected a number of at least 1e-09"),
        ({"random_state": -1}, "random_state is -1; expected an integer of at least 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_gradient(fixed(1.0, ONE), ONE, **options)


def test_a_function_with_noise_is_refused(rng):
    with pytest.raises(ValueError, match="for the same parameters; expected the same value each time"):
        check_gradient(lambda x: (rng.standard_normal(), x), np.ones(2))


def test_python_of_the_page():
    page = (Path(__file__).parents[1] / "docs" / "gradient_check.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(compile(code, "gradient_check.md", "exec"), names)
    near = [0.002, -1.0]
    assert (
        not npvae.check_gradient(names["f"], near).passed and npvae.check_gradient(names["f"], near, step=1e-3).passed
    )


def test_worst_counts_in_units_of_the_tolerance():
    checks = ArrayCheck("a", 1e-5, 1e-4), ArrayCheck("b", 1e-6, 1e-6), ArrayCheck("c", 0.0, 0.0)
    assert Report(checks).worst.name == "b" and Report(checks).passed
    nan = ArrayCheck("d", np.nan, 1.0)
    assert Report(checks, (nan,)).worst is nan and Report(checks, (nan,)).failed == ["d"]
