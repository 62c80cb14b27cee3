"""The bytes of a file that is text: unpacked, and nothing that would hang or is of another kind."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import zlib
from pathlib import Path

from relpos.data import kinds, paths
from relpos.data.errors import DataError

_MARK = b"\xef\xbb\xbf"  # what some editors put before UTF-8
_NO_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NoTextError(DataError):
    """What is there is no file with text in it."""


def read_file(name: str) -> bytes:
    """Reads a file of text; one that ends in .gz or .xz is unpacked.

    Raises:
        NoTextError: it is of another kind: a folder, a pipe, an archive, binary.
        DataError: it is not there, or cannot be read.
    """
    return read_text(paths.expanded(name))


def read_utf8(name: str) -> bytes:
    """Reads a file of text in UTF-8, a byte order mark left out; errors as of `read_file`, which name the line."""
    text = read_file(name).removeprefix(_MARK)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte 0x{text[error.start]:02x} is not UTF-8. Convert the file to UTF-8."
        ) from error
    return text


def read_text(path: Path) -> bytes:
    """Reads a file of text; errors as of `read_file`."""
    if fault := kinds.fault_of_name(path):
        raise NoTextError(fault)
    content = _unpacked(path)
    if fault := kinds.fault_of_content(path, content):
        raise NoTextError(fault)
    return content


def read_bytes(path: Path) -> bytes:
    """Reads any file as it is.

    Raises:
        NoTextError: it is no file, but a folder, a pipe or a device.
        DataError: it is not there, or cannot be read.
    """
    check_is_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def check_is_file(path: Path) -> None:
    """Refuses what opening might wait for without end, and what is not there; errors as of `read_bytes`."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NoTextError(
                f"{path} is a link that leads back to itself: name the file."
            ) from None
        if path.is_symlink():
            raise NoTextError(
                f"{path} is a link to {os.readlink(path)}, which is not there: name the file."
            ) from None
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise DataError(f"There is no file {path}.{paths.neighbour(path)}") from None
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    if kind == stat.S_IFDIR:
        raise NoTextError(f"{path} is a folder; name a file in it.")
    if kind != stat.S_IFREG:
        what = _NO_FILES.get(kind, "something else")
        raise NoTextError(
            f"{path} is {what}, no file: write what it gives to a file, and name that."
        )


def _unpacked(path: Path) -> bytes:
    if path.suffix not in (".gz", ".xz"):
        return read_bytes(path)
    check_is_file(path)
    kind = path.suffix[1:]
    try:
        if kind == "gz":
            with gzip.open(path) as file:
                return file.read()
        return _read_xz(path)
    except EOFError as error:
        kind = {"gz": "gzip"}.get(kind, kind)
        raise DataError(f"{path} is a truncated {kind} file: fetch it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is not a sound gzip file ({error}): fetch it again, or drop .gz from its name."
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _read_xz(path: Path) -> bytes:
    import lzma  # some builds of Python go without it, and need it for nothing else here

    try:
        with lzma.open(path) as file:
            return file.read()
    except lzma.LZMAError as error:
        raise DataError(
            f"{path} is not a sound xz file ({error}): fetch it again, or drop .xz from its name."
        ) from error
