"""Config overrides from the command line, parsed according to the declared type of each field."""

import ast
import math
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from relpos.errors import UserError, nearest
from relpos.sections import as_tuples, keys, noun, parts


def override(
    kind: Any, plain: Mapping[str, Any], pairs: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Return a copy of plain config values with overrides applied.

    Args:
      kind: the config's dataclass.
      plain: nested mappings.
      pairs: pairs of dotted key and text; the last one wins. The field's type determines how the text is parsed:
        ``1e6`` can be an int, ``rope,none`` a tuple of strings, and ``none`` is None where that is allowed.

    Raises:
      UserError: a key is unknown, or a text cannot be parsed.
    """
    known = keys(kind)
    changed = _copied(plain)
    for key, text in pairs:
        if key not in known:
            _refuse_key(key, known)
        *sections, last = key.split(".")
        section = changed
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise UserError(f"config key {name!r} must be a section, got {section!r}")
        section[last] = _parse(text, known[key], key)
    return changed


# The last three: for "{[]: 1}" and deep nesting.
_NO_LITERAL = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


def _refuse_key(key: str, known: Mapping[str, Any]) -> None:
    if inside := [name for name in known if name.startswith(f"{key}.")]:
        raise UserError(
            f"config key {key!r} is a section, set one of its keys: {', '.join(inside)}"
        )
    raise UserError(f"unknown config key {key!r}{_nearest_key(key, known)}")


def _nearest_key(key: str, known: Mapping[str, Any]) -> str:
    section, _, name = key.rpartition(".")
    # Compare last parts first: many keys share the long prefix, so it would dominate the distance.
    beside = {full.rpartition(".")[2]: full for full in known if full.rpartition(".")[0] == section}
    elsewhere = [full for full in known if full.rpartition(".")[2] == name]
    if near := nearest(name, beside):
        return f": did you mean {beside[near]!r}?"
    if elsewhere:  # 'base' for 'encodings.rope.base'
        return f": did you mean {' or '.join(map(repr, elsewhere))}?"
    if near := nearest(key, known):
        return f": did you mean {near!r}?"
    return f"; the sections and keys are {', '.join({full.partition('.')[0]: 0 for full in known})}"


def _parse(text: str, hint: Any, key: str) -> Any:
    """Parse a text as a value of its field's type."""
    kind, _, may_be_none = parts(hint)
    if may_be_none and text.lower() == "none":
        return None
    try:
        if kind is Any:
            return _literal(text)
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind is int:
            return _integer(text)
        if kind is float:
            if math.isnan(number := float(text)):
                raise ValueError(text)
            return number
        if typing.get_origin(kind) is tuple:
            return tuple(_parse(part, typing.get_args(kind)[0], key) for part in _pieces(text))
        return text
    except (ValueError, KeyError, SyntaxError):
        wanted = f"{noun(kind)}, or none" if may_be_none else noun(kind)
        raise UserError(f"config key {key!r} must be {wanted}, got {text!r}") from None


def _pieces(text: str) -> list[str]:
    """Return the parts of a list: a Python literal's strings unchanged, or the text between commas."""
    found = _literal(text)
    if isinstance(found, tuple) and all(isinstance(part, str) for part in found):
        return list(found)
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    found = (re.sub(r"""^(['"])(.*)\1$""", r"\2", part.strip()) for part in inner.split(","))
    return [part for part in found if part]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        if (number := float(text)).is_integer():  # 1e6
            return int(number)
        raise


def _literal(text: str) -> Any:
    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    try:
        return as_tuples(ast.literal_eval(text))
    except _NO_LITERAL:
        return text


def _copied(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copied(value) if isinstance(value, Mapping) else value for key, value in plain.items()
    }
