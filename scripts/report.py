"""Writes the table and the picture of an experiment from the figures that scripts/sweep.py has kept.

    python scripts/report.py experiments/scan_cutoffs [--scale cpu]

Writes results/SCALE.md and results/SCALE.png. Every run has a row, failed ones too, with its in-distribution figure
beside its result. Means have the standard deviation of the runs (of the sample, n - 1), to two significant digits. They
leave out runs that have not learned the task itself, and the table says how many those are.

An experiment of several jobs has such a table and picture for each job, and one for all jobs in its own results/.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import leaderboard
import reports
import sweeps
from rich.console import Console

from relpos.errors import UserError
from relpos.training.progress import say


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--scale", help="default: all that have figures")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        folders = sweeps.jobs(options.experiment)
        found = {
            path: leaderboard.read(folder, path.stem)
            for folder in folders
            for path in sorted((folder / "results").glob(f"{options.scale or '*'}.json"))
        }
        if not found:
            raise UserError(
                f"{options.experiment} has no figures{f' of scale {options.scale}' if options.scale else ''}: run "
                f"python scripts/sweep.py {options.experiment} --scale smoke first"
            )
    except UserError as error:
        say(console, str(error))
        return 2
    for path, job in found.items():
        page = reports.markdown(job.report, job.results)
        _write(console, path, page, lambda job=job: reports.draw(job.report, job.results))
    if folders == [options.experiment]:
        return 0
    for scale in dict.fromkeys(path.stem for path in found):
        jobs = [job for path, job in found.items() if path.stem == scale]
        path = options.experiment / "results" / scale
        path.parent.mkdir(exist_ok=True)
        _write(console, path, leaderboard.markdown(jobs), lambda jobs=jobs: leaderboard.draw(jobs))
    return 0


def _write(console: Console, path: Path, page: str, draw: Callable[[], Any]) -> None:
    """Write a page and its picture to `path` with the suffixes .md and .png."""
    path = path.with_suffix(".md")
    path.write_text(page)
    say(console, page)
    say(console, f"written: {path}")
    try:
        draw().savefig(path.with_suffix(".png"), dpi=110)
        say(console, f"written: {path.with_suffix('.png')}")
    except ModuleNotFoundError as error:
        say(console, f"no picture: {error}; pip install -e '.[plots]'")


if __name__ == "__main__":
    sys.exit(main())
