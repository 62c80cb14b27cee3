"""The error that a user can correct, and suggestions of the nearest known name."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A request of the user's that cannot be fulfilled; the message says why and what to do instead.

    The entry points print the message without a traceback.
    """

    exit_code = 2


# The modules of relpos[train]; a dependency of the core may install some of them.
_OF_TRAIN = (
    "absl", "array_record", "babel", "grain", "importlib_resources", "ml_collections", "optax", "orbax", "rich",
    "sacrebleu", "sentencepiece", "tensorboardX", "tensorflow_datasets",
)  # fmt: skip


def what_is_missing(error: ModuleNotFoundError) -> str:
    """Return the error's message; for a module of relpos[train], add the command that installs it."""
    if (error.name or "").partition(".")[0] not in _OF_TRAIN:
        return str(error)
    return f"{error}: pip install 'relpos[train]' installs what training and its commands need"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to the given one; None if none is similar."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``": did you mean 'NEAREST'?"``, or ``"; known: ..."`` if no known name is similar.

    Args:
      name: the unknown name.
      known: the known names.
    """
    names = sorted(known)
    near = nearest(name, names)
    if near:
        return f": did you mean {near!r}?"
    return f"; known: {', '.join(names)}" if names else ""
