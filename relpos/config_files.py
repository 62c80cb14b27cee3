"""Config files. Each defines ``get_config() -> ConfigDict``, which overrides the defaults of its task."""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from relpos.errors import UserError, nearest


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a config file into nested dicts.

    Args:
      path: a Python file that defines ``get_config()``, or a name in `shipped`, such as ``lm``.

    Raises:
      UserError: the file does not exist or is not a config.
    """
    config = _run_config_file(_find(Path(path)))
    plain: dict[str, Any] = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return plain


def shipped() -> dict[str, Path]:
    """Return name -> file of the configs shipped with relpos, in the package or beside it in a checkout."""
    found = sorted(_shipped_folder().glob("*.py"))
    return {path.stem: path for path in found if "\ndef get_config(" in path.read_text("utf-8")}


def _shipped_folder() -> Path:
    package = Path(__file__).parent
    return next(f for f in (package / "configs", package.parent / "configs") if f.is_dir())


def _find(path: Path) -> Path:
    """Return the path if it is a file, or else the file of the shipped config with this name."""
    if path.is_file():
        return path
    known = shipped()
    is_name = path.name == str(path) and path.suffix != ".py"
    if is_name and path.name in known:
        return known[path.name]
    beside = map(str, path.parent.glob("*.py")) if path.parent.is_dir() else []
    near = nearest(str(path), [*beside, *(known if is_name else ())])
    hint = f": did you mean {near!r}?" if near else ""
    raise UserError(f"no config file {str(path)!r}{hint} (relpos ships {', '.join(known)})")


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let a config import its neighbours as FOLDER.NAME, and shipped configs as configs.NAME, from any directory.

    The folders temporarily become packages. Adding their parents to sys.path would expose everything else in them.
    """
    folders = {folder.name: [str(folder)]}
    importable = PathFinder.find_spec("configs")  # from the working directory
    folders["configs"] = [
        *folders.get("configs", []),
        *((importable and importable.submodule_search_locations) or []),
        str(_shipped_folder()),
    ]
    for name in list(folders):
        in_use = getattr(sys.modules.get(name), "__file__", None)
        if in_use and folder != _shipped_folder():
            # Modules already imported keep their names, except for shipped configs.
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


def _run_config_file(path: Path) -> ConfigDict | Mapping[str, Any]:
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
    if not isinstance(config, ConfigDict | Mapping):
        raise UserError(
            f"get_config() of {str(path)!r} returns {type(config).__name__}, not a ConfigDict"
        )
    return config


def _describe(error: Exception, path: Path) -> str:
    """Format an error on one line, with the line number in the config file."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" (line {line})" if line else ""
    return f"{type(error).__name__}: {error}{where}".replace("\n", " ")
