"""The settings of `VAE`, one row a setting: its default, the values it accepts, its help and its command-line option.

The checks of the constructor's arguments, the options of the command ``npvae`` and the section *Parameters* of
``help(npvae.VAE)`` are made from these rows. Rules between several settings stand in `check`, and what `npvae.fit`
chooses for data of a size stands in `for_data`. What the settings do is left to the modules that use them.
"""

import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import backends
from .backends import formulas
from .conventions import check_choice, check_number
from .estimators import ESTIMATORS, supports
from .likelihoods import LIKELIHOODS
from .model import POSTERIORS
from .optimizers import AVERAGING
from .preprocessing import BINARIZE
from .table import MISSING

#: The longest line of a docstring.
LINE_LENGTH = 120


class Kind:
    """The values that a setting accepts; each kind of values is a subclass.

    Examples
    --------
    >>> kind = SETTINGS["n_samples"].kind
    >>> kind.describe(), kind.argument()
    ('int', {'type': <class 'int'>})
    >>> kind.check("n_samples", 0)
    Traceback (most recent call last):
    ...
    ValueError: n_samples is 0; expected an integer of at least 1
    """

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError if the setting `name` does not accept this value."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return the type of the values as numpydoc writes it."""
        raise NotImplementedError

    def argument(self) -> dict[str, Any]:
        """Return the keyword arguments of `argparse.ArgumentParser.add_argument` that read such a value."""
        raise NotImplementedError(f"{type(self).__name__} cannot be read from a command line")


