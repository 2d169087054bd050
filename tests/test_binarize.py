"""Grey values drawn as 0 or 1: with the right probabilities, and as a function of keys alone, whatever the order."""

import numpy as np
import pytest
from test_resume import fit_until, same

import npvae
from npvae import backends, cli, fitted
from npvae.backends import cpu, formulas
from npvae.model import Model
from npvae.noise import key_of, key_of_content, keyed_uniform
from npvae.preprocessing import choose_likelihood
from npvae.table import survey

SMALL = {
    "n_components": 2, "hidden_layer_sizes": (5,), "batch_size": 10, "max_epochs": 3, "learning_rate": 0.02,
    "likelihood": "bernoulli", "backend": "reference",
}  # fmt: skip

KINDS = ("dynamic", "fixed")

#: Standard deviations that a number of them may be from its mean: once in a million.
FAR = 5.0


@pytest.fixture
def X(rng):
    """Grey values, 0 and 1 among them."""
    return np.clip(rng.random((33, 8)) * 1.4 - 0.2, 0, 1)


@pytest.fixture
def gathered(monkeypatch):
    """What is gathered from now on: (rows, x, whether it is for a step) of each minibatch."""
    seen, gather = [], Model.gather

    def recording(model, data, rows, buffers, keys=None):
        x = gather(model, data, rows, buffers, keys)
        if keys is not None or data.binarization is None or not data.binarization.anew:
            seen.append((np.array(rows), np.array(model.backend.to_numpy(x))))
        return x

    monkeypatch.setattr(Model, "gather", recording)
    monkeypatch.setattr(cpu, "Runner", None)  # steps that are run from a table do not call it: see test_cpu_steps
    return seen


def by_epoch(gathered, n_rows, n_epochs):
    """Return the x of the first epochs of a training, in the order of the rows: (epochs, N, D)."""
    rows, x = (np.concatenate(parts)[: n_epochs * n_rows] for parts in zip(*gathered))
    epochs = np.empty((n_epochs, n_rows, x.shape[1]))
    epochs[np.repeat(np.arange(n_epochs), n_rows), rows] = x
    return epochs


def check_frequencies(draws, x):
    """Compare draws (n, ...) of 0 and 1 with their probabilities: each number, and the sum of the squared errors."""
    assert np.isin(draws, (0, 1)).all()
    mean, sure = draws.mean(axis=0), (x == 0) | (x == 1)
    np.testing.assert_array_equal(mean[sure], x[sure])
    errors = (mean - x)[~sure] / np.sqrt(x * (1 - x) / len(draws))[~sure]
    assert abs(errors).max() < FAR
    assert abs(np.sum(errors**2) - len(errors)) < FAR * np.sqrt(2 * len(errors))


# Backends ---------------------------------------------------------------------------------------------------------


def test_frequencies_and_independence(rng):
    x, n = np.linspace(0, 1, 8), 40_000
    draws = backends.get("reference").binarize(np.tile(x, (n, 1)), key_of(0, 1, np.arange(n)), np.empty((n, 8)))
    check_frequencies(draws, x)
    z = (draws - x)[:, 1:-1] / np.sqrt(x * (1 - x))[1:-1]
    between_columns = z.T @ z / np.sqrt(n) - np.eye(6) * np.sqrt(n)
    assert abs(between_columns[~np.eye(6, dtype=bool)]).max() < FAR
    assert abs(z[1:].T @ z[:-1] / np.sqrt(n)).max() < FAR  # of rows whose keys come from neighbouring numbers


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (130, 101)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_on_every_backend(rng, shape, dtype):
    x = np.clip(rng.random(shape) * 1.4 - 0.2, 0, 1).astype(dtype)
    keys = key_of(3, 1, np.arange(shape[0]))
    keys[0] = 2**64 - 1  # the column is added modulo 2^64
    (first, in_place), (second, _) = (
        (backend.binarize(x, keys, np.empty_like(x)), backend.binarize(y, keys, y))
        for backend in map(backends.get, ("reference", "cpu"))
        for y in (x.copy(),)
    )
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(in_place, first)
    np.testing.assert_array_equal(first[(x == 0) | (x == 1)], x[(x == 0) | (x == 1)])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_least_uniform_number(backend):
    """It is 0, which is not below 0; below 2^-24 there is no other."""
    x, key = np.array([[0.0], [2.0**-24], [1.0]]), np.full(3, 2**64 - int(formulas.GAMMA), np.uint64)
    assert formulas.mix(key + np.uint64(0)).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(backends.get(backend).binarize(x, key, np.empty_like(x)), [[0], [1], [1]])


