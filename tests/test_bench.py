"""The benchmarks run and count right; how fast anything is, they are there to find out."""

import csv
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import sparse

from npvae import cli, plots
from npvae.bench import epochs, kernels, report, scoring, sources
from npvae.bench import likelihood as likelihood_bench
from npvae.bench.contestants import CONTESTANTS, LEARNING_RATE, Setup, Torch, TorchPlain, TorchSparse
from npvae.cli.bench import PARTS

SMALL = Setup(12, (8, 6), 3, batch_size=20, rows=200, data="random")
SMALL_WORDS = Setup(300, (8, 6), 3, batch_size=20, rows=200, data="words")


@pytest.mark.process
@pytest.mark.slow(reason="trains each library in a process of its own")
@pytest.mark.parametrize(
    "setup, ours",
    [
        (SMALL, "NumPy"),
        (SMALL._replace(likelihood="sigmoid-gaussian"), "NumPy"),
        (SMALL_WORDS._replace(rows=1000), "npvae, dense array"),
    ],
    ids=["bernoulli", "sigmoid-gaussian", "words"],
)
@pytest.mark.parametrize("name", CONTESTANTS)
def test_contestants_learn_the_same(name, setup, ours):
    """After the same epochs of the same data their bounds agree, up to their noise and order of the rows."""
    if importlib.util.find_spec(CONTESTANTS[name].module) is None:
        pytest.skip(f"{name} is not installed")
    found = epochs.compare(setup, [ours, name], 1, 5)
    if len(found) < 3:
        pytest.skip(f"{name} is what it would be compared with, or is not for such data")
    _, expected, other = found
    assert len(other.seconds) == 5 and min(other.seconds) > 0 and other.megabytes > 10
    assert other.bound == pytest.approx(expected.bound, rel=0.02)


@pytest.fixture
def torch():
    """PyTorch, where it is installed; contestants set its number of threads."""
    return pytest.importorskip("torch")


