"""The table and the picture of an experiment of several jobs: a row for each scheme, a column for each job."""

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import reports
import sweeps
from flax import nnx

from relpos.training import run_config
from relpos.training.task import create_task

BASELINE = "none"  # the scheme that speeds are compared with


@dataclasses.dataclass(frozen=True)
class Job:
    """The results of a job.

    Attributes:
      name: the job's.
      report: the section [report] of its sweep.toml.
      results: what scripts/sweep.py has written.
    """

    name: str
    report: Mapping[str, Any]
    results: Mapping[str, Any]

    @functools.cached_property
    def runs(self) -> dict[str, list[reports.Row]]:
        """The runs of each scheme."""
        found: dict[str, list[reports.Row]] = {}
        for row, run in zip(
            reports.rows(self.report, self.results), self.results["runs"], strict=True
        ):
            found.setdefault(row["point"][self.report["series"]], []).append(run | row)
        return found

    def figures(self, scheme: str, column: str) -> list[float]:
        """Return "in_distribution" of all runs of a scheme, or "result" of the runs that have learned the job."""
        name = self.report[column]["name"]
        rows = [run for run in self.runs[scheme] if run["learned"] or column != "result"]
        return [run["figures"][name] for run in rows if run["figures"][name] is not None]

    def mean(self, scheme: str) -> float | None:
        """Return the mean result, or None if there is none."""
        values = self.figures(scheme, "result") if scheme in self.runs else []
        return statistics.mean(values) if values else None

    def merit(self, scheme: str) -> float:
        """Return the mean result, negated where lower is better; minus infinity if there is none."""
        sign = 1 if self.report["better"] == "higher" else -1
        return -math.inf if (mean := self.mean(scheme)) is None else sign * mean

    def speed(self, scheme: str) -> float | None:
        """Return the median of the runs' tokens/s while training."""
        found = [
            run["tokens_per_second"] for run in self.runs[scheme] if "tokens_per_second" in run
        ]
        return statistics.median(found) if found else None

    def parameters(self, scheme: str) -> int:
        """Return the number of parameters of the scheme's model."""
        keys = {**self.results["set"], **self.runs[scheme][0]["point"]}
        items = [(key, sweeps.spelled(value)) for key, value in keys.items()]
        task = create_task(run_config.load(self.results["config"], items), Path("nowhere"))
        shapes = jax.eval_shape(lambda: nnx.state(task.init_model(nnx.Rngs(0)), nnx.Param))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def read(folder: Path, scale: str) -> Job:
    """Return a job's results with what its sweep.toml says about them.

    Raises:
      UserError: one of them is missing or invalid.
    """
    results = sweeps.read_results(folder / "results" / f"{scale}.json")
    report = sweeps.read(folder, scale, Path("runs")).report
    reports.check(report, folder / "sweep.toml")
    return Job(folder.name, report, results)


def beaten(jobs: Sequence[Job], scheme: str) -> float:
    """Return the share of the other schemes with a worse mean, averaged over the scheme's jobs; a tie counts half."""
    shares = []
    for job in jobs:
        theirs = [job.merit(other) for other in job.runs if other != scheme]
        if scheme in job.runs and theirs:
            mine = job.merit(scheme)
            shares.append(statistics.mean((mine > it) + 0.5 * (mine == it) for it in theirs))
    return statistics.mean(shares) if shares else 0.0


def ranking(jobs: Sequence[Job]) -> dict[str, float]:
    """Return every scheme with the share that it beats, the largest first."""
    schemes = dict.fromkeys(scheme for job in jobs for scheme in job.runs)
    found = {scheme: beaten(jobs, scheme) for scheme in schemes}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def cell(job: Job, scheme: str) -> str:
    """Return a scheme's result in a job as text."""
    if scheme not in job.runs:
        return "cannot"
    runs, digits = job.runs[scheme], job.report.get("digits", 1)
    finished = [run for run in runs if run["state"] == "finished"]
    if not finished:
        return "not finished"
    values, inside = job.figures(scheme, "result"), job.figures(scheme, "in_distribution")
    told = "-"
    if values:
        told = f"{statistics.mean(values):.{digits}f}"
        told = f"**{told}**" if job.merit(scheme) == max(map(job.merit, job.runs)) else told
        told += f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    if inside:
        told += f" ({statistics.mean(inside):.{digits}f})"
    learned = sum(run["learned"] for run in finished)
    if learned < len(finished):
        told += f", {learned} of {len(finished)} learned"
    if len(finished) < len(runs):
        told += f", {len(finished)} of {len(runs)} finished"
    return told


def markdown(jobs: Sequence[Job]) -> str:
    """Return the table, the schemes that beat the most others first."""
    measured = next((job for job in jobs if job.report.get("costs")), jobs[0])
    sizes = {scheme: measured.parameters(scheme) for scheme in measured.runs}
    base = measured.speed(BASELINE) if BASELINE in measured.runs else None
    made = "; ".join(dict.fromkeys(reports.made_with(job.results) for job in jobs))
    lines = [
        f"Scale {jobs[0].results['scale']}; {made}.",
        "",
        "Means over the runs that have learned the job, ± their standard deviation over seeds; in brackets the mean in "
        "distribution. `beats`: the share of the other schemes with a worse mean, averaged over the scheme's jobs. "
        f"`speed`: tokens/s of a training step relative to `{BASELINE}`, the median of the runs of {measured.name}. "
        "`adds`: parameters beyond those of the smallest model.",
        "",
    ]
    heads = [f"{job.name}: {job.report['result']['name']}" for job in jobs]
    lines += [
        f"| scheme | beats | {' | '.join(heads)} | speed | adds |",
        "|---" * (len(jobs) + 4) + "|",
    ]
    for scheme, share in ranking(jobs).items():
        cells = " | ".join(cell(job, scheme) for job in jobs)
        speed = measured.speed(scheme) if scheme in measured.runs else None
        cost = f"{speed / base:.2f}x" if speed and base else "-"
        adds = f"{sizes[scheme] - min(sizes.values()):,}" if scheme in sizes else "-"
        lines.append(f"| `{scheme}` | {share:.0%} | {cells} | {cost} | {adds} |")
    return "\n".join(lines) + "\n"


def draw(jobs: Sequence[Job]):
    """Draw a panel for each job, a row for each scheme: the mean as a bar, runs as dots, or crosses if not learned."""
    import matplotlib.pyplot as plt  # the tables need no extra package

    schemes = list(ranking(jobs))
    drawn, panels = plt.subplots(
        1,
        len(jobs),
        figsize=(2.4 * len(jobs) + 1, 0.19 * len(schemes) + 1.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for number, (job, panel) in enumerate(zip(jobs, panels.flat, strict=True)):
        color = plt.get_cmap("tab10")(number)
        result = job.report["result"]["name"]
        for row, scheme in enumerate(schemes):
            for run in job.runs.get(scheme, ()):
                if (value := run["figures"][result]) is not None:
                    mark = "o" if run["learned"] else "x"
                    panel.plot(value, row, marker=mark, color=color, markersize=4, alpha=0.8)
            if (mean := job.mean(scheme)) is not None:
                panel.plot([mean] * 2, [row - 0.4, row + 0.4], color=color, linewidth=2)
        panel.set_title(f"{job.name}\n{job.report['better']} is better", fontsize=9)
        panel.set_xlabel(result, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    panels[0, 0].set_yticks(range(len(schemes)), schemes)
    panels[0, 0].set_ylim(len(schemes) - 0.5, -0.5)
    return drawn