def test_keys():
    assert len({int(key_of(seed, epoch, row)) for seed in range(9) for epoch in range(9) for row in range(9)}) == 9**3
    np.testing.assert_array_equal(key_of(1, 2, np.arange(3)), [key_of(1, 2, row) for row in range(3)])
    x = np.arange(6.0).reshape(2, 3)
    assert key_of_content(x, 0)[0] != key_of_content(x, 1)[0] != key_of_content(x[:, ::-1], 1)[0]
    for row in (x, 0 * x):  # a row of zeros, such as an empty image, has other noise with another seed, too
        assert not np.array_equal(keyed_uniform(row, 0, (1, 3)), keyed_uniform(row, 1, (1, 3)))


# Training ---------------------------------------------------------------------------------------------------------


def test_frequencies_in_training(X, gathered):
    n = 400
    npvae.VAE(**SMALL | {"max_epochs": n}, binarize="dynamic").fit(X)
    check_frequencies(by_epoch(gathered, len(X), n), X)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_drawn_anew_by_seed_epoch_and_row(X, gathered, backend):
    X[1] = X[0]  # the same content in two rows

    def draws(**settings):
        gathered.clear()
        npvae.VAE(**SMALL | {"binarize": "dynamic", "backend": backend} | settings).fit(X)
        return by_epoch(gathered, len(X), 3)

    first = draws()
    np.testing.assert_array_equal(draws(), first)
    np.testing.assert_array_equal(draws(batch_size=7, n_components=1), first)
    grey = (X > 0) & (X < 1)
    for other, one in ((draws(random_state=1), first), (first[1:], first[:-1]), (first[:, :1], first[:, 1:2])):
        assert not np.array_equal(other, one)
        assert 0.2 < np.mean((other != one)[:, grey[: one.shape[1]]]) < 0.5  # of values spread over (0, 1): 1/3


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_drawn_once_by_seed_and_content(X, gathered, backend):
    X[1] = X[0]

    def draws(X=X, **settings):
        gathered.clear()
        model = npvae.VAE(**SMALL | {"binarize": "fixed", "backend": backend} | settings).fit(X)
        (part,) = [x for rows, x, _ in model.fitted_.batches(model.fitted_.data(X))]
        binarized = [(rows, x) for rows, x in gathered if np.isin(x, (0, 1)).all()]
        epochs = by_epoch(binarized, len(X), 3)
        np.testing.assert_array_equal(epochs[0], part)  # what is scored is what was trained on
        return epochs

    first = draws()
    np.testing.assert_array_equal(first[1:], first[:-1])
    np.testing.assert_array_equal(first[0, 0], first[0, 1])
    np.testing.assert_array_equal(draws(X[::-1])[0], first[0, ::-1])
    assert not np.array_equal(draws(random_state=1), first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0, 1, 5, 9])
@pytest.mark.parametrize("settings", [{"backend": "cpu"}, {"optimizer": "adam", "patience": 3}], ids=str)
def test_resumed_to_the_same_bits(X, tmp_path, monkeypatch, kind, step, settings):
    """Wherever it stopped: an epoch has four steps."""
    settings = SMALL | {"binarize": kind} | settings
    valid = X[:9] if "patience" in settings else None
    whole = npvae.VAE(**settings).fit(X, X_valid=valid)
    assert fit_until(step, X, tmp_path / "part.npz", monkeypatch, **settings)
    assert same(npvae.load(tmp_path / "part.npz").resume(X, X_valid=valid), whole)


def test_each_piece_is_drawn_anew(X, gathered):
    model = npvae.VAE(**SMALL, binarize="dynamic")
    for _ in range(3):
        model.partial_fit(X)
    first, second, third = by_epoch(gathered, len(X), 3)
    assert not np.array_equal(first, second) and not np.array_equal(second, third)


