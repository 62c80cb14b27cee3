"""The table and the picture of one job of an experiment, from the figures that scripts/sweep.py has kept.

[report] in sweep.toml says whether "higher" or "lower" results are better, and bounds the figure in distribution from
which a run counts as having learned the task: "least" or "most".
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sweeps

from relpos.errors import UserError, did_you_mean

Row = dict[str, Any]
BETTER = {"higher": max, "lower": min}


def figure(
    records: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any], x: Any = None
) -> float | None:
    """Return the value that a section of [report] asks for, from the newest record that has it.

    All keys of the section except `name`, `value`, `least`, `most` and `times` (a factor) must match the record:
    `split = "test"`, `length = 40`. `multiple = 8` asks for a `length` of 8 times the run's `x`.
    """
    own = {"name", "value", "least", "most", "times", "multiple"}
    asked = {key: value for key, value in wanted.items() if key not in own}
    if "multiple" in wanted:
        asked["length"] = wanted["multiple"] * x
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
    """Return a row for each run: its point, its state, its figures, and whether it has learned the task."""
    found = []
    for run in results["runs"]:
        records = run.get("records", [])
        x = run["point"][report["x"]]
        figures = {name: figure(records, wanted, x) for name, wanted in columns(report).items()}
        inside = figures[report["in_distribution"]["name"]]
        learned = inside is not None and has_learned(report["in_distribution"], inside)
        found.append(
            {"point": run["point"], "state": run["state"], "figures": figures, "learned": learned}
        )
    return found


def has_learned(section: Mapping[str, Any], value: float) -> bool:
    return value >= section["least"] if "least" in section else value <= section["most"]


def check(report: Mapping[str, Any], path: Path) -> None:
    """Refuse a [report] that lacks something or contradicts itself."""
    for key in ("x", "series", "title", "better", "result", "in_distribution"):
        if key not in report:
            raise UserError(f"{path}: [report] has no {key!r}")
    if report["better"] not in BETTER:
        raise UserError(
            f"{path}: better = {report['better']!r}{did_you_mean(str(report['better']), BETTER)}"
        )
    if ("least" in report["in_distribution"]) == ("most" in report["in_distribution"]):
        raise UserError(
            f"{path}: [report.in_distribution] needs 'least' where higher is better, else 'most', and not both"
        )


def means(report: Mapping[str, Any], found: Sequence[Row]) -> dict[tuple[Any, Any], dict[str, Any]]:
    """Return (series, x) -> mean, deviation and range of the result, how many runs count or not, and if it is best.

    One run has no deviation. The best has the best mean at its x.
    """
    result = report["result"]["name"]
    groups: dict[tuple[Any, Any], list[Row]] = {}
    for row in found:
        groups.setdefault((row["point"][report["series"]], row["point"][report["x"]]), []).append(
            row
        )
    summary: dict[tuple[Any, Any], dict[str, Any]] = {}
    for key, members in groups.items():
        values = [
            r["figures"][result]
            for r in members
            if r["learned"] and r["figures"][result] is not None
        ]
        summary[key] = {
            "mean": statistics.mean(values) if values else None,
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "low": min(values, default=None),
            "high": max(values, default=None),
            "runs": len(values),
            "not learned": sum(r["state"] == sweeps.FINISHED and not r["learned"] for r in members),
            "not finished": sum(r["state"] != sweeps.FINISHED for r in members),
        }
    best = BETTER[report["better"]]
    for (_, x), m in summary.items():
        rivals = [o["mean"] for (_, at), o in summary.items() if at == x and o["mean"] is not None]
        m["best"] = len(rivals) > 1 and m["mean"] == best(rivals)
    return summary


def decimals(deviation: float) -> int:
    """Return how many decimals show the two leading digits of a deviation."""
    return max(0, 1 - math.floor(math.log10(float(f"{deviation:.1e}"))))


def decimals_of(report: Mapping[str, Any], found: Sequence[Row], name: str) -> int:
    """Return the decimals of a column: those of the pooled deviation of runs that differ only in their seed.

    Without such runs: those of the deviation of all runs.
    """
    groups: dict[tuple[Any, Any], list[float]] = {}
    for row in found:
        if row["figures"][name] is not None:
            place = (row["point"][report["series"]], row["point"][report["x"]])
            groups.setdefault(place, []).append(row["figures"][name])
    for some in (groups.values(), [[value for values in groups.values() for value in values]]):
        spread = [statistics.stdev(values) for values in some if len(set(values)) > 1]
        if spread:
            return decimals(math.hypot(*spread) / math.sqrt(len(spread)))
    return 1


def made_with(results: Mapping[str, Any]) -> str:
    """Return the commits and machines of the runs, usually one of each."""
    told = [run["about"] for run in results["runs"] if "about" in run]
    each = lambda key: ", ".join(sorted({about[key] for about in told})) or "unknown"  # noqa: E731
    return f"commit {each('commit')}; {each('machine')}"


def markdown(report: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return both tables."""
    found = rows(report, results)
    result = report["result"]["name"]
    inside = report["in_distribution"]
    bound = f"at least {inside['least']:g}" if "least" in inside else f"at most {inside['most']:g}"
    lines = [
        f"Scale {results['scale']}; {made_with(results)}. Means are over runs with {inside['name']} of {bound}, "
        f"± the standard deviation of the n runs; one run has none. The best mean is bold: {report['better']} is "
        "better.",
        "",
    ]
    lines += [
        f"| {report['series']} | {report['x']} | {result}: mean ± deviation | n | least to greatest | not learned "
        "| not finished |"
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    places = {name: decimals_of(report, found, name) for name in columns(report)}

    def show(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    for (series, x), m in means(report, found).items():
        digits = decimals(m["deviation"]) if m["deviation"] else places[result]
        mean = show(m["mean"], digits)
        mean = f"**{mean}**" if m["best"] else mean
        mean += f" ± {show(m['deviation'], digits)}" if m["deviation"] is not None else ""
        span = f"{show(m['low'], digits)} to {show(m['high'], digits)}" if m["runs"] > 1 else "-"
        lines.append(
            f"| `{series}` | {x} | {mean} | {m['runs']} | {span} "
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
        cells += [show(row["figures"][name], places[name]) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any], results: Mapping[str, Any]):
    """Draw the mean of each series as a line with a band of the deviation, and each seed as a thin line.

    With a single x: bars for means, dots for runs. Runs that have not learned the task are crosses.
    """
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
        at_x = [(at, summary[name, x]) for x, at in place_of.items() if (name, x) in summary]
        points = [(at, m) for at, m in at_x if m["mean"] is not None]
        if single:
            axes.bar(
                number, points[0][1]["mean"] if points else 0, color=color, alpha=0.4, width=0.6
            )
        elif points:
            places, means_ = zip(*((at, m["mean"]) for at, m in points), strict=True)
            spread = [m["deviation"] or 0 for _, m in points]
            axes.plot(places, means_, color=color, label=name, linewidth=2)
            axes.fill_between(
                places,
                [mean - d for mean, d in zip(means_, spread, strict=True)],
                [mean + d for mean, d in zip(means_, spread, strict=True)],
                color=color, alpha=0.15, linewidth=0,
            )  # fmt: skip
        curves: dict[tuple[Any, ...], list[tuple[int, float]]] = {}  # of each seed
        for row in found:
            value = row["figures"][result]
            if row["point"][report["series"]] != name or value is None:
                continue
            place = place_of[row["point"][report["x"]]]
            if row["learned"]:
                others = {k: v for k, v in row["point"].items() if k != report["x"]}
                curves.setdefault(tuple(others.values()), []).append((place, value))
            else:
                axes.plot(place, value, marker="x", color=color, markersize=6)
        for curve in curves.values():
            axes.plot(
                *zip(*sorted(curve), strict=True),
                color=color, linewidth=0 if single else 0.7, marker="o", markersize=6 if single else 2, alpha=0.8,
            )  # fmt: skip
    if single:
        axes.set_xticks(range(len(series)), series)
        axes.set_xlabel(f"{report['series']} ({report['x']} = {xs[0]})")
    else:
        axes.set_xticks(range(len(xs)), list(map(str, xs)))
        axes.set_xlabel(report["x"])
        axes.legend(fontsize=8)
    axes.set_ylabel(f"{result} ({report['better']} is better)")
    axes.set_title(report["title"], fontsize=10)
    axes.grid(alpha=0.3, axis="y")
    return drawn
