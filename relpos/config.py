"""Configs are plain data: read from a Python file, overridden by key, locked, stored as JSON.

A config file defines ``get_config() -> ml_collections.ConfigDict`` and holds every default.
Sequences are tuples everywhere, so that a config read back from JSON equals the one written.
"""

import ast
import contextlib
import importlib.util
import json
import math
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from relpos.errors import UserError, did_you_mean, nearest


def load(path: str | Path, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """Return the locked config of a file with some values replaced.

    Args:
      path: a Python file with ``get_config()``, or the name of one of `shipped`, as ``lm``.
      overrides: (dotted key, text of the value) pairs; later ones win. A text is read as the type
        of the default: ``1e6`` is an int, ``rope,none`` a tuple of strings, ``none`` is right
        where the default is None.

    Raises:
      UserError: there is no such file, it is not a config, a key is unknown or a value has the
        wrong type.
    """
    config = from_plain(_run_config_file(_find(Path(path))))
    for key, text in overrides:
        _override(config, key, text)
    return config.lock()


def shipped() -> dict[str, Path]:
    """Return name -> file of the configs that come with relpos, in the package or beside it in a checkout."""
    found = sorted(_shipped_folder().glob("*.py"))
    return {path.stem: path for path in found if "\ndef get_config(" in path.read_text("utf-8")}


def from_plain(plain: Mapping[str, Any]) -> ConfigDict:
    """Return an unlocked ConfigDict of nested mappings (those of JSON too), lists become tuples.

    Raises:
      UserError: ConfigDict does not take a key: it has a dot in it, say.
    """
    try:
        return ConfigDict(_normalise(plain))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"no config can be made of it: {error}") from error


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """Return nested dicts which `json.dumps` takes and `from_plain` reads back.

    Raises:
      UserError: a value is of a kind that JSON does not know.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    except (TypeError, ValueError) as error:
        raise UserError(f"the config cannot be stored as JSON: {error}") from error
    return plain


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of nested mappings: ``{"data.path": None, ...}``."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def require_at_least(config: ConfigDict, minimum: Mapping[str, int | float]) -> None:
    """Check that numbers are there, finite and not too small.

    Args:
      config: the config, or a section of it.
      minimum: dotted key -> smallest value that makes sense.

    Raises:
      UserError: names the first key that fails and its value.
    """
    flat = flatten(config.to_dict())
    for key, least in minimum.items():
        if key not in flat:
            raise UserError(f"the config has no key {key!r}{did_you_mean(key, flat)}")
        value = flat[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < least:
            raise UserError(f"config key {key!r} must be a number >= {least}, got {value!r}")


def _shipped_folder() -> Path:
    package = Path(__file__).parent
    return next(f for f in (package / "configs", package.parent / "configs") if f.is_dir())


def _find(path: Path) -> Path:
    """Return the file that is meant: this one, or that of a config which comes with relpos."""
    if path.is_file():
        return path
    known = shipped()
    is_name = path.name == str(path) and path.suffix != ".py"
    if is_name and path.name in known:
        return known[path.name]
    beside = map(str, path.parent.glob("*.py")) if path.parent.is_dir() else []
    near = nearest(str(path), [*beside, *(known if is_name else ())])
    hint = f": did you mean {near!r}?" if near else ""
    raise UserError(f"no config file {str(path)!r}{hint} (with relpos come {', '.join(known)})")


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let a config import what lies beside it, as FOLDER.NAME, and what comes with relpos, as configs.NAME.

    Both hold wherever the command is given. The folders become packages for as long as this lasts: on sys.path the
    parent of a folder would bring in everything else that lies there.
    """
    folders = {folder.name: [str(folder)]}
    importable = PathFinder.find_spec("configs")  # of a folder the command is given in
    folders["configs"] = [
        *folders.get("configs", []),
        *((importable and importable.submodule_search_locations) or []),
        str(_shipped_folder()),
    ]
    for name in list(folders):
        in_use = getattr(sys.modules.get(name), "__file__", None)
        if in_use and folder != _shipped_folder():
            # Code that is in use already keeps its name, but for what comes with relpos.
            del folders[name]

    def ours():
        return {name for name in sys.modules if name.partition(".")[0] in folders}

    before = {name: sys.modules.pop(name) for name in ours()}
    for name, paths in folders.items():
        sys.modules[name] = package = types.ModuleType(name)
        package.__path__ = paths
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)