def test_trials_of_the_step_size_see_the_same_rows(X, gathered):
    """Otherwise they would be compared on different data."""
    npvae.VAE(**SMALL | {"learning_rate": "auto", "optimizer": "sgd"}, binarize="dynamic").fit(X)
    once = by_epoch(gathered, len(X), 3)
    for n in range(4):  # three trials, and the training
        np.testing.assert_array_equal(by_epoch(gathered[n * 12 :], len(X), 3), once)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", np.uint8, bool])
def test_zeros_and_ones_stay(X, kind, backend, dtype):
    settings, binary = SMALL | {"backend": backend}, (X < 0.4).astype(dtype)
    model, grey = npvae.VAE(**settings, binarize=kind).fit(binary), npvae.VAE(**settings).fit(binary)
    np.testing.assert_array_equal(model.parameters_.vector, grey.parameters_.vector)
    np.testing.assert_array_equal(model.score_samples(binary), grey.score_samples(binary))
    assert model.report_ == [*grey.report_, f"binarize: {kind} (X holds nothing but 0 and 1, which stay)"]


def test_grey_values_are_the_default(X):
    assert npvae.VAE().binarize == "none"
    fitted_ = npvae.VAE(**SMALL).fit(X).fitted_
    ((_, x, _),) = fitted_.batches(fitted_.data(X))
    np.testing.assert_array_equal(x, X.astype(np.float32))


# Scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_scores_draw_each_row_once(X, kind, backend, monkeypatch):
    """By its content and the seed: not by the other rows, their order, the batches or the type of the numbers."""
    pixels = np.rint(X * 255).astype(np.uint8)
    model = npvae.VAE(**SMALL | {"backend": backend}, binarize=kind).fit(pixels)

    def draws(X):
        return np.concatenate([np.array(x) for _, x, _ in model.fitted_.batches(model.fitted_.data(X))])

    once, scores = draws(pixels), model.score_samples(pixels)
    assert np.isin(once, (0, 1)).all() and not np.array_equal(once, pixels / 255)
    np.testing.assert_array_equal(draws(pixels[::-1]), once[::-1])
    np.testing.assert_array_equal(draws(pixels / 255), once)
    np.testing.assert_array_equal(np.concatenate([draws(row[None]) for row in pixels]), once)
    monkeypatch.setattr(fitted, "BATCH", 4)
    np.testing.assert_array_equal(draws(pixels), once)
    monkeypatch.setattr("npvae.estimators.Scorer.batch_size", 4)
    # What is computed of it is what is computed of the drawn pixels; sums of 8 terms differ by their rounding.
    np.testing.assert_allclose(model.score_samples(pixels), scores, rtol=1e-5)
    np.testing.assert_allclose(model.score_samples(once.astype(np.uint8) * 255), scores, rtol=1e-5)
    np.testing.assert_allclose(model.transform(once), model.transform(pixels), atol=1e-5)
    np.testing.assert_allclose(model.reconstruct(once), model.reconstruct(pixels), atol=1e-5)


def test_the_mean_of_many_draws_of_a_row(X):
    model, row, draws = npvae.VAE(**SMALL, binarize="dynamic").fit(X), X[:1], []
    for seed in range(2000):
        preprocessor = model.preprocessor_
        binarization = preprocessor.binarization._replace(seed=seed)
        data = preprocessor._replace(binarization=binarization).data(survey(row))
        draws += [np.array(x[0]) for _, x, _ in model.fitted_.batches(data)]
    check_frequencies(np.array(draws), row[0])


