"""What holds for the tests themselves: one of pure Python starts at once, and what is slow says why."""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_shared_fixtures_load_no_compiler():
    code = (
        "import sys, conftest; print([name for name in ('numba', 'matplotlib', 'scipy.stats') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_slow_tests_say_why():
    lines = [line for path in HERE.glob("test_*.py") for line in path.read_text().splitlines()]
    marks = [line for line in lines if re.match(r"\s*(@|pytestmark = )pytest\.mark\.slow\b", line)]
    assert marks and all(re.search(r'\.slow\(reason="[^"]+"\)', line) for line in marks)
