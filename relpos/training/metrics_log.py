"""Metrics of a run: means over a window of steps, and the files that store them."""

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from relpos.errors import UserError
from relpos.files import open_regular, parse_json, write_atomically

# Labels of records that cover only part of a case.
PARTS = ("source_words", "distance")


class RecordError(UserError):
    """Raised when the records of a run cannot be read or written."""

    exit_code = 1


class MetricSums:
    """Sums and counts of metrics since the last report. Checkpoints store its `totals`."""

    def __init__(self, totals: Mapping[str, Any] | None = None):
        self.totals: dict[str, list[float]] = {
            name: list(pair) for name, pair in (totals or {}).items()
        }

    def add(self, metrics: Mapping[str, tuple[Any, Any]]) -> None:
        """Add one step's (sum, count) pairs, already on the host."""
        for name, (total, count) in metrics.items():
            pair = self.totals.setdefault(name, [0.0, 0.0])
            pair[0] += float(total)
            pair[1] += float(count)

    def means(self) -> dict[str, float]:
        """Return the mean of each metric with a nonzero count."""
        return {name: total / count for name, (total, count) in self.totals.items() if count}


class MetricsLog:
    """Appends records to ``metrics.jsonl`` and to TensorBoard's event files.

    Args:
      workdir: the run directory.
      step: the run's current step.
      lines: number of lines when that step was saved. Later lines, including a torn last one, are dropped, because the
        resumed run writes them again.

    Attributes:
      lines: number of lines in the file.
      damage: a description of damage in the kept lines, or "".

    Raises:
      RecordError: the file is not a regular file, or (from every method) it cannot be written, for example on a full
        disk.
    """

    def __init__(self, workdir: Path, step: int = 0, lines: int = 0):
        self._path = workdir / "metrics.jsonl"
        with self._named_errors("read"):
            kept = _read(self._path).split(b"\n")[:-1][:lines]
        self.lines = len(kept)
        self.damage = self._damage(kept, lines)
        with self._named_errors(), contextlib.ExitStack() as opened:
            write_atomically(self._path, b"".join(line + b"\n" for line in kept))
            self._file = opened.enter_context(self._path.open("a", encoding="utf-8"))
            (workdir / "tensorboard").mkdir(exist_ok=True)
            # Not SummaryWriter: errors in its thread would go unnoticed.
            self._events = EventsWriter(
                str(workdir / "tensorboard" / "events"), filename_suffix=f".{os.getpid()}"
            )
            opened.callback(self._events.close)
            if step:  # makes TensorBoard drop later steps of earlier files
                self._event(step + 1, session_log=SessionLog(status=SessionLog.START))
            opened.pop_all()

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append ``{"step": ..., "split": ..., names: values}``; TensorBoard gets the finite values of whole splits."""
        record = finite({"step": step, **record})
        labels = [record[name] for name in ("split", "length", "search") if name in record]
        tag = "_".join(map(str, labels)).replace(" ", "_")
        shown = not any(part in record for part in PARTS)  # TensorBoard shows whole splits only
        with self._named_errors():
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
            self.lines += 1
            for name, value in record.items():
                if shown and name not in ("step", "length") and isinstance(value, int | float):
                    self._event(step, summary=scalar(f"{tag}/{name}", value))
            self._events.flush()

    def sync(self) -> None:
        """Wait until the records are on disk."""
        with self._named_errors():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files. `write` has already flushed all records."""
        for file in (self._file, self._events):
            with contextlib.suppress(OSError):  # closing retries a failed write, already reported
                file.close()

    def _event(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))

    def _damage(self, kept: list[bytes], lines: int) -> str:
        records = [_is_record(line) for line in kept]
        found = []
        if len(kept) < lines:
            found.append(f"has lost {lines - len(kept)} of its {lines} lines")
        if not all(records):
            found.append(f"has {records.count(False)} lines that are not JSON objects")
        return f"{str(self._path)!r} {' and '.join(found)}" if found else ""

    @contextlib.contextmanager
    def _named_errors(self, task: str = "write") -> Iterator[None]:
        beside = " and the events beside it" if task == "write" else ""
        try:
            yield
        except OSError as error:
            raise RecordError(
                f"cannot {task} {str(self._path)!r}{beside}: {error.strerror}"
            ) from error


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinity in a record by None, because JSON has neither."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def figures(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without the signatures of its metrics."""
    return {name: value for name, value in record.items() if not name.endswith("_signature")}


def _read(path: Path) -> bytes:
    """Return a file's content, or b"" if it is missing, without blocking on pipes or following links."""
    try:
        handle = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    except UserError as error:
        raise RecordError(str(error)) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RecordError(f"{str(path)!r} is a link: put the file itself there") from None
        raise
    with os.fdopen(handle, "rb") as file:
        return file.read()


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False
