"""The report as a self-contained HTML page with pictures as inline SVG."""

import html
import io
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relpos.experiments import leaderboard, pictures, tables
from relpos.experiments.job import Job
from relpos.experiments.pictures import GREY, GRID, INK, Look

_CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --grey: #767b82; --grid: #e3e5e8; --page: #fff; --soft: #f4f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --grey: #8f959c; --grid: #33383e; --page: #15181c; --soft: #1f2429; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 16px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; padding-top: .75rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 75ch; overflow-wrap: anywhere; }
.pictures { display: grid; gap: 16px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); }
.pictures svg { display: block; width: 100%; max-width: 500px; height: auto; }
svg text { font-family: "DejaVu Sans", Verdana, sans-serif !important; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 0; list-style: none; font-size: .875rem; }
.legend svg { vertical-align: middle; margin-right: 6px; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: left; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; min-width: 4.5em; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--page); }
pre { background: var(--soft); padding: 10px; font-size: .8125rem; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: 6px 0; }
"""


def page(title: str, jobs: Sequence[Job], command: str) -> str:
    """Return the page of an experiment.

    Args:
      title: title of the experiment.
      jobs: its jobs at one scale. If several suit a leaderboard, it comes first.
      command: the command that trains the runs, or "".

    Raises:
      UserError: matplotlib is not installed.
    """
    drawn_as = pictures.looks(jobs)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(tables.made_with(jobs))}.</p>",
        f"<pre>{html.escape(command)}</pre>" if command else "",
    ]
    if len(jobs) > 1 and leaderboard.suits(jobs):
        parts += [_paragraph(leaderboard.note(jobs)), _table(leaderboard.table(jobs))]
    for job in jobs:
        parts += _job(job, drawn_as, several=len(jobs) > 1)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _job(job: Job, drawn_as: Mapping[Any, Look], several: bool) -> Iterable[str]:
    if several:
        yield f"<h2>{html.escape(job.name)}</h2>"
    yield _paragraph(tables.note(job))
    yield _legend({name: look for name, look in drawn_as.items() if name in job.series})
    headings = []
    for heading, found in pictures.of_job(job, drawn_as):
        headings.append(heading)
        shown = "\n".join(_svg(drawn) for drawn in found)
        yield f'<h3>{heading}</h3>\n<div class="pictures">\n{shown}\n</div>'
    if "Training" not in headings:
        yield "<p>No training curves: the run directories are not here, or have a single record.</p>"
    yield "<h3>Means and costs</h3>"
    yield _table(_costs(job))
    yield f"<details><summary>Every run</summary>{_table(tables.every_run(job))}</details>"
    if job.results["config"]:
        lines = "\n".join(
            shlex.join(["python", "-m", "relpos.train", *job.trial(row).arguments])
            for row in job.rows
        )
        yield f"<details><summary>Command lines of the runs</summary><pre>{html.escape(lines)}</pre></details>"


def _costs(job: Job) -> list[str]:
    """Return the table of means with columns for tokens/s and parameters."""
    head, rule, *rows = tables.means(job)
    lines = [f"{head} tokens/s | parameters |", f"{rule}---|---|"]
    for line, (key, mean) in zip(rows, job.means.items(), strict=True):
        costs = (mean.speed, job.parameters.get(key))
        told = [f"{value:,.0f}" if value is not None else "-" for value in costs]
        lines.append(f"{line} {' | '.join(told)} |")
    return lines


def _legend(drawn_as: Mapping[Any, Look]) -> str:
    """Return the legend for a job's pictures."""
    dashes = {"-": "", "--": "6 3", ":": "2 2"}

    def entry(name: str, look: Look) -> str:
        line = (
            f'<svg width="28" height="10" aria-hidden="true"><line x1="0" y1="5" x2="28" y2="5" stroke-width="3" '
            f'stroke="{look.color}" stroke-dasharray="{dashes[look.style]}"/></svg>'
        )
        return f"<li>{line}{html.escape(name)}</li>"

    shown = [entry(str(name), look) for name, look in drawn_as.items() if look.highlighted]
    if rest := sum(not look.highlighted for look in drawn_as.values()):
        shown.append(entry(f"{rest} others", Look(GREY)))
    return _themed(f'<ul class="legend">{"".join(shown)}</ul>')


def _svg(drawn: Any) -> str:
    """Return a Figure as SVG, with text kept as text and the theme's greys."""
    import matplotlib

    file = io.StringIO()
    drawn.draw_without_rendering()  # create the ticks before the layout reserves space for them
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "relpos"}):
        drawn.savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)  # ids would repeat in every figure
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    return _themed(text)


def _themed(text: str) -> str:
    for color, name in ((INK, "ink"), (GREY, "grey"), (GRID, "grid")):
        text = re.sub(rf'(stroke|fill)="{color}"', rf'style="\1: var(--{name})"', text)
        text = text.replace(color, f"var(--{name})")
    return text


def _paragraph(text: str) -> str:
    return f"<p>{_inline(text)}</p>"


def _inline(text: str) -> str:
    """Convert a line of Markdown with code and bold text to HTML."""
    text = html.escape(text)
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]*)\*\*", r"<strong>\1</strong>", text)


def _table(lines: Sequence[str]) -> str:
    """Convert a Markdown table to HTML."""
    rows = [line.strip().strip("|").split("|") for line in lines]
    shown = []
    for number, cells in enumerate(rows):
        if number != 1:  # skip the rule
            kind = "th" if number == 0 else "td"
            shown.append("".join(f"<{kind}>{_inline(cell.strip())}</{kind}>" for cell in cells))
    return f'<div class="wide"><table>{"".join(f"<tr>{row}</tr>" for row in shown)}</table></div>'
