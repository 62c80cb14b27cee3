"""Train a separate run for every combination of some values.

    relpos sweep --config lm --grid encoding=rope,t5 --grid seed=0,1 --runs runs/lm_sweep --config.steps=600
    relpos sweep experiments/scan_cutoffs --scale cpu

In the first form, each ``--grid`` is an axis, and ``--config.KEY=VALUE`` applies to all runs. ``;`` separates values
that contain commas; ``--grid encoding='every scheme'`` stands for every scheme for one-dimensional positions. The
second form runs an experiment: a folder with a sweep.toml that defines the same, or with such a folder for each job.

Repeat the command to continue a sweep that was stopped. Finished runs are skipped, even if only their figures are left
and not their directories. Failed runs are kept with their traceback and skipped unless ``--retry`` is given. Concurrent
runs use separate cores. On Ctrl-C, kill or a closed terminal, all runs save and stop. ``relpos report`` shows the
figures of all runs, which are stored in results/ of the experiment or of ``--runs``.
"""

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relpos import cli
from relpos.errors import UserError
from relpos.experiments import spec
from relpos.experiments.measures import Report
from relpos.experiments.pool import INTERRUPTED, Pool, workers
from relpos.experiments.trial import FAILED, Trial
from relpos.runs.run import FINISHED
from relpos.training.progress import say


def main(argv: Sequence[str]) -> int:
    """Read the flags and train the remaining runs; return the exit code."""
    parser = cli.Parser(prog="relpos sweep", description=__doc__ or "")
    parser.add_argument("experiment", nargs="?", type=Path, help="a folder with a sweep.toml")
    parser.add_argument("--scale", help="one of the scales in sweep.toml")
    parser.add_argument("--config", metavar="NAME", help="as for relpos train, with --grid")
    parser.add_argument("--grid", action="append", metavar="KEY=VALUE,VALUE", help="an axis")
    parser.add_argument(
        "--config.KEY=VALUE", dest="_", metavar="", help="replace a value of the config"
    )
    parser.add_argument(
        "--runs", type=cli.directory, metavar="DIR", help=f"folder of the runs; default: {cli.RUNS}"
    )
    parser.add_argument("--workers", type=int, default=workers(), help="runs at once")
    parser.add_argument("--retry", action="store_true", help="run failed runs again")
    flags, overrides = parser.parse_with_overrides(argv)
    if flags.workers < 1:
        raise UserError(f"--workers must be positive, got {flags.workers}")
    console = Console()
    if flags.experiment is not None:
        if flags.config or flags.grid or overrides:
            raise UserError("an experiment has its own config and grid: leave --config, --grid out")
        if not flags.scale:
            raise UserError("--scale is missing: one of those in sweep.toml")
        jobs = spec.read_all(flags.experiment, flags.scale, flags.runs or cli.RUNS)
        for folder in spec.jobs(flags.experiment):
            Report.of_job(folder)  # before hours of runs
        shown = flags.experiment
    else:
        if not (flags.config and flags.grid and flags.runs) or flags.scale:
            raise UserError("give an experiment and --scale, or --config, --grid and --runs")
        jobs = [spec.from_flags(flags.config, flags.grid, overrides, flags.runs)]
        shown = flags.runs
    trials = in_turn(jobs)
    if others := [f"{trial.workdir}: {why}" for trial in trials for why in trial.other_settings()]:
        others.append("Remove these run directories, or give another --runs.")
        raise UserError("\n".join(others))
    skipped = {FINISHED} if flags.retry else {FINISHED, FAILED}
    states = [trial.state for trial in trials]
    waiting = [trial for trial in trials if trial.state not in skipped]
    at_once = max(1, min(flags.workers, len(waiting)))  # more would leave cores idle
    told = f"{len(trials)} runs: {states.count(FINISHED)} finished, {states.count(FAILED)} failed"
    say(console, f"{told}, {len(waiting)} to do, {at_once} at once")
    for job in jobs:
        if gone := sum(not trial.workdir.exists() for trial in job.trials if trial.kept):
            known = f"{gone} finished runs are known only from {job.results}"
            say(console, f"{known}; remove it to run them again")
    _train(jobs, waiting, at_once, console)
    for job in jobs:
        job.write_results()
        say(console, f"figures in {job.results}")
    where = "" if flags.runs in (None, shown) else f" --runs {flags.runs}"
    say(console, f"now: python -m relpos.report {shown}{where}")
    failed = [trial for trial in trials if trial.state == FAILED]
    for trial in failed:
        say(console, f"failed: {trial.name}, see {trial.failure}")
    unfinished = any(trial.state != FINISHED for trial in trials)
    return 1 if failed else INTERRUPTED[1] if unfinished else 0


