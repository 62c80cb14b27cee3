"""Where tokens stand, by name, in place of consecutive positions. The folder is the registry, as encodings' is."""

import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any

from relpos.errors import nearest
from relpos.places.base import Placed as Placed
from relpos.places.base import Places as Places


def names() -> tuple[str, ...]:
    """Return the names of all, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base"))


def kind(name: str) -> type[Places]:
    """Return the class of a name; an unknown one is answered with the nearest right one."""
    if name not in names():
        raise ValueError(_unknown("positions", name, names()))
    module = importlib.import_module(f"{__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Places)
        and value.__module__ == module.__name__
    )
    return found


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
    for key in chosen:
        if key not in options(name):
            raise ValueError(_unknown(f"option of {name}", key, tuple(options(name))))
    reads_digits = "digits" in kind(name).__dataclass_fields__
    return kind(name)(**chosen, **({"digits": digits} if reads_digits else {}))


def _unknown(what: str, given: str, known: tuple[str, ...]) -> str:
    near = nearest(given, known)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown {what} {given!r}: {hint}known: {', '.join(known)}"
