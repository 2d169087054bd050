"""The tables of measurements in the pages, from the data files in ``results``: ``python docs/tables.py`` writes them.

A line ``<!-- table: SOURCE -->`` above a table names its data: a row of TABLES, or the test that makes the table. The
word after a ``#`` tells several tables of a file apart.
Nothing is measured here: the data files are written by the scripts beside this one, by `npvae bench`, by
`npvae reproduce`, and by ``tests/test_ptx.py``. The tables of ``npvae reproduce fig2`` are in the folder
``results/fig2``.
"""

import csv
import re
import statistics
from pathlib import Path

import numpy as np

from npvae.bench import epochs
from npvae.bench import tables as small_tables
from npvae.evaluation import Measurement
from npvae.evaluation import table as table_of_variances
from npvae.reproduce import drawing, figures, paper

HERE = Path(__file__).parent

#: A declared source, with the table below it.
DECLARED = re.compile(r"(<!-- table: (\S+) -->\n\n?)((?:\|.*\n)*)")


def save(source, rows):
    """Write rows, the first of which has the names of the columns, to a data file."""
    with open(HERE / source, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def load(source):
    """Return the rows of a data file as dicts, with floats for cells that are numbers."""
    with open(HERE / source, newline="", encoding="utf-8") as file:
        return [{name: number(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def number(cell):
    try:
        return float(cell)
    except ValueError:
        return cell


def markdown(names, *rows):
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (names, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(names), *lines[1:]])


def plain(source):
    """Return a data file as it is."""
    with open(HERE / source, newline="", encoding="utf-8") as file:
        return markdown(*csv.reader(file))


def of_setups(source):
    """Return the times of an epoch on data of 0 and 1, or on the other data."""
    bits = source.endswith("#bits")
    with open(file_of(source), newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    return markdown(names, *(row for row in rows if (row[0] in epochs.SETUPS_OF_BITS) == bits))


#: Data set -> digits after the point, and the bounds that its curve has.
CURVES = {"mnist": (1, ("train", "valid", "test")), "frey": (0, ("train", "test"))}


def curve(source):
    """Return some epochs of the learning curve of a data set, beside the paper and another implementation.

    Where runs with other seeds end, the test bound is the median over the seeds.
    """
    name = Path(source).stem
    digits, parts = CURVES[name]
    rows, table = {row["epoch"]: row for row in load(source)}, []
    if (HERE / f"results/{name}-seeds.csv").exists():
        counts, bounds = zip(*((counts[-1], bounds[-1]) for counts, bounds in last_epochs(name).values()))
        rows[counts[0]]["elbo_test"] = statistics.median(bounds)
    for other in load("results/elsewhere.csv"):
        if other["data set"] == name:
            row = rows[other["epoch"]]
            paper, reference = (cell and f"{cell:.{digits}f}" for cell in (other["paper"], other["reference"]))
            if other["samples"] != row["samples"]:
                reference += f" at {power(other['samples'])}"
            reference += other["note"] and f", {other['note']}"
            bounds = [f"{row[f'elbo_{part}']:.{digits}f}" for part in parts]
            table.append([f"{row['epoch']:.0f}", power(row["samples"]), *bounds, paper, reference])
    names = {"train": "training", "valid": "validation", "test": "test"}
    return markdown(["epochs", "samples", *(names[part] for part in parts), "paper, test", "reference, test"], *table)


def power(samples):
    """Return a number of samples as people write it: 5e4, 2.5e5."""
    return re.sub(r"\.?0*e\+0?", "e", f"{samples:.2e}")


def last_epochs(name):
    """Return seed -> (epochs, test bounds) of the runs of a data set with several seeds."""
    seeds = {}
    for row in load(f"results/{name}-seeds.csv"):
        counts, bounds = seeds.setdefault(row["seed"], ([], []))
        counts.append(row["epoch"])
        bounds.append(row["elbo_test"])
    return seeds


def last_bounds(source):
    """Return the test bound of each seed at its last epoch, and over the last epochs."""
    seeds = last_epochs(Path(source).stem.removesuffix("-seeds"))
    (n,) = {len(counts) for counts, _ in seeds.values()}
    rows = [
        [f"{seed:.0f}", *(f"{nats:.0f}" for nats in (bounds[-1], statistics.fmean(bounds), min(bounds), max(bounds)))]
        for seed, (_, bounds) in seeds.items()
    ]
    return markdown(["seed", "test bound at 1e6 samples", f"mean over the last {n} epochs", "lowest", "highest"], *rows)


def published(source):
    """Return the learning curve after 1, 2 and 5 times powers of ten epochs, and its last point."""
    *rows, last = load(source)
    some = [row for row in rows if f"{row['epoch']:.0e}"[0] in "125" and row["epoch"] == float(f"{row['epoch']:.0e}")]
    return markdown(
        ["epochs", "samples", "training", "test"],
        *([f"{row['epoch']:.0f}", power(row["samples"]), f"{row['elbo_train']:.1f}", f"{row['elbo_test']:.1f}"]
          for row in (*some, last)),
    )  # fmt: skip


#: Images and latent dimensions of the runs of full variational Bayes, by hidden units.
IMAGES, LATENTS, METHODS = 1000, {100: 3, 500: 20}, {"map": "MAP", "full": "full VB"}


def best(points):
    return max(points, key=lambda point: point["test"])


def full_vb(source):
    """Return the best and the last point of each run with seed 0."""
    rows = []
    for hidden, latents in LATENTS.items():
        for key, method in METHODS.items():
            points = load(f"results/full-vb-{hidden}-{key}.csv")
            for what, point in (("best on test data", best(points)), ("last", points[-1])):
                training, test, divergence = point["training"], point["test"], point["weight_divergence"]
                rows.append([
                    f"{hidden}, {latents}", f"{method}, {what}", power(point["samples"]), f"{training:.1f}",
                    f"{test:.1f}", f"{training - test:.1f}", f"{divergence:.0f}", f"{divergence / IMAGES:.1f}",
                ])  # fmt: skip
    names = ["hidden units, latents", "method", "samples", "training", "test", "gap", "D_KL of the weights"]
    return markdown([*names, "per datapoint"], *rows)


def full_vb_seeds(source):
    """Return the best test bound of both methods for each seed."""
    rows = []
    for hidden, latents in LATENTS.items():
        others = (HERE / "results").glob(f"full-vb-{hidden}-full-seed*.csv")
        for ending in ("", *sorted(path.stem.removeprefix(f"full-vb-{hidden}-full") for path in others)):
            found = [best(load(f"results/full-vb-{hidden}-{key}{ending}.csv")) for key in METHODS]
            cells = [cell for point in found for cell in (f"{point['test']:.1f}", power(point["samples"]))]
            rows.append([f"{hidden}, {latents}", ending[5:] or 0, *cells, f"{found[1]['test'] - found[0]['test']:.1f}"])
    names = [cell for method in METHODS.values() for cell in (f"{method}, best on test data", "samples")]
    return markdown(["hidden units, latents", "seed", *names, "difference"], *rows)


def full_vb_evidence(source):
    """Return bounds and estimates of log p(x) of both methods."""
    rows, columns = [], [f"{what}_{part}" for part in ("training", "test") for what in ("bound", "log_p")]
    for key, method in METHODS.items():
        for point in load(f"results/full-vb-100-{key}-evidence.csv"):
            rows.append([method, power(point["samples"]), *(f"{point[name]:.1f}" for name in columns)])
    names = [f"{what}, {part}" for part in ("training", "test") for what in ("bound", "log p(x)")]
    return markdown(["method", "samples", *names], *rows)


def regularization(source):
    """Return the bounds and the divergence for each number of latent dimensions."""
    rows = []
    for row in load(source):
        training, test = row["training"], row["test"]
        bounds = [f"{bound:.2f}" for bound in (training, test, training - test)]
        divergence = [f"{row[name]:.1f}" for name in ("divergence", "of_active")]
        rows.append([f"{row['latents']:.0f}", *bounds, f"{row['active']:.0f}", *divergence])
    rows.append(["independent pixels", f"{row['baseline']:.2f}", "", "", "", "", ""])
    names = ["latents", "bound, training", "bound, test", "gap", "active", "divergence", "of it in active ones"]
    return markdown(names, *rows)


def gradient_variance(source):
    """Return the variances of each estimator, for each L and M."""
    return table_of_variances(
        Measurement(row["estimator"], int(row["n_samples"]), int(row["batch_size"]), *list(row.values())[3:])
        for row in load(source)
    )


#: Methods that estimate log p(x), in the order of their columns.
OF_LIKELIHOOD = {
    "quadrature": "quadrature",
    "importance": "importance",
    "annealed": "annealed",
    "marginal": "Appendix D",
    "marginal, kernel density": "Appendix D, kernels",
    "marginal, first set again": "Appendix D, the first set again",
}


def likelihood(source):
    """Return the errors of estimates of log p(x) by method, for each number of latent dimensions."""
    cells = {(row["latents"], row["method"]): row for row in load(source)}
    table = []
    for latents in sorted({latents for latents, _ in cells}):
        of_methods = [cells.get((latents, method)) for method in OF_LIKELIHOOD]
        table.append([f"{latents:.0f}", *(_error_cell(row) if row else "" for row in of_methods)])
    return markdown(["latents", *OF_LIKELIHOOD.values()], *table)


def _error_cell(row):
    stated = f" ({row['standard_error']:.2g})" if row["standard_error"] == row["standard_error"] else ""
    return f"{row['rms']:.2g}{stated}{' *' * (row['doubtful'] > 0.1)}"


def annealing(source):
    """Return both estimates of log p(x) of data drawn from a model, for each number of densities."""
    rows = []
    for row in load(source):
        densities, leapfrog = (f"{row[name]:.0f}" if row[name] != "" else "" for name in ("densities", "leapfrog"))
        high, gap = ("", "")
        if row["high"] != "":
            high, gap = f"{row['high']:.2f}", f"{row['gap']:.2f} ± {row['gap_error']:.2f}"
        cells = f"{row['standard_error']:.2f}", f"{row['size']:.0%}", f"{row['seconds']:.2f}"
        rows.append([row["start"], densities, leapfrog, f"{row['low']:.2f}", high, gap, *cells])
    names = ["start", "densities", "leapfrog steps", "low estimate", "high estimate", "gap", "standard error of a row"]
    return markdown([*names, "effective chains", "seconds a row"], *rows)


def contestants(source):
    """Return what the contestants on small tables are, how far below the best one, and how long they train."""
    return small_tables.table_of_contestants(small_tables.read(file_of(source)))


def scores(source):
    """Return the scores of the contestants on small tables."""
    return small_tables.table_of_scores(small_tables.read(file_of(source)))


def gaps(source):
    """Return how far the curves of a figure are from the paper's."""
    folder = file_of(source)
    curves = figures.FIGURES[folder.name].curves
    ours, theirs, rows = drawing.lines(curves, folder), paper.curves(folder.name), []
    for name, curve in sorted(curves.items(), key=lambda item: drawing.place(item[1])):
        digits = 0 if curve.dataset == "frey" else 1
        of_name = {key: line for key, line in ours.items() if key[0] == name}
        found = {(part, samples): pair for _, part, samples, *pair in drawing.gaps(of_name, theirs)}
        for samples in sorted({samples for _, samples in found}):
            cells = [f"{nats:.{digits}f}" for part in drawing.PARTS for nats in found.get((part, samples), ())]
            gap = "{:+.{}f}".format(np.subtract(*found["test", samples]), digits)
            rows.append([f"{curve.panel}, {curve.algorithm}", power(samples), *cells, gap])
    parts = [cell for part in ("training", "test") for cell in (part, "paper")]
    return markdown(["model", "samples", *parts, "gap, test"], *rows)


def errors(source):
    """Return the error of each method, by task; the smallest of a task is in bold."""
    of_tasks, methods = {}, {}
    for row in load(source):
        of_tasks.setdefault(row["task"], {})[row["method"]] = row["rms"]
        methods[row["method"]] = None
    rows = []
    for task, found in of_tasks.items():
        marks = {name: "**" if rms == min(found.values()) else "" for name, rms in found.items()}
        rows.append([task, *(f"{marks[m]}{found[m]:.3f}{marks[m]}" if m in found else "" for m in methods)])
    return markdown(["task", *methods], *rows)


def of_ranks(source):
    """Return a table about training on ranks; the word after the ``#`` is a function there."""
    import mpi_scaling  # which imports this file

    return getattr(mpi_scaling, source.partition("#")[2])()


def file_of(source):
    return HERE / source.partition("#")[0]


#: Source -> function that makes its table.
TABLES = {
    "results/benchmark-epochs.csv": of_setups,
    "results/benchmark-epochs.csv#bits": of_setups,
    "results/benchmark-kernels.csv": plain,
    "results/benchmark-growth.csv": plain,
    "results/benchmark-scoring.csv": plain,
    "results/benchmark-tables.csv#contestants": contestants,
    "results/benchmark-tables.csv#scores": scores,
    "results/cuda-kernels.csv": plain,
    "results/cuda-epochs-h200.csv": plain,
    "results/cuda-kernels-h200.csv": plain,
    "results/fig2": gaps,
    "results/fig3": gaps,
    "results/joblib-times.csv": plain,
    "results/samplers-sandwich.csv": annealing,
    "results/samplers-speed.csv": plain,
    "results/mnist.csv": curve,
    "results/frey.csv": curve,
    "results/frey-seeds.csv": last_bounds,
    "results/published-vae-curve.csv": published,
    "results/published-iwae-curve.csv": published,
    "results/published-score.csv": plain,
    "results/full-vb-*.csv": full_vb,
    "results/full-vb-*-seed*.csv": full_vb_seeds,
    "results/full-vb-*-evidence.csv": full_vb_evidence,
    "results/uses-pictures.csv": errors,
    "results/uses-tables.csv": errors,
    "results/uses-anomalies.csv": plain,
    "results/likelihood-exact.csv": likelihood,
    "results/likelihood-mnist.csv": plain,
    "results/regularization-digits.csv": regularization,
    "results/regularization-mnist.csv": regularization,
    "results/ranks-steps.csv": plain,
    "results/ranks-steps.csv#comparison": of_ranks,
    "results/ranks-steps.csv#forecast": of_ranks,
    "results/ranks-memory.csv": plain,
    "results/ranks-batches.csv#equal_samples": of_ranks,
    "results/ranks-batches.csv#equal_time": of_ranks,
    "results/gradient-variance-0.csv": gradient_variance,
    "results/gradient-variance-5.csv": gradient_variance,
    "results/gradient-variance-40.csv": gradient_variance,
}


def table(source):
    """Return the table of a source as Markdown."""
    return TABLES[source](source)


def write(*pages):
    """Put the tables into pages, below the lines that declare them."""

    def with_table(found):
        mark, source, before = found.groups()
        return mark + table(source) + "\n" * (1 if before else 2) if source in TABLES else found[0]

    for page in pages:
        page.write_text(DECLARED.sub(with_table, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write(*HERE.glob("*.md"))
