"""Make text from files safe to print on a terminal."""

import re

# Characters that start escape codes, and those that change the writing direction, which can disguise text.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Return a text in which all control characters but those to keep are escaped, such as ``\x1b[2J``."""

    def spelt(match: re.Match[str]) -> str:
        return match[0] if match[0] in keep else ascii(match[0])[1:-1]

    return _OBEYED.sub(spelt, text)
