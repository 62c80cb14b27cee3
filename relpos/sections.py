"""Config sections as frozen dataclasses.

The annotation of a field defines its valid values::

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Data:
        tokenizer: Literal["bytes", "sentencepiece"] = "bytes"
        vocab_size: Annotated[int, at_least(1)] = 4096
        longest: Positive | None = None
        sources: Options = options_of(text)

A field is a bool, int, float, str or Literal, one of these or None, a tuple of one type, another section, or `Options`.
A field with `metadata={"key": False}` is not a config key.
"""

import dataclasses
import functools
import re
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

from relpos.errors import UserError, did_you_mean, nearest
from relpos.registry import HasOptions, all_options

Section = TypeVar("Section")
# Options of all members of a registry: name -> option -> value.
Options = Mapping[str, Mapping[str, Any]]

_INT32 = range(-(2**31), 2**31)


class Rule(NamedTuple):
    """A condition on a value.

    Attributes:
      words: the condition in an error message, for example after "must be a whole number".
      holds: returns whether a value of the right type meets the condition.
      known: returns the valid names, if the value must be one of a set of names.
    """

    words: str
    holds: Callable[[Any], bool]
    known: Callable[[], tuple[str, ...]] = tuple


def at_least(least: float) -> Rule:
    """Require a number to be at least `least`."""
    return Rule(f"of at least {least}", lambda value: value >= least)


def above(bound: float) -> Rule:
    """Require a number to be greater than `bound`."""
    return Rule(f"above {bound}", lambda value: value > bound)


def below(bound: float) -> Rule:
    """Require a number to be less than `bound`."""
    return Rule(f"below {bound}", lambda value: value < bound)


def name_in(registry: HasOptions) -> Rule:
    """Require a string to be a name in a registry."""
    return Rule("", lambda value: value in registry.names(), registry.names)


NOT_EMPTY = Rule("with something in it", bool)
Positive = Annotated[int, at_least(1)]
Fraction = Annotated[float, at_least(0), below(1)]
Seed = Annotated[int, range(2**32)]


def options_of(registry: HasOptions) -> Any:
    """Return an `Options` field with the defaults of all members of a registry."""
    return dataclasses.field(default_factory=functools.partial(all_options, registry))


def read(
    kind: type[Section],
    plain: Mapping[str, Any],
    *,
    default: Section | None = None,
    prefix: str = "",
) -> Section:
    """Build a section from plain values. Missing keys get their defaults.

    Args:
      kind: a dataclass.
      plain: nested mappings of JSON values.
      default: a section that holds the defaults; None uses those of the class.
      prefix: prefix of the section's keys in error messages, such as "model.".

    Raises:
      UserError: a key is unknown or missing, or a value is invalid. The message names the key.
    """
    hints: dict[str, Any] = _hints(typing.cast(Any, kind))
    defaults = _defaults(typing.cast(Any, kind)) if default is None else vars(default)
    _check_keys(plain, hints, prefix)
    if missing := [prefix + key for key in hints if key not in plain and key not in defaults]:
        raise UserError(f"the config lacks {', '.join(missing)}")
    values = {
        key: _read(value, hints[key], f"{prefix}{key}", defaults.get(key))
        for key, value in plain.items()
    }
    try:
        return kind(**{**defaults, **values})
    except ValueError as error:
        where = f"config section {prefix[:-1]!r}: " if prefix else ""
        raise UserError(f"{where}{error}") from error


def to_plain(section: Any) -> dict[str, Any]:
    """Convert a section to nested dicts that are JSON-serializable and that `read` accepts."""
    return {field.name: _to_plain(getattr(section, field.name)) for field in _fields(section)}


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted key -> value: ``{"data.path": None, ...}``."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def keys(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> annotation for all fields of a section and its subsections."""
    found: dict[str, Any] = {}
    defaults = _defaults(kind)
    for key, hint in _hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= keys(typing.cast(Any, hint), f"{prefix}{key}.")
        elif hint == Options:
            options = flatten(defaults[key], f"{prefix}{key}.")
            found |= {name: _kind_of(value) for name, value in options.items() if value != {}}
        else:
            found[f"{prefix}{key}"] = hint
    return found


# Strings that a comma-separated list would change.
_ODD = re.compile(r"""^$|,|^[\s'"(\[]|[\s'")\]]$""")


def show(value: Any) -> str:
    """Format a value as it is written on the command line."""
    if isinstance(value, tuple | list):
        odd = any(isinstance(part, str) and _ODD.search(part) for part in value)
        return repr(list(value)) if odd else ",".join(map(str, value))
    return "none" if value is None else str(value)


def _fields(section: Any) -> list[dataclasses.Field]:
    """Return all fields except those with `metadata={"key": False}`."""
    return [field for field in dataclasses.fields(section) if field.metadata.get("key", True)]


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in _fields(kind)}


