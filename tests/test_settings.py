"""The table of settings: the signature, the docstring and the command's options agree with it, and bad values fail."""

import inspect
import re

import numpy as np
import pytest

import npvae
from npvae import backends, settings
from npvae.cli import build_parser
from npvae.cli.options import given_settings
from npvae.estimators import ESTIMATORS
from npvae.settings import SETTINGS

DEFAULTS = {name: setting.default for name, setting in SETTINGS.items()}


def train_options():
    """Return the options of ``npvae train`` that are settings: name of the setting -> argparse's action.

    ``--verbose`` of the command is not the setting of that name: it prints the library's log.
    """
    (commands,) = (action for action in build_parser()._actions if action.choices and "train" in action.choices)
    return {
        action.dest: action for action in commands.choices["train"]._actions if action.dest in {*SETTINGS} - {"verbose"}
    }


def test_signature_has_the_defaults_of_the_table():
    parameters = inspect.signature(npvae.VAE).parameters
    assert list(parameters) == list(SETTINGS)
    for name, parameter in parameters.items():
        default = SETTINGS[name].default
        assert parameter.default == default and type(parameter.default) is type(default), name


def test_docstring_has_every_setting():
    text = inspect.getdoc(npvae.VAE)
    section = text[text.index("Parameters\n---") : text.index("Attributes\n---")]
    assert re.findall(r"^(\w+) : ", section, re.MULTILINE) == list(SETTINGS)
    assert max(map(len, npvae.VAE.__doc__.splitlines())) <= 120
    words = " ".join(section.split())
    for name, setting in SETTINGS.items():
        default = f'"{setting.default}"' if isinstance(setting.default, str) else repr(setting.default)
        assert (
            f"{name} : {setting.kind.describe()}, default {default} {setting.summary} {setting.details}".rstrip()
            in words
        )
    for name in ESTIMATORS:
        assert f'"{name}"' in words


def test_options_keep_their_names():
    """Scripts of users have them."""
    options = " ".join(setting.option for setting in SETTINGS.values() if setting.option)
    assert options == (
        "--components --hidden --activation --likelihood --binarize --missing --estimator --posterior --samples "
        "--batch-size --optimizer --learning-rate --schedule --averaging --clip-norm --weight-prior --init-std "
        "--epochs --patience --backend --dtype --seed"
    )


def test_options_are_those_of_the_table():
    options = train_options()
    assert list(options) == [name for name, setting in SETTINGS.items() if setting.option]
    for name, action in options.items():
        setting = SETTINGS[name]
        assert action.option_strings == [setting.option] and action.default is None
        assert action.help[1:].startswith(setting.summary.rstrip(".")[1:])
        assert (setting.without_option or str(np.atleast_1d(setting.default)[0])) in action.help


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.option])
def test_an_option_reads_what_the_setting_accepts(name):
    setting = SETTINGS[name]
    typed = [str(value) for value in np.atleast_1d(setting.default)]
    given = given_settings(build_parser().parse_args(["train", setting.option, *typed]))
    assert given == {name: setting.default} and type(given[name]) is type(setting.default)
    for choice in train_options()[name].choices or ():
        setting.kind.check(name, choice)


def test_several_values_are_a_tuple_and_none_is_an_empty_one():
    parse = build_parser().parse_args
    assert given_settings(parse(["train", "--hidden", "3", "2"])) == {"hidden_layer_sizes": (3, 2)}
    assert given_settings(parse(["train", "--hidden"])) == {"hidden_layer_sizes": ()}
    assert given_settings(parse(["train"])) == {}


def test_functions_and_flags_are_not_options():
    for name in ("callbacks", "verbose"):
        with pytest.raises(NotImplementedError, match="cannot be read from a command line"):
            SETTINGS[name].kind.argument()


def test_a_new_name_in_a_table_is_known_everywhere(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "another", ESTIMATORS["sgvb-a"])
    SETTINGS["estimator"].kind.check("estimator", "another")
    assert '"another"' in settings.numpydoc() and "another" in train_options()["estimator"].choices


GOOD = [
    {},
    {"n_components": np.int64(3), "hidden_layer_sizes": (), "callbacks": [print]},
    {"hidden_layer_sizes": [5, np.int32(4)], "dtype": np.float64, "verbose": 2},
    {"learning_rate": np.float32(0.1), "weight_prior": 0, "init_std": 1, "random_state": None},
    {"random_state": 2**70, "batch_size": 10**6},
    {"estimator": "score-function-leave-one-out", "n_samples": 2},
    {"estimator": "full-vb", "posterior": "laplace", "weight_prior": np.float64(1)},
]


@pytest.mark.parametrize("values", GOOD)
def test_good_values(values):
    settings.check(DEFAULTS | values | {"some_other_attribute": 1})


