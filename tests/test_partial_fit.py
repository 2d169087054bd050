"""Data that comes in pieces."""

import numpy as np
import pytest

import npvae
from npvae import datasets

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "learning_rate": 0.05, "batch_size": 10}


@pytest.fixture
def X(rng):
    return rng.standard_normal((90, 4)) @ rng.standard_normal((4, 6)) * 3 + 1


def test_one_piece_is_an_epoch(X):
    """The first piece alone is trained on as `fit` does; it decides what is decided once."""
    whole, piece = npvae.VAE(**SMALL, max_epochs=1).fit(X), npvae.VAE(**SMALL).partial_fit(X)
    np.testing.assert_array_equal(piece.parameters_.vector, whole.parameters_.vector)
    before = piece.preprocessor_
    piece.partial_fit(X[:20] * 2)
    assert piece.preprocessor_ is before and piece.n_samples_seen_ == 110
    assert [epoch.epoch for epoch in piece.history_] == [1, 2] and piece.history_[-1].samples_seen == 110


def test_pieces_of_digits_are_learnt():
    """Five passes over pieces end above independent pixels, and near what one fit of as many epochs reaches."""
    X, _ = datasets.make_digits(1000, random_state=2)
    settings = {"n_components": 4, "hidden_layer_sizes": (60,), "learning_rate": 0.05, "batch_size": 20}
    pieces = npvae.VAE(**settings)
    for _ in range(5):
        for piece in np.split(X, 4):
            pieces.partial_fit(piece)
    whole = npvae.VAE(**settings, max_epochs=5).fit(X)
    assert pieces.score(X) > whole.health_.baseline
    assert pieces.score(X) == pytest.approx(whole.score(X), rel=0.05)


def test_goes_on_from_a_fit_and_from_a_file(X, tmp_path):
    model = npvae.VAE(**SMALL, max_epochs=3).fit(X, X_valid=X[:9])
    model.save(tmp_path / "model.npz")
    loaded = npvae.load(tmp_path / "model.npz")
    for same in (model, loaded):
        same.partial_fit(X[:30])
        assert same.n_samples_seen_ == 120 and not hasattr(same, "health_") and len(same.history_) == 4
    np.testing.assert_array_equal(model.parameters_.vector, loaded.parameters_.vector)


def test_goes_on_from_the_best_parameters(X):
    """Not from the last ones of a fit that had validation data."""
    model = npvae.VAE(**SMALL | {"learning_rate": 0.3}, max_epochs=60, patience=3).fit(X, X_valid=X[:9])
    best = model.parameters_.vector.copy()
    assert not np.array_equal(best, model.training_.parameters)
    model.set_params(learning_rate=1e-12).partial_fit(X)
    np.testing.assert_allclose(model.parameters_.vector, best, atol=1e-6)


def test_an_interrupted_epoch_is_over(X):
    def press(epoch):
        return epoch.epoch == 2

    model = npvae.VAE(**SMALL, max_epochs=4, callbacks=(press,)).fit(X).set_params(callbacks=())
    model.training_.progress.seen = 10  # as after Ctrl-C in the third epoch
    assert [epoch.epoch for epoch in model.partial_fit(X).history_] == [1, 2, 4]


def test_prior_counts_all_rows_so_far(X):
    """Half the data a second time: the same gradient of the data, half the prior of a fit to that half."""
    strong = {"weight_prior": 1000.0, "optimizer": "sgd", "learning_rate": 1e-4, "backend": "reference"}
    model = npvae.VAE(**SMALL | strong).partial_fit(X)
    alone = npvae.VAE(**SMALL | strong).partial_fit(X)
    alone.n_samples_seen_ = 0  # as if nothing had been seen: the piece is all there is
    before = model.parameters_.vector.copy()
    n_weights = model.parameters_.layout.n_weights
    shrunk = [m.partial_fit(X).parameters_.vector[:n_weights] - before[:n_weights] for m in (model, alone)]
    pull = [-(step @ before[:n_weights]) for step in shrunk]
    assert pull[1] > 1.5 * pull[0] > 0


def test_pieces_unlike_the_first_are_refused(X):
    model = npvae.VAE(**SMALL).partial_fit(X)
    before = model.parameters_.vector.copy()
    for bad in (X[:, :5], np.full_like(X, np.nan)):
        with pytest.raises(ValueError, match="X h"):
            model.partial_fit(bad)
    np.testing.assert_array_equal(model.parameters_.vector, before)
    assert model.n_samples_seen_ == 90


def test_auto_learning_rate_is_chosen_on_the_first_piece(X):
    model = npvae.VAE(**SMALL | {"learning_rate": "auto"}).partial_fit(X)
    rate = model.learning_rate_
    assert rate in (0.01, 0.02, 0.1) and model.partial_fit(X).learning_rate_ == rate


@pytest.mark.parametrize(
    "later, message",
    [
        (lambda X: X * 1000, "the values of column . are .* times as far"),
        (lambda X: X + 1000, "and those of 5 of 5 columns"),
        (lambda X: np.where(np.arange(6) == 2, X * 40, X), "column 2 are [4-6].* times as far .* and those of 1 of 5"),
        (lambda X: np.c_[X[:, :4], np.arange(50) * 1e-3, X[:, 5]], "column 4 hardly varied in the first piece"),
        (lambda X: X * 2 + 1, None),
        (lambda X: X[:1], None),
        (lambda X: X / 100, None),
    ],
)
def test_a_piece_of_another_scale_is_named(rng, recwarn, later, message):
    X = rng.standard_normal((50, 6)) * [1, 2, 3, 4, 1, 6] + 3
    X[:, 4] = 0.1
    model = npvae.VAE(2, hidden_layer_sizes=(8,), learning_rate=0.01, backend="reference").partial_fit(X)
    piece = later(X)
    if "hardly" not in (message or ""):
        piece[:, 4] = 0.1
    if message is None:
        model.partial_fit(piece)
        assert not recwarn
        return
    with pytest.warns(UserWarning, match=message):
        model.partial_fit(piece)


def test_a_first_piece_of_one_row_fixes_no_column(X):
    """All of its columns are constant; later pieces are learnt."""
    model = npvae.VAE(**SMALL, backend="reference").partial_fit(X[:1])
    with pytest.warns(UserWarning, match="of 6 columns more than 5 times"):
        model.partial_fit(X)
    assert not model.preprocessor_.fixed
    assert np.abs(model.parameters_["decoder.mu.b"]).min() > 0
