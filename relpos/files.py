"""Write files completely or not at all, and read files without trusting their content."""

import errno
import itertools
import json
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from relpos.errors import UserError

MOST_BYTES = 1 << 26  # in a file that is read at once
MOST_LEVELS = 50  # of nesting in JSON
_MANY_BYTES = 1 << 31  # in a file of records, which grows with the run


class WriteError(UserError):
    """A file could not be written."""

    exit_code = 1


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: at any time, a reader finds either the old or the new content.

    Text is written as UTF-8.

    Raises:
      OSError: the file cannot be written; it is left unchanged.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_out(path: Path, text: str) -> None:
    """Write text to a path that the user gave: replace a file, or write to a pipe or device.

    Raises:
      WriteError: the text could not be written.
    """
    try:
        there = path.stat() if path.exists() else None
        sys.stdout.flush()
        if there is None or (stat.S_ISREG(there.st_mode) and not _is_standard_output(there)):
            write_atomically(path.resolve(), text)  # keep a link, and replace what it points to
            return
        # /dev/stdout may be a file that already has content.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
            file.write(text.encode())
    except OSError as error:
        raise WriteError(f"cannot write {str(path)!r}: {error.strerror}") from error


def _is_standard_output(status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, os.fstat(1))
    except OSError:  # closed
        return False


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Return the descriptor of a file, opened without blocking.

    Raises:
      UserError: it is not a regular file, but a pipe, a device or a directory.
      OSError: it does not exist or cannot be opened.
    """
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o644)
    except OSError as error:
        # The errors for a socket, and for a directory opened for writing.
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise _no_regular_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _no_regular_file(path)
    return handle


def _no_regular_file(path: Path) -> UserError:
    return UserError(f"{str(path)!r} is not a regular file: remove or replace it")


def read_file(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a file.

    Args:
      path: the file, or a link to it.
      most_bytes: the largest size to accept.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it is not a regular file, is too large, or cannot be read.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            content = file.read(most_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if len(content) > most_bytes:
        raise UserError(
            f"{str(path)!r} has more than {most_bytes:,} bytes, so it is not the expected file: restore it"
        )
    return content


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it is not a regular file, or is damaged.
    """
    try:
        return parse_json(read_file(path))
    except ValueError as error:
        raise UserError(f"cannot read {str(path)!r}, restore it: {error}") from None


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
      ValueError: it is not JSON, is nested too deeply, or contains an integer of thousands of digits.
    """
    try:
        value = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(MOST_LEVELS):
        items = (
            x.values() if isinstance(x, dict) else x for x in level if isinstance(x, dict | list)
        )
        level = list(itertools.chain.from_iterable(items))
    if level:
        raise ValueError(f"nested more than {MOST_LEVELS} deep")
    return value


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file with one JSON object on each line; skip all else, such as an incomplete last line.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it is not a regular file, or cannot be read.
    """
    records = []
    for line in read_file(path, _MANY_BYTES).splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
