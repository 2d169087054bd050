"""Every table of measurements in the pages comes from a data file, or from a test, that it names."""

import csv
import re
import shutil
import tempfile
import warnings
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import frey
import full_vb
import gradient_variance
import likelihood
import numpy as np
import published
import pytest
import regularization
import samplers
import tables
import uses

import npvae
from npvae import datasets
from npvae.bench import report
from npvae.bench import tables as small_tables
from npvae.cli.outputs import CURVE_COLUMNS
from npvae.reproduce import figures, runner

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

#: A cell that is a number, perhaps in bold, with its error or in percent.
NUMBER = re.compile(r"(\*\*)?[-+]?\d[\d.,]*(e[-+]?\d+)?( ± [\d.e+-]+)?\s*%?(\*\*)?")


def tables_of(text):
    """Yield (declared source or "", table) of a page."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for found in re.finditer(r"(?:^|\n)(?:<!-- table: (\S+) -->\n\n?|)((?:\|.*(?:\n|$)){2,})", text):
        yield found[1] or "", found[2].rstrip("\n")


def is_numeric(table):
    """Return whether cells right of the first column are numbers."""
    _, _, *rows = [re.split(r"(?<!\\)\|", line)[2:-1] for line in table.splitlines()]
    return any(NUMBER.fullmatch(cell.strip()) for row in rows for cell in row)


FOUND = [(page.name, source, table) for page in PAGES for source, table in tables_of(page.read_text())]
SHOWN = [row for row in FOUND if row[1] in tables.TABLES]


@pytest.mark.parametrize("page, source, table", SHOWN, ids=[f"{page}-{source}" for page, source, _ in SHOWN])
def test_a_table_shows_its_data(page, source, table):
    assert table == tables.table(source)


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_a_table_of_numbers_names_its_source(page):
    """A row of TABLES, or a test with the function `table` and a comparison with the page."""
    for of, source, table in FOUND:
        if of == page and (source or is_numeric(table)):
            test = (DOCS / source).read_text() if source.startswith("../tests/") else ""
            ok = source in tables.TABLES or ("def table():" in test and "def test_the_docs" in test)
            assert ok, f"{page}: the source of this table is {source!r}:\n{table}"


def test_every_data_file_is_shown():
    files = {path.relative_to(DOCS).as_posix() for path in (DOCS / "results").iterdir()}
    shown = {source for _, source, _ in SHOWN}
    assert shown == set(tables.TABLES)
    used = {source.partition("#")[0] for source in shown} | {"results/elsewhere.csv"}  # beside curves of both data sets
    assert not [file for file in files if not any(fnmatch(file, pattern) for pattern in used)]
    assert all(any(fnmatch(file, pattern) for file in files) for pattern in used)


@pytest.mark.parametrize(
    "line, numeric",
    [
        ("| a | 1 |", True),
        ("| a | -3.5e-4 ± 1e-05 |", True),
        ("| a | text | **-115.2** |", True),
        ("| a | 61% | |", True),
        ("| 3 | text |", False),
        ("| a | 2 x 3, no names |", False),
        ("| a \\| 7 \\| b | text |", False),
    ],
)
def test_what_a_table_of_numbers_is(line, numeric):
    assert is_numeric(f"| x | y |\n|---|---|\n{line}") == numeric


def test_tables_are_found_anywhere():
    text = "| a | b |\n|---|---|\n| c | 1 |\n\n<!-- table: x.csv -->\n\n| d | e |\n|---|---|\n| f | 2 |"
    assert [source for source, _ in tables_of(text)] == ["", "x.csv"]
    assert [source for source, _ in tables_of("```text\n" + text + "\n```\n")] == []


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the pages and their data, into which scripts write."""
    shutil.copytree(DOCS / "results", tmp_path / "results")
    for page in DOCS.glob("*.md"):
        shutil.copy(page, tmp_path)
    monkeypatch.setattr(tables, "HERE", tmp_path)
    return tmp_path


def test_pages_are_written_from_the_data(copy):
    """Nothing changes in a page that is right; a number that was changed by hand is put right, in page or data."""
    before = {page: page.read_text() for page in copy.glob("*.md")}
    tables.write(*before)
    assert {page: page.read_text() for page in before} == before
    page = copy / "results.md"
    page.write_text(before[page].replace("-115.2 |", "-115.3 |", 1))
    tables.write(page)
    assert page.read_text() == before[page] and "-115.2 |" in before[page]
    data = copy / "results" / "mnist.csv"
    data.write_text(data.read_text().replace("20,1000000,-116.", "20,1000000,-42."))
    tables.write(page)
    assert page.read_text().count("| -42.") == 1


