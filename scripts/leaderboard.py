"""One table of an experiment of several jobs: a row for each scheme, a column for each job."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import report as reports
from flax import nnx
from sweep import text

import relpos.config
from relpos.training.task import create_task


@dataclasses.dataclass(frozen=True)
class Job:
    """What the runs of a job have come to.

    Attributes:
      name: the job's.
      report: the section of its sweep.toml.
      config: its config file.
      set: the config's keys that all its runs set.
      rows: one for each run, see `report.rows`.
      runs: what scripts/sweep.py has kept of each run.
    """

    name: str
    report: Mapping[str, Any]
    config: str
    set: Mapping[str, Any]
    rows: Sequence[reports.Row]
    runs: Sequence[Mapping[str, Any]]

    @property
    def schemes(self) -> list[str]:
        return list(dict.fromkeys(row["point"][self.report["series"]] for row in self.rows))

    def of(self, scheme: str) -> list[reports.Row]:
        """Return the rows of a scheme's runs."""
        return [row for row in self.rows if row["point"][self.report["series"]] == scheme]

    def figures(self, scheme: str, column: str, *, learned: bool) -> list[float]:
        """Return a column of a scheme's runs, of those that have learned the job alone where that is asked."""
        rows = [row for row in self.of(scheme) if row["learned"] or not learned]
        found = (row["figures"][self.report[column]["name"]] for row in rows)
        return [value for value in found if value is not None]

    def mean(self, scheme: str) -> float | None:
        """Return the mean result of the runs that have learned the job; None: there are none."""
        values = self.figures(scheme, "result", learned=True)
        return statistics.mean(values) if values else None


def beaten(jobs: Sequence[Job], scheme: str) -> float | None:
    """Return which share of the other schemes has a worse mean, or none, averaged over the scheme's jobs.

    A tie counts half. None: the scheme has run no job.
    """
    shares = []
    for job in jobs:
        others = [other for other in job.schemes if other != scheme]
        if scheme not in job.schemes or not others:
            continue
        sign = 1 if job.report["better"] == "higher" else -1
        worst = -math.inf
        mine, *theirs = (
            worst if (mean := job.mean(name)) is None else sign * mean for name in [scheme, *others]
        )
        shares.append(statistics.mean((mine > them) + 0.5 * (mine == them) for them in theirs))
    return statistics.mean(shares) if shares else None


def spread(values: Sequence[float], digits: int) -> str:
    """Return "mean ± deviation" of runs that differ in their seed; of one run there is no deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def cell(job: Job, scheme: str) -> str:
    """Return the result, the figure in distribution in brackets, and how many runs have learned the job if not all."""
    if scheme not in job.schemes:
        return "cannot"
    rows = job.of(scheme)
    if any(row["state"] != "finished" for row in rows) and not any(r["learned"] for r in rows):
        return "not finished"
    digits = job.report.get("digits", 1)
    values = job.figures(scheme, "result", learned=True)
    inside = job.figures(scheme, "in_distribution", learned=False)
    told = spread(values, digits) if values else "-"
    if inside:
        told += f" ({statistics.mean(inside):.{digits}f})"
    learned = sum(row["learned"] for row in rows)
    return told if learned == len(rows) else f"{told}, {learned} of {len(rows)}"


def parameters(job: Job, scheme: str) -> int:
    """Return the number of parameters of the scheme's model in a job."""
    keys = {**job.set, **job.of(scheme)[0]["point"]}
    config = relpos.config.load(job.config, [(key, text(value)) for key, value in keys.items()])
    task = create_task(config, Path("nowhere"))
    shapes = jax.eval_shape(lambda: nnx.state(task.init_model(nnx.Rngs(0)), nnx.Param))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def speed(job: Job, scheme: str) -> float | None:
    """Return the median over a scheme's runs of the tokens/s of a training step."""
    found = [
        run["tokens_per_second"]
        for run, row in zip(job.runs, job.rows, strict=True)
        if row["point"][job.report["series"]] == scheme and "tokens_per_second" in run
    ]
    return statistics.median(found) if found else None


def markdown(jobs: Sequence[Job], title: str) -> str:
    """Return the table, the schemes that beat most of the others first."""
    sized = min(jobs, key=lambda job: job.report.get("costs", False) is False)
    schemes = list(dict.fromkeys(scheme for job in jobs for scheme in job.schemes))
    score = {scheme: beaten(jobs, scheme) or 0.0 for scheme in schemes}
    schemes.sort(key=lambda scheme: (-score[scheme], scheme))
    best = {
        job.name: (max if job.report["better"] == "higher" else min)(
            (mean for scheme in job.schemes if (mean := job.mean(scheme)) is not None), default=None
        )
        for job in jobs
    }
    plain = {scheme: parameters(sized, scheme) for scheme in sized.schemes}
    least, twin = min(plain.values()), speed(sized, "none")
    heads = [f"{job.name}: {job.report['result']['name']}" for job in jobs]
    lines = [
        title,
        "",
        f"| scheme | beats | {' | '.join(heads)} | step of {sized.name} | parameters added |",
        "|---" * (len(jobs) + 4) + "|",
    ]
    for scheme in schemes:
        cells = []
        for job in jobs:
            told = cell(job, scheme)
            cells.append(f"**{told}**" if job.mean(scheme) == best[job.name] is not None else told)
        mine = speed(sized, scheme)
        cost = f"{mine / twin:.2f}x" if mine and twin else "-"
        added = f"{plain[scheme] - least:,}" if scheme in plain else "-"
        lines.append(
            f"| `{scheme}` | {score[scheme]:.0%} | {' | '.join(cells)} | {cost} | {added} |"
        )
    return "\n".join(lines) + "\n"
