"""Shows how runs hold beyond the length they were trained at.

    python scripts/compare_lengths.py --workdir RUN [--workdir RUN ...] [--output FILE.png]

Prints the bits per byte of the test text of every run at every length it was scored at when it finished, from its
metrics.jsonl, and with --output draws them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from runs import Run, check_corpus, read_run

from relpos.data import DataError


def table(runs: Sequence[Run]) -> Table:
    """The runs, one a row, the lengths as columns."""
    shown = Table(title="bits per byte of the test text")
    shown.add_column("run")
    shown.add_column("trained at", justify="right")
    lengths = sorted({length for run in runs for length in run.bits_per_byte})
    for length in lengths:
        shown.add_column(str(length), justify="right")
    for run in runs:
        figures = (run.bits_per_byte.get(length) for length in lengths)
        cells = ("" if figure is None else f"{figure:.4f}" for figure in figures)
        shown.add_row(run.label, str(run.trained_length), *cells)
    return shown


def draw(runs: Sequence[Run]):
    """The same as a figure: one line for each run, a ring at its trained length."""
    import matplotlib.pyplot as plt  # the table needs no extra package

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    ends = []
    for run in runs:
        lengths = sorted(run.bits_per_byte)
        values = [run.bits_per_byte[length] for length in lengths]
        (line,) = axes.plot(lengths, values, marker="o", markersize=4)
        axes.plot(
            run.trained_length, run.bits_per_byte[run.trained_length],
            marker="o", markersize=10, fillstyle="none", color=line.get_color(),
        )  # fmt: skip
        ends.append((values[-1], lengths[-1], run.label, line.get_color()))
    axes.set_xscale("log", base=2)
    lengths = sorted({length for run in runs for length in run.bits_per_byte})
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    height = -float("inf")
    for value, length, label, color in sorted(ends):  # labels that would overlap move up
        height = max(value, height + 0.05 * (high - low))
        axes.annotate(
            label, (length, value), (8, (height - value) / (high - low) * 260), color=color,
            textcoords="offset points", va="center", fontsize=9, annotation_clip=False,
        )  # fmt: skip
    axes.set_xlabel("length of the evaluated sequences (rings: of the training sequences)")
    axes.set_ylabel("bits per byte of the test text")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and draws; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir", action="append", required=True, type=Path, help="a run's folder"
    )
    parser.add_argument("--output", type=Path, help="a picture to draw: .png, .svg or .pdf")
    options = parser.parse_args(arguments)
    try:
        runs = [read_run(workdir) for workdir in options.workdir]
        for run in runs:
            check_corpus(run, runs[0].corpus)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    Console().print(table(runs))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw(runs).savefig(options.output, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