def _run_config_file(path: Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location("relpos_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {str(path)!r} is not a Python file (NAME.py)")
    module = importlib.util.module_from_spec(spec)
    with _neighbours(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UserError(f"config file {str(path)!r} fails: {_describe(error, path)}") from error
        if not isinstance(getattr(module, "get_config", None), types.FunctionType):
            raise UserError(f"config file {str(path)!r} defines no function get_config()")
        try:
            config = module.get_config()
        except Exception as error:
            raise UserError(
                f"get_config() of {str(path)!r} fails: {_describe(error, path)}"
            ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config() of {str(path)!r} returns {type(config).__name__}, not a ConfigDict"
        )
    return config


def _describe(error: Exception, path: Path) -> str:
    """Return the error on one line with the line of the config file it came from."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" (line {line})" if line else ""
    return f"{type(error).__name__}: {error}{where}".replace("\n", " ")


def _normalise(value: Any) -> Any:
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {key: _normalise(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_normalise(inner) for inner in value)
    return value


def _override(config: ConfigDict, key: str, text: str) -> None:
    known = flatten(config.to_dict())
    if key not in known:
        if any(name.startswith(f"{key}.") for name in known):
            inside = ", ".join(name for name in known if name.startswith(f"{key}."))
            raise UserError(f"config key {key!r} is a section, set one of its keys: {inside}")
        raise UserError(f"unknown config key {key!r}{_nearest_key(key, known)}")
    *sections, last = key.split(".")
    section = config
    for name in sections:
        section = section[name]
    with section.ignore_type():  # the type is checked here: a None may become a number
        section[last] = _parse(key, text, known[key])


def _nearest_key(key: str, known: Mapping[str, Any]) -> str:
    section, _, name = key.rpartition(".")
    # 'bse' alone says more about what was meant than its long prefix, shared by many keys, does.
    beside = {full.rpartition(".")[2]: full for full in known if full.rpartition(".")[0] == section}
    elsewhere = [full for full in known if full.rpartition(".")[2] == name]
    if near := nearest(name, beside):
        return f": did you mean {beside[near]!r}?"
    if elsewhere:  # 'base' for 'encodings.rope.base'
        return f": did you mean {' or '.join(map(repr, elsewhere))}?"
    if near := nearest(key, known):
        return f": did you mean {near!r}?"
    return f"; the sections and keys are {', '.join({full.partition('.')[0]: 0 for full in known})}"


def _parse(key: str, text: str, default: Any) -> Any:
    """Read a text as the type of the default."""
    try:
        if default is None:
            return _literal(text)
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, int):
            return _integer(text)
        if isinstance(default, float):
            if math.isnan(number := float(text)):
                raise ValueError(text)
            return number
        if isinstance(default, str):
            return text
        if isinstance(default, tuple):
            return _tuple(key, text, default)
    except (ValueError, KeyError, SyntaxError):
        expected = f"{type(default).__name__}, such as {show(default)}"
        raise UserError(
            f"config key {key!r} takes a value of type {expected}; got {text!r}"
        ) from None
    raise UserError(f"config key {key!r} of type {type(default).__name__} cannot be set here")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        if (number := float(text)).is_integer():  # 1e6
            return int(number)
        raise


def _tuple(key: str, text: str, default: tuple) -> tuple:
    parts = [part.strip().strip("'\"") for part in text.strip().strip("()[]").split(",")]
    example = default[0] if default else None
    return tuple(_parse(key, part, example) for part in parts if part)


def _literal(text: str) -> Any:
    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    try:
        return _normalise(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def show(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