@dataclass(frozen=True)
class OneOf(Kind):
    """One of several names.

    Parameters
    ----------
    *tables : collections of str
        The names are read from them at each use: a name that is added to a table is accepted from then on.
    also : tuple
        Other values that are accepted but not listed in the help.

    Examples
    --------
    >>> kind = OneOf(("auto",), {"small": 1, "large": 2})
    >>> kind.describe()
    '{"auto", "small", "large"}'
    """

    tables: tuple[Collection[str], ...]
    also: tuple[object, ...]

    def __init__(self, *tables: Collection[str], also: tuple[object, ...] = ()):
        object.__setattr__(self, "tables", tables)
        object.__setattr__(self, "also", also)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the tables."""
        return tuple(name for table in self.tables for name in table)

    def check(self, name: str, value: Any) -> None:
        check_choice(name, value, (*self.names, *self.also))

    def describe(self) -> str:
        return "{" + ", ".join(f'"{name}"' for name in self.names) + "}"

    def argument(self) -> dict[str, Any]:
        return {"choices": self.names}


@dataclass(frozen=True)
class Integer(Kind):
    """An integer of at least `least`, or None where this is `optional`.

    Examples
    --------
    >>> Integer(0, optional=True).check("random_state", None)
    """

    least: int
    optional: bool = False

    def check(self, name: str, value: Any) -> None:
        if not (self.optional and value is None):
            check_number(name, value, np.integer, self.least)

    def describe(self) -> str:
        return "int or None" if self.optional else "int"

    def argument(self) -> dict[str, Any]:
        return {"type": int}


@dataclass(frozen=True)
class Real(Kind):
    """A finite number of at least `least`, or above it, or a word.

    Examples
    --------
    >>> Real().check("init_std", 0.1)
    >>> Real(above=True, word="auto").check("learning_rate", "auto")
    """

    least: float = 0.0
    above: bool = False
    word: str | None = None

    def check(self, name: str, value: Any) -> None:
        if self.word is not None and isinstance(value, str) and value == self.word:
            return
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not self.least <= value < np.inf or (self.above and value == self.least):
            range_ = f"a number {'above' if self.above else 'of at least'} {self.least:g}"
            raise ValueError(f"{name} is {value!r}; expected {f'{self.word!r} or ' if self.word else ''}{range_}")

    def describe(self) -> str:
        return f'"{self.word}" or float' if self.word else "float"

    def argument(self) -> dict[str, Any]:
        return {"type": number_or_word if self.word else float}


def number_or_word(text: str) -> str | float:
    """Read a number; return a text that is none, which the check of the setting accepts or refuses.

    Examples
    --------
    >>> number_or_word("auto"), number_or_word("0.02")
    ('auto', 0.02)
    """
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Sizes(Kind):
    """A tuple or list of integers, each at least 1; it may be empty.

    Examples
    --------
    >>> Sizes().check("hidden_layer_sizes", (500, 200))
    """

    def check(self, name: str, value: Any) -> None:
        _check_tuple(name, value, "integers")
        for size in value:
            check_number(name, size, np.integer, 1)

    def describe(self) -> str:
        return "tuple of int"

    def argument(self) -> dict[str, Any]:
        return {"type": int, "nargs": "*", "metavar": "UNITS"}


@dataclass(frozen=True)
class Functions(Kind):
    """A tuple or list of functions; it may be empty.

    Examples
    --------
    >>> Functions().check("callbacks", [print])
    """

    def check(self, name: str, value: Any) -> None:
        _check_tuple(name, value, "functions")
        for item in value:
            if not callable(item):
                raise ValueError(f"{name} is {value!r}; expected a tuple of functions, but {item!r} cannot be called")

    def describe(self) -> str:
        return "sequence of callables"


@dataclass(frozen=True)
class Flag(Kind):
    """True or False; any other value is taken by its truth.

    Examples
    --------
    >>> Flag().describe()
    'bool'
    """

    def check(self, name: str, value: Any) -> None:
        pass

    def describe(self) -> str:
        return "bool"


def _check_tuple(name: str, value: Any, items: str) -> None:
    if not isinstance(value, tuple | list):
        raise ValueError(f"{name} is {value!r}; expected a tuple of {items}, which may be empty")


class Setting(NamedTuple):
    """One setting of `VAE`.

    Examples
    --------
    >>> SETTINGS["max_epochs"].summary
    'Passes through the training data.'
    """

    default: Any
    kind: Kind  # the values that it accepts
    summary: str  # one sentence: the help of the option, and the beginning of the text in the docstring
    details: str = ""  # the rest of the text in the docstring
    option: str | None = None  # of the command line; None if there is none
    without_option: str | None = None  # what the command does without the option, where that is not the default


#: All settings by name, in the order of the constructor's arguments.
SETTINGS: dict[str, Setting] = {
    "n_components": Setting(20, Integer(1), "Dimension J of the latent space.", option="--components"),
    "hidden_layer_sizes": Setting(
        (500,),
        Sizes(),
        "Units of each hidden layer of the encoder.",
        "The decoder has the same layers in reverse order. Without hidden layers, ``()``, the model is linear.",
        option="--hidden",
    ),
    "activation": Setting(
        "tanh", OneOf(formulas.HIDDEN), "Activation function of the hidden layers.", option="--activation"
    ),
    "likelihood": Setting(
        "auto",
        OneOf(("auto",), LIKELIHOODS),
        "Family of p(x|z).",
        '"auto" looks at the data: zeros and ones, and pixels (uint8 above 127, integers up to 255 like those, grey '
        'values in [0, 1]) are Bernoulli; a table with some columns of zeros and ones is "mixed", with these Bernoulli '
        "and the others Gaussian; anything else is Gaussian. The columns of a Gaussian are standardized. "
        '"sigmoid-gaussian" is a Gaussian with means in (0, 1), as for the Frey faces of the paper. The log-variance '
        "of a Gaussian is at least -13.57: this is the rounding error of an 8-bit pixel in [0, 1], and 1/883 of the "
        'standard deviation of a standardized column. For "bernoulli" and "sigmoid-gaussian", uint8 data and integers '
        "that look like pixels are divided by 255, unless there are only zeros and ones.",
        option="--likelihood",
    ),
    "binarize": Setting(
        "none",
        OneOf(BINARIZE),
        "Whether the grey values of Bernoulli pixels are drawn as 0 or 1.",
        'Each is then the probability of 1: with "dynamic" a training draws each row anew in each epoch, with "fixed" '
        "once. What is computed of grey rows afterwards, such as a score, draws each row once, as a function of its "
        "content and the seed; it is a bound on the log-probability of binarized data. With "
        '"none" it is computed of the grey values, and is no probability of data. Zeros and ones stay as they are.',
        option="--binarize",
    ),
    "missing": Setting(
        "error",
        OneOf(MISSING),
        "What NaN in the data is.",
        'An "error"; or with "model" a cell that is not observed, as is a masked cell of a NumPy masked array of any '
        "type. Training then maximises the bound on log p of the observed cells, and scores are theirs. In place "
        "of the others the encoder sees 0: the mean of the column where columns are standardized.",
        option="--missing",
    ),
    "estimator": Setting(
        "sgvb-b",
        OneOf(ESTIMATORS),
        "Estimator of the gradient of the bound.",
        'The "sgvb" estimators are reparameterized; they sample the KL divergence from the prior ("sgvb-a") or have it '
        'in closed form ("sgvb-b"). The "score-function" estimators have no baseline, a running mean as the baseline, '
        'or the mean over the other samples of the same datapoint. "iwae" maximises the importance-weighted bound of '
        "Burda et al., the mean of log 1/k sum_l p(x, z_l) / q(z_l|x) with k = n_samples, which rises with k from that "
        'of "sgvb-a" towards log p(x); "iwae-dreg" has the doubly reparameterized gradient of Tucker et al. for it, '
        "with less noise for the encoder where k is large. The bounds of training and validation are then the "
        "importance-weighted ones; `score` stays the bound of single samples, and may lie far below. "
        '"full-vb" is full variational Bayes: the '
        "weights and biases of the decoder are random, with the prior N(0, I) and a Gaussian posterior whose standard "
        'deviation starts at 0.01. Its KL divergences are in closed form, those of "full-vb-sampled" are sampled. The '
        'paper compares with two others: "wake-sleep" trains the encoder on dreams, which are draws of the model, and '
        '"monte-carlo-em" trains a decoder alone, on Markov chains of z. Without an encoder there is no bound: it '
        "takes no X_valid, and a number as the learning_rate.",
        option="--estimator",
    ),
    "posterior": Setting(
        "gaussian",
        OneOf(POSTERIORS),
        "Family of q(z|x).",
        "The encoder gives its mean and variance. The score-function estimators accept only the Gaussian, and "
        '"iwae-dreg" none with ends, as "uniform" and "triangular" have.',
        option="--posterior",
    ),
    "n_samples": Setting(
        1,
        Integer(1),
        "Samples z for each datapoint, the L of the paper.",
        'The k of "iwae" and "iwae-dreg".',
        option="--samples",
    ),
    "batch_size": Setting(100, Integer(1), "Datapoints in a minibatch, the M of the paper.", option="--batch-size"),
    "optimizer": Setting(
        "adagrad",
        OneOf(formulas.UPDATES),
        "Rule that updates the parameters.",
        'Adagrad is that of the paper. Its steps shrink in the course of a training, those of "adam" do not; "sgd" is '
        "plain gradient ascent.",
        option="--optimizer",
    ),
    "learning_rate": Setting(
        "auto",
        Real(above=True, word="auto"),
        'Step size, or "auto".',
        'With "auto" the step sizes 0.01, 0.02 and 0.1 (for "adam" 0.001, 0.003 and 0.01) are compared on the training '
        "bound after the first iterations.",
        option="--learning-rate",
    ),
    "schedule": Setting(
        "constant",
        OneOf(formulas.SCHEDULES),
        "How the step size changes in the course of a training.",
        'It stays "constant", or it decays to zero at the last step: "linear", or as half a wave of the "cosine".',
        option="--schedule",
    ),
    "averaging": Setting(
        "none",
        OneOf(AVERAGING),
        "Whether the average of the iterates is kept.",
        'With "polynomial" the parameters after the k-th step have a weight of about k^3 in the average: 94 % of it is '
        "the last half of the steps. It is kept in place of the last parameters; with validation data, the better of "
        "both after any epoch.",
        option="--averaging",
    ),
    "clip_norm": Setting(
        "none",
        Real(above=True, word="none"),
        "Largest norm of the gradient of the bound.",
        "A longer one is scaled to it: a single minibatch then does not throw the parameters far.",
        option="--clip-norm",
    ),
    "weight_prior": Setting(
        1.0,
        Real(),
        "Precision of the Gaussian prior on the weights.",
        "The prior is on all weights, but not on the biases: training is maximum a posteriori, and maximum likelihood "
        "with 0. In full variational Bayes the prior of the decoder is N(0, I), and this setting must be 1.",
        option="--weight-prior",
    ),
    "init_std": Setting(
        0.1,
        Real(word="fan-in"),
        "Standard deviation of the initial weights.",
        'With "fan-in" it is 1 / sqrt(I) in a layer with I inputs.',
        option="--init-std",
    ),
    "max_epochs": Setting(100, Integer(1), "Passes through the training data.", option="--epochs"),
    "patience": Setting(
        10,
        Integer(1),
        "Epochs without a better validation bound after which training stops.",
        "Without validation data training does not stop early.",
        option="--patience",
        without_option="default: never stop",
    ),
    "backend": Setting(
        "auto",
        OneOf(("auto",), backends.BACKENDS),
        "Where the arithmetic is done.",
        '"auto" takes a GPU if there is one and the work is large enough to gain from it: a training of at least 1e13 '
        'floating-point operations, with at least 1e7 in a step. The backend "cuda" has only the Gaussian posterior, '
        "and no full variational Bayes.",
        option="--backend",
    ),
    "dtype": Setting(
        "float32",
        OneOf(("float32", "float64"), also=(np.float32, np.float64)),
        "Floating-point type of the parameters and of the arithmetic.",
        option="--dtype",
    ),
    "callbacks": Setting(
        (),
        Functions(),
        "Functions that are called after each epoch with a `training.Epoch`.",
        "Training stops if one of them returns True.",
    ),
    "verbose": Setting(False, Flag(), "Whether to print the progress and the choices made to standard error."),
    "random_state": Setting(
        0,
        Integer(0, optional=True),
        "Seed of all random numbers.",
        "The same seed gives the same bits. With None each fit takes a new seed.",
        option="--seed",
    ),
}


def check(values: Mapping[str, Any]) -> None:
    """Check the values of all settings, each by itself and then together.

    Parameters
    ----------
    values : mapping
        Value by name of the setting. Other names are ignored.

    Raises
    ------
    ValueError
        If a setting does not accept its value, or two settings do not go together. The message names the setting, the
        value, and what is expected.
    RuntimeError
        If the backend is "cuda" and no GPU can be used.

    Examples
    --------
    >>> defaults = {name: setting.default for name, setting in SETTINGS.items()}
    >>> check(defaults)
    >>> check(defaults | {"n_samples": 0})
    Traceback (most recent call last):
    ...
    ValueError: n_samples is 0; expected an integer of at least 1
    >>> check(defaults | {"estimator": "score-function", "posterior": "laplace"})
    Traceback (most recent call last):
    ...
    ValueError: posterior is 'laplace'; expected 'gaussian' for score-function
    """
    for name, setting in SETTINGS.items():
        setting.kind.check(name, values[name])
    _check_sizes(values)
    _check_estimator(values)
    _check_backend(values)


def _check_sizes(values: Mapping[str, Any]) -> None:
    """Check that numbers that are computed with are finite in the precision of the arithmetic; a step size, not 0."""
    dtype = np.dtype(values["dtype"])
    for name, setting in SETTINGS.items():
        if isinstance(setting.kind, Real) and not isinstance(values[name], str):
            with np.errstate(over="ignore"):
                number = dtype.type(values[name])
            if not np.isfinite(number) or (number == 0 and setting.kind.above):
                limits = np.finfo(dtype)
                size = f"at most {limits.max:.2g}" if number else f"at least {limits.smallest_subnormal:.2g}"
                raise ValueError(
                    f"{name} is {values[name]!r}, which is {number} in {dtype}; expected a number of {size}"
                )


def _check_estimator(values: Mapping[str, Any]) -> None:
    """Check the settings that the estimator restricts."""
    estimator, posterior, weight_prior = values["estimator"], values["posterior"], values["weight_prior"]
    spec = ESTIMATORS[estimator]
    if posterior not in spec.posteriors:
        raise ValueError(f"posterior is {posterior!r}; expected {_either(spec.posteriors)} for {estimator}")
    if spec.random_weights and weight_prior != 1:
        raise ValueError(f"weight_prior is {weight_prior!r}; expected 1 for {estimator}, whose prior is N(0, I)")
    if values["n_samples"] < spec.fewest_samples:
        raise ValueError(f"n_samples is {values['n_samples']}; expected at least {spec.fewest_samples} for {estimator}")


def _check_backend(values: Mapping[str, Any]) -> None:
    """Check that the backend can be used, and that it has the estimator and the posterior."""
    backend, estimator, posterior = values["backend"], values["estimator"], values["posterior"]
    if backend == "auto":
        return
    backends.get(backend)
    if not supports(estimator, posterior, backend):
        estimators, posteriors = (
            _either(name for name, row in table.items() if backend in row.backends)
            for table in (ESTIMATORS, POSTERIORS)
        )
        raise ValueError(
            f"estimator is {estimator!r} and posterior is {posterior!r}; expected {estimators} with {posteriors} "
            f"on the backend {backend!r}"
        )


def _either(names: Iterable[str]) -> str:
    *first, last = map(repr, names)
    return f"one of {', '.join([*first, last])}" if first else last


class Choice(NamedTuple):
    """A value that `npvae.fit` has chosen for a setting, and why.

    Examples
    --------
    >>> for_data(1000, 6)[0].value
    3
    """

    name: str
    value: Any
    reason: str


#: Up to so many numbers data is a table, for which `npvae.fit` finds out by trials what only data can tell.
TABLE = 1_000_000

#: Updates of the parameters in a training on a table of so many numbers, and on a larger one; its longest training in
#: epochs.
SMALL, UPDATES, LONGEST = 10_000, (6000, 12_000), 2000

#: Hidden layers for a table, and the weight prior where no rows can be held out: a weak one overfits few rows.
UNITS, STRONG_PRIOR = (100,), 10.0

#: What is compared on held-out rows of a table: a net with a weak and with a strong prior on its weights, and a linear
#: one, which contains factor analysis.
CANDIDATES: tuple[dict[str, Any], ...] = (
    {"hidden_layer_sizes": UNITS, "weight_prior": 1.0},
    {"hidden_layer_sizes": UNITS, "weight_prior": STRONG_PRIOR},
    {"hidden_layer_sizes": (), "weight_prior": STRONG_PRIOR},
)


def for_data(n_rows: int, n_features: int, given: Mapping[str, Any] = {}) -> tuple[Choice, ...]:
    """Choose the settings that depend on the size of the data.

    The rules for tables were chosen on the design half of the benchmark of small tables; see ``docs/benchmarks.md``.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the training data.
    given : mapping
        Settings that the user has chosen.

    Returns
    -------
    tuple of Choice

    Examples
    --------
    >>> for choice in for_data(50_000, 784):
    ...     print(f"{choice.name} = {choice.value}: {choice.reason}")
    n_components = 20: at most half the columns; those that are not needed stay at the prior
    hidden_layer_sizes = (500,): for 784 columns
    max_epochs = 20: a million samples of 50000 rows, in 10 to 1000 epochs
    """
    choices = [
        Choice(
            "n_components",
            min(20, max(1, n_features // 2)),
            "at most half the columns; those that are not needed stay at the prior",
        )
    ]
    if n_rows * n_features > TABLE:
        choices += [
            Choice("hidden_layer_sizes", (500,) if n_features >= 100 else (100,), f"for {n_features} columns"),
            Choice(
                "max_epochs",
                int(np.clip(1_000_000 // n_rows, 10, 1000)),
                f"a million samples of {n_rows} rows, in 10 to 1000 epochs",
            ),
        ]
        return tuple(choice for choice in choices if choice.name not in given)
    batch_size = given.get("batch_size", int(np.clip(n_rows // 5, 20, 100)))
    updates = UPDATES[n_rows * n_features > SMALL]
    epochs = int(np.clip(updates * batch_size // n_rows, 10, LONGEST))
    choices += [
        Choice("hidden_layer_sizes", UNITS, "for a table; held-out rows may choose none"),
        Choice("batch_size", batch_size, f"for {n_rows} rows; the noise of small batches keeps from overfitting"),
        Choice(
            "max_epochs", epochs, f"about {updates} updates, at most {LONGEST} epochs; held-out rows may choose fewer"
        ),
        Choice("patience", max(10, epochs // 4), "a quarter of the epochs"),
    ]
    if "optimizer" not in given:
        choices += [
            Choice("optimizer", "adam", "its steps do not shrink as those of Adagrad do"),
            Choice("learning_rate", 0.01, "smaller ones overfit, larger ones diverge at times"),
            Choice("schedule", "linear", "the steps end at zero"),
            Choice("clip_norm", 10.0, "no minibatch throws the parameters far"),
            Choice("averaging", "polynomial", "the average of the iterates is better than the last one"),
            Choice("init_std", "fan-in", "weights of 0.1 start on a plateau in layers with few inputs"),
        ]
    return tuple(choice for choice in choices if choice.name not in given)


def candidates(n_rows: int, n_features: int, given: Mapping[str, Any] = {}) -> tuple[dict[str, Any], ...]:
    """Return the settings that `npvae.fit` compares on held-out rows: those of `CANDIDATES` that are not given.

    Examples
    --------
    >>> candidates(500, 10, {"hidden_layer_sizes": (50,)})
    ({'weight_prior': 1.0}, {'weight_prior': 10.0})
    >>> candidates(500, 10, {"weight_prior": 0.0})
    ({'hidden_layer_sizes': (100,)}, {'hidden_layer_sizes': ()})
    """
    spec = ESTIMATORS.get(given.get("estimator", SETTINGS["estimator"].default))
    if n_rows * n_features > TABLE or spec is None or spec.random_weights or not spec.has_encoder:
        return ()
    rows = [{name: value for name, value in row.items() if name not in given} for row in CANDIDATES]
    return tuple(row for number, row in enumerate(rows) if row and row not in rows[:number])


def numpydoc(indent: int = 4) -> str:
    """Return the section *Parameters* of the docstring of `VAE`.

    Parameters
    ----------
    indent : int
        Spaces before all lines but the first, so that the section can be put into an indented docstring.

    Examples
    --------
    >>> for line in numpydoc(indent=0).splitlines()[2:5]:
    ...     print(line)
    n_components : int, default 20
        Dimension J of the latent space.
    hidden_layer_sizes : tuple of int, default (500,)
    """
    lines = ["Parameters", "----------"]
    for name, setting in SETTINGS.items():
        lines += _wrap(f"{name} : {setting.kind.describe()}, default {_show(setting.default)}", indent, "        ")
        lines += ["    " + line for line in _wrap(f"{setting.summary} {setting.details}", indent + 4)]
    return ("\n" + " " * indent).join(lines)


def option_help(setting: Setting) -> str:
    """Return the help of a setting's command-line option: its summary and what is used without the option.

    Examples
    --------
    >>> option_help(SETTINGS["n_samples"])
    'samples z for each datapoint, the L of the paper (1)'
    """
    default = setting.without_option or " ".join(map(str, np.atleast_1d(setting.default)))
    summary = setting.summary.rstrip(".")
    return f"{summary[:1].lower()}{summary[1:]} ({default})"


def _show(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)


def _wrap(text: str, indent: int, later: str = "") -> list[str]:
    """Break a text into lines that fit beside the indent; all but the first begin with `later`."""
    width = LINE_LENGTH - indent
    return textwrap.wrap(text, width, subsequent_indent=later, break_on_hyphens=False)
