"""The one call `fit`: what it chooses, on which rows, and what it gives back."""

import numpy as np
import pytest

import npvae
from npvae import selection, settings
from npvae.training import NonFiniteError

QUICK = {"hidden_layer_sizes": (8,), "max_epochs": 20, "verbose": False, "backend": "reference"}


@pytest.fixture
def X(rng):
    """Two latent numbers behind six columns."""
    return rng.standard_normal((150, 2)) @ rng.standard_normal((2, 6)) * 3 + rng.standard_normal((150, 6)) + 5


def recorded(monkeypatch):
    """Return a list that gets (settings, rows, validation rows) of every training."""
    calls, right = [], npvae.VAE.fit

    def fit(self, X, y=None, *, X_valid=None, **others):
        calls.append((self.get_params(), np.asarray(X), None if X_valid is None else np.asarray(X_valid)))
        return right(self, X, X_valid=X_valid, **others)

    monkeypatch.setattr(npvae.VAE, "fit", fit)
    return calls


def test_fit_says_what_it_chose(X, capsys):
    model = npvae.fit(X, max_epochs=3)
    assert (model.n_components, model.max_epochs) == (3, 3) and model.hidden_layer_sizes in ((100,), ())
    said = capsys.readouterr().err
    for message in (
        "n_components: 3 (",
        "hidden_layer_sizes: (100,) (",
        "optimizer: adam (",
        "bounds of 30 held-out rows in nats, with hidden_layer_sizes (100,), weight_prior 1.0: ",
        "trained on all rows with hidden_layer_sizes (",
        "likelihood: gaussian (X has values",
        "kept: the average of the iterates",
    ):
        assert message in said and any(line.startswith(message) for line in model.report_)
    assert "max_epochs: " not in said and "epoch    3 of 3" in said  # what was given is not chosen


def test_candidates_are_compared_on_rows_that_they_have_not_seen(X, monkeypatch):
    calls = recorded(monkeypatch)
    model = npvae.fit(X, **QUICK)
    *trials, (final, rows, valid) = calls
    assert [given["weight_prior"] for given, *_ in trials] == [1.0, settings.STRONG_PRIOR]
    for _, train, held in trials:
        assert len(train) == 120 and len(held) == 30
        np.testing.assert_array_equal(np.unique(np.r_[train, held], axis=0), np.unique(X, axis=0))
    assert len(rows) == 150 and valid is None and final["weight_prior"] == model.weight_prior


def test_the_best_on_held_out_rows_is_trained_on_all(X, monkeypatch):
    """Its prior and its number of epochs; unless these are given."""
    right = npvae.VAE.fit

    def fit(self, X, y=None, *, X_valid=None, **others):
        right(self, X, X_valid=X_valid, **others)
        if X_valid is not None:
            best = 250 if self.weight_prior == 10 else 0
            self.history_ = [e._replace(elbo_valid=-3.0 if e.epoch == best else -9.0) for e in self.history_]
        return self

    monkeypatch.setattr(npvae.VAE, "fit", fit)
    model = npvae.fit(X, **{name: value for name, value in QUICK.items() if name != "max_epochs"})
    assert model.weight_prior == 10 and model.max_epochs == 250 and model.n_samples_seen_ == 150
    assert npvae.fit(X, **QUICK).max_epochs == 20


