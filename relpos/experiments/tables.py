"""The tables of a job, as Markdown."""

from collections.abc import Sequence

from relpos.experiments.job import Job, decimals


def bound(job: Job) -> str:
    """Return a description of the runs that the means include."""
    inside = job.report.inside
    if inside.least is not None:
        return f"runs with {inside.name} of at least {inside.least:g}"
    return (
        "all runs" if inside.most is None else f"runs with {inside.name} of at most {inside.most:g}"
    )


def show(value: float | None, digits: int) -> str:
    """Format a figure."""
    return "-" if value is None else f"{value:.{digits}f}"


def made_with(jobs: Sequence[Job]) -> str:
    """Return the scale, and the commits and machines of the runs, each with its jobs if they differ."""
    names: dict[str, list[str]] = {}
    for job in jobs:
        names.setdefault(job.made_with, []).append(job.name)
    each = [f"{', '.join(some)}: {made}" for made, some in names.items()]
    text = "; ".join(each if len(each) > 1 else names)
    scale = jobs[0].results["scale"]
    return f"{f'Scale {scale}' if scale else 'Single runs'}; {text}"


def markdown(job: Job) -> str:
    """Return a table of means and a table of all runs."""
    text = f"{made_with([job])}. {note(job)}"
    return "\n".join([text, "", *means(job), "", "Every run:", "", *every_run(job)]) + "\n"


def note(job: Job) -> str:
    """Return a note about the means and the runs that they exclude."""
    return (
        f"Means are over {bound(job)}, ± the standard deviation of the n runs; a single run has none. The best mean is "
        f"bold: {job.report.better} is better."
    )


def means(job: Job) -> list[str]:
    """Return the lines of the table of means."""
    report = job.report
    lines = [
        f"| {report.series} | {report.x} | {report.result.name}: mean ± deviation | n | least to greatest "
        "| not learned | not finished |",
        "|---|---|---|---|---|---|---|",
    ]
    for (series, x), m in job.means.items():
        digits = decimals(m.deviation) if m.deviation else job.digits(report.result)
        told = show(m.mean, digits)
        told = f"**{told}**" if m.best else told
        told += f" ± {show(m.deviation, digits)}" if m.deviation is not None else ""
        n = len(m.values)
        span = f"{show(min(m.values), digits)} to {show(max(m.values), digits)}" if n > 1 else "-"
        lines.append(
            f"| `{series}` | {x} | {told} | {n} | {span} | {m.not_learned} | {m.not_finished} |"
        )
    return lines


def every_run(job: Job) -> list[str]:
    """Return the lines of the table of all runs."""
    columns = {column.name: job.digits(column) for column in job.report.columns}
    axes = list(job.rows[0].record["point"]) if job.rows else []
    heads = [*axes, "state", "minutes", *columns]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in job.rows:
        about = row.record.get("about")
        minutes = f"{about['seconds'] / 60:.1f}" if about else "-"
        cells = [*(str(row.record["point"][axis]) for axis in axes), row.record["state"], minutes]
        cells += [show(row.figures[name], digits) for name, digits in columns.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
