"""Runs an experiment: every combination of the axes of its sweep.toml, each as a training run of its own.

    python scripts/sweep.py experiments/scan_cutoffs --scale smoke|cpu|full [--workers N] [--runs DIR] [--retry]

An experiment of several jobs, such as experiments/every_scheme, has a folder with a sweep.toml for each; it runs them
in alternation.

Finished runs are skipped, even if only their figures are left and not their directories. Interrupted runs continue
where they stopped. Failed runs are kept with their traceback and left alone until --retry. Runs at the same time have
separate cores. The figures of all runs are written to experiments/NAME/results/SCALE.json, from which
scripts/report.py makes the table and the picture. Ctrl-C stops all runs, as do kill and closing the terminal; each run
saves, and the same command continues.
"""

import argparse
import itertools
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import provenance
import sweeps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from relpos.errors import UserError
from relpos.files import write_atomically
from relpos.training.progress import say

TRAIN = [sys.executable, "-m", "relpos.train"]
# One run at a time where there is an accelerator: a JAX process takes all of its memory.
ACCELERATORS = ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0")
INTERRUPTED = (130, 143)  # exit statuses of a run that has saved


def cores() -> set[int]:
    """Return the processor's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def workers() -> int:
    """Return how many runs this machine should do at once.

    A core for each: small models on a core of their own do more together than one after another on all cores.
    """
    return 1 if any(map(os.path.exists, ACCELERATORS)) else len(cores())


class Pool:
    """Runs several processes at a time, until it is stopped."""

    def __init__(self, size: int):
        self._size = size
        mine = sorted(cores())
        shares = [set(mine[number::size]) or set(mine) for number in range(size)]
        self._shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
        for share in shares:
            self._shares.put(share)
        self._commit = provenance.commit()  # now, because writing figures will change the tree
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, runs: Sequence[sweeps.Run], done) -> None:
        """Run all; call done(run, its outcome) after each."""
        with ThreadPoolExecutor(self._size, initializer=self._keep_to_a_share) as pool:
            for future in [pool.submit(self._one, run, done) for run in runs]:
                future.result()

    @staticmethod
    def _flags() -> dict[str, str]:
        """Return the environment of a run. On one core XLA is faster without splitting products between threads."""
        if len(cores()) > 1:
            return {}
        flags = os.environ.get("XLA_FLAGS", "")
        return {"XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen=false".strip()}

    def stop(self) -> None:
        """Start no more runs, and let those under way save."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.send_signal(signal.SIGINT)

    def _keep_to_a_share(self) -> None:
        """Give this thread cores of its own, which the processes that it starts inherit."""
        share = self._shares.get()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, share)  # of the calling thread

    def _one(self, run: sweeps.Run, done) -> None:
        run.workdir.parent.mkdir(parents=True, exist_ok=True)
        if run.in_use:
            done(run, "in use by another process, left alone")
            return
        command = [*TRAIN, "--config", run.config, "--workdir", str(run.workdir)]
        command += [
            f"--config.{key}={sweeps.spelled(value)}" for key, value in run.overrides.items()
        ]
        with self._lock:
            if self._stopped:
                return
            with run.log.open("w") as log:
                run.failure.unlink(missing_ok=True)
                # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
                process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | self._flags(),
                )
            self._processes.add(process)
        began = time.perf_counter()
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        _record_about(run, self._commit, time.perf_counter() - began)
        if code not in (0, *INTERRUPTED) and not self._stopped:
            lines = run.log.read_text(errors="replace").splitlines()
            ending = "\n".join([f"exit status {code}", " ".join(command), *lines[-60:]])
            write_atomically(run.failure, ending + "\n")
        done(run, run.state)


def _record_about(run: sweeps.Run, commit: str, seconds: float) -> None:
    """Record the commit, the machine and the total time of all attempts of a run."""
    seconds = round(_seconds(run) + seconds, 1)
    about = {"commit": commit, "machine": provenance.machine(), "seconds": seconds}
    write_atomically(run.about, json.dumps(about) + "\n")


