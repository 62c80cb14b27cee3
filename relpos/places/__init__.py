"""Where tokens stand, by name, in place of consecutive positions. The folder is the registry, as encodings' is."""

import dataclasses
import sys
from typing import Any

from relpos import registry
from relpos.places.base import Placed as Placed
from relpos.places.base import Places as Places


def names() -> tuple[str, ...]:
    """Return the names of all, sorted."""
    return registry.names(sys.modules[__name__])


def kind(name: str) -> type[Places]:
    """Return the class of a name; an unknown one is answered with the nearest right one."""
    return registry.member(sys.modules[__name__], name, Places, "positions")


def options(name: str) -> dict[str, Any]:
    """Return the options with their defaults; token ids, which only a tokenizer knows, are none."""
    fields = dataclasses.fields(kind(name))
    return {field.name: field.default for field in fields if field.name != "digits"}


def create(name: str, *, digits: tuple[int, ...] = (), **chosen: Any) -> Places:
    """Make what gives tokens their positions.

    Args:
      name: one of `names()`; "": consecutive positions.
      digits: the ids of the tokens that are digits, for those that read them.
      **chosen: the options, see `options(name)`.

    Raises:
      ValueError: an unknown name or option (the nearest right one is named), or a value that is refused.
    """
    if not name:
        return Places()
    known = options(name)
    for key, value in chosen.items():
        if key not in known:
            raise ValueError(registry.unknown(f"option of {name}", key, tuple(known)))
        registry.check_value(f"{name}.{key}", value, known[key])
    reads_digits = "digits" in kind(name).__dataclass_fields__
    return kind(name)(**chosen, **({"digits": digits} if reads_digits else {}))
