"""The benchmark of small tables: its densities are right, its rows always the same, and a run can be continued."""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from npvae import cli
from npvae.bench import densities, small_tables, tables
from npvae.bench.densities import CONTESTANTS, Rows
from npvae.bench.small_tables import TABLES

# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_same_at_every_call(name):
    first, second = small_tables.load(name), small_tables.load(name)
    assert np.array_equal(first.train, second.train) and np.array_equal(first.test, second.test)
    rows = len(first.train) + len(first.test)
    assert len(first.train) == int(0.8 * rows) and first.train.shape[1] == first.test.shape[1] == len(first.binary)
    expected = {"real": first.binary.sum() == 0, "binary": first.binary.all(), "mixed": 0 < first.binary.mean() < 1}
    assert expected[TABLES[name].kind]
    assert np.isin(first.test[:, first.binary], (0, 1)).all() and first.train.std(0).min() > 0


def test_halves_are_balanced():
    kinds = {half: sorted(table.kind for table in TABLES.values() if table.half == half) for half in HALVES}
    assert kinds["design"] == kinds["report"]
    assert {table.half for table in TABLES.values()} == set(HALVES) and len(TABLES) >= 12


HALVES = "design", "report"
KNOWN = [name for name in TABLES if small_tables.load(name).log_prob is not None]


@pytest.mark.slow(reason="fits models to a table, ten seconds")
@pytest.mark.parametrize("name", KNOWN)
def test_true_density_is_above_all_others(name):
    """Its mean over rows is minus the entropy, which no other density exceeds by more than the noise of the mean."""
    split = small_tables.load(name)
    rows = Rows(split.train, split.binary, TABLES[name].kind)
    true = split.log_prob(split.test)
    for contestant in ("independent", "mixture-diagonal", "mixture-columns", "FA"):
        if rows.kind in CONTESTANTS[contestant].kinds:
            gap = true - CONTESTANTS[contestant].train(rows, 0)(split.test)
            assert gap.mean() > -4 * gap.std() / np.sqrt(len(gap))


@pytest.mark.parametrize(
    "name, components",
    [
        ("low_rank", 1),
        ("noise", 1),
        ("clusters", 8),
        ("rings", 30),
        ("moons", 20),
        ("spiral", 40),
        pytest.param("swiss_roll", 40, marks=pytest.mark.slow),
        ("counts", 8),
    ],
)
def test_true_density_integrates_to_one(name, components):
    """By importance sampling: the mean of p / q over rows from q is 1. q is a mixture, wider than p."""
    mixture = pytest.importorskip("sklearn.mixture").GaussianMixture(components, random_state=0)
    split = small_tables.load(name)
    mixture.fit(np.vstack([split.train, split.test]))
    mixture.covariances_ *= 1.5
    mixture.precisions_cholesky_ /= np.sqrt(1.5)
    X, _ = mixture.sample(4000)
    ratio = np.exp(split.log_prob(X) - mixture.score_samples(X))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio)) < 0.4


def test_true_density_of_heavy_tails():
    """As above; q is another Student's t."""
    split = small_tables.load("heavy_tails")
    wide = stats.multivariate_t(np.zeros(8), np.cov(split.train.T) / 2, df=3, seed=0)
    X = wide.rvs(4000)
    ratio = np.exp(split.log_prob(X) - wide.logpdf(X))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio)) < 0.4


def test_probabilities_of_bits_sum_to_one():
    Z, log_weights = small_tables._latent_nodes(2, 12)
    weights, bits = np.exp(log_weights), np.array(list(np.ndindex(2, 2, 2, 2)), float)
    assert np.allclose([weights.sum(), weights @ Z[:, 0] ** 4, weights @ (Z[:, 0] * Z[:, 1]) ** 2], [1, 3, 1])
    W = np.random.default_rng(0).standard_normal((2, 4))
    assert np.exp(small_tables._bernoulli(bits, Z @ W + 0.5)).sum(0) @ weights == pytest.approx(1, rel=1e-12)


