"""What the scripts share: flags, timing by turns, records, and tables for the terminal and as Markdown."""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from relpos.experiments import provenance
from relpos.files import write_atomically

Row = dict[str, Any]  # the figures of a contestant
Cells = list[list[str]]  # a table, whose first row is the header
Who = TypeVar("Who")


class Parser(argparse.ArgumentParser):
    """A parser that shows a script's docstring as it stands, and reads lists of names."""

    def __init__(self, description: str | None):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def add_names(
        self, flag: str, known: Collection[str], default: Collection[str] | None = None
    ) -> None:
        """Add a flag that takes known names, separated by commas; by default all of them."""

        def names(text: str) -> list[str]:
            if wrong := [name for name in listed(text) if name not in known]:
                raise argparse.ArgumentTypeError(
                    f"unknown {', '.join(wrong)}; known: {', '.join(known)}"
                )
            return listed(text)

        default = list(known if default is None else default)
        self.add_argument(flag, type=names, default=default, help=", ".join(known))


def listed(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [part for part in text.split(",") if part]


def timed(call: Callable[[], Any], warm: bool = False) -> float:
    """Return the seconds that a call takes; if warm, those of the second of two calls."""
    if warm:
        call()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def by_turns(
    contestants: Collection[Who],
    turn: Callable[[Who], float],
    rounds: int,
    title: str,
    seldom: Collection[Who] = (),
) -> dict[Who, list[float]]:
    """Let all contestants take turns, so that other load affects all of them; return the seconds of each.

    Contestants in `seldom` take part only in every fourth round. The order is random, as each turn is affected by the
    caches and clock rates that the previous one left.
    """
    from rich.progress import track  # scripts/check_device.py does without rich

    order = random.Random(0)
    times: dict[Who, list[float]] = {who: [] for who in contestants}
    for number in track(range(rounds), description=title, transient=True):
        now = [who for who in contestants if number % 4 == 0 or who not in seldom]
        for who in order.sample(now, len(now)):
            times[who].append(turn(who))
    return times


def median_iqr(times: Sequence[float]) -> tuple[float, float]:
    """Return the median and the interquartile range."""
    low, median, high = statistics.quantiles(times, n=4)
    return median, high - low


def measured_on() -> dict[str, str]:
    """Return the provenance of a record."""
    return {
        "commit": provenance.commit(), "python": platform.python_version(), "jax": jax.__version__,
        "device": jax.devices()[0].device_kind, "machine": provenance.machine(),
    }  # fmt: skip


def save(path: Path, record: Any) -> None:
    """Write a record, so that a run cut short keeps what it has measured."""
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def row_of(rows: Sequence[Row], name: str) -> Row | None:
    """Return the row of a contestant, if there is one."""
    return next((row for row in rows if row["name"] == name), None)


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    heads, *lines = (f"| {' | '.join(line)} |" for line in cells)
    return "\n".join([heads, "|---" * len(cells[0]) + "|", *lines])


def rich_table(title: str, cells: Sequence[Sequence[str]]) -> Any:
    """Return a table for the terminal."""
    from rich.table import Table  # scripts/check_device.py does without rich

    table = Table(title=title)
    for number, head in enumerate(cells[0]):
        table.add_column(head, justify="right" if number else "left", no_wrap=number > 0)
    for line in cells[1:]:
        table.add_row(*line)
    return table


def show_record(
    description: str | None,
    pages: Callable[[Any], str],
    draw: Callable[[Any], Any],
    arguments: Sequence[str] | None,
) -> int:
    """Read a record named on the command line, print its pages and draw it; return the process's exit status."""
    parser = Parser(description)
    parser.add_argument("record", type=Path)
    parser.add_argument("--picture", type=Path, help="where to draw it: .png, .svg or .pdf")
    options = parser.parse_args(arguments)
    record = json.loads(options.record.read_text())
    if options.picture is not None:
        draw(record).savefig(options.picture, dpi=110)
    print(pages(record), end="")
    return 0
