"""A folder as a registry: each file has one class of a kind, named as the file is, and options with defaults."""

import importlib
import inspect
import numbers
import pkgutil
from types import ModuleType
from typing import Any, Protocol, TypeVar

from relpos.errors import nearest

Kind = TypeVar("Kind")
_FLOAT32_MAX = 2.0**127 * (2 - 2.0**-23)


def names(package: ModuleType) -> tuple[str, ...]:
    """Return the names of the files of a package but `base`, sorted; folders are not looked into."""
    found = pkgutil.iter_modules(package.__path__)
    return tuple(sorted(m.name for m in found if m.name != "base" and not m.ispkg))


class HasOptions(Protocol):
    """A registry: a module with names, each with options."""

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""

    def options(self, name: str) -> dict[str, Any]:
        """Return option -> default of one of them."""


def all_options(registry: HasOptions) -> dict[str, dict[str, Any]]:
    """Return name -> options with their defaults, of all names of a registry."""
    return {name: registry.options(name) for name in registry.names()}


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


class Functions:
    """A package as a registry of functions: each file has one, whose keyword-only arguments are its options.

    Args:
      package: by its dotted name.
      function: what each file calls its function.
      what: what a file is, for messages.
    """

    def __init__(self, package: str, function: str, what: str) -> None:
        self._package, self._function, self._what = package, function, what

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return names(importlib.import_module(self._package))

    def find(self, name: str) -> Any:
        """Return the function of a name.

        Raises:
          ValueError: there is none; the nearest right name is told.
        """
        if name not in self.names():
            raise ValueError(unknown(self._what, name, self.names()))
        return getattr(importlib.import_module(f"{self._package}.{name}"), self._function)

    def options(self, name: str) -> dict[str, Any]:
        """Return option -> default of one of them."""
        parameters = inspect.signature(self.find(name)).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def call(self, name: str, /, *given: Any, **chosen: Any) -> Any:
        """Call the function of a name.

        Args:
          name: one of `names()`.
          *given: its positional arguments.
          **chosen: some of its options, checked by their defaults.

        Raises:
          ValueError: the name, an option or its value is wrong.
        """
        known = self.options(name)
        for key, value in chosen.items():
            if key not in known:
                raise ValueError(unknown(f"option of {name}", key, tuple(known)))
            check_value(f"{name}.{key}", value, known[key])
        return self.find(name)(*given, **chosen)


def unknown(what: str, given: str, known: tuple[str, ...]) -> str:
    """Say that a name is unknown, and which would be right."""
    near = nearest(given, known)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown {what} {given!r}: {hint}known: {', '.join(known) or 'none'}"


def check_value(key: str, value: Any, default: Any) -> None:
    """Check that an option's value is of its default's kind, and a number that int32 or float32 holds.

    Raises:
      ValueError: names the option `key`, such as "rope.base".
    """
    number: Any = value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be True or False, got {value!r}")
    elif isinstance(default, int):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise ValueError(f"{key} must be a whole number, got {value!r}")
        if not -(2**31) <= number < 2**31:
            raise ValueError(f"{key} must be below 2**31, which int32 holds, got {value}")
    elif isinstance(default, float):
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise ValueError(f"{key} must be a number, got {value!r}")
        if not abs(number) <= _FLOAT32_MAX:  # NaN is not either
            raise ValueError(f"{key} must be finite in float32, got {value}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError(f"{key} must be text, got {value!r}")
    elif isinstance(default, tuple) and not isinstance(value, tuple | list):
        raise ValueError(f"{key} must be a list, got {value!r}")