def test_a_new_table_is_put_below_its_source(copy):
    page = copy / "new.md"
    page.write_text("Before.\n\n<!-- table: results/benchmark-growth.csv -->\n\nAfter.\n")
    tables.write(page)
    expected = tables.table("results/benchmark-growth.csv")
    assert page.read_text() == f"Before.\n\n<!-- table: results/benchmark-growth.csv -->\n\n{expected}\n\nAfter.\n"


def names_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return next(csv.reader(file))


def test_commands_write_the_columns_of_the_data_files():
    """Those of `npvae train` and `npvae bench`; scripts are run below."""
    first_rows = {
        "mnist": CURVE_COLUMNS,
        "frey": CURVE_COLUMNS,
        "benchmark-kernels": next(report._kernels([])),
        "benchmark-epochs": next(report._epochs(1, None, 1)),
        "benchmark-growth": next(report._growth(1, None, 1)),
        "benchmark-tables": small_tables.Score._fields,
    }
    for name, columns in first_rows.items():
        assert names_of(DOCS / "results" / f"{name}.csv") == list(columns)


def test_setups_of_bits_have_a_table_of_their_own(copy):
    """Each row of the epochs is in one of two tables."""
    rows = [["setup", "median s"], ["Words, 20000 columns", 3], ["MNIST, batch 100", 1]]
    tables.save("results/benchmark-epochs.csv", rows)
    others, bits = (tables.table(f"results/benchmark-epochs.csv{which}").splitlines()[2:] for which in ("", "#bits"))
    assert others == ["| MNIST, batch 100 | 1 |"] and bits == ["| Words, 20000 columns | 3 |"]


def test_tables_of_figures_are_those_of_their_models():
    """Each file in the folder of a figure is the table of one of its models, as `npvae reproduce` writes it."""
    for name, figure in figures.FIGURES.items():
        for path in (DOCS / "results" / name).glob("*"):
            assert path.name.removesuffix(".csv") in figure.curves and runner.read(path)
    assert list((DOCS / "results" / "fig2").glob("*.csv"))


def small_regularization(patch, X):
    def digits():
        """Digits."""
        return X[:80], X[80:], {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 2}

    def mnist():
        """MNIST."""
        return digits()

    patch.setattr(regularization, "SIZES", (2, 3))
    patch.setattr(regularization, "DATA", (digits, mnist))
    regularization.main()


def small_full_vb(patch, X):
    small = {"IMAGES": 80, "SAMPLES": 160, "EVIDENCE_POINTS": (1, 2), "POINTS": (1, 2), "PRIOR_SAMPLES": 4000}
    for name, value in small.items():
        patch.setattr(full_vb, name, value)
    patch.setattr(full_vb, "SAMPLES_OF_OTHER_SEEDS", 160)
    patch.setattr(full_vb, "RUNS", {name: run for name, run in full_vb.RUNS.items() if run[-1] < 2})
    full_vb.main(full_vb.RUNS)


def small_gradient_variance(patch, X):
    patch.setattr(gradient_variance, "SETTINGS", {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "batch_size": 20})
    gradient_variance.main(repeats=4, n_samples=(1, 2), batch_sizes=(1, 100))


def small_results(patch, X):
    """The runs of Frey Face, and that of the published likelihood, which is cut off and continued."""
    small_frey(patch, X)
    small = published.SETTINGS | {"n_components": 2, "hidden_layer_sizes": (4,), "max_epochs": 4}
    for name, value in {"SETTINGS": small, "SAMPLES": 10, "POINTS": 3, "EVERY": 0.0}.items():
        patch.setattr(published, name, value)
    with tempfile.TemporaryDirectory() as folder:
        published.train("vae", Path(folder), 2)
        published.train("vae", Path(folder))
        assert [row["epoch"] for row in tables.load("results/published-vae-curve.csv")] == [1, 2, 3, 4]
        tables.save(published.SCORES, [published.SCORE, ["iwae", *"123456"], ["vae", *"234567"]])
        with pytest.warns(UserWarning, match="importance"):  # of 10 samples
            published.score("vae", Path(folder))
        found = [(row["model"], row["training samples"]) for row in tables.load(published.SCORES)]
        assert found == [("iwae", 1), ("vae", 356)]  # 4 epochs of 89 images


def small_frey(patch, X):
    patch.setitem(frey.DATASET_SETTINGS, "frey", frey.DATASET_SETTINGS["frey"] | {"max_epochs": 25})
    patch.setattr(frey, "SEEDS", range(2))
    frey.main()


