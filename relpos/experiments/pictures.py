"""The pictures of a job, matplotlib Figures as wide as a phone's screen. A page shows them side by side.

At most `MOST` series have their own colour and style; the others are grey.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import encodings
from relpos.errors import UserError
from relpos.experiments import leaderboard
from relpos.experiments.job import Job, Row
from relpos.experiments.measures import setting
from relpos.nn.layer_encodings import is_shared_by_layers
from relpos.nn.stack import Stack
from relpos.runs import Run
from relpos.runs.metrics import by_length, is_number, measure_of
from relpos.runs.plot import figure, mark_trained, show_lengths

# The colour-blind-safe palette of Okabe and Ito, without yellow and black.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MOST = len(COLORS)  # besides the baseline
# Replaced on a page by the colours of its light or dark theme.
INK, GREY, GRID = "#010102", "#8c8c8d", "#d9d9da"
WIDTH, HEIGHT = 3.6, 2.7  # inches; on a page 390 pixels wide, a point is 1.4 pixels
POINTS = 120  # per curve
_HEADS = 8  # lines per panel of biases


@dataclasses.dataclass(frozen=True)
class Look:
    """The colour and style of a series."""

    color: str
    style: str = "-"
    highlighted: bool = True

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments for matplotlib's lines."""
        width = {"linewidth": 1.6, "zorder": 3} if self.highlighted else {"linewidth": 0.6}
        return {"color": self.color, "linestyle": self.style, **width}


def looks(jobs: Sequence[Job]) -> dict[Any, Look]:
    """Return series -> look for all pictures, best series first. Only the best have colours."""
    ranked = list(leaderboard.ranking(jobs))
    coloured = [name for name in ranked if name != leaderboard.BASELINE]
    if len(ranked) > MOST:
        coloured = [name for name in coloured if any(job.mean(name) is not None for job in jobs)]
    found = {
        name: Look(color, "-" if number < MOST / 2 else "--")
        for number, (name, color) in enumerate(zip(coloured, COLORS, strict=False))
    }
    if leaderboard.BASELINE in ranked:
        found[leaderboard.BASELINE] = Look(INK, ":")
    grey = Look(GREY, highlighted=False)
    return {name: found.get(name, grey) for name in ranked}


def _panel(title: str, xlabel: str = "", ylabel: str = "", height: float = HEIGHT) -> Any:
    """Return the single panel of a new figure, `panel.figure`."""
    panel = figure(WIDTH, height).subplots()
    _plain(panel)
    panel.set_title(title, fontsize=8, color=INK, wrap=True)
    panel.set_xlabel(xlabel, fontsize=8, color=INK)
    panel.set_ylabel(ylabel, fontsize=8, color=INK)
    return panel


def _plain(panel: Any) -> None:
    panel.grid(color=GRID, linewidth=0.5)
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=7, colors=INK, color=GRID)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)


def _band(panel: Any, values: Mapping[int, Sequence[float]], look: Look) -> None:
    """Draw the means over seeds with a band of their standard deviation, if there are several seeds."""
    xs = sorted(values)
    means = np.array([statistics.mean(values[at]) for at in xs])
    panel.plot(xs, means, **look.line)
    if look.highlighted and any(len(values[at]) > 1 for at in xs):
        spread = np.array([statistics.stdev(v) if len(v := values[at]) > 1 else 0 for at in xs])
        area = {"color": look.color, "alpha": 0.15, "linewidth": 0}
        panel.fill_between(xs, means - spread, means + spread, **area)


def _dots(panel: Any, job: Job, drawn_as: Mapping[Any, Look]) -> None:
    """Draw a row per series: the mean as a bar, and runs as dots, or crosses if they did not learn the job."""
    names = list(drawn_as)
    for place, name in enumerate(names):
        color = drawn_as[name].color
        if (mean := job.mean(name)) is not None:
            panel.plot([mean] * 2, [place - 0.38, place + 0.38], color=color, linewidth=2)
        for row in job.series.get(name, ()):
            if (value := row.figures[job.report.result.name]) is not None:
                mark = "o" if row.learned else "x"
                panel.plot(value, place, marker=mark, color=color, markersize=3.5, alpha=0.8)
    panel.set_yticks(range(len(names)), list(map(str, names)))
    panel.set_ylim(len(names) - 0.5, -0.5)


