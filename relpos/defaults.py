"""What a config must hold: every key of the config of its task which comes with relpos, with a value of its type."""

import functools
import reprlib
import sys
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from relpos import config as config_lib
from relpos.errors import UserError

# What a config of any task has: the loop reads it.
_OF_EVERY_TASK = (
    "task", "seed", "steps", "batch_size", "sequence_length", "optimizer",
    "log_every", "eval_every", "checkpoint_every",
)  # fmt: skip
# Sections with the options of many schemes or tasks: a config may leave out those that it does not use.
_OPTIONAL = ("encodings", "places", "data.sources")
_INT32 = range(-(2**31), 2**31)
SEEDS = range(2**32)


def complete(config: ConfigDict) -> ConfigDict:
    """Return a config given to train, checked against that of its task which comes with relpos, and locked.

    Raises:
      UserError: keys are missing, or a value is of another type than the default.
    """
    plain = config_lib.to_plain(config)
    return config_lib.from_plain(conform(plain, defaults_for(plain))).lock()


def is_own_code(task: Any) -> bool:
    """Whether a config's ``task`` is no part of relpos but a module of somebody's."""
    return isinstance(task, str) and "." in task


def defaults_for(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that comes with relpos for the same task, of several the one with most values in common.

    A key that the config lacks was not known when it was made. Where the task's configs differ in it, it is off (0,
    False, None or empty) if it is in one of them, whichever has most in common. For a task of the user's own: the keys
    that a config of any task has. Without a task: nothing.
    """
    task = plain.get("task")
    if same := [config for config in _shipped_configs() if config["task"] == task]:
        given = config_lib.flatten(plain)

        def in_common(config: Mapping[str, Any]) -> int:
            return sum(
                key in given and given[key] == v for key, v in config_lib.flatten(config).items()
            )

        off = {
            key: value
            for config in same
            for key, value in config_lib.flatten(config).items()
            if key not in given and not value
        }
        return _replaced(max(same, key=in_common), off)
    if is_own_code(task) and _shipped_configs():
        return {key: _shipped_configs()[0][key] for key in _OF_EVERY_TASK}
    return {}


def _replaced(plain: Mapping[str, Any], values: Mapping[str, Any], prefix: str = "") -> dict:
    """Return a config with some of its values replaced, by keys with dots."""
    return {
        key: _replaced(value, values, f"{prefix}{key}.")
        if isinstance(value, Mapping)
        else values.get(f"{prefix}{key}", value)
        for key, value in plain.items()
    }


@functools.cache
def _shipped_configs() -> list[dict[str, Any]]:
    return [config_lib.to_plain(config_lib.load(path)) for path in config_lib.shipped().values()]


def conform(
    plain: Mapping[str, Any], defaults: Mapping[str, Any], *, stored_in: str = ""
) -> dict[str, Any]:
    """Return a config with every key of the defaults, each value of its default's type.

    An int will do for a float, anything for None; ints must fit 32 bits and floats be finite. Keys that are not
    among the defaults are left alone.

    Args:
      plain: a config as nested mappings, those of JSON too.
      defaults: nested mappings.
      stored_in: the file of an older run: keys missing there get the defaults. Otherwise only the options of
        schemes may be missing.

    Raises:
      UserError: names all missing keys, or the first value that does not fit.
    """
    where = f"{stored_in!r}: " if stored_in else ""
    missing: list[str] = []
    conformed = _conform(plain, defaults, "", where, missing)
    asked = [key for key in missing if not f"{key}.".startswith(tuple(f"{o}." for o in _OPTIONAL))]
    if asked and not stored_in:
        raise UserError(
            f"the config lacks {', '.join(asked)}: copy them from the config of the task "
            f"{plain.get('task')!r} that comes with relpos"
        )
    return conformed


def _conform(
    plain: Mapping, defaults: Mapping, prefix: str, where: str, missing: list[str]
) -> dict:
    conformed = dict(plain)
    for key, default in defaults.items():
        name = f"{prefix}{key}"
        if key not in plain:
            missing.append(name)
            conformed[key] = default
        elif isinstance(default, Mapping) and isinstance(plain[key], Mapping):
            conformed[key] = _conform(plain[key], default, f"{name}.", where, missing)
        elif wanted := _unlike(plain[key], default, SEEDS if key == "seed" else _INT32):
            got = _brief.repr(plain[key])
            raise UserError(f"{where}config key {name!r} must be {wanted}, got {got}")
    return conformed


def _unlike(value: Any, default: Any, whole: range) -> str:
    """Return what the value should have been; "" if it is that."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        right = number and isinstance(value, int) and value in whole
        return "" if right else f"a whole number from {whole[0]} to {whole[-1]}"
    if isinstance(default, float):
        right = number and abs(value) <= sys.float_info.max
        return "" if right else "a finite number"
    if isinstance(default, str):
        return "" if isinstance(value, str) and _is_text(value) else "text"
    if isinstance(default, Mapping):
        return "a section"
    if not isinstance(value, list | tuple):
        return "a list"
    faults = (_unlike(inner, default[0], whole) for inner in value) if default else iter(())
    return next((f"a list, each {fault}" for fault in faults if fault), "")


def _is_text(value: str) -> bool:
    """Whether it can be a name or a path: no half of a pair of surrogates, no NUL."""
    try:
        return b"\0" not in value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 60
