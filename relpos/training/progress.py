"""Progress display: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from relpos.terminal import printable


class TerminalProgress:
    """A progress bar with the time left and the latest means; it fits into 60 columns."""

    def __init__(self, console: Console, steps: int, step: int, formats: Mapping[str, str]):
        self._formats = formats
        self._progress = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[means]}", markup=False),
            console=console,
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task("", total=steps, completed=step, means="")

    def start(self) -> None:
        """Show the bar."""
        self._progress.start()

    def update(self, step: int, means: Mapping[str, float]) -> None:
        """Move the bar and show the means of the current window."""
        self._progress.update(
            self._task, completed=step, means=" ".join(_show(means, self._formats))
        )

    def log(self, step: int, means: Mapping[str, float]) -> None:
        """Do nothing: the bar shows the means."""

    def stop(self) -> None:
        """Remove the bar."""
        self._progress.stop()


class PlainProgress:
    """One line per report, without control characters."""

    def __init__(self, console: Console, steps: int, formats: Mapping[str, str]):
        self._console = console
        self._formats = formats
        self._steps = steps
        self._first: int | None = None  # the step at which the clock started
        self._started = 0.0

    def start(self) -> None:
        """Do nothing."""

    def update(self, step: int, means: Mapping[str, float]) -> None:
        """Start the clock after the first step, which includes compilation."""
        if self._first is None:
            self._first, self._started = step, time.monotonic()

    def log(self, step: int, means: Mapping[str, float]) -> None:
        """Print a line with the means and the time left."""
        shown = [f"step {step}/{self._steps}", *_show(means, self._formats)]
        if self._first is not None and step > self._first:
            per_step = (time.monotonic() - self._started) / (step - self._first)
            shown.append(f"{_duration(per_step * (self._steps - step))} left")
        say(self._console, "  ".join(shown))

    def stop(self) -> None:
        """Do nothing."""


def create_progress(
    console: Console, steps: int, step: int, formats: Mapping[str, str]
) -> TerminalProgress | PlainProgress:
    """Return the progress display for a console.

    Args:
      console: the console.
      steps: total steps of the run.
      step: current step.
      formats: metric -> format string, in addition to the loss.
    """
    if console.is_terminal:
        return TerminalProgress(console, steps, step, formats)
    return PlainProgress(console, steps, formats)


def say(console: Console, text: str) -> None:
    """Print a line without Rich's markup, colours and line breaks, and without escape codes in the text."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def show_record(record: Mapping[str, Any]) -> str:
    """Format a record: ``validation: length 256, bits_per_byte 2.013``."""
    values = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in record.items()
        if name != "split"
    ]
    return f"{record.get('split', 'train')}: {', '.join(values)}"


def _show(means: Mapping[str, float], formats: Mapping[str, str]) -> Iterable[str]:
    formats = {"loss": "loss {:.3f}", **formats}
    shown = [text.format(means[name]) for name, text in formats.items() if name in means]
    if (speed := means.get("tokens_per_second")) is not None:
        shown.append(f"{speed:,.0f} tok/s" if speed < 10_000 else f"{speed / 1000:,.0f}k tok/s")
    return shown


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def track(console: Console, items: Sequence[Any], what: str) -> Iterator[Any]:
    """Yield the items, with a bar on a terminal."""
    if not console.is_terminal:
        yield from items
        return
    with Progress(console=console, transient=True) as progress:
        yield from progress.track(items, description=what)
