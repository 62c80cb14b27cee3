"""Writes the table and the picture of an experiment from the figures that scripts/sweep.py has kept.

    python scripts/report.py experiments/scan_cutoffs [--scale cpu]

Writes results/SCALE.md and results/SCALE.png. Every run has its row, failed ones too, with its in-distribution figure
beside its result. Means leave out runs that have not learned the task itself, and say how many those are.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sweeps
from rich.console import Console

from relpos.errors import UserError
from relpos.training.progress import say

Row = dict[str, Any]


def figure(records: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> float | None:
    """Return the value that a section of [report] asks for, of the newest record that has it.

    What the section has besides `name`, `value`, `least` and `times` (a factor) is what the record must have:
    `split = "test"`, `length = 40`.
    """
    told = {"name", "value", "least", "times"}
    asked = {key: value for key, value in wanted.items() if key not in told}
    found = [
        record[wanted["value"]]
        for record in records
        if record.get(wanted["value"]) is not None
        and all(record.get(key) == value for key, value in asked.items())
    ]
    return found[-1] * wanted.get("times", 1) if found else None


def columns(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        section["name"]: section
        for section in (
            report["in_distribution"],
            report["result"],
            *report.get("more", {}).values(),
        )
    }


def rows(report: Mapping[str, Any], results: Mapping[str, Any]) -> list[Row]:
    """One for each run: its point, its state, its figures, and whether it has learned the task."""
    found = []
    for run in results["runs"]:
        records = run.get("records", [])
        figures = {name: figure(records, wanted) for name, wanted in columns(report).items()}
        inside = figures[report["in_distribution"]["name"]]
        learned = inside is not None and inside >= report["in_distribution"]["least"]
        found.append(
            {"point": run["point"], "state": run["state"], "figures": figures, "learned": learned}
        )
    return found


def means(report: Mapping[str, Any], found: Sequence[Row]) -> dict[tuple[Any, Any], dict[str, Any]]:
    """Return (series, x) -> mean of the result, its least and greatest, the number of runs, of those left out too."""
    result = report["result"]["name"]
    groups: dict[tuple[Any, Any], list[Row]] = {}
    for row in found:
        groups.setdefault((row["point"][report["series"]], row["point"][report["x"]]), []).append(
            row
        )
    summary = {}
    for key, members in groups.items():
        values = [
            r["figures"][result]
            for r in members
            if r["learned"] and r["figures"][result] is not None
        ]
        summary[key] = {
            "mean": statistics.mean(values) if values else None,
            "low": min(values, default=None),
            "high": max(values, default=None),
            "runs": len(values),
            "not learned": sum(r["state"] == sweeps.FINISHED and not r["learned"] for r in members),
            "not finished": sum(r["state"] != sweeps.FINISHED for r in members),
        }
    return summary


def made_with(results: Mapping[str, Any]) -> str:
    """Return the commits and machines of the runs, as a rule one of each."""
    told = [run["about"] for run in results["runs"] if "about" in run]
    each = lambda key: ", ".join(sorted({about[key] for about in told})) or "unknown"  # noqa: E731
    return f"commit {each('commit')}; {each('machine')}"


def markdown(report: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Both tables."""
    found = rows(report, results)
    result = report["result"]["name"]
    inside = report["in_distribution"]
    lines = [
        f"Scale {results['scale']}; {made_with(results)}. Means are of runs with {inside['name']} of at least "
        f"{inside['least']:g}.",
        "",
    ]
    lines += [
        f"| {report['series']} | {report['x']} | {result}: mean | least - greatest | runs | not learned "
        "| not finished |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    show = lambda value: "-" if value is None else f"{value:.1f}"  # noqa: E731
    for (series, x), m in means(report, found).items():
        span = f"{show(m['low'])} - {show(m['high'])}"
        lines.append(
            f"| `{series}` | {x} | {show(m['mean'])} | {span} | {m['runs']} "
            f"| {m['not learned']} | {m['not finished']} |"
        )
    names = list(columns(report))
    axes = list(results["runs"][0]["point"])
    lines += [
        "",
        "Every run:",
        "",
        f"| {' | '.join([*axes, 'state', 'minutes', *names])} |",
        "|---" * (len(axes) + 2 + len(names)) + "|",
    ]
    for row, run in zip(found, results["runs"], strict=True):
        minutes = f"{run['about']['seconds'] / 60:.1f}" if "about" in run else "-"
        cells = [*(str(row["point"][axis]) for axis in axes), row["state"], minutes]
        lines.append(f"| {' | '.join([*cells, *(show(row['figures'][name]) for name in names)])} |")
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any], results: Mapping[str, Any]):
    """Every run a dot, the mean of each series a line (a bar where there is one x)."""
    import matplotlib.pyplot as plt  # the tables need no extra package

    found = rows(report, results)
    summary = means(report, found)
    result = report["result"]["name"]
    series = list(dict.fromkeys(key[0] for key in summary))
    xs = list(dict.fromkeys(key[1] for key in summary))
    drawn, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    single = len(xs) == 1
    for number, name in enumerate(series):
        color = plt.get_cmap("tab10")(number % 10)
        place_of = {x: number if single else at for at, x in enumerate(xs)}
        points = [
            (at, summary[name, x]["mean"])
            for x, at in place_of.items()
            if (name, x) in summary and summary[name, x]["mean"] is not None
        ]
        if single:
            axes.bar(number, points[0][1] if points else 0, color=color, alpha=0.4, width=0.6)
        elif points:
            axes.plot(*zip(*points, strict=True), color=color, label=name)
        for row in found:
            value = row["figures"][result]
            if row["point"][report["series"]] == name and value is not None:
                place = place_of[row["point"][report["x"]]]
                axes.plot(
                    place, value, marker="o" if row["learned"] else "x", color=color, markersize=6
                )
    if single:
        axes.set_xticks(range(len(series)), series)
        axes.set_xlabel(f"{report['series']} ({report['x']} = {xs[0]})")
    else:
        axes.set_xticks(range(len(xs)), list(map(str, xs)))
        axes.set_xlabel(report["x"])
        axes.legend(fontsize=8)
    axes.set_ylabel(result)
    axes.set_title(report["title"], fontsize=10)
    axes.grid(alpha=0.3, axis="y")
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--scale", help="default: all that have figures")
    options = parser.parse_args(arguments)
    console = Console()
    found = sorted((options.experiment / "results").glob(f"{options.scale or '*'}.json"))
    if not found:
        say(
            console,
            f"{options.experiment} has no figures{f' of scale {options.scale}' if options.scale else ''}: run "
            f"python scripts/sweep.py {options.experiment} --scale smoke first",
        )
        return 2
    for path in found:
        results = json.loads(path.read_text())
        try:
            report = sweeps.read(options.experiment, results["scale"], Path("runs")).report
        except UserError as error:
            say(console, str(error))
            return 2
        page, picture = path.with_suffix(".md"), path.with_suffix(".png")
        page.write_text(markdown(report, results))
        say(console, page.read_text())
        say(console, f"written: {page}")
        try:
            draw(report, results).savefig(picture, dpi=110)
            say(console, f"written: {picture}")
        except ModuleNotFoundError as error:
            say(console, f"no picture: {error}; pip install -e '.[plots]'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
