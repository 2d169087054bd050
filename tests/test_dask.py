"""Many fits, and scores of many rows, on the workers of a Dask cluster: the bits of one process, also if a worker dies.

The workers are processes of this machine. Two clusters serve all tests; the workers of one have small data and models.
"""

import copy
import csv
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba
import numpy as np
import pytest
import test_processes
import test_reproduce

import npvae
from npvae import cli, cluster
from npvae.backends import runtime
from npvae.bench import tables
from npvae.reproduce import runner

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
joblib = pytest.importorskip("joblib")

pytestmark = pytest.mark.process
small = test_reproduce.small

starts_workers = pytest.mark.slow(reason="starts workers, which import all: some seconds")


def start(**options):
    """Start two workers with one thread each, and a scheduler in this process. Ports are any that are free."""
    chosen = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": ":0"}
    return distributed.LocalCluster(**chosen | options)


@pytest.fixture(scope="module")
def two_workers():
    with start() as started, distributed.Client(started) as connected:
        yield connected


@pytest.fixture
def client(two_workers):
    """A client of two workers. One that another test has killed is started again first: joblib works here for one."""
    two_workers.wait_for_workers(2, timeout=60)
    return two_workers


@pytest.fixture
def workers(client):
    """What the commands use of the same workers."""
    with cluster.connect(client.scheduler.address) as connected:
        yield connected


