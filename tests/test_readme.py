"""What the README says works: its Python runs, its commands are understood, and two of them set things up."""

import re
import shlex
from pathlib import Path

import pytest

from npvae import cli

README = Path(__file__).parent.parent / "README.md"


def blocks(language):
    """Return the code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


#: The last lines that the blocks of Python print, in order.
LAST_LINES = (r"passed; worst: \S+ \S+", r"FAILED in b; worst: b 9\.05e-01")


def test_all_python_is_run():
    assert len(blocks("python")) == len(LAST_LINES)


@pytest.mark.parametrize("code, last_line", list(zip(blocks("python"), LAST_LINES, strict=False)), ids=["model", "own"])
def test_python_runs(code, last_line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(last_line, capsys.readouterr().out.splitlines()[-1])


def test_report_of_the_planted_error(capsys):
    """The report that is shown is the one that is printed, but for rounding errors of what is right."""
    exec(compile(blocks("python")[1], "README.md", "exec"), {})
    (shown,) = blocks("text")
    shown, said = shown.splitlines(), capsys.readouterr().out.splitlines()
    assert len(shown) == len(said) == 4
    assert [line for line in shown if "  ok " not in line] == [line for line in said if "  ok " not in line]
    assert "  b  " in said[2] and "FAILED" in said[2]


@pytest.mark.parametrize("line", [line for line in "".join(blocks("bash")).splitlines() if line.startswith("npvae")])
def test_commands_are_understood(line):
    arguments = cli.build_parser().parse_args(shlex.split(line, comments=True)[1:])
    assert callable(arguments.run)


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", README.read_text())
    files = links + re.findall(r"docs/\S+\.(?:md|png)|npvae/\S+\.py|tests/\S+\.py", README.read_text())
    assert len(files) > 5
    for name in files:
        assert (README.parent / name).exists(), name


def test_two_commands_set_things_up():
    setups = [block for block in blocks("bash") if "pip install" in block]
    assert setups == ["pip install . && npvae train\n", 'pip install -e ".[test]" && python -m pytest\n']
