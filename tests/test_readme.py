"""What the README says works: its Python runs, its commands are understood, and there are two to set things up."""

import re
import shlex
from pathlib import Path

import pytest

from npvae import cli

README = Path(__file__).parent.parent / "README.md"


def blocks(language):
    """Return the code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert "passed; worst: " in capsys.readouterr().out


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
