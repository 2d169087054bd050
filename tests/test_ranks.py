"""Training on several ranks of MPI: the same bits for any number of them, and no fault that leaves one waiting."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import ranks

import npvae
from npvae import fitting
from npvae.backends import exact_sum, runtime
from npvae.estimators.sharded import n_shards
from npvae.parallel import Alone

PROGRAM = Path(__file__).with_name("on_ranks.py")
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

#: Seconds in which a job with a fault ends: `parallel.PATIENCE`, and what its processes take to start and to import.
SOON = 60

with_mpi = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None, reason='needs mpi4py and an MPI: pip install "npvae[mpi]" mpich'
)


def is_open_mpi():
    return b"Open MPI" in subprocess.run([MPIEXEC, "--version"], capture_output=True, check=False).stdout


def command(n_ranks, *arguments):
    options = ["--oversubscribe", "--bind-to", "none", "--allow-run-as-root"] if is_open_mpi() else []
    return [MPIEXEC, *options, "-n", str(n_ranks), sys.executable, *map(str, arguments)]


def environment():
    return os.environ | {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run(n_ranks, *arguments, status=0):
    """Run the program on ranks; return what each rank said, a list of dicts for each."""
    done = subprocess.run(
        command(n_ranks, PROGRAM, *arguments),
        capture_output=True,
        text=True,
        timeout=SOON if status is None else 10 * SOON,
        env=environment(),
        check=False,
    )
    if status is None:
        assert done.returncode != 0
        return done.stdout + done.stderr
    assert done.returncode == status, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ranks = [[line for line in lines if line["rank"] == rank] for rank in range(n_ranks)]
    for line in lines:
        del line["rank"]
    return ranks


def common(ranks):
    """Return what all ranks said alike."""
    assert all(said == ranks[0] for said in ranks), ranks
    return ranks[0]


# The sum --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_does_not_depend_on_its_order(dtype, alike):
    """Also where all are about as large, of one sign, and not weighted: the sum is n times the largest."""
    rng, starts, n = np.random.default_rng(0), np.array([0, 5000, 5003, 9001]), 12
    gradients = [(rng.normal(size=9001) * 10.0 ** rng.integers(-12, 6, 9001)).astype(dtype) for _ in range(n)]
    weights = rng.random(n) / n
    if alike:
        gradients, weights = [rng.uniform(0.9, 1, 9001).astype(dtype) for _ in range(n)], np.ones(n)
    rounders = exact_sum.rounders(exact_sum.largest(gradients, starts), n)

    def total(order, cuts):
        parts = np.zeros(9001)
        for part in np.split(np.array(order), cuts):
            if len(part):
                out = np.empty(9001)
                exact_sum.add_up([gradients[i] for i in part], weights[part], starts, rounders, out)
                parts += out
        return parts

    expected = total(range(n), [])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cuts = np.sort(rng.integers(0, n + 1, 3))
        assert np.array_equal(total(rng.permutation(n), cuts), expected)
    # Each of n numbers is rounded to a multiple of 2^-52 times the power of two above n times the largest.
    exact = np.sum([w * g.astype(float) for w, g in zip(weights, gradients)], axis=0)
    bound = n * np.repeat(rounders, np.diff(starts)) * 2.0**-53 + 1e-15 * np.abs(exact)
    assert np.all(np.abs(expected - exact) <= bound)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sum_of_what_is_not_finite(value):
    gradients, starts = [np.ones(6, np.float32) for _ in range(2)], np.array([0, 2, 6])
    gradients[1][3] = value
    largest = exact_sum.largest(gradients, starts)
    assert largest.tolist() == [1, np.inf]
    out = np.empty(6)
    exact_sum.add_up(gradients, np.full(2, 0.5), starts, exact_sum.rounders(largest, 2), out)
    assert np.isfinite(out).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_of_numbers_at_the_ends_of_the_range(dtype):
    info, starts = np.finfo(dtype), np.array([0, 3])
    for size in (0.0, info.smallest_subnormal, info.tiny, info.max / 8):
        gradients = [np.full(3, size, dtype), np.full(3, -size / 2, dtype)]
        rounders = exact_sum.rounders(exact_sum.largest(gradients, starts), 2)
        out = np.empty(3)
        exact_sum.add_up(gradients, np.ones(2), starts, rounders, out)
        expected = float(gradients[0][0]) + float(gradients[1][0])
        assert abs(out - expected).max() <= max(size * 2.0**-50, 2.0 ** (exact_sum.LEAST - 52))


# Ranks ----------------------------------------------------------------------------------------------------------------


@with_mpi
@pytest.mark.process
def test_plain_sum():
    """It differs from the exact one by rounding errors alone, and is the same on all ranks."""
    ((said,), (other,)) = run(2, "plain_sum")
    assert said["digest"] == other["digest"]
    plain, exact = np.array(said["vector"]), np.array(said["exact"])
    # They are cut into other shards, whose noise is another: the same training on other random numbers.
    assert plain.shape == exact.shape
    assert np.isfinite(plain).all()


@with_mpi
@pytest.mark.process
@pytest.mark.slow(reason="three programs of 35 trainings")
def test_same_bits_for_any_number_of_ranks():
    expected = common(run(1, "same_bits"))
    assert len(expected) > 30
    for n_ranks in (2, 3):
        assert common(run(n_ranks, "same_bits")) == expected


@with_mpi
@pytest.mark.process
@pytest.mark.slow(reason="several programs on ranks")
def test_ranks_without_work():
    (one,), *others = run(3, "few_shards")
    assert one["warnings"] == [
        f"batch_size is {size}: 2 of 3 ranks have work; expected larger ones" for size in (100, 2)
    ]
    assert all(said == [{"warnings": [], "digest": one["digest"]}] for said in others)
    assert run(1, "few_shards") == [[{"warnings": [], "digest": one["digest"]}]]


@with_mpi
@pytest.mark.process
@pytest.mark.slow(reason="several programs on ranks")
def test_resume_on_another_number_of_ranks(tmp_path):
    expected = common(run(2, "fit_and_save", tmp_path / "whole.npz", 6))
    path = tmp_path / "parts.npz"
    run(1, "fit_and_save", path, 2)
    run(3, "resume", path, 4)
    assert common(run(2, "resume", path, 6)) == expected


@with_mpi
@pytest.mark.process
@pytest.mark.slow(reason="several programs on ranks")
def test_command_and_resume(tmp_path):
    def command_on(n_ranks, *arguments):
        return subprocess.run(
            command(n_ranks, "-m", "npvae", *arguments), capture_output=True, text=True, timeout=300, env=environment()
        )

    settings = ("digits", "--learning-rate", "0.02", "--batch-size", "500", "--quiet")
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    done = command_on(3, "train", *settings, "--epochs", "2", "--out", first)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test bound: ") == 1
    assert done.stderr == ""
    assert (tmp_path / "first.png").exists()
    second.write_bytes(first.read_bytes())
    assert subprocess.run(command(2, PROGRAM, "resume_command", first), env=environment(), timeout=300).returncode == 0
    assert command_on(1, "resume", second, "--epochs", "3").returncode == 0
    vectors = [npvae.load(path).parameters_.vector for path in (first, second)]
    assert np.array_equal(*vectors)
    again = command_on(2, "train", *settings, "--epochs", "1", "--out", first)
    assert again.returncode == 1
    assert again.stderr.count("is there already") == 1
    alone = command_on(2, "score", first, "digits")
    assert alone.returncode == 1
    assert alone.stderr.count("error") == 1
    assert "2 processes were launched; expected one" in alone.stderr


def test_an_error_on_one_rank_is_raised_on_all():
    def fail_at_two(number):
        if number == 2:
            raise LookupError("item 2")
        return number

    def rank(parallel):
        with pytest.raises(LookupError, match="item 2"):
            parallel.map(fail_at_two, range(4))
        with pytest.raises(ZeroDivisionError):
            parallel.first(lambda: 1 / 0)
        return parallel.map(abs, [-1, -2, -3, -4]), parallel.first(lambda: parallel.rank)

    assert ranks.run(3, rank) == [([1, 2, 3, 4], 0)] * 3


def test_launched_without_mpi(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    from npvae.cli import main

    assert main(["train", "digits", "--out", str(tmp_path / "model.npz")]) == 1
    assert 'pip install "npvae[mpi]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_comm_of_another_kind():
    with pytest.raises(TypeError, match="comm is of type int; expected a communicator of mpi4py"):
        npvae.VAE(2, backend="reference").fit(np.eye(4), comm=3)


# Faults ---------------------------------------------------------------------------------------------------------------


@with_mpi
@pytest.mark.process
@pytest.mark.slow(reason="each starts a program on ranks, for seconds")
class TestFaults:
    """None of them lets a rank wait for ever."""

    def test_not_finite_on_one_rank(self):
        error, after = common(run(3, "not_finite"))
        assert error["error"] == "NonFiniteError"
        assert error["message"].startswith("training stopped at step 7: input is not finite")
        assert after["step"] == 7
        assert after["finite"]

    def test_error_on_one_rank(self):
        output = run(3, "raising", status=None)
        assert "MemoryError: no memory on this rank" in output
        assert "npvae: rank 1 of 3 failed, and ends the job" in output

    def test_killed_rank(self):
        run(3, "killed", status=None)

    def test_ranks_that_drift_apart(self):
        (error,) = common(run(2, "drifting"))
        assert error["error"] == "RuntimeError"
        assert error["message"].startswith("the checksum of the parameters is ")

    @pytest.mark.parametrize(("when", "attempts"), [("begin", 1), ("end", 2)])
    def test_full_disk(self, when, attempts):
        first, *others = run(2, "full_disk", when)
        assert first[0]["error"] == "OSError"
        assert first[1] == {"saved": [0] * attempts, "fitted": when == "end"}
        assert all(said == [first[0], {"saved": [], "fitted": when == "end"}] for said in others)

    def test_full_disk_within_the_training(self):
        (said,) = common(run(2, "full_disk_meanwhile"))
        assert said["saved"]

    def test_callbacks(self):
        first, second = (said[0] for said in run(2, "callbacks"))
        assert (first.pop("calls"), second.pop("calls")) == ([1, 2], [])
        assert first == second
        assert first["epochs"] == 2

    def test_errors_that_all_ranks_have(self):
        *errors, of_warning = common(run(2, "raised_on_all"))
        assert [tuple(error.values()) for error in errors] == [
            ("LookupError", "no such thing"),
            ("KeyboardInterrupt", "enough"),
            ("SystemExit", "3"),
            ("RuntimeError", "Local on rank 0: its message"),
        ]
        assert of_warning["error"] == "UserWarning"

    def test_ranks_that_disagree(self):
        *errors, after = common(run(2, "unlike"))
        expected = (
            "n_samples is '2' on rank 1 and '1' on rank 0",
            "X is [530, 12,",
            "exact_sum is True on rank 1 and False on rank 0",
            "X_valid is 'given' on rank 1 and 'None' on rank 0",
            "what was trained so far is '1060 rows",
        )
        assert len(errors) == len(expected)
        for error, message in zip(errors, expected):
            assert error["message"].startswith(message)
        assert after["digest"]

    def test_data_that_is_refused(self):
        error, _ = common(run(2, "bad_data"))
        assert error["message"].startswith("X holds 1 NaN or infinite value, the first one (inf) in row 400, column 3")

    def test_ctrl_c(self, tmp_path):
        """Where the launcher forwards it, all ranks stop after the same step; otherwise it ends them."""
        path = tmp_path / "model.npz"
        job = subprocess.Popen(
            command(2, PROGRAM, "interrupted", path), stdout=subprocess.PIPE, text=True, env=environment(),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        begun, deadline = Path(f"{path}.begun"), time.monotonic() + SOON
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        job.send_signal(signal.SIGINT)
        output, _ = job.communicate(timeout=SOON)
        said = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        if said or not is_open_mpi():
            first, second = ({name: value for name, value in line.items() if name != "rank"} for line in said)
            assert first == second
            assert first["stopped"].startswith("interrupted")
        assert npvae.load(path).training_.progress.samples_seen >= 0


@pytest.mark.parametrize(("other", "n_threads"), [(None, 1), (runtime.Place("another node", (0, 1)), 2)])
def test_threads_of_a_rank(monkeypatch, other, n_threads):
    """Each rank has its share of the cores that it may use: the other rank here is on these, or elsewhere."""
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime.Place, "here", lambda: runtime.Place("node", (0, 1)))
    found = []
    monkeypatch.setattr(runtime.numba, "get_num_threads", lambda: 2)
    monkeypatch.setattr(runtime.numba, "set_num_threads", found.append)

    class Two(Alone):
        size = 2

        def gather(self, value):
            return [value, other or value]

    with fitting.on_a_share_of_the_cores(Two()):
        assert found == [n_threads]
    assert found == [n_threads, 2]


def test_shards_do_not_depend_on_the_number_of_ranks():
    assert [n_shards(size) for size in (1, 1000, 2000, 10**6)] == [4, 4, 8, 64]