def test_it_is_as_reproducible_as_a_training(X):
    first, second = (npvae.fit(X, **QUICK, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(first.parameters_.vector, second.parameters_.vector)
    alone = npvae.VAE(**first.get_params()).fit(X)  # what was chosen stands in the settings
    np.testing.assert_array_equal(first.parameters_.vector, alone.parameters_.vector)
    assert npvae.fit(X, **QUICK, random_state=None).n_samples_seen_ == 150


def test_validation_data_takes_the_place_of_held_out_rows(X, monkeypatch):
    calls = recorded(monkeypatch)
    model = npvae.fit(X[:100], X_valid=X[100:], **QUICK)
    assert len(calls) == 2 and all(len(rows) == 100 and len(valid) == 50 for _, rows, valid in calls)
    assert "bounds of 50 validation rows" in "".join(model.report_)
    best = max(epoch.elbo_valid for epoch in model.history_)
    assert model.score(X[100:]) == pytest.approx(best, abs=1e-6)


def test_callbacks_hear_of_the_last_training_alone(X):
    seen = []
    model = npvae.fit(X, **QUICK | {"callbacks": [seen.append]})
    assert [epoch.epoch for epoch in seen] == [epoch.epoch for epoch in model.history_]
    assert model.callbacks == [seen.append] or len(model.callbacks) == 1


@pytest.mark.parametrize("rows", [1, 5, 30])
def test_few_rows_are_all_for_training(rng, rows, monkeypatch):
    calls = recorded(monkeypatch)
    model = npvae.fit(rng.standard_normal((rows, 3)), **QUICK)
    assert len(calls) == 1 and any("held-out rows: none" in line for line in model.report_)
    assert model.weight_prior == settings.STRONG_PRIOR
    assert npvae.fit(rng.standard_normal((rows, 3)), **QUICK, weight_prior=2.0).weight_prior == 2.0


@pytest.mark.slow(reason="trains eight models")
def test_linear_data_has_a_linear_model(rng):
    """Where the truth is linear a net can only lose; where it is bent, the net is kept."""
    X = rng.standard_normal((100, 3)) @ rng.standard_normal((3, 30)) + 0.5 * rng.standard_normal((100, 30))
    model = npvae.fit(X, verbose=False, random_state=1)
    assert model.hidden_layer_sizes == () and model.weight_prior == settings.STRONG_PRIOR
    t = rng.uniform(0, 2 * np.pi, 300)
    X = np.c_[np.cos(t), np.sin(t), np.cos(2 * t), np.sin(2 * t)] + 0.1 * rng.standard_normal((300, 4))
    assert npvae.fit(X, verbose=False).hidden_layer_sizes == settings.UNITS


def test_binary_columns_that_a_part_of_the_rows_lacks(rng, monkeypatch):
    """The only row with a 1 would be held out: for the other rows the column is constant."""
    held = selection.generator(0, "held-out rows").permutation(200)[0]
    X, calls = np.c_[rng.standard_normal((200, 3)), np.arange(200) == held], recorded(monkeypatch)
    model = npvae.fit(X, **QUICK)
    assert model.likelihood_ == "mixed" and len(calls) == 1
    assert any("held-out rows: none" in line for line in model.report_)


def test_outliers_do_not_decide(rng):
    X = rng.standard_normal((200, 4))
    order = selection.generator(0, "held-out rows").permutation(200)
    X[order[:3]] = 1e3
    train, held = selection._parts(selection.survey(X), "gaussian", 0)
    assert len(train) == 160 and len(held) == 37 and X[held].max() < 10


@pytest.mark.filterwarnings("error")
def test_outliers_are_found_in_numbers_of_any_size(rng):
    X = rng.standard_normal((200, 3)) * [1e-300, 1e300, 1]
    X[:, 2] = 0.1  # constant, with a mean that is rounded
    train, held = selection._parts(selection.survey(X), "gaussian", 0)
    assert len(train) == 160 and len(held) == 40


def test_settings_are_checked_before_anything_is_trained(X, monkeypatch):
    calls = recorded(monkeypatch)
    for wrong, message in (
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"weight_prior": -1}, "weight_prior is -1"),
        ({"optimizer": "adan"}, "optimizer is 'adan'"),
    ):
        with pytest.raises(ValueError, match=message):
            npvae.fit(X, **wrong)
    assert not calls


def test_a_diverging_candidate_is_no_obstacle(X, monkeypatch):
    right = npvae.VAE.fit

    def fit(self, X, y=None, **others):
        if self.weight_prior == 1.0 and len(X) < 150:
            raise NonFiniteError(3, "decoder.mu", 0.01)
        return right(self, X, **others)

    monkeypatch.setattr(npvae.VAE, "fit", fit)
    model = npvae.fit(X, **QUICK)
    assert model.weight_prior > 1 and any("weight_prior 1.0: diverged" in line for line in model.report_)


def test_smaller_steps_where_all_diverge(X, monkeypatch):
    right = npvae.VAE.fit

    def fit(self, X, y=None, **others):
        if self.learning_rate == 0.01:
            raise NonFiniteError(3, "decoder.mu", 0.01)
        return right(self, X, **others)

    monkeypatch.setattr(npvae.VAE, "fit", fit)
    model = npvae.fit(X, **QUICK)
    assert model.learning_rate == pytest.approx(0.001) and np.isfinite(model.score(X))
    with pytest.raises(NonFiniteError):
        npvae.fit(X, **QUICK, learning_rate=0.01)


def test_a_training_on_all_rows_that_went_wrong_is_not_kept(X, monkeypatch):
    right = npvae.VAE.fit

    def fit(self, X, y=None, **others):
        right(self, X, **others)
        if len(X) == 150:
            self.parameters_["decoder.mu.b"][...] += 100
        return self

    monkeypatch.setattr(npvae.VAE, "fit", fit)
    model = npvae.fit(X, **QUICK)
    assert model.n_samples_seen_ == 120 and any(
        "trained on a part of the rows is better" in line for line in model.report_
    )
    assert model.score(X) > -100 and model.verbose is False


def test_a_plateau_is_left_by_another_start(rng, monkeypatch):
    """Where no latent dimension is used, other initial parameters are tried; of independent columns none can help."""
    calls = recorded(monkeypatch)
    npvae.fit(rng.standard_normal((150, 4)), **QUICK | {"max_epochs": 5})
    seeds = [given["random_state"] for given, rows, _ in calls if len(rows) < 150]
    assert seeds in ([0, 0, 1, 2], [0, 0])


def test_names_of_columns_are_kept(X):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = npvae.fit(frame, **QUICK)
    assert list(model.feature_names_in_) == list("abcdef") and model.transform(frame).shape == (150, 3)


def test_ctrl_c_in_a_trial_ends_it_all(X, monkeypatch, capsys):
    calls = recorded(monkeypatch)
    right = npvae.training.train

    def train(*arguments, **options):
        right(*arguments, **options)
        return "interrupted in epoch 3: what was learnt until then is kept"

    monkeypatch.setattr(npvae.training, "train", train)
    with pytest.raises(KeyboardInterrupt):
        npvae.fit(X, **QUICK | {"verbose": True})
    assert len(calls) == 1 and "interrupted while trial 1 of 2: weight_prior 1.0" in capsys.readouterr().err
