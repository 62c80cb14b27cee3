"""Progress display: a bar on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from relpos.terminal import printable
from relpos.training.metrics_log import figures

T = TypeVar("T")
_evaluation: ContextVar[Progress | None] = ContextVar("_evaluation", default=None)


class RunProgress:
    """The progress of a run: on a terminal, a bar that fits into 60 columns; elsewhere, a line for each report.

    It shows the loss, the metrics with a format string, and the speed.
    """

    def __init__(self, console: Console, steps: int, step: int, formats: Mapping[str, str]):
        self._console, self._steps = console, steps
        self._formats = {"loss": "loss {:.3f}", **formats}
        self._first: int | None = None  # the step at which the clock started
        self._started = 0.0
        self._bar = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[means]}", markup=False),
            console=console,
            expand=True,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=step, means="")

    def start(self) -> None:
        """Show the bar."""
        self._bar.start()

    def update(self, step: int, means: Mapping[str, float]) -> None:
        """Show a step and the means of the current window in the bar.

        The clock for `log` starts after the first step, which includes compilation.
        """
        if self._first is None:
            self._first, self._started = step, time.monotonic()
        self._bar.update(self._task, completed=step, means=" ".join(self._show(means)))

    def log(self, step: int, means: Mapping[str, float]) -> None:
        """Print a line with the means and the time left, unless there is a bar."""
        if not self._bar.disable:
            return
        shown = [f"step {step}/{self._steps}", *self._show(means)]
        if self._first is not None and step > self._first:
            per_step = (time.monotonic() - self._started) / (step - self._first)
            shown.append(f"{_duration(per_step * (self._steps - step))} left")
        say(self._console, "  ".join(shown))

    def stop(self) -> None:
        """Remove the bar."""
        if not self._bar.disable:  # otherwise older versions of rich print an empty line
            self._bar.stop()

    def _show(self, means: Mapping[str, float]) -> list[str]:
        shown = [text.format(means[name]) for name, text in self._formats.items() if name in means]
        if (speed := means.get("tokens_per_second")) is not None:
            shown.append(f"{speed:,.0f} tok/s" if speed < 10_000 else f"{speed / 1000:,.0f}k tok/s")
        return shown


@contextlib.contextmanager
def evaluating(name: str, cases: Sequence[T], console: Console | None) -> Iterator[Iterable[T]]:
    """Show a bar on a terminal while the cases are iterated over; `counted` adds lines to it."""
    if console is None or not console.is_terminal:
        yield cases
        return
    recording, console.record = console.record, False  # each frame would be recorded
    bar = Progress(console=console, transient=True)
    before = _evaluation.set(bar)
    try:
        with bar:
            yield counted(cases, f"evaluating {escape(name)}", len(cases))
    finally:
        _evaluation.reset(before)
        console.record = recording


def counted(
    items: Iterable[T], title: str, total: int | None = None, size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yield the items; during an evaluation on a terminal, a line of its bar shows the sum of their sizes."""
    bar = _evaluation.get()
    if bar is None:
        yield from items
        return
    line = bar.add_task(title, total=total)
    try:
        for item in items:
            yield item
            bar.advance(line, size(item))
    finally:
        bar.remove_task(line)


def say(console: Console, text: str) -> None:
    """Print a line without Rich's markup, colours or wrapping; escape control characters in it."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def show_record(record: Mapping[str, Any]) -> str:
    """Format a record without its signatures: ``validation: length 256, bits_per_byte 2.013``."""
    values = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures(record).items()
        if name != "split"
    ]
    return f"{record.get('split', 'train')}: {', '.join(values)}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
