"""The error that a person can put right, and the nearest right name to suggest to them."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what and what to do instead.

    The entry points answer it with its message and no traceback.
    """

    exit_code = 2


# What of relpos[train] is imported; a dependency of the core may bring some of it.
_OF_TRAIN = (
    "absl", "array_record", "babel", "grain", "importlib_resources", "ml_collections", "optax", "orbax", "rich",
    "sacrebleu", "sentencepiece", "tensorboardX", "tensorflow_datasets",
)  # fmt: skip


def what_is_missing(error: ModuleNotFoundError) -> str:
    """Return what the error says, with the command that brings the module if that is one of relpos[train]."""
    if (error.name or "").partition(".")[0] not in _OF_TRAIN:
        return str(error)
    return f"{error}: pip install 'relpos[train]' brings what training and its commands need"


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
