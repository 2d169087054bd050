"""What is said while one waits: stages, epochs with the time left, in a terminal and in a log; and Ctrl-C then."""

import importlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from npvae import progress
from npvae.backends import runtime

#: Stands in for tqdm: it redraws its line, as tqdm does.
TQDM = """
import sys
class tqdm:
    def __init__(self, total, initial=0, unit="it"): self.total, self.n, self.text = total, initial, ""
    def set_postfix_str(self, text, refresh=True): self.text = text
    def refresh(self): sys.stderr.write(f"\\rbar {self.n}/{self.total} {self.text}")
    def __enter__(self): return self
    def __exit__(self, *error): sys.stderr.write("\\n")
"""

SMALL = ("--hidden", "4", "--components", "2", "--epochs", "3", "--backend", "reference")


def epoch(number):
    return SimpleNamespace(epoch=number, elbo=-3.0 - number, elbo_valid=np.nan)


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def test_lines_say_the_time_of_an_epoch_and_the_time_left(clock, capsys):
    lines = progress.Lines(20, done=4)
    clock.now += 4
    lines.within(0.3)  # not yet
    clock.now += 2
    lines.within(0.5)
    clock.now += 6
    lines(epoch(5))
    clock.now += 0.5
    lines(epoch(6))  # too soon after the last line
    clock.now += 3600
    lines(epoch(7))
    clock.now += 0.1
    lines(epoch(20))  # the last one always
    assert capsys.readouterr().err.splitlines() == [
        "epoch    5 of 20: 50% done, 12 s an epoch, 3:06 min left",
        "epoch    5 of 20: bound -8.00 nats, 12 s an epoch, 3:00 min left",
        "epoch    7 of 20: bound -10.00 nats, 20:04 min an epoch, 4:20 h left",
        "epoch   20 of 20: bound -23.00 nats, 3:46 min an epoch, 0 s left",
    ]


def test_a_long_training_has_fewer_lines(clock, capsys):
    lines, counts = progress.Lines(10_000), {}
    for number in range(1, 10_000):
        clock.now += 0.5
        lines(epoch(number))
        if number in (10, 9_999):
            counts[number] = len(capsys.readouterr().err.splitlines())
    assert counts[10] == 5 and 500 < counts[9_999] < 600  # of 5000 seconds, one line in ten for the most part


def test_a_bar_moves_within_an_epoch(clock):
    shown = []
    bar = SimpleNamespace(n=4, refresh=lambda: shown.append(bar.n), set_postfix_str=lambda text, refresh: None)
    show = progress.Bar(bar)
    for share in (0.1, 0.2, 0.3):
        show.within(share)
        clock.now += 0.15
    show(epoch(5))
    show.within(0.5)
    assert shown == [4.1, 4.3, 5]


