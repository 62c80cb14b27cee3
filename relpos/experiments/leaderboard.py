"""The leaderboard of an experiment with several jobs: a row for each scheme, a column for each job."""

import statistics
from collections.abc import Sequence

from relpos.experiments import tables
from relpos.experiments.job import Job

BASELINE = "none"  # the reference for speeds


def suits(jobs: Sequence[Job]) -> bool:
    """Return whether each job has a single x: runs at different x are not repetitions."""
    return all(len(job.xs) == 1 for job in jobs)


def beaten(jobs: Sequence[Job], scheme: str) -> float:
    """Return the share of other schemes with a worse mean, averaged over the scheme's jobs. Ties count half."""
    shares = []
    for job in jobs:
        theirs = [job.merit(other) for other in job.series if other != scheme]
        if scheme in job.series and theirs:
            mine = job.merit(scheme)
            shares.append(statistics.mean((mine > it) + 0.5 * (mine == it) for it in theirs))
    return statistics.mean(shares) if shares else 0.0


def ranking(jobs: Sequence[Job]) -> dict[str, float]:
    """Return scheme -> share of schemes that it beats, largest first."""
    schemes = dict.fromkeys(scheme for job in jobs for scheme in job.series)
    found = {scheme: beaten(jobs, scheme) for scheme in schemes}
    return dict(sorted(found.items(), key=lambda item: (-item[1], str(item[0]))))


def cell(job: Job, scheme: str) -> str:
    """Format a scheme's result in a job."""
    if scheme not in job.series:
        return "cannot"
    rows, digits = job.series[scheme], job.report.digits
    finished = [row for row in rows if row.finished]
    if not finished:
        return "not finished"
    values, inside = job.of_result(rows), job.of_inside(rows)
    told = "-"
    if values:
        told = f"{statistics.mean(values):.{digits}f}"
        told = f"**{told}**" if job.merit(scheme) == max(map(job.merit, job.series)) else told
        told += f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    if inside:
        told += f" ({statistics.mean(inside):.{digits}f})"
    learned = sum(row.learned for row in finished)
    if learned < len(finished):
        told += f", {learned} of {len(finished)} learned"
    if len(finished) < len(rows):
        told += f", {len(finished)} of {len(rows)} finished"
    return told


def measured(jobs: Sequence[Job]) -> Job:
    """Return the job used for speed and parameters."""
    return next((job for job in jobs if job.report.costs), jobs[0])


def costs(job: Job, scheme: str) -> tuple[str, str]:
    """Return a scheme's speed relative to `BASELINE` and the number of parameters it adds, "-" if unknown."""
    speeds = {name: mean.speed for (name, _), mean in job.means.items()}
    sizes = {name: size for (name, _), size in job.parameters.items()}
    speed, base = speeds.get(scheme), speeds.get(BASELINE)
    adds = f"{sizes[scheme] - min(sizes.values()):,}" if scheme in sizes else "-"
    return f"{speed / base:.2f}x" if speed and base else "-", adds


def note(jobs: Sequence[Job]) -> str:
    """Return a description of the columns."""
    return (
        "Means over the runs that learned the job, ± their standard deviation over seeds; in brackets the mean of all "
        "runs in distribution. `beats`: the share of the other schemes with a worse mean, averaged over the scheme's "
        f"jobs. `speed`: tokens/s of a training step relative to `{BASELINE}`, the median over the runs of "
        f"{measured(jobs).name}. `adds`: parameters beyond those of the smallest model."
    )


def markdown(jobs: Sequence[Job]) -> str:
    """Return the table as Markdown, with the schemes that beat the most others first."""
    return "\n".join([f"{tables.made_with(jobs)}.", "", note(jobs), "", *table(jobs), ""])


def table(jobs: Sequence[Job]) -> list[str]:
    """Return the lines of the table."""
    heads = [f"{job.name}: {job.report.result.name}" for job in jobs]
    lines = [
        f"| scheme | beats | {' | '.join(heads)} | speed | adds |",
        "|---" * (len(jobs) + 4) + "|",
    ]
    for scheme, share in ranking(jobs).items():
        cells = [*(cell(job, scheme) for job in jobs), *costs(measured(jobs), scheme)]
        lines.append(f"| `{scheme}` | {share:.0%} | {' | '.join(cells)} |")
    return lines
