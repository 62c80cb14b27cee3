"""The one exception of the data layer, and the spelling help its messages give."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """The text asked for cannot be used: the message says what, where, and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the nearest known word, "" where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
