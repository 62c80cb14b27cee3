"""The exception of the data layer, and spelling suggestions for its messages."""

from __future__ import annotations

from collections.abc import Iterable

from relpos import errors


class DataError(errors.UserError, ValueError):
    """The requested data cannot be used; the message says what is wrong, where, and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known word, or "" if none is near."""
    near = errors.nearest(word, known)
    return f" Did you mean {near!r}?" if near else ""