# Contestants ----------------------------------------------------------------------------------------------------------


def tiny(kind, rows=120):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, 1))
    X = 5 + 3 * z + rng.standard_normal((rows, 4))
    binary = np.array({"real": [0, 0, 0, 0], "binary": [1, 1, 1, 1], "mixed": [1, 1, 0, 0]}[kind], bool)
    return Rows(np.where(binary, X > 5, X), binary, kind)


@pytest.mark.slow(reason="fits each contestant, half a minute in all")
@pytest.mark.parametrize("kind", densities.FAMILIES)
@pytest.mark.parametrize("name", [name for name, row in CONTESTANTS.items() if row.needs == "sklearn"])
def test_contestants_give_a_density_in_the_units_of_the_data(name, kind):
    """Another unit of the real columns changes it by the logarithm of the unit."""
    contestant, rows = CONTESTANTS[name], tiny(kind)
    if kind not in contestant.kinds:
        pytest.skip("no density")
    units = np.where(rows.binary, 1.0, 10.0)
    one = contestant.train(rows, 0)(rows.X)
    other = contestant.train(rows._replace(X=rows.X * units), 0)(rows.X * units)
    assert one.shape == (120,) and np.allclose(one, other + np.log(units).sum(), atol=1e-4)
    independent = CONTESTANTS["independent"].train(rows, 0)(rows.X)
    assert name == "independent" or one.mean() > independent.mean() + 0.3


def test_independent_columns():
    """Bernoulli columns sum to one over all rows of bits, and Gaussian ones are SciPy's."""
    bits = CONTESTANTS["independent"].train(tiny("binary"), 0)(np.array(list(np.ndindex(2, 2, 2, 2)), float))
    assert np.exp(bits).sum() == pytest.approx(1, rel=1e-12)
    rows = tiny("real")
    expected = stats.norm(rows.X.mean(0), rows.X.std(0)).logpdf(rows.X).sum(1)
    assert np.allclose(CONTESTANTS["independent"].train(rows, 0)(rows.X), expected, atol=1e-9)


def test_sizes_of_the_nets_are_those_of_fit(monkeypatch):
    """The nets compared have the sizes that `npvae.fit` chooses, and 50 samples a row are scored."""
    rows = tiny("real", 40)
    fitted = []
    monkeypatch.setattr(
        densities, "fit", lambda X, **given: fitted.append(densities.VAE(**given, **SHORT).fit(X)) or fitted[0]
    )
    log_prob = CONTESTANTS["npvae.fit"].train(rows, 3)
    assert log_prob(rows.X).shape == (40,) and fitted[0].n_samples == 50 and fitted[0].seed_ == 3
    assert densities.sizes(rows.X) == {"n_components": 2, "hidden_layer_sizes": (100,)}


SHORT = {"max_epochs": 1, "learning_rate": 0.01, "backend": "reference", "hidden_layer_sizes": (3,)}


