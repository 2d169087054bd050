"""What a fitted model and other objects say of themselves, and the hints at misspelt names."""

import html
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest

import npvae
from npvae import cli, datasets, distributions
from npvae.conventions import did_you_mean
from npvae.evaluation import gradient_variance
from npvae.evaluation.health import Health
from npvae.inference import fit_posterior
from npvae.settings import SETTINGS

QUICK = {"max_epochs": 2, "backend": "reference", "hidden_layer_sizes": (4,), "learning_rate": 0.05}


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(60, 6))


@pytest.fixture(scope="module")
def model(X):
    return npvae.VAE(2, **QUICK).fit(X)


# A fitted model -------------------------------------------------------------------------------------------------------


def test_a_fitted_model_tells_its_architecture_its_choices_its_bound_and_its_warnings(model, X):
    call, *lines = repr(model).split("\n")
    assert call == repr(npvae.VAE(2, **QUICK))
    said = dict(line.removeprefix("# ").split(": ", 1) for line in lines)
    assert said["fitted"] == "to 60 rows of 6 columns, 2 epochs"
    assert said["encoder"] == "6 -> 4 -> 2, tanh; q(z|x) gaussian"
    assert said["decoder"] == "2 -> 4 -> 6, tanh; p(x|z) gaussian"
    assert said["parameters"] == f"{len(model.parameters_.vector)}, float32"
    assert said["chosen for 'auto'"] == "likelihood='gaussian'"
    health = model.health_
    assert said["bound"] == f"{health.elbo:.2f} nats on training data; independent columns {health.baseline:.2f}"
    assert said["active latents"] == f"{sum(health.active)} of 2"
    assert said["last epoch"] == f"bound {model.history_[-1].elbo:.2f} nats"
    assert [line for line in lines if line.startswith("# warning: ")] == [f"# warning: {w}" for w in health.warnings]
    assert health.warnings


def test_the_repr_is_still_the_call_of_the_constructor(model):
    again = eval(repr(model), {"VAE": npvae.VAE})
    assert again.get_params() == model.get_params()
    sklearn_base = pytest.importorskip("sklearn.base")
    assert repr(sklearn_base.clone(model)) == repr(again) == repr(npvae.VAE(2, **QUICK))


def test_validation_and_the_reason_to_stop_are_told(X):
    model = npvae.VAE(2, **QUICK, callbacks=[lambda epoch: True]).fit(X, X_valid=X[:10])
    assert f"on validation data {model.history_[-1].elbo_valid:.2f}" in repr(model)
    assert f"# stopped: {model.stopped_}" in repr(model)


def test_a_model_can_be_shown_at_any_time(X, tmp_path):
    seen = []
    model = npvae.VAE(2, **QUICK)
    model.set_params(callbacks=[lambda epoch: seen.append(repr(model))])
    model.fit(X)
    assert len(seen) == 2 and all("# encoder: 6 -> 4 -> 2" in text for text in seen)
    piece = npvae.VAE(1, **QUICK | {"hidden_layer_sizes": ()}).partial_fit(X)
    assert "# encoder: 6 -> 1, linear" in repr(piece)
    model.set_params(callbacks=()).save(tmp_path / "model.npz")
    assert repr(npvae.load(tmp_path / "model.npz")) == repr(model)


def test_nothing_is_computed_for_it(model, monkeypatch):
    def fail(*arguments, **keywords):
        raise AssertionError("computed")

    for name in ("score_samples", "transform", "fitted_"):
        monkeypatch.setattr(npvae.VAE, name, fail if name != "fitted_" else property(fail))
    assert repr(model) and model._repr_html_()