def in_turn(jobs: Sequence[spec.Sweep]) -> list[Trial]:
    """Return the first run of each job, then the second of each, and so on, so that a stopped sweep covers all jobs."""
    rounds = itertools.zip_longest(*(job.trials for job in jobs))
    return [trial for each in rounds for trial in each if trial is not None]


def _train(
    jobs: Sequence[spec.Sweep], waiting: Sequence[Trial], at_once: int, console: Console
) -> None:
    """Train the runs, with a bar on a terminal; a signal stops them."""

    def name(trial: Trial) -> str:
        job = next(job for job in jobs if trial in job.trials)
        return trial.name if len(jobs) == 1 else f"{job.name} {trial.name}"

    def done(trial: Trial, what: str) -> None:
        progress.ended(trial, what)
        next(job for job in jobs if trial in job.trials).write_results()

    def stop(number: int, frame: FrameType | None) -> None:
        say(console, "stopping: runs are saving; repeat to resume")
        pool.stop()

    progress = _Progress(console, waiting, name)
    pool = Pool(at_once, progress.began, done)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        with progress:
            pool.run(waiting)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress(AbstractContextManager):
    """A bar for all runs and one per active run on a terminal; elsewhere, a line when a run starts or ends."""

    def __init__(self, console: Console, trials: Sequence[Trial], name: Callable[[Trial], str]):
        self._console, self._name, self._total = console, name, len(trials)
        self._active: list[Trial] = []
        self._ended: list[Trial] = []
        self._start, self._there = time.monotonic(), 0.0  # what was trained before this start
        self._live = Live(
            console=console, get_renderable=self._bars, refresh_per_second=0.5, transient=True
        )

    def __enter__(self) -> "_Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def began(self, trial: Trial) -> None:
        """Show that a run has started."""
        self._there += _share(trial)
        self._active.append(trial)
        if not self._console.is_terminal:
            say(self._console, f"{self._name(trial)}: begins")

    def ended(self, trial: Trial, what: str) -> None:
        """Show the outcome of a run."""
        with contextlib.suppress(ValueError):  # another process is training it
            self._active.remove(trial)
        self._ended.append(trial)
        minutes = (trial.about or {"seconds": 0.0})["seconds"] / 60
        told = f"{self._name(trial)}: {what} after {minutes:.1f} min"
        if len(self._ended) < self._total:
            told += f" ({self._how_far()})"
        say(self._console, told)

    def _share(self) -> float:
        """Return how many runs are trained, counting parts of those under way."""
        return len(self._ended) + sum(map(_share, tuple(self._active)))

    def _how_far(self) -> str:
        told, trained = f"{len(self._ended)} of {self._total}", self._share()
        if trained <= self._there:
            return told
        rate = (trained - self._there) / (time.monotonic() - self._start)
        return f"{told}, about {(self._total - trained) / rate / 60:.0f} min left"

    def _bars(self) -> Table:
        bars = Table.grid(padding=(0, 1))
        for trial in tuple(self._active):
            step, steps = trial.run.last_step, _steps(trial)
            bar = ProgressBar(steps, step, width=20)
            bars.add_row(Text(self._name(trial)), bar, f"step {step} of {steps}")
        bars.add_row("all runs", ProgressBar(self._total, self._share(), width=20), self._how_far())
        return bars


def _steps(trial: Trial) -> int:
    return int(trial.overrides.get("steps", spec.settings(trial.config).get("steps", 0)) or 1)


def _share(trial: Trial) -> float:
    return min(trial.run.last_step / _steps(trial), 1)


if __name__ == "__main__":
    cli.run(main)  # not `cli.command`: the training processes prepare themselves