def test_torch_learns(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(densities, "UPDATES", 150)
    monkeypatch.setattr(densities, "STEP_SIZES", (0.003, 0.01))
    for kind in densities.FAMILIES:
        rows = tiny(kind)
        bound, independent = (CONTESTANTS[name].train(rows, 0)(rows.X).mean() for name in ("torch-adam", "independent"))
        assert bound > independent + 0.2


@pytest.mark.parametrize("kind", densities.FAMILIES)
def test_kernels_are_warmed_up_on_rows_of_the_kind(monkeypatch, kind):
    """A likelihood refuses rows of another kind."""
    likelihoods = []

    def kept(make, *X, **given):
        model = make(*X, **given, backend="reference")
        likelihoods.append(model.likelihood)
        return model

    for name in ("fit", "VAE"):
        monkeypatch.setattr(densities, name, partial(kept, getattr(densities, name)))
    densities.warm_up(kind)
    assert likelihoods == 2 * [densities.FAMILIES[kind]]


def test_choice_on_held_out_rows():
    """Of two constant densities, the one is taken that is larger on rows that were not trained on; it gets all rows."""
    rows, seen = tiny("real"), []

    def make(value):
        def train(given, seed):
            seen.append(len(given.X))
            return lambda X: np.full(len(X), value)

        return train

    log_prob = densities.best_on_held_out([make(-2.0), make(-1.0), make(-3.0)], rows, 0)
    assert log_prob(rows.X)[0] == -1.0 and seen == [96, 96, 96, 120]


# The file -------------------------------------------------------------------------------------------------------------


ARGUMENTS = ["bench", "tables", "--tables", "iris", "noise", "--contestants", "PPCA", "independent", "--seeds"]


@pytest.fixture
def trained(monkeypatch):
    """The contestants that were trained, in their order."""
    pytest.importorskip("sklearn")
    names = []
    for name in ("PPCA", "independent"):

        def train(rows, seed, name=name):
            names.append(name)
            return lambda X: np.full(len(X), -1.0 - seed)

        monkeypatch.setitem(CONTESTANTS, name, CONTESTANTS[name]._replace(train=train))
    return names


def test_a_run_is_continued(tmp_path, monkeypatch, trained, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*ARGUMENTS, "0", "--out", "a.csv"]) == 0
    assert trained == 2 * ["PPCA", "independent"] and Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert "| iris | design | 150 | 4 |" in capsys.readouterr().out
    whole = Path("a.csv").read_text()
    Path("a.csv").write_text(whole[:-8])  # the last line is cut off
    assert cli.main([*ARGUMENTS, "0", "1", "--out", "a.csv"]) == 0
    assert trained[4:] == ["independent", *2 * ["PPCA", "independent"]]
    scores = tables.read(Path("a.csv"))
    assert len({score[:3] for score in scores}) == len(scores) == 9  # the true density of one table, once
    assert tables.medians(scores)["iris"]["PPCA"] == (-1.5, -2.0)


def test_diverged_training_is_written(tmp_path, monkeypatch, trained):
    def diverge(rows, seed):
        raise FloatingPointError

    monkeypatch.setitem(CONTESTANTS, "PPCA", CONTESTANTS["PPCA"]._replace(train=diverge))
    scores = tables.run(["iris"], ["PPCA"], [0], tmp_path / "a.csv")
    assert scores[0].nats == -np.inf and tables.read(tmp_path / "a.csv") == scores


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tables", "kernels"], "bench measures tables alone; got tables, kernels"),
        (["tables", "--tables", "irises"], "--tables: 'irises' is unknown; expected iris, breast_cancer"),
        (["tables", "--contestants", "ppca"], "--contestants: 'ppca' is unknown; expected"),
        (["tables", "--seeds", "-1"], "--seeds is -1; expected integers of at least 0"),
        (["tables", "--backend", "cuda"], "tables cannot be measured with 'cuda'; expected kernels or epochs"),
    ],
)
def test_what_is_refused(capsys, arguments, message):
    assert cli.main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_other_files_stay(tmp_path, monkeypatch, trained, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("mine")
    assert cli.main([*ARGUMENTS, "0", "--out", "a.csv", "--force"]) == 1
    assert "a.csv is there already" in capsys.readouterr().err
    Path("a.csv").write_text("what grows,size,median s an epoch\n")
    assert cli.main([*ARGUMENTS, "0", "--out", "a.csv"]) == 1
    assert "a.csv has the columns what grows" in capsys.readouterr().err
    assert cli.main([*ARGUMENTS, "0", "--out", "a.csv", "--force"]) == 0


def test_missing_library_is_named(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    assert cli.main(["bench", "tables", "--contestants", "torch-adam"]) == 1
    assert "--contestants: 'torch-adam' is not installed; expected npvae.fit" in capsys.readouterr().err


def test_gaps_are_to_the_best_contestant():
    Score = tables.Score
    scores = [Score("iris", name, 0, nats, 1.0) for name, nats in (("FA", -3.0), ("PPCA", -2.0), (tables.TRUTH, -1.0))]
    assert tables.gaps(scores) == {"iris": {"FA": 1.0, "PPCA": 0.0}}