def results(job: Job, drawn_as: Mapping[Any, Look]) -> Any:
    """Draw means by `x` with bands and names; for a single x, a row per series."""
    told = f"{job.report.result.name} ({job.report.better} is better)"
    there = {name: look for name, look in drawn_as.items() if name in job.series}
    if len(job.xs) == 1:
        panel = _panel(job.report.title, told, height=0.8 + 0.17 * len(there))
        _dots(panel, job, there)
        return panel.figure
    panel = _panel(job.report.title, job.report.x, told)
    for name, look in there.items():
        points = {at: job.means[name, x].values for at, x in enumerate(job.xs)
                  if (name, x) in job.means and job.means[name, x].values}  # fmt: skip
        if points:
            _band(panel, points, look)
        for row in job.series[name]:
            value = row.figures[job.report.result.name]
            if value is not None and not row.learned:
                panel.plot(job.xs.index(row.x), value, marker="x", color=look.color, markersize=4)
    panel.set_xticks(range(len(job.xs)), list(map(str, job.xs)))
    return _with_names(panel, there)


def _panels(job: Job) -> list[tuple[str, list[Row]]]:
    """Return the end of the title and the rows of each panel: one for each x, or for all if no series has several."""
    if len(job.groups) == len(job.series):
        return [("", list(job.rows))]
    return [(f", {job.report.x} {x}", [row for row in job.rows if row.x == x]) for x in job.xs]


def lengths(job: Job, drawn_as: Mapping[Any, Look]) -> list[Any]:
    """Draw the test metric by length, with the trained length marked. Runs with a single length are omitted."""
    value, split = job.report.result.value, job.report.result.where.get("split", "test")
    drawn = []
    for at, rows in _panels(job):
        panel = _panel(f"{value} by length{at}", ylabel=f"{split} {value}")
        read: set[int] = set()
        for name, look in drawn_as.items():
            found: dict[int, list[float]] = {}
            for row in (row for row in rows if row.series == name):
                records = row.record.get("records", ())
                for length, one in by_length(records, value, split).items():
                    found.setdefault(length, []).append(one)
            if len(found) > 1:
                _band(panel, found, look)
                read |= set(found)
        if read:
            show_lengths(panel, read)
            _mark_trained(panel, job, rows)
            drawn.append(panel.figure)
    return drawn


def _mark_trained(panel: Any, job: Job, rows: Iterable[Row]) -> None:
    with contextlib.suppress(UserError):  # the sweep's config is not here
        found = {setting(job.results, row.record["point"], "sequence_length") for row in rows}
        if trained := sorted(filter(is_number, found)):
            mark_trained(panel, trained, GREY)


def named_lengths(job: Job) -> Any:
    """Draw `lengths` with names at the ends of the lines, or the results unless a single panel has all lengths."""
    drawn_as = looks([job])
    if len(drawn := lengths(job, drawn_as)) != 1:
        return results(job, drawn_as)
    return _with_names(drawn[0].axes[0], drawn_as)


def _with_names(panel: Any, drawn_as: Mapping[Any, Look]) -> Any:
    """Write the highlighted names at the ends of their lines, and return the figure."""
    colors = {look.color: name for name, look in drawn_as.items() if look.highlighted}
    lines = [x for x in panel.lines if x.get_color() in colors and x.get_marker() != "x"]
    low, high = panel.get_ylim()
    height = -float("inf")
    for line in sorted(lines, key=lambda line: line.get_ydata()[-1]):
        height = max(line.get_ydata()[-1], height + 0.07 * (high - low))  # names do not overlap
        panel.annotate(
            str(colors[line.get_color()]), (line.get_xdata()[-1], height), (6, 0), color=line.get_color(),
            textcoords="offset points", va="center", fontsize=7, annotation_clip=False,
        )  # fmt: skip
    return panel.figure


