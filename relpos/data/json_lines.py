"""Lines of JSON: one object a line, of which some fields are text."""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relpos.data import file_kinds as kinds
from relpos.data.errors import DataError, nearest
from relpos.files import parse_json

ENDINGS = (".jsonl", ".ndjson")
_MOST_TOLD = 5  # faulty lines that are named one by one

_log = logging.getLogger(__name__)


class LineError(DataError):
    """A line cannot be used; the message says why, not which it is."""


def is_json_lines(path: Path) -> bool:
    """Say whether a file's name promises lines of JSON."""
    return kinds.ending(path) in ENDINGS


def documents(path: Path, content: bytes, field: str) -> list[bytes]:
    """Return the text in one field of every line; blank lines are none.

    Lines that cannot be used are left out, counted and named in one warning.

    Args:
      path: of the file, for messages.
      content: its bytes.
      field: the field with the text.

    Raises:
      DataError: the first object has no such field (the message lists those it has), or no line can be used.
    """
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    found: list[bytes] = []
    faults: list[str] = []
    known = False  # whether an object was seen that has the field
    for number, line in ((n, line) for n, line in enumerate(lines, 1) if line.strip()):
        try:
            record = read_object(line)
            known = known or _has(record, field, f"{path}, line {number}")
            found.append(text_of(record, field).encode())
        except LineError as error:
            faults.append(f"line {number}: {error}")
    told = "; ".join(faults[:_MOST_TOLD]) + ("; ..." if len(faults) > _MOST_TOLD else "")
    if not found:
        raise DataError(f"{path} holds no line with text: {told or 'it is empty'}.")
    if faults:
        total = len(found) + len(faults)
        _log.warning("%s: %d of %d lines are left out: %s", path, len(faults), total, told)
    return found


def _has(record: Mapping[str, Any], field: str, where: str) -> bool:
    if field not in record:
        raise DataError(
            f"{where}: no field {field!r}.{nearest(field, record)} Name the one that holds the text by data.field; "
            f"there are {', '.join(map(repr, record)) or 'none'}."
        )
    return True


def read_object(line: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a line.

    Raises:
      LineError: what is wrong with the line.
    """
    try:
        record = parse_json(line)
    except json.JSONDecodeError as error:
        raise LineError(f"no JSON: column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise LineError(f"JSON that cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise LineError("no JSON object")
    return record


def text_of(record: Mapping[str, Any], name: str) -> str:
    """Return the text in a field of an object.

    Raises:
      LineError: there is none, or no text, in it.
    """
    if name not in record:
        raise LineError(f"no field {name!r}")
    text = record[name]
    if not isinstance(text, str):
        raise LineError(f"field {name!r} is no text but {json.dumps(text)[:40]}")
    if not text.strip():
        raise LineError(f"field {name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LineError(f"field {name!r} holds half a surrogate pair") from None
    return text
