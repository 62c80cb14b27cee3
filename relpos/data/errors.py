"""The one exception of the data layer, and the spelling help its messages give."""

from __future__ import annotations

from collections.abc import Iterable

from relpos import errors


class DataError(errors.UserError, ValueError):
    """The text asked for cannot be used: the message says what, where, and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known word, "" where none is near."""
    near = errors.nearest(word, known)
    return f" Did you mean {near!r}?" if near else ""