class Checked(HTMLParser):
    """Collects the text, and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_html_is_well_formed_escaped_and_without_colours(model, monkeypatch):
    monkeypatch.setattr(model, "health_", model.health_._replace(warnings=("a < b & <script>alert(1)</script>",)))
    page, checked = model._repr_html_(), Checked()
    checked.feed(page)
    assert not checked.open
    assert "a < b & <script>alert(1)</script>" in checked.text and "<script" not in page
    for line in repr(model).split("\n")[1:]:
        assert html.escape(line.removeprefix("# ").split(": ", 1)[1]) in page
    assert not re.search(r"color:|#[0-9a-f]{3}", page)
    assert "VAE(n_components=3)" in npvae.VAE(3)._repr_html_()


# Other objects --------------------------------------------------------------------------------------------------------


def test_no_object_that_a_user_sees_dumps_arrays():
    X = np.random.default_rng(0).normal(size=(60, 60))
    model = npvae.VAE(20, **QUICK).fit(X)
    things = [
        model.fitted_,
        model.fitted_.model,
        model.fitted_.data(X),
        model.parameters_,
        model.preprocessor_,
        model.training_,
        model.starting_point(X),
        model.health_,
        model.history_[0],
        distributions.Normal(np.zeros(500), 1.0),
        distributions.MultivariateNormal(np.zeros(30), np.eye(30)),
        datasets.Dataset("digits", X, None, X, X[:, 0], None, X[:, 0], (6, 10)),
        fit_posterior(
            lambda z: (-0.5 * (z**2).sum(axis=1), -z), distributions.Normal(np.zeros(9), np.ones(9)), steps=9
        ),
    ]
    for thing in things:
        assert "object at 0x" not in repr(thing)
        assert not re.search(r"([-\d.e]+, +){9}", repr(thing)), repr(thing)  # no nine numbers in a row


def test_health_is_readable_as_it_is_printed():
    health = Health(-1.0, -2.0, (1.0,), (True,), 0.0, ())
    assert repr(health) == str(health)


def test_families_show_short_parameters_and_the_shape_of_long_ones():
    assert repr(distributions.Normal([0, 1], 2)) == "Normal(loc=array([0., 1.]), scale=2.0)"
    assert repr(distributions.Normal(np.zeros((3, 4)))) == "Normal(loc=<array (3, 4) float64>, scale=1.0)"
    for name in distributions.__all__:
        family = getattr(distributions, name)
        if isinstance(family, type) and name != "Dirichlet" and not name.startswith("Multivariate"):
            assert type(family).__repr__ is type.__repr__ and name in repr(family)


# Misspelt names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word, known, nearest",
    [
        ("n_component", SETTINGS, "n_components"),
        ("hidden_layers", SETTINGS, "hidden_layer_sizes"),
        ("epochs", SETTINGS, "max_epochs"),
        ("learningRate", SETTINGS, "learning_rate"),
        ("Batch Size", SETTINGS, "batch_size"),
        ("hidden", SETTINGS, "hidden_layer_sizes"),
        ("wheel", SETTINGS, None),
        ("n", SETTINGS, None),
        ("", SETTINGS, None),
        ("normal", ("gaussian", "uniform"), None),
        (3, SETTINGS, None),
        ("2", (1, 2, None), None),
        ("a", (), None),
    ],
)
def test_the_nearest_name(word, known, nearest):
    assert did_you_mean(word, known) == (f"; did you mean {nearest!r}?" if nearest else "")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_found_by_a_misspelt_name(name):
    for wrong in {name + "s", name[:-1], name.replace("_", ""), name.upper()} - {name}:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'; did you mean '{name}'"):
            npvae.VAE(**{wrong: 1})
        with pytest.raises(ValueError, match=f"VAE has no parameter '{wrong}'; .*; did you mean '{name}'"):
            npvae.VAE().set_params(**{wrong: 1})


def test_an_argument_that_is_near_nothing_is_refused_all_the_same():
    with pytest.raises(TypeError, match="unexpected keyword argument 'wheel'$"):
        npvae.VAE(wheel=1)
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'hidden_layers'; did you mean 'hidden_layer_sizes'"
    ):
        npvae.fit(np.zeros((20, 3)), hidden_layers=(3,))
    with pytest.raises(TypeError, match="fit.. got an unexpected keyword argument 'x_valid'; did you mean 'X_valid'"):
        npvae.fit(np.zeros((20, 3)), x_valid=np.zeros((20, 3)))


def test_a_subclass_has_its_own_arguments():
    class Own(npvae.VAE):
        def __init__(self, *, width=3):
            super().__init__(hidden_layer_sizes=(width,))
            self.width = width

    class Open(npvae.VAE):
        def __init__(self, **settings):
            super().__init__(**settings)

    assert Own(width=4).hidden_layer_sizes == (4,) and Open(n_components=7).n_components == 7
    with pytest.raises(TypeError, match="Own.. got an unexpected keyword argument 'widht'; did you mean 'width'"):
        Own(widht=4)
    with pytest.raises(TypeError, match="VAE.__init__.. got an unexpected keyword argument .n_component."):
        Open(n_component=7)


@pytest.mark.parametrize(
    "call, error, nearest",
    [
        (lambda X: npvae.VAE(likelihood="Gausian").fit(X), ValueError, "gaussian"),
        (lambda X: npvae.VAE(estimator="sgvb_a").fit(X), ValueError, "sgvb-a"),
        (lambda X: npvae.VAE(backend="refrence").fit(X), ValueError, "reference"),
        (lambda X: npvae.VAE(optimizer="adagard").fit(X), ValueError, "adagrad"),
        (lambda X: npvae.VAE(activation="TanH").fit(X), ValueError, "tanh"),
        (lambda X: npvae.VAE(posterior="laplase").fit(X), ValueError, "laplace"),
        (lambda X: npvae.VAE(dtype="float 32").fit(X), ValueError, "float32"),
        (lambda X: npvae.VAE().set_output(transform="panda"), ValueError, "pandas"),
        (lambda X: gradient_variance(npvae.VAE(**QUICK), X, estimators=["sgvb-aa"]), ValueError, "sgvb-a"),
        (lambda X: npvae.backends.get("cudaa"), ValueError, "cuda"),
        (lambda X: datasets.load("mnsit"), ValueError, "mnist"),
        (lambda X: npvae.gradchek(X), AttributeError, "gradcheck"),
        (lambda X: fit_posterior(lambda z: (z, z), "normal"), TypeError, "Normal"),
    ],
)
def test_other_names_are_answered_with_the_nearest_one(X, call, error, nearest):
    with pytest.raises(error, match=f"; did you mean '{nearest}'"), warnings.catch_warnings():
        warnings.simplefilter("error")
        call(X)


@pytest.mark.parametrize(
    "arguments, status, nearest",
    [
        (["trian"], 2, "train"),
        (["train", "--n-components", "3"], 2, "--components"),
        (["train", "--batchsize=3"], 2, "--batch-size"),
        (["train", "--likelihood", "bernouli"], 2, "bernoulli"),
        (["score", "model.npz", "digits", "--split", "tests"], 2, "test"),
        (["train", "mnits"], 1, "mnist"),
        (["bench", "kernel"], 1, "kernels"),
        (["train", "table.csv", "--columns", "width,lenght"], 1, "length"),
        (["train", "arrays.npz", "--array", "imags"], 1, "images"),
    ],
)
def test_the_command_answers_with_the_nearest_name(arguments, status, nearest, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("table.csv", "w") as file:
        file.write("length,width\n1,2\n3,4\n")
    np.savez("arrays.npz", images=np.zeros((20, 4)), others=np.zeros((20, 3)))
    try:
        assert cli.main(arguments) == status
    except SystemExit as left:
        assert left.code == status
    assert f"; did you mean '{nearest}'?" in capsys.readouterr().err
