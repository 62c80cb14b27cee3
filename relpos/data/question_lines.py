"""A question as a line of JSON: {"context": ..., "question": ...}."""

import json

from relpos.data.errors import DataError


def read_line(line: bytes) -> tuple[str, str]:
    """Returns context and question of a line of JSON.

    Raises:
        DataError: what is wrong with it.
    """
    if not line.strip():
        raise DataError("empty line")
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"no JSON: column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"JSON that cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise DataError('no JSON object with "context" and "question"')
    for name in ("context", "question"):
        if name not in record:
            raise DataError(f"no field {name!r}")
        text = record[name]
        if not isinstance(text, str):
            raise DataError(f"field {name!r} is no text but {json.dumps(text)[:40]}")
        if not text.strip():
            raise DataError(f"field {name!r} is empty")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"field {name!r} holds half a surrogate pair") from None
    return record["context"], record["question"]