@functools.cache
def _defaults(kind: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def _kind_of(default: Any) -> Any:
    """Infer an option's annotation from its default."""
    if default is None:
        return Any
    if isinstance(default, tuple):
        return tuple[_kind_of(default[0]) if default else Any, ...]  # type: ignore[misc]
    return type(default)


def _read(value: Any, hint: Any, key: str, default: Any) -> Any:
    if hint == Options:
        return _read_options(value, key, default)
    if dataclasses.is_dataclass(hint):
        section = _section(value, key)
        return read(typing.cast(Any, hint), section, default=default, prefix=f"{key}.")
    found = _checked(value, hint)
    if isinstance(found, _Fault):
        near = nearest(str(value), found.known)
        hint = f": did you mean {near!r}?" if near else ""
        raise UserError(
            f"config key {key!r} must be {found.wanted}, got {_brief.repr(value)}{hint}"
        )
    return found


def _read_options(value: Any, key: str, default: Options) -> dict[str, dict[str, Any]]:
    found = {name: dict(options) for name, options in default.items()}
    chosen = _section(value, key)
    _check_keys(chosen, default, f"{key}.")
    for name, options in chosen.items():
        inside = f"{key}.{name}"
        _check_keys(_section(options, inside), default[name], f"{inside}.")
        for option, given in options.items():
            hint = _kind_of(default[name][option])
            found[name][option] = _read(given, hint, f"{inside}.{option}", None)
    return found


def _section(value: Any, key: str) -> Mapping[str, Any]:
    """Return the value, which must be a mapping."""
    if not isinstance(value, Mapping):
        raise UserError(f"config key {key!r} must be a section, got {_brief.repr(value)}")
    return value


def _check_keys(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(
                f"unknown config key {f'{prefix}{key}'!r}{did_you_mean(str(key), known)}"
            )


class _Fault(NamedTuple):
    wanted: str
    known: tuple[str, ...] = ()


def _checked(value: Any, hint: Any) -> Any:
    """Return the value converted to its annotated type, or a `_Fault`."""
    hint, rules, may_be_none = parts(hint)
    if value is None and may_be_none:
        return None
    whole = next((rule for rule in rules if isinstance(rule, range)), _INT32)
    found = _of_kind(value, hint, whole)
    if not isinstance(found, _Fault):
        broken = next(
            (rule for rule in rules if isinstance(rule, Rule) and not rule.holds(found)), None
        )
        if broken is None:
            return found
        known = broken.known()
        found = _one_of(known) if known else _Fault(f"{noun(hint)} {broken.words}")
    return found._replace(wanted=f"{found.wanted}, or none") if may_be_none else found


def _one_of(known: tuple[str, ...]) -> _Fault:
    return _Fault(f"one of {', '.join(known)}", known)


def noun(kind: Any) -> str:
    """Return the name of a type in error messages."""
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(
        kind, "a list"
    )


def _of_kind(value: Any, hint: Any, whole: range) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is Any:
        return as_tuples(value)
    if hint is bool:
        return value if isinstance(value, bool) else _Fault("true or false")
    if hint is int:
        right = number and isinstance(value, int) and value in whole
        return value if right else _Fault(f"a whole number from {whole[0]} to {whole[-1]}")
    if hint is float:
        right = number and abs(value) <= sys.float_info.max
        return float(value) if right else _Fault("a finite number")
    if hint is str:
        return value if isinstance(value, str) and _is_text(value) else _Fault("text")
    if typing.get_origin(hint) is Literal:
        known = typing.get_args(hint)
        if any(value == name and type(value) is type(name) for name in known):
            return value
        return _one_of(known)
    (inner, _) = typing.get_args(hint)  # tuple[inner, ...]
    if not isinstance(value, list | tuple):
        return _Fault("a list")
    found = tuple(_checked(item, inner) for item in value)
    fault = next((item for item in found if isinstance(item, _Fault)), None)
    return found if fault is None else _Fault(f"a list, each {fault.wanted}")


def parts(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Split an annotation into its type, its rules, and whether None is allowed."""
    rules: tuple[Any, ...] = ()
    may_be_none = False
    while True:
        if typing.get_origin(hint) is Annotated:
            hint, *more = typing.get_args(hint)
            rules += tuple(more)
        elif typing.get_origin(hint) in (Union, types.UnionType):
            may_be_none = True
            (hint,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
        else:
            return hint, rules, may_be_none


def _is_text(value: str) -> bool:
    """Return whether a string is valid as a name or path: no NUL and no unpaired surrogates."""
    try:
        return b"\0" not in value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def as_tuples(value: Any) -> Any:
    """Turn lists into tuples, recursively."""
    if isinstance(value, list | tuple):
        return tuple(as_tuples(inner) for inner in value)
    return value


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_plain(value)
    if isinstance(value, Mapping):
        return {key: _to_plain(inner) for key, inner in value.items()}
    return [_to_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 60
