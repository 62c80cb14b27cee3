"""A question as a line of JSON: {"context": ..., "question": ...}."""

from relpos.data.errors import DataError
from relpos.data.json_lines import read_object, text_of


def read_line(line: bytes) -> tuple[str, str]:
    """Return the context and question in a line of JSON.

    Raises:
      DataError: the line is not such an object.
    """
    if not line.strip():
        raise DataError("empty line")
    record = read_object(line)
    return text_of(record, "context"), text_of(record, "question")
