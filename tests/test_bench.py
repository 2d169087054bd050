"""The benchmarks run and count right; how fast anything is, they are there to find out."""

import csv
import importlib.util
import inspect

import numpy as np
import pytest

from npvae import cli, plots
from npvae.bench import epochs, kernels, scoring
from npvae.bench import likelihood as likelihood_bench
from npvae.bench.contestants import CONTESTANTS, Setup
from npvae.cli.bench import PARTS

SMALL = Setup(12, (8, 6), 3, batch_size=20, rows=200)


@pytest.mark.process
@pytest.mark.slow(reason="trains each library in a process of its own")
@pytest.mark.parametrize("likelihood", ["bernoulli", "sigmoid-gaussian"])
@pytest.mark.parametrize("name", [name for name in CONTESTANTS if name != "NumPy"])
def test_contestants_learn_the_same(name, likelihood):
    """After the same epochs of the same data their bounds agree, up to their noise and order of the rows."""
    if importlib.util.find_spec(CONTESTANTS[name][1]) is None:
        pytest.skip(f"{name} is not installed")
    setup = SMALL._replace(likelihood=likelihood)
    _, ours, other = epochs.compare(setup, ["NumPy", name], 1, 5)
    assert len(other.seconds) == 5 and min(other.seconds) > 0 and other.megabytes > 10
    assert other.bound == pytest.approx(ours.bound, rel=0.02)


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
    monkeypatch.setattr(epochs, "available", lambda: ["npvae", "NumPy"])
    assert cli.main(["bench", "epochs", "--epochs", "1", "--out", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "left out, not installed: JAX" in said and "| small | npvae |" in said and "threads" in said
    with open(tmp_path / "new" / "epochs.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["contestant"] for row in rows] == ["ceiling", "npvae", "NumPy"]
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
        epochs.compare(SMALL._replace(likelihood="unknown"), ["npvae"], 1, 1)


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