class Dies:
    """A call ends the process that makes it, the first of all calls alone: a file says that it was made."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *ignored):
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


# joblib, and scikit-learn through it ----------------------------------------------------------------------------------

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 3, "learning_rate": 0.05, "backend": "cpu"}


def fitted(seed, dies):
    """Return the bytes of what a fit learns; the first process that is in the middle of its second fit dies."""
    model = npvae.VAE(**SMALL, random_state=seed, callbacks=(dies,) if seed else ())
    return model.fit(test_processes.data()).parameters_.vector.tobytes()


def backend_of(name, client, **options):
    return joblib.parallel_config(name, **(options if name == "dask" else {"n_jobs": 2}))


@starts_workers
@pytest.mark.parametrize("name", ["dask", "loky"])
def test_grid_search(client, rng, name):
    selection = pytest.importorskip("sklearn.model_selection")
    X = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 6))
    search = selection.GridSearchCV(npvae.VAE(**SMALL), {"n_components": [1, 2, 4]}, cv=3)
    serial, bounds = search.fit(X).cv_results_, selection.cross_val_score(npvae.VAE(**SMALL), X, cv=3)
    vector = search.best_estimator_.parameters_.vector
    with backend_of(name, client, scatter=[X]):
        found = search.fit(X).cv_results_
        np.testing.assert_array_equal(selection.cross_val_score(npvae.VAE(**SMALL), X, cv=3), bounds)
    scores = [key for key in serial if "score" in key and "time" not in key]
    assert len(scores) == 6
    for key in scores:
        np.testing.assert_array_equal(found[key], serial[key])
    np.testing.assert_array_equal(search.best_estimator_.parameters_.vector, vector)


@starts_workers
def test_a_worker_with_two_threads():
    """They share the threads of Numba, whose number is set as the page says, unless it is set for this process."""
    chosen = os.environ.get("NUMBA_NUM_THREADS", "2")
    alone = [test_processes.fitted(seed) for seed in range(4)]
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ.NUMBA_NUM_THREADS": chosen}),
        start(n_workers=1, threads_per_worker=2) as started,
        distributed.Client(started) as client,
    ):
        assert {found[1:] for found in client.run(threads, None).values()} == {(int(chosen), chosen)}
        with joblib.parallel_config("dask"):
            assert joblib.Parallel()(joblib.delayed(test_processes.fitted)(seed) for seed in range(4)) == alone


@starts_workers
def test_fits_while_a_worker_dies(client, tmp_path):
    path = tmp_path / "died"
    with joblib.parallel_config("dask"):
        found = joblib.Parallel()(joblib.delayed(fitted)(seed, Dies(path)) for seed in range(6))
    assert path.exists() and found == [fitted(seed, Dies(path)) for seed in range(6)]


PAGE = Path(__file__).parents[1] / "docs" / "several_machines.md"


@starts_workers
def test_the_examples_of_the_page(client, tmp_path):
    """They run, and their answers are those of one process."""
    pytest.importorskip("sklearn")
    page, _, _ = PAGE.read_text().partition("## One training on many nodes")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    there = code.replace('"tcp://node1:8786"', repr(client.scheduler.address))
    there = there.replace('"rows.npy"', repr(str(tmp_path / "rows.npy")))
    assert there.count(client.scheduler.address) == 2
    names = {"__name__": "__main__"}
    exec(compile(there, str(PAGE), "exec"), names)
    search, model, X = names["search"], names["model"], names["X"]
    np.testing.assert_array_equal(names["scores"], model.score_samples(X))
    found = search.cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found, search.fit(X).cv_results_["mean_test_score"])
    assert len(names["parts"]) == 3 and len(found) == 3


USES = {
    "transform": {},
    "score_samples": {},
    "reconstruct": {},
    "encode": {},
    "log_likelihood": {"n_samples": 30},
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.filterwarnings("ignore:importance:UserWarning")
def test_pieces_have_the_bits_of_the_whole(use):
    """Pieces of any size, rows that are equal among them. A copy without the state of the training is enough."""
    X = np.repeat(test_processes.data(), 2, axis=0)[:401]
    model = npvae.VAE(**SMALL).fit(X)
    light = copy.copy(model)
    del light.training_
    assert len(pickle.dumps(light)) < 0.75 * len(pickle.dumps(model))
    light = pickle.loads(pickle.dumps(light))
    whole = getattr(model, use)(X, **USES[use])
    parts = [getattr(light, use)(part, **USES[use]) for part in np.split(X, [1, 8, 300])]
    for one, pieces in zip(whole, zip(*parts)) if use == "encode" else [(whole, parts)]:
        np.testing.assert_array_equal(np.concatenate(pieces), one)


def opened(X):
    """Return the file of a memory map, and its first number."""
    return str(getattr(X, "filename", None)), float(X[0, 0])


@starts_workers
def test_a_memory_map_is_opened_by_processes_of_joblib(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(6e5).reshape(-1, 2))
    X = np.load(tmp_path / "rows.npy", mmap_mode="r")
    with joblib.parallel_config("loky", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(opened)(X[start:]) for start in (0, 100))
    assert found == [(str(tmp_path / "rows.npy"), 0.0), (str(tmp_path / "rows.npy"), 200.0)]


# The workers, as the commands use them --------------------------------------------------------------------------------


def square(task):
    number, dies = task
    if number == 3:
        dies()
    cluster.say(f"{number} is done")
    return number * number


@starts_workers
def test_each_task_is_done_once_more_if_its_worker_dies(workers, tmp_path, capsys):
    dies = Dies(tmp_path / "died")
    assert sorted(workers.map(square, [(number, dies) for number in range(8)])) == [n * n for n in range(8)]
    assert dies.path.exists()
    deadline = time.monotonic() + 10
    said = ""
    while "7 is done" not in said and time.monotonic() < deadline:  # it arrives beside the results
        time.sleep(0.05)
        said += capsys.readouterr().err
    assert "7 is done\n" in said
    assert list(workers.map(square, [])) == []


def dying(task):
    os.kill(os.getpid(), signal.SIGKILL)


@starts_workers
def test_a_task_that_no_worker_survives(client, workers):
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        client.cluster.scheduler.allowed_failures = 0
        with pytest.raises(RuntimeError, match="1 workers died of a task, the last one was tcp://127"):
            list(workers.map(dying, [None]))
    client.cluster.scheduler.allowed_failures = 3


def failing(task):
    raise ValueError(f"not {task}")


@starts_workers
def test_an_error_of_a_task_is_raised(workers):
    with pytest.raises(ValueError, match="not this one"):
        list(workers.map(failing, ["this one"]))
    with pytest.raises(RuntimeError, match="worker tcp://127.0.0.1:.*: not here"):
        workers.on_each(failing, "here")


def endless(folder):
    """Work until the command is stopped."""
    (folder / f"began-{os.getpid()}").touch()
    while True:
        time.sleep(0.05)
        try:
            cluster.check_stopped()
        except InterruptedError:
            (folder / f"stopped-{os.getpid()}").touch()
            raise


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@starts_workers
def test_ctrl_c_ends_the_tasks_on_the_workers(workers, tmp_path):
    """Those that have begun end, and the third does not begin."""

    def interrupt():
        wait_for(lambda: len(list(tmp_path.glob("began-*"))) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    watching = threading.Thread(target=interrupt)
    watching.start()
    with pytest.raises(KeyboardInterrupt):
        list(workers.map(endless, [tmp_path] * 3))
    watching.join()
    wait_for(lambda: len(list(tmp_path.glob("stopped-*"))) == 2)
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == 4
    assert list(workers.map(square, [(2, None)])) == [4]  # the workers are free, and another run is not stopped


def threads(ignored):
    return numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS, os.environ.get("NUMBA_NUM_THREADS")


@starts_workers
def test_workers_share_the_cores(client, workers):
    """Two of one thread on this machine: half of the cores each. Beside the tasks of the command, nothing changes."""
    share = max(1, len(runtime.Place.here().cores) // 2)
    n_threads, most, chosen = next(workers.map(threads, [None]))
    assert n_threads == (share if chosen is None else int(chosen))
    assert client.submit(threads, None, pure=False).result()[0] == most


def test_shares_of_cores(monkeypatch):
    """Of four cores, and of those of another machine. What the user has set takes precedence."""
    assert [runtime.Place("node", (4, 5, 6, 7)).share(slots) for slots in (1, 2, 3, 4, 9)] == [4, 2, 1, 1, 1]
    seen = []
    monkeypatch.setattr(numba, "get_num_threads", lambda: 8)
    monkeypatch.setattr(numba, "set_num_threads", seen.append)
    monkeypatch.setattr(runtime, "threads", lambda: 8)
    for environment in ({}, {"NUMBA_NUM_THREADS": "8"}):
        monkeypatch.setattr(os, "environ", environment)
        with runtime.using_threads(2):
            pass
    assert seen == [2, 8, 8, 8]


# The commands ---------------------------------------------------------------------------------------------------------


def dask_setup(worker):
    """Make data and models small in a worker that Dask starts with this file, and have it write often.

    The first that has written three points of a curve dies, if the folder has this name.
    """
    patch, write = pytest.MonkeyPatch(), runner.write

    def dies(path, points):
        write(path, points)
        if path.parent.name == "dies" and len(points) >= 3:
            Dies(path.parent / "died")()

    test_reproduce.make_small(patch)
    patch.setattr(runner, "EVERY", 0.05)
    patch.setattr(runner, "write", dies)


@pytest.fixture(scope="module")
def scheduler():
    """The address of a cluster whose workers have small data and models."""
    with start(preload="test_dask") as started:
        yield started.scheduler_address


NAMES = ("mnist-3-aevb", "mnist-5-aevb")


@starts_workers
def test_a_figure(small, scheduler, capsys):
    """Its tables are those of this process, byte by byte, although a worker dies; the training goes on where it was."""
    arguments = ["reproduce", "fig2", "--samples", "1e4", "--only", *NAMES]
    assert cli.main([*arguments, "--out", "dies", "--scheduler", scheduler]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("models, tables and picture: dies\n") and (small / "dies" / "died").exists()
    assert test_reproduce.run(*arguments[1:], "--out", "whole") == 0
    for name in NAMES:
        assert (small / "dies" / f"{name}.csv").read_bytes() == (small / "whole" / f"{name}.csv").read_bytes()
        assert said.err.count(f"{name}: 1.02e+03 of 1e+04 samples") == 1
    assert not list((small / "dies").glob(".*"))
    assert cli.main([*arguments, "--out", "dies", "--scheduler", scheduler]) == 0  # nothing is left to do


@starts_workers
def test_a_figure_whose_models_are_scored_afterwards(small, scheduler):
    arguments = ["reproduce", "fig3", "--samples", "1e4", "--only", "n1000-aevb"]
    assert cli.main([*arguments, "--out", "there", "--scheduler", scheduler]) == 0
    assert test_reproduce.run(*arguments[1:], "--out", "here") == 0
    assert (small / "there/n1000-aevb.csv").read_bytes() == (small / "here/n1000-aevb.csv").read_bytes()


@starts_workers
def test_ctrl_c_ends_the_training_of_a_figure(small, scheduler):
    """Its files stay as they are, and the same command goes on to the table of a run that was not stopped."""
    arguments = ["reproduce", "fig2", "--samples", "2e4", "--only", "mnist-10-aevb"]
    there = [*arguments, "--out", "stopped", "--scheduler", scheduler]
    table, model = (small / "stopped" / f"mnist-10-aevb.{suffix}" for suffix in ("csv", "npz"))

    def interrupt():
        wait_for(lambda: len(runner.read(table)) > 2)
        os.kill(os.getpid(), signal.SIGINT)

    watching = threading.Thread(target=interrupt)
    watching.start()
    assert cli.main(there) == 130
    watching.join()
    time.sleep(1)
    written = model.stat().st_mtime_ns
    time.sleep(1)
    assert model.stat().st_mtime_ns == written and 2 < len(runner.read(table)) < 14
    assert not list((small / "stopped").glob(".*"))
    assert cli.main(there) == 0
    assert test_reproduce.run(*arguments[1:], "--out", "whole") == 0
    assert table.read_bytes() == (small / "whole" / table.name).read_bytes()


@starts_workers
def test_a_folder_that_is_not_shared(small, scheduler, monkeypatch, capsys):
    """Nothing is trained before it is said, and nothing is left in the folder."""
    monkeypatch.setattr(Path, "touch", lambda path: None)  # as if the workers did not see the file
    assert cli.main(["reproduce", "fig2", "--samples", "1e4", "--out", "own", "--scheduler", scheduler]) == 1
    said = capsys.readouterr().err
    assert said.startswith("npvae: error: worker tcp://127.0.0.1:") and "expected a folder that all machines" in said
    assert list((small / "own").iterdir()) == []


@starts_workers
def test_data_that_a_worker_does_not_have(small, client, capsys):
    """These workers do not have small data, and MNIST is not in this folder."""
    (small / "data").mkdir()
    arguments = ["reproduce", "fig2", "--samples", "1e4", "--only", "mnist-3-aevb", "--data-dir", "data"]
    assert cli.main([*arguments, "--scheduler", client.scheduler.address]) == 1
    said = capsys.readouterr().err
    assert f"{small}/data" in said and "train-images-idx3-ubyte" in said and "worker tcp://127.0.0.1:" in said


TABLES = ["bench", "tables", "--tables", "iris", "noise", "--contestants", "PPCA", "independent", "--seeds", "0", "1"]


@starts_workers
def test_small_tables(client, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    assert cli.main([*TABLES, "--out", "there.csv", "--scheduler", client.scheduler.address]) == 0
    assert cli.main([*TABLES, "--out", "here.csv"]) == 0
    there, here = (sorted(score[:4] for score in tables.read(Path(name))) for name in ("there.csv", "here.csv"))
    assert there == here and len(here) == 9
    with open("there.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 10
    capsys.readouterr()
    assert cli.main([*TABLES, "--out", "there.csv", "--scheduler", client.scheduler.address]) == 0  # it has all
    assert ", seed 0: " not in capsys.readouterr().out


@starts_workers
def test_a_library_that_a_worker_does_not_have(client, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    patch = "import npvae.bench.densities as densities; densities.available = lambda: ['independent']"
    client.run(exec, patch)
    assert cli.main([*TABLES, "--force", "--scheduler", client.scheduler.address]) == 1
    assert "'PPCA' cannot be trained, since sklearn is not installed" in capsys.readouterr().err
    client.run(exec, "import importlib, npvae.bench.densities as densities; importlib.reload(densities)")


@starts_workers
def test_another_version_on_a_worker(client, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "__version__", "9.9")
    assert cli.main([*TABLES, "--scheduler", client.scheduler.address]) == 1
    assert f"has npvae {npvae.__version__}; expected 9.9, as here" in capsys.readouterr().err


COMMANDS = [["reproduce", "fig2", "--samples", "1e4", "--only", "mnist-3-aevb"], TABLES]


@pytest.mark.parametrize("command", COMMANDS, ids=["reproduce", "bench"])
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "127.0.0.1:9", "nowhere", "tcp://127.0.0.1:x", ""])
def test_nobody_answers(small, monkeypatch, capsys, command, address):
    """An error in the time allowed; nothing is written."""
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    began = time.monotonic()
    assert cli.main([*command, "--scheduler", address]) == 1
    assert time.monotonic() - began < 60  # it does not wait for ever
    said = capsys.readouterr().err
    assert (
        said.startswith(f"npvae: error: --scheduler {address}: no Dask scheduler answers (") and said.count("\n") == 1
    )
    assert list(small.iterdir()) == []


def test_a_server_that_is_no_scheduler(small, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    import socketserver

    class Other(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"220 mail.example.org\r\n" * 10)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            address = f"tcp://127.0.0.1:{server.server_address[1]}"
            assert cli.main([*TABLES, "--scheduler", address]) == 1
        finally:
            server.shutdown()
    assert f"--scheduler {address}: no Dask scheduler answers (" in capsys.readouterr().err


def test_no_workers(small, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with start(n_workers=0) as empty:
        assert cli.main([*TABLES, "--scheduler", empty.scheduler_address]) == 1
        expected = f"{empty.scheduler_address} has no workers; start some on each machine: dask worker tcp://127"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=["reproduce", "bench"])
def test_dask_is_not_installed(small, monkeypatch, capsys, command):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main([*command, "--scheduler", "tcp://127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert said == 'npvae: error: --scheduler needs Dask, and distributed is not installed: pip install "npvae[dask]"\n'


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["reproduce", "fig2", "--jobs", "2"], "--jobs is for processes of this machine; with --scheduler expected no"),
        (["bench", "kernels"], "--scheduler is for tables alone; got kernels"),
    ],
)
def test_options_that_do_not_go_together(small, capsys, arguments, message):
    assert cli.main([*arguments, "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert message in capsys.readouterr().err


@starts_workers
def test_the_scheduler_dies(tmp_path):
    """The command ends within seconds, with an error."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment, begun = os.environ | {"PYTHONPATH": path}, []

    def begin(*command):
        begun.append(subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    try:
        scheduler = begin(
            "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
        )
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        begin("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny")
        command = begin("-c", WORKS.format(address=address, folder=str(tmp_path)))
        wait_for(lambda: list(tmp_path.glob("began-*")))
        scheduler.kill()
        _, said = command.communicate(timeout=60)
        assert command.returncode == 1 and "ConnectionError: the scheduler is gone" in said
    finally:
        for process in begun:
            process.kill()
            process.wait()
            process.stderr.close()


WORKS = """
import pathlib
import test_dask
from npvae import cluster
with cluster.connect("{address}") as workers:
    list(workers.map(test_dask.endless, [pathlib.Path("{folder}")]))
"""