@pytest.mark.parametrize("program", [Torch, TorchPlain])
def test_the_step_of_pytorch_is_that_of_the_backends(torch, monkeypatch, program):
    """Also where squares of gradients are not larger than the constant 1e-8."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    contestant = program(SMALL)
    bias, gradient = contestant.parameters[1], np.array([0, 1e-8, 1e-5, 1e-4, 1e-3, 0.1, -1, -1e-4], np.float32)
    squares = np.zeros(8, np.float32)
    w = bias.detach().numpy().copy()
    for _ in range(3):
        bias.grad = torch.from_numpy(gradient.copy())
        contestant.optimizer.step()
        squares += gradient**2
        w -= LEARNING_RATE * gradient / np.sqrt(squares + np.float32(1e-8))
    np.testing.assert_allclose(bias.detach().numpy(), w, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_the_sparse_product_of_pytorch_has_the_gradients_of_the_dense_one(torch, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    eps, found = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)), []
    for program in (Torch, TorchSparse):
        contestant = program(SMALL_WORDS)
        loss = contestant.loss(contestant.minibatch(torch.arange(3, 10)), eps, *contestant.parameters)
        loss.backward()
        found.append([loss.item(), *(p.grad.numpy() for p in contestant.parameters)])
    for dense, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, dense, rtol=1e-5, atol=1e-6 * np.abs(dense).max())


def test_contestants_are_chosen_by_the_data(monkeypatch):
    """A sparse matrix is not given to contestants on arrays, nor an array to those on sparse matrices."""
    started = []

    class Process:
        def __init__(self, name, setup, threads):
            X = setup.load()
            started.append((name, sparse.issparse(X)))
            raise ChildProcessError(name if name != "npvae" else "ended")

    monkeypatch.setattr(epochs, "Process", Process)
    for setup in (SMALL, SMALL_WORDS):
        epochs.compare(setup, [name for name in CONTESTANTS if name != "npvae"], 1, 1)
    dense = ["JAX jit + scan", "torch.compile", "PyTorch, fused Adagrad", "PyTorch", "NumPy"]
    words = ["npvae, dense array", "JAX jit + scan", "PyTorch, sparse product", "PyTorch, fused Adagrad"]
    assert started == [*((name, False) for name in dense), *((name, True) for name in words)]


# Data -----------------------------------------------------------------------------------------------------------------


def test_words_are_rare_and_few_of_them_frequent():
    """1 % of the cells; frequencies fall by rank, and a topic has its own words."""
    X = sources.make("words", 1200, 2000)
    assert X.format == "csr" and X.dtype == np.uint8 and X.shape == (1200, 2000) and set(X.data) == {1}
    assert X.nnz / (1200 * 2000) == pytest.approx(sources.DENSITY, rel=0.03)
    frequencies = X.mean(axis=0)
    by_rank = (frequencies * (50 + np.arange(2000))).reshape(10, 200).mean(axis=1)
    np.testing.assert_allclose(by_rank, by_rank.mean(), rtol=0.1)  # standard error 0.02; frequent words saturate
    frequent = X[:, np.argsort(-frequencies)[:50]].toarray()
    correlations = np.corrcoef(frequent, rowvar=False)[np.triu_indices(50, 1)]
    assert np.mean(correlations**2) > 1.5 / 1200  # 1 / 1200, with a standard error of 4 %, where words are independent


def test_generated_digits_have_the_zeros_of_mnist():
    X, bits = (sources.make(name, 12_000, 784) for name in ("mnist", "binarized-mnist"))
    assert X.shape == bits.shape == (12_000, 784) and X.dtype == bits.dtype == np.uint8
    assert np.mean(X == 0) == pytest.approx(0.81, abs=0.01) and set(np.unique(bits)) == {0, 1}
    assert bits[:10_000].mean() == pytest.approx(X[:10_000].mean() / 255, rel=0.01)


def test_real_data_is_read_from_the_folder(monkeypatch):
    """Rows are repeated; the floats of Frey Face become pixels again; another number of columns is refused."""
    X = np.array([[0, 1 / 255], [1, 0.5]], np.float32)
    monkeypatch.setitem(
        sources.SOURCES, "frey", sources.SOURCES["frey"]._replace(load=lambda folder: X + float(folder))
    )
    np.testing.assert_array_equal(sources.make("frey", 3, 2, "0"), [[0, 1], [255, 128], [0, 1]])
    np.testing.assert_array_equal(sources.make("frey", 1, 2, "0"), [[0, 1]])
    with pytest.raises(ValueError, match="frey has 2 columns; expected 3"):
        sources.make("frey", 3, 3, "0")


@pytest.mark.parametrize("setup", [SMALL, SMALL_WORDS], ids=["array", "sparse"])
def test_stored_data_is_read_as_it_was(setup):
    with epochs.stored(setup) as stored:
        X, path = stored.load(), stored.path
        assert type(X) is type(setup.load()) and X.dtype == np.uint8 and Path(path).exists()
        np.testing.assert_array_equal(stored.dense(), setup.dense())
    assert not Path(path).exists()


# Memory ---------------------------------------------------------------------------------------------------------------


def test_a_dense_array_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(sources, "free_memory", lambda: 300_000.0)
    assert SMALL_WORDS.dense(5).shape == (200, 300)
    with pytest.raises(MemoryError, match="a dense array takes 0.4 MB of memory; 0.3 MB are free"):
        SMALL_WORDS.dense(6)


def test_free_memory_is_that_of_the_machine():
    assert 1e6 < sources.free_memory() < 1e15 or not Path("/proc/meminfo").exists()


@pytest.mark.process
def test_the_largest_memory_is_that_of_the_process_itself():
    """Not that of the process which started it; memory that was given back counts."""
    large = np.ones(300 * 2**17)  # 300 MB
    program = "import numpy as np; from npvae.bench.epochs import largest_memory as f; {}print(f())"
    small, larger = (
        float(subprocess.run([sys.executable, "-c", program.format(line)], capture_output=True, check=True).stdout)
        for line in ("", "np.ones(100 * 2**17); ")
    )
    assert 10 < small < large.nbytes / 2**20
    assert larger - small == pytest.approx(100, abs=10)


@pytest.mark.process
def test_processes_of_other_libraries_are_not_charged_for_numba():
    program = "import sys, npvae.bench.epochs; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"


# Tables and pictures --------------------------------------------------------------------------------------------------


def test_growth_has_the_memory_beyond_the_data(monkeypatch):
    """Each row is of the data it names, and several numbers of threads take turns."""
    asked = []

    def alone(setup, counts, n_epochs):
        asked.append((setup.rows, setup.hidden_layer_sizes, setup.data_dir, counts, n_epochs))
        data = setup.rows * 784 / 2**20
        return [epochs.Result("npvae", [3.0 / count, 1.0 / count, 2.0 / count], -100.0, 150 + data) for count in counts]

    monkeypatch.setattr(epochs, "alone", alone)
    header, *rows = report._growth(2, "folder", 3)
    assert header == ("what grows", "size", "median s an epoch", "MB", "MB beyond the data")
    assert ("rows", 60_000, "1.0000", "195", "150") in rows and all(row[4] == "150" for row in rows)
    assert rows[-2:] == [("threads, 10000 rows", count, f"{2 / count:.4f}", "157", "150") for count in (1, 2)]
    assert asked[-1] == (10_000, (500,), "folder", [1, 2], 9) and (10_000, (200,), "folder", [2], 3) in asked


def test_fewer_than_three_sizes_are_bars():
    table = [("what grows", "size", "median s an epoch", "MB", "MB beyond the data")]
    table += [("rows", size, str(size / 1000), "", "") for size in (1000, 2000, 4000)]
    table += [("threads", count, str(2 / count), "200", "190") for count in (1, 2)]
    rows, threads = plots.growth(table, figure=Figure()).axes
    assert rows.get_yscale() == "log" and list(rows.lines[0].get_ydata()) == [1, 2, 4]
    assert threads.get_yscale() == "linear" and not threads.lines
    assert [bar.get_height() for bar in threads.patches] == [2, 1]
    assert [label.get_text() for label in threads.get_xticklabels()] == ["1", "2"]


def test_contestants_are_named_where_they_change():
    table = [("setup", "contestant", "median s")]
    for setup, names in {"a": "xy", "b": "xy", "c": "xz", "d": "xz"}.items():
        table += [(setup, name, "1") for name in names]
    panels = plots.epochs(table, figure=Figure()).axes
    labels = [[label.get_text() for label in ax.get_yticklabels()] for ax in panels]
    assert labels == [["y", "x"], [], ["z", "x"], ["z", "x"]]  # the last one begins a line


def test_what_was_measured_is_kept_where_a_later_row_fails(tmp_path, monkeypatch):
    def compare(setup, names, *arguments):
        if setup is not SMALL:
            raise ChildProcessError("npvae has ended")
        nan = float("nan")
        return [epochs.Result("ceiling", [1.0], nan, nan), epochs.Result("npvae", [2.0], -5.0, 200.0)]

    monkeypatch.setattr(epochs, "compare", compare)
    monkeypatch.setattr(epochs, "SETUPS", {"first": SMALL, "second": SMALL_WORDS})
    monkeypatch.setattr(Setup, "_replace", lambda self, **fields: self)
    with pytest.raises(ChildProcessError):
        report.run(["epochs"], tmp_path)
    with open(tmp_path / "epochs.csv", newline="") as file:
        assert [row["contestant"] for row in csv.DictReader(file)] == ["ceiling", "npvae"]


def test_operations_of_an_epoch():
    """Forward, to the weights and to the inputs, except to the inputs of the first layer: the paper's MNIST model."""
    sizes = np.array([784 * 500, 500 * 20, 500 * 20, 20 * 500, 500 * 784])
    assert Setup().flop() == 2 * 50_000 * (3 * sizes.sum() - sizes[0]) == 205_000_000_000


