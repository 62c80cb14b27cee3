"""A folder as a registry: each file defines one class or function, known by the file's name, with options."""

import importlib
import inspect
import math
import numbers
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, Protocol, TypeVar

from relpos.errors import nearest

Kind = TypeVar("Kind")
# By the type of an option's default: the accepted types of a value, and their description. bool comes first, because a
# bool is an int.
_ACCEPTED: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "text"),
    tuple: (tuple | list, "a list"),
}
_FLOAT32_MAX = 2.0**127 * (2 - 2.0**-23)


def names(package: ModuleType) -> tuple[str, ...]:
    """Return the names of the files in a package except `base`, sorted, without its folders."""
    found = pkgutil.iter_modules(package.__path__)
    return tuple(sorted(m.name for m in found if m.name != "base" and not m.ispkg))


class HasOptions(Protocol):
    """A registry: a module with names, each of which has options."""

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""

    def options(self, name: str) -> dict[str, Any]:
        """Return the options of a name, with their defaults."""


def all_options(registry: HasOptions) -> dict[str, dict[str, Any]]:
    """Return the options, with their defaults, of all names of a registry."""
    return {name: registry.options(name) for name in registry.names()}


def member(package: ModuleType, name: str, kind: type[Kind], what: str) -> type[Kind]:
    """Return the class of a name.

    Raises:
      ValueError: there is no such `what`; the message suggests the nearest name.
    """
    if name not in names(package):
        raise ValueError(unknown(what, name, names(package)))
    module = importlib.import_module(f"{package.__name__}.{name}")
    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, kind) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define one {kind.__name__}, defines {len(found)}")
    return found[0]


class Functions:
    """A package as a registry of functions: each file has one, whose keyword-only arguments are its options.

    Args:
      package: its dotted name.
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
          ValueError: there is none; the message suggests the nearest.
        """
        if name not in self.names():
            raise ValueError(unknown(self._what, name, self.names()))
        module = importlib.import_module(f"{self._package}.{name}")
        if not hasattr(module, self._function):
            raise TypeError(f"{module.__name__} must define a function {self._function}")
        return getattr(module, self._function)

    def options(self, name: str) -> dict[str, Any]:
        """Return option -> default of a function."""
        parameters = inspect.signature(self.find(name)).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        if missing := [option for option in found if found[option] is inspect.Parameter.empty]:
            raise TypeError(f"{self._what} {name}: no default for {', '.join(missing)}")
        return found

    def call(self, name: str, /, *given: Any, **chosen: Any) -> Any:
        """Call the function of a name.

        Args:
          name: one of `names()`.
          *given: its positional arguments.
          **chosen: some of its options, checked against the defaults.

        Raises:
          ValueError: the name, an option or its value is wrong.
        """
        check_options(name, chosen, self.options(name))
        return self.find(name)(*given, **chosen)


def unknown(what: str, given: str, known: tuple[str, ...]) -> str:
    """Return a message that a name is unknown, which suggests the nearest known name."""
    near = nearest(given, known)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown {what} {given!r}: {hint}known: {', '.join(known) or 'none'}"


def check_options(name: str, chosen: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check the chosen options of a name against the known ones.

    Raises:
      ValueError: an option is unknown, or its value fails `check_value`.
    """
    for key, value in chosen.items():
        if key not in known:
            raise ValueError(unknown(f"option of {name}", key, tuple(known)))
        check_value(f"{name}.{key}", value, known[key])


def check_value(key: str, value: Any, default: Any) -> None:
    """Check that an option's value has the type of its default, and that int32 or float32 can hold a number.

    Raises:
      ValueError: it does not; the message names the option `key`, such as "rope.base".
    """
    kind = next((kind for kind in _ACCEPTED if isinstance(default, kind)), None)
    if kind is None:
        return
    accepted, words = _ACCEPTED[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} must be {words}, got {value!r}")
    if kind is int and not -(2**31) <= value < 2**31:
        raise ValueError(f"{key} must fit into int32, got {value}")
    if kind is float and not abs(value) <= _FLOAT32_MAX:  # refuses NaN too
        raise ValueError(f"{key} must be finite in float32, got {value}")


def check_range(key: str, value: float, least: float, most: float = math.inf) -> None:
    """Check that an option is from `least` to `most`; the error names the option `key`, such as "rope.base"."""
    if not least <= value <= most:
        low, high = (f"{bound:g}" if isinstance(bound, float) else bound for bound in (least, most))
        bounds = f"at least {low}" if most == math.inf else f"from {low} to {high}"
        raise ValueError(f"{key} must be {bounds}, got {value}")


def check_choice(key: str, value: str, known: Iterable[str]) -> None:
    """Check that an option is one of the known values; the error names the option `key`, and the nearest value."""
    if value not in (known := tuple(known)):
        raise ValueError(unknown(key, value, known))
