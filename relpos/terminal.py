"""Text that comes from files, made fit for a terminal."""

import re

# Escape codes begin with one of these; those that turn the direction of writing hide what is read.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Return a text with the characters that a terminal would obey spelt out, such as ``\x1b[2J``.

    Args:
      text: of a run directory or of data.
      keep: the characters that stay.
    """

    def spelt(match: re.Match[str]) -> str:
        return match[0] if match[0] in keep else ascii(match[0])[1:-1]

    return _OBEYED.sub(spelt, text)
