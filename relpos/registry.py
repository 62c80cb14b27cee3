"""A folder as a registry: each file has one class of a kind, and the file's name is the class's."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

from relpos.errors import nearest

Kind = TypeVar("Kind")


def names(package: ModuleType) -> tuple[str, ...]:
    """Return the names of the files of a package but `base`, sorted; folders are not looked into."""
    found = pkgutil.iter_modules(package.__path__)
    return tuple(sorted(m.name for m in found if m.name != "base" and not m.ispkg))


def member(package: ModuleType, name: str, kind: type[Kind], what: str) -> type[Kind]:
    """Return the class of a name.

    Raises:
      ValueError: there is no such `what`; the nearest right name is told.
    """
    if name not in names(package):
        raise ValueError(unknown(what, name, names(package)))
    module = importlib.import_module(f"{package.__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, kind)
        and value.__module__ == module.__name__
    )
    return found


def unknown(what: str, given: str, known: tuple[str, ...]) -> str:
    """Say that a name is unknown, and which would be right."""
    near = nearest(given, known)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown {what} {given!r}: {hint}known: {', '.join(known) or 'none'}"