def small_likelihood(patch, X):
    """On exact models, and on two of images: quadrature is the truth for one of them, annealing for the other."""
    for name, value in {"LATENTS": (1, 2), "ROWS": 3, "IMAGES": 3, "DENSITIES_OF_TRUTH": 20, "DRAWN": 2}.items():
        patch.setattr(likelihood, name, value)
    settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1}
    with tempfile.TemporaryDirectory() as folder:
        for latents in 2, 4:
            npvae.VAE(latents, **settings).fit(X[:80]).save(Path(folder) / f"mnist-{latents}-aevb.npz")
        tables.save("results/likelihood-mnist.csv", [likelihood.NAMES_OF_IMAGES])  # the picture needs both files
        likelihood.main()
        likelihood.main(folder)
    found = [(row["latents"], row["method"]) for row in tables.load("results/likelihood-mnist.csv") if row["rms"] == ""]
    assert found == [(2, "quadrature"), (4, "annealed, 20 densities"), (4, "gap of the sandwich")]
    assert (tables.HERE / "likelihood.png").read_bytes().startswith(b"\x89PNG")


def small_samplers(patch, X):
    small = {"ROWS": 2, "CHAINS": 2, "IMPORTANCE_SAMPLES": 10, "RUNS": samplers.RUNS[:2], "LATENTS": 2, "N_CHAINS": 4}
    for name, value in small.items():
        patch.setattr(samplers, name, value)
    patch.setattr(samplers, "MODEL", {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1})
    samplers.main()


def small_uses(patch, X):
    small = {
        "IMAGES": 3, "SHOWN": 2, "DRAWS": 1, "SIGMAS": (0.3,), "FEW": 20, "FEWER_LATENTS": (1,), "NEAREST": (1,),
        "SHARES": (0.3,), "SEEDS": range(1), "RANKED": 4,
        "LOADERS": {"wine": lambda return_X_y: (np.random.default_rng(0).normal(size=(40, 3)), None)},
    }  # fmt: skip
    for name, value in small.items():
        patch.setattr(uses, name, value)
    settings = {"hidden_layer_sizes": (4,), "learning_rate": 0.05, "max_epochs": 1}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so little data has what the methods warn of
        for latents in 1, 20:
            npvae.VAE(latents, **settings).fit(X[:80]).save(Path(folder) / f"mnist-{latents}-aevb.npz")
        uses.pictures(Path(folder))
        uses.anomalies(Path(folder))
        uses.with_holes()
    tables.write(tables.HERE / "uses.md")
    assert (tables.HERE / "uses.png").read_bytes().startswith(b"\x89PNG")


def small_joblib(patch, X):
    for module in ("distributed", "joblib", "sklearn"):
        pytest.importorskip(module)
    import several_machines

    small = {"IMAGES": 80, "SCORED": 90, "PIECES": 2, "ROUNDS": 1, "GRID": {"n_components": [1, 2]}}
    for name, value in small.items():
        patch.setattr(several_machines, name, value)
    patch.setattr(several_machines, "SETTINGS", several_machines.SETTINGS | {"hidden_layer_sizes": (4,)})
    several_machines.main()


SCRIPTS = {
    "several_machines": (small_joblib, ["joblib-times"]),
    "likelihood": (small_likelihood, ["likelihood-exact", "likelihood-mnist"]),
    "regularization": (small_regularization, ["regularization-digits", "regularization-mnist"]),
    "full_vb": (small_full_vb, ["full-vb-100-map", "full-vb-100-full-seed1", "full-vb-100-full-evidence"]),
    "gradient_variance": (small_gradient_variance, ["gradient-variance-0"]),
    "results": (small_results, ["frey-seeds", "published-vae-curve", "published-score"]),
    "samplers": (small_samplers, ["samplers-sandwich", "samplers-speed"]),
    "uses": (small_uses, ["uses-pictures", "uses-anomalies", "uses-tables"]),
}


@pytest.mark.slow(reason="trains small models by each script of the docs")
@pytest.mark.parametrize("page", SCRIPTS)
def test_scripts_write_what_the_tables_read(copy, monkeypatch, page):
    """On small data; the columns are those of the data files that are there, and the tables change with them."""
    X, _ = datasets.make_digits(100, random_state=0)
    data = SimpleNamespace(X_train=X[:80], X_valid=X[:9], X_test=X[80:])
    monkeypatch.setattr(datasets, "load_mnist", lambda: data)
    monkeypatch.setattr(datasets, "load_frey_face", lambda: data)
    run, files = SCRIPTS[page]
    before = (copy / f"{page}.md").read_text()
    names = {file: names_of(copy / "results" / f"{file}.csv") for file in files}
    for path in (copy / "results").glob(f"{files[0].partition('-')[0]}-*.csv"):
        path.unlink()
    run(monkeypatch, X)
    assert {file: names_of(copy / "results" / f"{file}.csv") for file in files} == names
    assert (copy / f"{page}.md").read_text() != before
