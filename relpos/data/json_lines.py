"""JSON lines: one object per line, with text in some of its fields."""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relpos.data.errors import DataError, nearest
from relpos.files import parse_json

ENDINGS = (".jsonl", ".ndjson")
_MOST_TOLD = 5  # faulty lines listed in a message

_log = logging.getLogger(__name__)


class LineError(DataError):
    """A line cannot be used; the message says why but does not name the line."""


def documents(path: Path, content: bytes, field: str) -> list[bytes]:
    """Return the text in a field of every line of a file's content, skipping blank lines.

    Lines that cannot be used are skipped, and one warning counts them and lists the first five.

    Raises:
      DataError: the first object lacks the field (the message lists the fields it has), or no line can be used.
    """
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    found: list[bytes] = []
    faults: list[str] = []
    known = False  # whether some object had the field
    for number, line in ((n, line) for n, line in enumerate(lines, 1) if line.strip()):
        try:
            record = read_object(line)
            if not known and field not in record:
                raise DataError(
                    f"{path}, line {number}: no field {field!r}.{nearest(field, record)} Name the one that holds the "
                    f"text by data.sources.files.field; there are {', '.join(map(repr, record)) or 'none'}."
                )
            known = True
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


def read_object(line: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a line.

    Raises:
      LineError: the line is not a JSON object.
    """
    try:
        record = parse_json(line)
    except json.JSONDecodeError as error:
        raise LineError(f"not JSON: column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise LineError(f"JSON that cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise LineError("not a JSON object")
    return record


def text_of(record: Mapping[str, Any], name: str) -> str:
    """Return the text in a field of an object.

    Raises:
      LineError: the field is missing or does not hold text.
    """
    if name not in record:
        raise LineError(f"no field {name!r}")
    text = record[name]
    if not isinstance(text, str):
        raise LineError(f"field {name!r} is not text but {json.dumps(text)[:40]}")
    if not text.strip():
        raise LineError(f"field {name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LineError(f"field {name!r} contains an unpaired surrogate") from None
    return text