def test_validation_rows_are_the_same_in_every_epoch(X, monkeypatch):
    seen, gather = [], Model.gather

    def recording(model, data, rows, buffers, keys=None):
        x = gather(model, data, rows, buffers, keys)
        if keys is None and len(data.X) == 9:
            seen.append(x.copy())
        return x

    monkeypatch.setattr(Model, "gather", recording)
    npvae.VAE(**SMALL, binarize="dynamic").fit(X, X_valid=X[:9])
    assert len(seen) == 3 and np.isin(seen[0], (0, 1)).all()
    np.testing.assert_array_equal(seen[1:], seen[:-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("random_state", [3, None])
def test_a_model_keeps_its_binarization(X, kind, random_state, tmp_path):
    """In a file, and when the setting is changed: as its likelihood, it is a part of what was fitted."""
    model = npvae.VAE(**SMALL, binarize=kind, random_state=random_state).fit(X)
    scores = model.score_samples(X)
    model.save(tmp_path / "model.npz")
    loaded = npvae.load(tmp_path / "model.npz")
    assert loaded.binarize == kind and loaded.preprocessor_.binarization == model.preprocessor_.binarization
    for changed in (loaded, loaded.set_params(binarize="none"), model.set_params(random_state=9)):
        np.testing.assert_array_equal(changed.score_samples(X), scores)


def test_health_is_that_of_binarized_rows(rng):
    """Grey values without a pattern are named as such, and are no reason for a warning once they are drawn."""
    X = rng.random((200, 6))
    grey, drawn = (npvae.VAE(**SMALL, binarize=kind).fit(X).health_ for kind in ("none", "dynamic"))
    assert any("values between 0 and 1" in warning for warning in grey.warnings)
    assert not any("values between 0 and 1" in warning for warning in drawn.warnings)


# What is refused, and what is said ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "likelihood, change",
    [("gaussian", lambda X: X), ("sigmoid-gaussian", lambda X: X), ("mixed", lambda X: np.c_[X > 0.5, X]),
     ("auto", lambda X: X * 7)],
)  # fmt: skip
def test_densities_have_no_binarization(X, kind, likelihood, change):
    model = npvae.VAE(**SMALL | {"likelihood": likelihood}, binarize=kind)
    for fit in (model.fit, model.partial_fit, lambda X: npvae.gradcheck(model, X)):
        with pytest.raises(
            ValueError, match=f"binarize is '{kind}', but the likelihood is '.*expected binarize='none'"
        ):
            fit(change(X))


def test_other_names(X):
    with pytest.raises(ValueError, match="binarize is 'dynamics'; expected one of .*did you mean 'dynamic'"):
        npvae.VAE(**SMALL, binarize="dynamics").fit(X)


def test_what_is_said_of_grey_values():
    pixels = survey(np.array([[0, 200]], np.uint8))
    assert "not a probability of the data; with binarize='dynamic' it is one" in choose_likelihood(pixels)[1]
    assert "not a probability" not in choose_likelihood(pixels, "dynamic")[1]
    report = npvae.VAE(1, binarize="dynamic", learning_rate=0.1, max_epochs=1).fit(pixels.X).report_
    assert report[1].startswith("binarize: dynamic (each value is the probability with which a pixel is 1, drawn anew")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_trials(X, kind):
    """Of a model before and after it is fitted, and `npvae.fit`, which compares candidates on held-out rows."""
    model = npvae.VAE(**SMALL, binarize=kind)
    assert npvae.gradcheck(model, X).passed and npvae.gradcheck(model.fit(X), X).passed
    settings = {name: value for name, value in SMALL.items() if name != "max_epochs"}
    found = npvae.fit(np.repeat(X, 2, axis=0), **settings, max_epochs=2, binarize=kind, verbose=False)
    assert any(line.startswith(f"binarize: {kind}") for line in found.report_)


def test_the_command(tmp_path, monkeypatch, capsys, rng):
    """It trains, resumes and scores; its gradient check leaves out the densities."""
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", rng.integers(0, 256, (40, 9), dtype=np.uint8))
    small = (
        "--components 1 --hidden 3 --learning-rate 0.02 --backend reference --binarize dynamic --likelihood bernoulli"
    )
    train = ["train", "images.npy", *small.split(), "--epochs", "2", "--out", "m.npz", "--quiet"]
    assert cli.main(train) == 0 and cli.main(["resume", "m.npz", "--epochs", "3", "--quiet"]) == 0
    model, X = npvae.load("m.npz"), np.load("images.npy")
    assert model.binarize == "dynamic" and len(model.history_) == 3
    assert cli.main(["score", "m.npz", "images.npy"]) == 0
    assert f"{model.score(X):.3f}" in capsys.readouterr().out
    options = ["--binarize", "fixed", "--estimator", "sgvb-b", "--hidden", "3", "--components", "1"]
    assert cli.main(["gradcheck", "--dataset", "images.npy", *options]) == 0
    assert "2 of 2 models passed" in (said := capsys.readouterr().out) and "gaussian" not in said
    assert cli.main(["train", "images.npy", "--binarize", "fixed", "--likelihood", "gaussian", "--quiet"]) == 1
    assert "--binarize is 'fixed', but the likelihood is 'gaussian' (as set)" in capsys.readouterr().err
