"""The program whose types mypy checks (`typing/user_script.py`): it runs, too."""

import runpy
from pathlib import Path

import npvae

SCRIPT = Path(__file__).parent / "typing" / "user_script.py"


def test_the_script_that_mypy_checks_runs(tmp_path):
    main = runpy.run_path(str(SCRIPT))["main"]
    assert isinstance(main(tmp_path / "model.npz"), npvae.VAE)