def curves(job: Job, drawn_as: Mapping[Any, Look]) -> list[Any]:
    """Draw the metric of training and validation by step, or the loss if training lacks the metric.

    Runs whose directories are missing, or that have a single step, are omitted.
    """
    drawn = []
    for at, rows in _panels(job):
        records = {id(row): job.trial(row).run.records() for row in rows}
        trained = [r for each in records.values() for r in each if r.get("split") == "train"]
        value = measure_of(trained) or "loss"
        for split in ("train", "validation"):
            panel = _panel(f"{split} {value}{at}", "step", f"{split} {value}")
            for name, look in drawn_as.items():
                found: dict[int, list[float]] = {}
                for row in (row for row in rows if row.series == name):
                    for record in records[id(row)]:
                        if record.get("split") == split and is_number(record.get(value)):
                            found.setdefault(record["step"], []).append(record[value])
                if len(found) > 1:
                    steps = sorted(found)
                    kept = {*steps[:: -(-len(steps) // POINTS)], steps[-1]}
                    _band(panel, {step: found[step] for step in kept}, look)
            if panel.lines:
                drawn.append(panel.figure)
    return drawn


def biases(job: Job, drawn_as: Mapping[Any, Look]) -> list[Any]:
    """Draw the bias of each head by distance, one picture per highlighted series, from its first run.

    Series are omitted if the run directory is missing or the model has no bias over distance.
    """
    found = []
    for name, look in drawn_as.items():
        if look.highlighted and name in job.series:
            values_ND = _biases(job.trial(job.series[name][0]).run)
            if values_ND is not None:
                panel = _panel(f"{name}: bias of each head", "distance", height=2.0)
                for head in values_ND[:_HEADS]:
                    panel.plot(head, color=look.color, linewidth=1, alpha=0.8)
                _mark_trained(panel, job, job.series[name][:1])
                found.append(panel.figure)
    return found


def _biases(run: Run) -> np.ndarray | None:
    """Return the biases of the first layer that has any: every head, up to twice the trained length."""
    try:
        d = jnp.arange(2 * run.settings.get("sequence_length", 64))
        stacks = [part for _, part in nnx.iter_graph(run.model) if isinstance(part, Stack)]
    except (UserError, OSError):  # the run, its checkpoint or its data are missing
        return None
    for block in (block for stack in stacks for block in stack.blocks):
        # A block represents several layers; parameters that they do not share have a leading axis of layers.
        parts: Any = nnx.split(block, is_shared_by_layers, ...)
        kind, shared, own = parts
        first = nnx.merge(kind, shared, jax.tree.map(lambda x: x[0], own))
        if first.attention.encoding is not None:
            with contextlib.suppress(ValueError):  # no bias over distance
                return np.asarray(encodings.biases(first.attention.encoding, d), np.float32)
    return None


def board(jobs: Sequence[Job], drawn_as: Mapping[Any, Look]) -> Any:
    """Draw a panel per job with a row per scheme."""
    drawn = figure(2.4 * len(jobs) + 1, 0.19 * len(drawn_as) + 1.2)
    panels = drawn.subplots(1, len(jobs), sharey=True, squeeze=False)[0]
    for job, panel in zip(jobs, panels, strict=True):
        _plain(panel)
        _dots(panel, job, drawn_as)
        panel.set_title(f"{job.name}\n{job.report.better} is better", fontsize=9)
        panel.set_xlabel(job.report.result.name, fontsize=8)
    return drawn


def of_job(job: Job, drawn_as: Mapping[Any, Look]) -> Iterable[tuple[str, list[Any]]]:
    """Yield the heading and pictures of each section of a job, omitting sections without pictures."""
    sections = {
        "Results": [results(job, drawn_as), *lengths(job, drawn_as)],
        "Training": curves(job, drawn_as),
        "Bias by distance": biases(job, drawn_as),
    }
    yield from ((heading, found) for heading, found in sections.items() if found)
