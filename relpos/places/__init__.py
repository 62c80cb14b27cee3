"""Position transforms by name: they replace consecutive positions. The folder is the registry, as for encodings."""

import dataclasses
import sys
from typing import Any

from relpos import registry
from relpos.places.base import Placed as Placed
from relpos.places.base import Places as Places


def names() -> tuple[str, ...]:
    """Return the names of all position transforms, sorted."""
    return registry.names(sys.modules[__name__])


def kind(name: str) -> type[Places]:
    """Return the class of a name; the error for an unknown name suggests the nearest one."""
    return registry.member(sys.modules[__name__], name, Places, "positions")


def options(name: str) -> dict[str, Any]:
    """Return the options with their defaults, without token ids, which only a tokenizer knows."""
    fields = dataclasses.fields(kind(name))
    return {field.name: field.default for field in fields if field.name != "digits"}


def create(name: str, *, digits: tuple[int, ...] = (), **chosen: Any) -> Places:
    """Create a position transform.

    Args:
      name: one of `names()`; "": consecutive positions.
      digits: the ids of the tokens that are digits, for transforms that read them.
      **chosen: the options, see `options(name)`.

    Raises:
      ValueError: the name or an option is unknown (the message suggests the nearest one), or a value is not allowed.
    """
    if not name:
        return Places()
    registry.check_options(name, chosen, options(name))
    reads_digits = "digits" in kind(name).__dataclass_fields__
    return kind(name)(**chosen, **({"digits": digits} if reads_digits else {}))
