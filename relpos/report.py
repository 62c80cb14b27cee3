"""Report the results of a sweep, an experiment or any runs.

    relpos report runs/lm_sweep
    relpos report experiments/scan_cutoffs --scale cpu

A sweep's report is written beside its figures in results/: tables (.md), a self-contained page with all pictures
(.html) and the first picture (.png). Every run, even a failed one, has a row with its in-distribution figure and its
result. Means are given with the sample standard deviation over runs (n - 1), to two significant digits. They exclude
runs that have not learned the task itself; the table gives their number. An experiment with several jobs gets tables
and a picture for each job and, in its own results/, a page of all and, if each job has a single x, a leaderboard (.md,
.png).

Training curves and learned biases require the run directories, below ``--runs``.

    relpos report runs/rope runs/t5 --output lengths.png

compares the test results of runs outside a sweep. ``--output`` is the file to write, in the format of its suffix: .md,
.html, .png or .svg; without a suffix, the first three are written.
"""

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from relpos import cli
from relpos.errors import UserError
from relpos.experiments import job as job_lib
from relpos.experiments import leaderboard, page, pictures, spec, tables
from relpos.experiments.job import Job
from relpos.training.progress import say


def main(argv: Sequence[str]) -> None:
    """Read the flags and write the reports."""
    parser = cli.Parser(prog="relpos report", description=__doc__ or "")
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="DIR", help="experiment, --runs of a sweep, or runs"
    )
    parser.add_argument("--scale", help="of an experiment; default: all that have results")
    parser.add_argument(
        "--runs", type=cli.directory, metavar="DIR", help=f"as for a sweep; default: {cli.RUNS}"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="for runs without a sweep")
    flags = parser.parse_args(argv)
    console = Console()
    others = [path for path in flags.paths if not (path / "config.json").exists()]
    if not others:
        if flags.scale or flags.runs:
            raise UserError("--scale and --runs are for experiments, not for run directories")
        _write_runs(console, job_lib.of_runs(flags.paths), flags.output)
        return
    if len(flags.paths) > 1 or flags.output:
        raise UserError(
            f"{str(others[0])!r} is not a run directory: it has no config.json. An experiment or a sweep is reported "
            "alone, and without --output"
        )
    (experiment,) = flags.paths
    found = _read(experiment, flags.scale or "*", flags.runs or cli.RUNS)
    alone = next(iter(found)).parents[1] == experiment  # the only job
    for path, job in found.items():
        _write(console, path.with_suffix(".md"), tables.markdown(job))
        looks = pictures.looks([job])
        _picture(console, path.with_suffix(".png"), functools.partial(pictures.results, job, looks))
    for scale in dict.fromkeys(path.stem for path in found):
        jobs = [job for path, job in found.items() if path.stem == scale]
        path = experiment / "results" / f"{scale}.html"
        path.parent.mkdir(exist_ok=True)
        if not alone and leaderboard.suits(jobs):
            _write(console, path.with_suffix(".md"), leaderboard.markdown(jobs))
            draw = functools.partial(pictures.board, jobs, pictures.looks(jobs))
            _picture(console, path.with_suffix(".png"), draw)
        title = jobs[0].report.title if alone else experiment.name
        _write_page(console, path, title, jobs, spec.command(experiment, jobs[0].results))


def _read(experiment: Path, scale: str, runs: Path) -> dict[Path, Job]:
    """Return results file -> job, for one scale or all.

    Raises:
      UserError: results are missing or damaged.
    """
    found = {}
    if files := sorted((experiment / "results").glob(f"{spec.GRID}.json")):
        return {path: job_lib.read(experiment, spec.GRID, experiment) for path in files}
    for folder in spec.jobs(experiment):
        for path in sorted((folder / "results").glob(f"{scale}.json")):
            of_job = spec.runs_of(experiment, folder, runs) / path.stem
            found[path] = job_lib.read(folder, path.stem, of_job)
    if not found:
        of_scale = "" if scale == "*" else f" of scale {scale}"
        raise UserError(
            f"{experiment} has no figures{of_scale}: run python -m relpos.sweep {experiment} --scale smoke first"
        )
    return found


def _write_runs(console: Console, job: Job, output: Path | None) -> None:
    """Print the tables of run directories, and write the files for `output`."""
    say(console, tables.markdown(job))
    if output is None:
        return
    kinds = [output.suffix] if output.suffix else [".md", ".html", ".png"]
    if unknown := set(kinds) - {".md", ".html", ".png", ".svg"}:
        raise UserError(f"--output {output}: {unknown.pop()} is none of .md, .html, .png, .svg")
    output.parent.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        path = output.with_suffix(kind)
        if kind == ".md":
            _write(console, path, tables.markdown(job), shown=False)
        elif kind == ".html":
            _write_page(console, path, "runs", [job], "")
        else:
            _picture(console, path, functools.partial(pictures.named_lengths, job))


def _write(console: Console, path: Path, text: str, shown: bool = True) -> None:
    path.write_text(text)
    if shown:
        say(console, text)
    say(console, f"written: {path}")


def _write_page(
    console: Console, path: Path, title: str, jobs: Sequence[Job], command: str
) -> None:
    if _can_draw(console, path):
        _write(console, path, page.page(title, jobs, command), shown=False)


def _picture(console: Console, path: Path, draw: Callable[[], Any]) -> None:
    if _can_draw(console, path):
        draw().savefig(path, dpi=200)
        say(console, f"written: {path}")


def _can_draw(console: Console, path: Path) -> bool:
    """Return whether matplotlib is installed. If not, print that the file is not written."""
    there = importlib.util.find_spec("matplotlib") is not None
    if not there:
        say(console, f"not written: {path}, which needs matplotlib: pip install 'relpos[plots]'")
    return there


if __name__ == "__main__":
    cli.run(main)
