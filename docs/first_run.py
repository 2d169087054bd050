"""The README's first command as a new user sees it, second by second: run it, and write the page first_run.md.

``python docs/first_run.py`` takes under two minutes on two cores that have nothing else to do. The command runs in an
empty folder, and with an empty cache of compiled kernels.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from npvae.bench import machine

HERE = Path(__file__).parent
COMMAND = ("npvae", "train")

PAGE = """# The first run, second by second

What `{command}` says to a new user: the kernels are not compiled yet, and what it says goes to a file, so that there
is a line where a terminal would show a bar. On the left are the seconds since the start.
The longest silence is {silence:.1f} s. Machine: {machine}.
`docs/first_run.py` runs the command and writes this page.

```text
{lines}
```
"""


def transcript():
    """Run the command; return (seconds since the start, line) of everything that it says, and when it ends."""
    module = [sys.executable, "-m", *COMMAND]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment.pop(variable, None)
        began = time.perf_counter()
        process = subprocess.Popen(
            module, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = [(time.perf_counter() - began, line.rstrip()) for line in process.stdout]
        if process.wait() != 0:
            raise RuntimeError("\n".join(line for _, line in said))
        return [*said, (time.perf_counter() - began, "(end)")]


def longest_silence(said):
    """Return the longest time, in seconds, in which nothing was said."""
    times = [0.0, *(seconds for seconds, _ in said)]
    return max(after - before for before, after in itertools.pairwise(times))


def read(page):
    """Return what `transcript` returned, from the text of the page."""
    return [(float(seconds), line) for seconds, line in re.findall(r"^ *(\d+\.\d)  (.*)$", page, re.MULTILINE)]


def main():
    said = transcript()
    lines = "\n".join(f"{seconds:6.1f}  {line}" for seconds, line in said)
    page = PAGE.format(
        command=" ".join(COMMAND), silence=longest_silence(said), machine=machine.describe(), lines=lines
    )
    (HERE / "first_run.md").write_text(page)


if __name__ == "__main__":
    main()
