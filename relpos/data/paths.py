"""Find the files that a path, a glob or a folder names; for a missing name, suggest the nearest existing one."""

from __future__ import annotations

import errno
import glob
import os
from pathlib import Path

from relpos.data.errors import DataError, nearest


def expanded(name: str) -> Path:
    """Return the path with ``~`` and ``~user`` expanded.

    Raises:
      DataError: the user does not exist, or no file can have this name.
    """
    if "\0" in name:
        raise DataError(f"{name[:80]!r}: a path cannot hold a NUL byte.")
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        raise DataError(
            f"{name[:80]}: there is no user {name.split('/')[0][1:][:80]!r} for ~ to stand for."
        ) from None
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(
                f"{name[:40]}...: a name of {len(name)} characters is too long for a file."
            ) from None
    return path


def find(pattern: str) -> list[Path]:
    """Return the files that a path, a glob or a folder names, sorted by name.

    A folder stands for every file below it that is not hidden; a glob for every match that is not a folder.

    Raises:
      DataError: there are no such files.
    """
    path = expanded(pattern)
    if path.is_dir():
        found = _inside(path)
        if not found:
            raise DataError(f"The folder {pattern} holds no files.")
        return found
    if os.path.lexists(path):  # reading it reports whether it can be read
        return [path]
    found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if not p.is_dir())
    if found:
        return found
    if glob.has_magic(pattern):
        raise DataError(
            f"No file matches {pattern!r} (searched from {Path.cwd()}). Quote the pattern, so that "
            "it and not the shell's expansion is passed on."
        )
    raise DataError(f"There is no file {pattern}.{neighbour(path)}")


def _inside(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"Cannot read the folder {error.filename}: {error.strerror}.") from error

    found = [
        Path(below, file) for below, _, files in os.walk(folder, onerror=refuse) for file in files
    ]
    return sorted(
        p for p in found if not any(n.startswith(".") for n in p.relative_to(folder).parts)
    )


def neighbour(path: Path) -> str:
    """Return a hint about a missing path: the missing folder, or the nearest name; "" if there is none."""
    folder = path.parent
    if not folder.is_dir():
        missing = next(p for p in reversed([folder, *folder.parents]) if not p.is_dir())
        if os.path.lexists(missing):
            return f" {missing} is not a folder."
        return f" Its folder {missing} is missing.{neighbour(missing)}"
    try:
        return nearest(path.name, os.listdir(folder))
    except OSError:
        return ""