def test_a_stage_is_announced_if_it_lasts(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SOON", 0.2)
    monkeypatch.setattr(progress, "OFTEN", 0.4)
    with progress.show_stages(True) as doing:
        doing("being quick")
        doing("thinking")
        time.sleep(1.3)
        doing(None)
        time.sleep(0.5)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "thinking" and len(said) >= 2 and all(re.fullmatch(r"\.\.\. [01] s", line) for line in said[1:])
    with pytest.raises(KeyboardInterrupt), progress.show_stages(True) as doing:
        doing("dreaming")
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted while dreaming\n"


def test_kernels_are_looked_up_where_numba_keeps_them(tmp_path, monkeypatch):
    (tmp_path / "kernel_of_test.py").write_text(
        "import numba\n@numba.njit(cache=True)\ndef f(x):\n    return x.sum()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    kernel = importlib.import_module("kernel_of_test").f
    assert not runtime.is_on_disk(kernel, "float32")
    kernel(np.zeros(3, np.float32))
    assert runtime.is_on_disk(kernel, np.float32) and not runtime.is_on_disk(kernel, np.float64)
    other = importlib.reload(sys.modules["kernel_of_test"]).f  # as in another process
    assert not other.signatures and runtime.is_on_disk(other, "float32") and not runtime.is_on_disk(other, "float64")
    (tmp_path / "kernel_of_test.py").write_text(
        "import numba\n@numba.njit(cache=True)\ndef f(x):\n    return x.max()\n"
    )
    importlib.invalidate_caches()
    changed = importlib.reload(sys.modules["kernel_of_test"]).f
    assert not runtime.is_on_disk(changed, "float32")  # of another source


# The command, in a terminal and in a log ------------------------------------------------------------------------------


def start(arguments, folder, terminal=False, with_tqdm=False, **environment):
    """Start the command in a folder; return the process, and the file to read what it says."""
    (folder / "modules").mkdir(exist_ok=True)
    if with_tqdm:
        (folder / "modules" / "tqdm.py").write_text(TQDM)
    path = os.pathsep.join([str(folder / "modules"), *sys.path])
    command = [sys.executable, "-m", "npvae", *arguments]
    reader, writer = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        command, cwd=folder, stdout=writer, stderr=writer, env=os.environ | {"PYTHONPATH": path} | environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it is ignored in the background
    )  # fmt: skip
    os.close(writer)
    return process, reader


def read(reader, until=None):
    """Read what a process says, to the end or until some words appear."""
    said = b""
    while until is None or until.encode() not in said:
        try:
            some = os.read(reader, 10_000)
        except OSError:  # the end of a terminal
            break
        if not some:
            break
        said += some
    return said.decode()


@pytest.fixture
def folder(tmp_path, rng):
    np.save(tmp_path / "x.npy", rng.standard_normal((400, 6)))
    return tmp_path


@pytest.mark.process
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "log"])
@pytest.mark.parametrize("with_tqdm", [True, False], ids=["tqdm", "no tqdm"])
def test_progress_in_a_terminal_and_in_a_log(folder, terminal, with_tqdm):
    arguments = ["train", "x.npy", *SMALL, "--learning-rate", "0.02"]
    process, reader = start(arguments, folder, terminal, with_tqdm)
    said = read(reader).replace("\r\n", "\n")
    assert process.wait(60) == 0, said
    if terminal and with_tqdm:
        assert "\rbar 3/3 bound" in said
    else:
        assert "\r" not in said and re.search(r"epoch    3 of 3: bound .* s an epoch, 0 s left\n", said)
    assert re.search(r"\n\d+ s in all\n", said)


def interrupt(folder, arguments, words, **environment):
    """Press Ctrl-C once some words have been said; return what is said from then on."""
    process, reader = start(arguments, folder, **environment)
    said = read(reader, until=words)
    assert words in said
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    rest = read(reader)
    assert process.wait(60) == 130 and "Traceback" not in said + rest and time.monotonic() - began < 15, rest
    return rest


@pytest.mark.process
def test_ctrl_c_while_the_kernels_are_compiled(folder):
    """At once, and without files."""
    environment = {"NUMBA_CACHE_DIR": str(folder / "cache")}
    rest = interrupt(folder, ["train", "x.npy", "--out", "m.npz"], "compiling the kernels, the first", **environment)
    assert "interrupted while compiling the kernels" in rest and "no file was written\nnpvae: interrupted\n" in rest
    assert not list(folder.glob("m.*")) and not list(folder.glob(".*"))


@pytest.mark.process
def test_ctrl_c_while_the_step_size_is_chosen(folder, rng):
    np.save(folder / "x.npy", rng.standard_normal((400, 300)))
    arguments = ["train", "x.npy", "--hidden", "4000", "--backend", "reference", "--out", "m.npz"]
    rest = interrupt(folder, arguments, "choosing the step size: trial 1 of 3, with 0.01")
    assert "interrupted while choosing the step size: trial 1 of 3" in rest and "no file was written" in rest
    assert not list(folder.glob("m.*")) and not list(folder.glob(".*"))