def _seconds(run: sweeps.Run) -> float:
    return json.loads(run.about.read_text())["seconds"] if run.about.exists() else 0.0


def results(sweep: sweeps.Sweep) -> dict[str, Any]:
    """Return the figures of all runs, and the end of the log of those that failed."""
    found = []
    for run in sweep.runs:
        if run.kept:
            found.append(dict(run.kept))
            continue
        record: dict[str, Any] = {"point": dict(run.point), "state": run.state, "step": run.step}
        if speeds := [r["tokens_per_second"] for r in run.records() if r.get("split") == "train"]:
            record["tokens_per_second"] = round(statistics.median(speeds), 1)
        if run.about.exists():
            record["about"] = json.loads(run.about.read_text())
        if run.state == sweeps.FINISHED:
            last = run.step
            record["records"] = [
                {k: v for k, v in r.items() if not k.endswith("signature")}
                for r in run.records()
                if r.get("step") == last and r.get("split") != "train" and "source_words" not in r
            ]
        if run.state == sweeps.FAILED:
            record["failure"] = run.failure.read_text().splitlines()[-12:]
        found.append(record)
    plain = {"scale": sweep.scale, "config": sweep.config, "set": dict(sweep.common)}
    return plain | {"runs": found}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--scale", required=True)
    parser.add_argument("--workers", type=int, default=workers(), help="runs at once")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run directories go")
    parser.add_argument("--retry", action="store_true", help="run those that failed once more")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        if options.workers < 1:
            raise UserError(f"--workers must be positive, got {options.workers}")
        jobs = sweeps.read_all(options.experiment, options.scale, options.runs)
        runs = in_turn(jobs)
        others = [f"{run.workdir}: {why}" for run in runs for why in run.other_settings()]
    except UserError as error:
        say(console, str(error))
        return 2
    if others:
        say(console, "\n".join([*others, "Remove these run directories, or give another --runs."]))
        return 2
    skipped = {sweeps.FINISHED} if options.retry else {sweeps.FINISHED, sweeps.FAILED}
    waiting = [run for run in runs if run.state not in skipped]
    states = [run.state for run in runs]
    at_once = max(1, min(options.workers, len(waiting)))  # more would leave cores idle
    say(
        console,
        f"{len(runs)} runs: {states.count(sweeps.FINISHED)} finished, "
        f"{states.count(sweeps.FAILED)} failed, {len(waiting)} to do, {at_once} at once",
    )
    for job in jobs:
        if gone := sum(not run.workdir.exists() for run in job.runs if run.kept):
            say(
                console,
                f"{gone} finished runs are known only from {job.results}; remove it to run them again",
            )
    pool = Pool(at_once)

    def name(run):
        return run.name if len(jobs) == 1 else f"{run.job} {run.name}"

    def stop(*_):
        say(console, "stopping: runs save; the same command continues")
        pool.stop()

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            title = f"{options.experiment.name} {options.scale}"
            task = progress.add_task(title, total=len(waiting))

            def done(run, what):
                progress.advance(task)
                say(console, f"{name(run)}: {what} after {_seconds(run) / 60:.1f} min")
                _write(next(job for job in jobs if run in job.runs))

            pool.run(waiting, done)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for job in jobs:
        _write(job)
        say(console, f"figures in {job.results}")
    say(console, f"now: python scripts/report.py {options.experiment}")
    failed = [run for run in runs if run.state == sweeps.FAILED]
    for run in failed:
        say(console, f"failed: {name(run)}, see {run.failure}")
    unfinished = any(run.state != sweeps.FINISHED for run in runs)
    return 1 if failed else INTERRUPTED[0] if unfinished else 0


def in_turn(jobs: Sequence[sweeps.Sweep]) -> list[sweeps.Run]:
    """Return the first run of each job, then the second of each, and so on, so that a stopped sweep has some of all."""
    rounds = itertools.zip_longest(*(job.runs for job in jobs))
    return [run for each in rounds for run in each if run is not None]


def _write(sweep: sweeps.Sweep) -> None:
    sweep.results.parent.mkdir(exist_ok=True)
    write_atomically(sweep.results, json.dumps(results(sweep), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