BAD = [
    ({"n_components": 0}, "n_components is 0; expected an integer of at least 1"),
    ({"n_components": 2.5}, "n_components is 2.5"),
    ({"n_components": True}, "n_components is True"),
    ({"n_samples": 0}, "n_samples is 0; expected an integer of at least 1"),
    ({"batch_size": "all"}, "batch_size is 'all'"),
    ({"patience": None}, "patience is None"),
    ({"max_epochs": 0}, "max_epochs is 0"),
    ({"hidden_layer_sizes": (8, -1)}, "hidden_layer_sizes is -1; expected an integer of at least 1"),
    ({"hidden_layer_sizes": 8}, "hidden_layer_sizes is 8; expected a tuple of integers, which may be empty"),
    ({"callbacks": None}, "callbacks is None; expected a tuple of functions"),
    ({"callbacks": [print, 3]}, "expected a tuple of functions, but 3 cannot be called"),
    ({"dtype": None}, "dtype is None"),
    ({"dtype": "float16"}, "dtype is 'float16'; expected one of 'float32', 'float64'"),
    ({"learning_rate": 0}, "learning_rate is 0; expected 'auto' or a number above 0"),
    ({"learning_rate": -1.0}, "learning_rate is -1.0"),
    ({"learning_rate": np.nan}, "learning_rate is nan"),
    ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
    ({"activation": "relu"}, "activation is 'relu'; expected one of 'tanh', 'sigmoid'"),
    ({"likelihood": "poisson"}, "likelihood is 'poisson'; expected one of 'auto', 'bernoulli'"),
    ({"estimator": "b"}, "estimator is 'b'; expected one of 'sgvb-a', 'sgvb-b'"),
    ({"posterior": "cauchy"}, "posterior is 'cauchy'; expected one of 'gaussian', 'laplace'"),
    ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of 'adagrad', 'sgd', 'adam'"),
    ({"schedule": "step"}, "schedule is 'step'; expected one of 'constant', 'linear', 'cosine'"),
    ({"averaging": True}, "averaging is True; expected one of 'none', 'polynomial'"),
    ({"backend": "gpu"}, "backend is 'gpu'; expected one of 'auto', 'reference', 'cpu', 'cuda'"),
    ({"weight_prior": -1}, "weight_prior is -1; expected a number of at least 0"),
    ({"init_std": -0.1}, "init_std is -0.1; expected 'fan-in' or a number of at least 0"),
    ({"init_std": np.inf}, "init_std is inf"),
    ({"random_state": "seed"}, "random_state is 'seed'; expected an integer of at least 0"),
    ({"random_state": -1}, "random_state is -1"),
    (
        {"estimator": "score-function", "posterior": "laplace"},
        "posterior is 'laplace'; expected 'gaussian' for score-function",
    ),
    ({"estimator": "full-vb", "weight_prior": 0.5}, "weight_prior is 0.5; expected 1 for full-vb"),
    (
        {"estimator": "score-function-leave-one-out"},
        "n_samples is 1; expected at least 2 for score-function-leave-one-out",
    ),
]


@pytest.mark.parametrize("values, message", BAD)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        settings.check(DEFAULTS | values)


def test_a_fit_checks_the_settings():
    with pytest.raises(ValueError, match="n_components is 0"):
        npvae.VAE(0).fit(np.zeros((3, 2)))
    with pytest.raises(TypeError, match="unexpected keyword argument 'components'"):
        npvae.VAE(components=3)


def test_a_subclass_may_fix_settings(tmp_path):
    """It fits, saves and loads; what its constructor does not have is not in the file."""

    class Plane(npvae.VAE):
        def __init__(self, max_epochs=1):
            super().__init__(2, hidden_layer_sizes=(), learning_rate=0.01, max_epochs=max_epochs, backend="reference")

    model = Plane().fit(np.eye(4))
    assert model.transform(np.eye(4)).shape == (4, 2)
    model.save(tmp_path / "plane.npz")
    np.testing.assert_array_equal(Plane.load(tmp_path / "plane.npz").transform(np.eye(4)), model.transform(np.eye(4)))
    with pytest.raises(ValueError, match="max_epochs is 0"):
        Plane(0).fit(np.eye(4))


def test_a_backend_without_a_device_is_an_error(monkeypatch):
    monkeypatch.setattr(backends, "missing_for_cuda", lambda: "there is none")
    with pytest.raises(RuntimeError, match="backend is 'cuda', but there is none"):
        settings.check(DEFAULTS | {"backend": "cuda"})


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((50_000, 784), {"n_components": 20, "hidden_layer_sizes": (500,), "max_epochs": 20}),
        ((10**6, 100), {"n_components": 20, "hidden_layer_sizes": (500,), "max_epochs": 10}),
        ((10**6, 8), {"n_components": 4, "hidden_layer_sizes": (100,), "max_epochs": 10}),
        ((300, 6), {"n_components": 3, "batch_size": 60, "max_epochs": 1200, "optimizer": "adam"}),
        ((1400, 64), {"n_components": 20, "batch_size": 100, "max_epochs": 857, "patience": 214}),
        ((100_000, 5), {"n_components": 2, "batch_size": 100, "max_epochs": 12, "patience": 10}),
        ((5, 1), {"n_components": 1, "batch_size": 20, "max_epochs": 2000}),
    ],
)
def test_choices_for_data_of_a_size(shape, expected):
    choices = {choice.name: choice.value for choice in settings.for_data(*shape)}
    assert expected.items() <= choices.items() and ("optimizer" in choices) == (shape[0] * shape[1] <= 10**6)
    settings.check(DEFAULTS | choices)


def test_what_is_given_is_not_chosen():
    chosen = {choice.name for choice in settings.for_data(300, 6)}
    for name in chosen:
        without = {choice.name for choice in settings.for_data(300, 6, {name: DEFAULTS[name]})}
        of_adam = {"optimizer", "learning_rate", "schedule", "clip_norm", "averaging", "init_std"}
        assert without == chosen - (of_adam if name == "optimizer" else {name})
    assert settings.candidates(300, 6) == settings.CANDIDATES
    assert not settings.candidates(300, 6, settings.CANDIDATES[0])
    assert not settings.candidates(300, 6, {"estimator": "full-vb"})  # its prior is N(0, I)
    assert not settings.candidates(10**6, 6)
