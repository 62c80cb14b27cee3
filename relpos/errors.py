"""The error that a person can put right, and the nearest right name to suggest to them."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what and what to do instead.

    The entry points answer it with its message and no traceback.
    """

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like the given one, None when none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``": did you mean 'NEAREST'?"``, or ``"; known: ..."`` when none is near.

    Args:
      name: what was written.
      known: the names which would have been right.
    """
    names = sorted(known)
    near = nearest(name, names)
    if near:
        return f": did you mean {near!r}?"
    return f"; known: {', '.join(names)}" if names else ""