def test_kernels_are_measured_beside_a_ceiling():
    rows = kernels.table(1, rounds=1, repeats=2)
    assert len(rows) > 10 and all(row.rate > 0 and row.numpy > 0 for row in rows)
    assert {row.unit for row in rows} == {"GFLOP/s", "GB/s"} and all(row.ceiling > 0 for row in rows)


def test_bench_writes_tables_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(epochs, "SETUPS", {"small": SMALL})
    monkeypatch.setattr(epochs, "SETUPS_OF_BITS", {"bits": SMALL._replace(rows=100)})
    monkeypatch.setattr(epochs, "available", lambda: ["npvae, dense array", "npvae", "NumPy"])
    assert cli.main(["bench", "epochs", "--epochs", "1", "--out", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "left out, not installed: JAX" in said and "| small | npvae |" in said and "threads" in said
    with open(tmp_path / "new" / "epochs.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["contestant"] for row in rows] == 2 * ["ceiling", "npvae", "NumPy"]
    assert [row["setup"] for row in rows] == 3 * ["small"] + 3 * ["bits"]
    assert rows[1]["npvae / this"] == "1.00"
    assert (tmp_path / "new" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.process
def test_a_contestant_that_ends_is_left_out(capsys):
    """In its first epoch or a later one, and what it said is shown."""
    results = epochs.compare(SMALL, ["nobody", "NumPy"], 1, 1)
    assert [result.contestant for result in results] == ["ceiling", "NumPy"]
    said = capsys.readouterr().out
    assert said.startswith("left out: the process of nobody ended with status 1") and "KeyError: 'nobody'" in said
    expected = pytest.raises(ChildProcessError, match=r"(?s)process of NumPy ended .*ValueError: .*'many")
    with epochs.Process("NumPy", SMALL, 1) as process, expected:
        process.turn("many")


@pytest.mark.process
def test_a_contestant_that_has_ended_is_not_waited_for():
    with epochs.Process("NumPy", SMALL, 1) as process:
        process.process.kill()
        process.process.wait()
        with pytest.raises(ChildProcessError, match="process of NumPy ended with status -9 .*it said: -"):
            process.turn()


@pytest.mark.process
def test_npvae_is_not_left_out():
    with pytest.raises(ChildProcessError, match="process of npvae ended"):
        epochs.compare(SMALL._replace(batch_size=0), ["npvae"], 1, 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["speed"], "PART is 'speed'; expected one of 'kernels', 'epochs', 'growth'"),
        (["epochs", "--epochs", "0"], "--epochs is 0; expected an integer of at least 1"),
        (["growth", "--backend", "cuda"], "growth cannot be measured with 'cuda'; expected kernels or epochs"),
    ],
)
def test_bench_refuses_what_it_does_not_measure(capsys, arguments, message):
    assert cli.main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_every_part_has_a_picture():
    assert all(inspect.isfunction(getattr(plots, part)) for part in PARTS)


def test_both_programs_of_importance_sampling_estimate_the_same(monkeypatch):
    """npvae's, and that of JAX where it is installed; within their errors, which few samples leave large."""
    monkeypatch.setattr(likelihood_bench, "SAMPLES", 200)
    monkeypatch.setattr(likelihood_bench, "ROWS", 2)
    names = [name for name in likelihood_bench.CONTESTANTS if importlib.util.find_spec(name)]
    values = [likelihood_bench.CONTESTANTS[name]() for name in names]
    for estimate in values:
        np.testing.assert_allclose(estimate(), values[0](), atol=10)
        assert np.all(estimate() < 0)


def test_scoring_is_measured_beside_its_products():
    """Their operations are those of `Setup`: a layer of I inputs and O outputs has 2 I O for each row."""
    rows = scoring.table(SMALL, 1, repeats=1, rows=60, few=2, samples=30)
    assert [row.rows for row in rows] == [60] * 5 + [2]
    assert all(row.seconds > row.ceiling > 0 for row in rows)
    score, transform, reconstruct, codes, sample, importance = (row.ceiling for row in rows)
    encoder, decoder = 12 * 8 + 8 * 6 + 2 * 6 * 3, 3 * 6 + 6 * 8 + 8 * 12
    assert score == reconstruct == pytest.approx(transform + sample)
    assert transform == codes == pytest.approx(sample * encoder / decoder)
    assert importance == pytest.approx(2 / 60 * (transform + 30 * sample))
    header, *table = scoring.lines(rows)
    assert len(table) == len(rows) and {len(line) for line in table} == {len(header)}
