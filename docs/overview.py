"""Run the tutorials, and write their overview: ``python docs/overview.py`` writes ``tutorials/README.md``.

The overview has the title, the question, the measured answer and a thumbnail of each tutorial. All of it comes from the
tutorials: the answer is the line that begins with "Answer: " in what a run prints, the thumbnail is the figure with the
label "thumbnail". ``python docs/overview.py 03 05`` runs these two again, and leaves the others as they are.
"""

import contextlib
import io
import itertools
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9a]*_*.py"))

#: Width of a thumbnail in pixels.
WIDTH = 320

HEAD = """# Tutorials

Each file here is a script, a notebook (Jupyter and VS Code open it with jupytext) and a page of the documentation.
Nothing is downloaded, and each runs in less than a minute on two cores. Read them in order: what one tutorial writes by
hand, the next ones take from the library. Every number is printed, and every claim is asserted. Begin with 01; 00 is
for those who want to see the whole method at once. Guess before you look at an answer.

`python docs/overview.py` writes this page from what the tutorials print.
"""


# In the process that runs a tutorial ---------------------------------------------------------------------------------


def examine(path, thumbnail):
    """Run a tutorial, save its thumbnail, and return what it printed, its exercises and its figures."""
    import matplotlib.pyplot as plt

    from npvae.exercises import Exercise

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names = runpy.run_path(str(path), run_name="__main__")
    figures = [plt.figure(number) for number in plt.get_fignums()]
    for figure in figures:
        if figure.get_label() == "thumbnail":
            figure.savefig(thumbnail, dpi=WIDTH / figure.get_size_inches()[0], metadata={"Software": None})
    return {
        "printed": printed.getvalue(),
        "seconds": sum(os.times()[:4]),
        "figures": [(figure.get_label(), [_axis_names(ax) for ax in figure.axes]) for figure in figures],
        "exercises": {name: _judged(names, name) for name in names if isinstance(names[name], Exercise)},
    }


def _axis_names(ax):
    """Return the names of both axes, or None for pictures, and for axes that are switched off or have no ticks."""
    bare = ax.images or not ax.axison or not (len(ax.get_xticks()) or len(ax.get_yticks()))
    return None if bare else (ax.get_xlabel(), ax.get_ylabel())


def _judged(names, name):
    """Return what a checker says of the stub and of zeros, and the number of mistakes that it knows."""
    check, stub = names[name], names[name.removeprefix("check_")]
    zeros = itertools.cycle([tuple(0 * part for part in parts) for parts in check.expected])
    return {
        "stub": check(stub),
        "zeros": check(lambda *arguments: (lambda parts: parts if len(parts) > 1 else parts[0])(next(zeros))),
        "mistakes": len(check.mistakes),
    }


# In the process that asks for it -------------------------------------------------------------------------------------


def run(path, thumbnail, timeout=None, package=ROOT):
    """Run a tutorial in a process of its own, with warnings as errors, in an empty folder.

    Parameters
    ----------
    path : of the tutorial
    thumbnail : path of the picture to write
    timeout : float or None, in seconds
    package : the folder that has the package ``npvae``

    Returns
    -------
    report : dict
        "printed", "seconds" of processor time, "figures" and "exercises".

    Raises
    ------
    RuntimeError
        If the tutorial fails, with what it said last.
    """
    thumbnail = Path(thumbnail).absolute()
    warnings = ["-W", "error", "-W", "ignore:FigureCanvasAgg is non-interactive:UserWarning"]
    command = [
        sys.executable,
        *warnings,
        str(Path(__file__).absolute()),
        "--examine",
        str(Path(path).absolute()),
        str(thumbnail),
    ]
    paths = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, cwd=thumbnail.parent, env=environment, timeout=timeout, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise RuntimeError(f"{Path(path).name} fails:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def number(path):
    """Return the number of a tutorial: the part of its name before the first underscore."""
    return Path(path).stem.partition("_")[0]


def entry(path, report):
    """Return the part of the overview about one tutorial."""
    text = Path(path).read_text(encoding="utf-8")
    title = re.search(r"^# # (.+)$", text, re.MULTILINE)[1]
    question = re.search(r"^# \*\*Question:\*\* ((?:.+\n)+?)#\n", text, re.MULTILINE)[1].replace("\n# ", " ").strip()
    (answer,) = re.findall(r"^Answer: (.+)$", report["printed"], re.MULTILINE)
    no = number(path)
    return f"""
## [{no.upper()}. {title}]({Path(path).name})

![{title}](thumbnails/{no}.png)

**{sentence(question)}**

<details><summary>The answer</summary>

{sentence(answer)}

</details>
"""


def sentence(text):
    """Return text with a capital at its beginning and a full stop or a question mark at its end."""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?" else ".")


def entries(overview):
    """Return the parts of an overview by the number of the tutorial."""
    parts = re.split(r"(?=\n## \[)", overview)[1:]
    return {re.match(r"\n## \[(\w+)\.", part)[1].lower(): part for part in parts}


def main(chosen):
    """Run the tutorials with these numbers, or all of them, and write the overview."""
    page = FOLDER / "README.md"
    parts = entries(page.read_text(encoding="utf-8")) if page.exists() else {}
    (FOLDER / "thumbnails").mkdir(exist_ok=True)
    for path in TUTORIALS:
        if not chosen or number(path) in chosen:
            report = run(path, FOLDER / "thumbnails" / f"{number(path)}.png")
            parts[number(path)] = entry(path, report)
            print(f"{path.name}: {report['seconds']:.1f} s")
    known = [number(path) for path in TUTORIALS]
    page.write_text(HEAD + "".join(parts[no] for no in known if no in parts), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--examine"]:
        print(json.dumps(examine(*sys.argv[2:])))
    else:
        main(sys.argv[1:])
