"""Read text files: decompress them, and refuse other kinds of files and whatever could block."""

from __future__ import annotations

import codecs
import errno
import gzip
import os
import shlex
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from relpos.data import file_kinds as kinds
from relpos.data import paths
from relpos.data.errors import DataError
from relpos.errors import UserError
from relpos.files import open_regular

_NO_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NoTextError(DataError):
    """The path does not name a text file."""


def read_file(name: str) -> bytes:
    """Read a text file; one that ends in .gz or .xz is decompressed.

    Raises:
      NoTextError: it is something else: a folder, a pipe, an archive, a binary file.
      DataError: it does not exist or cannot be read.
    """
    return read_text(paths.expanded(name))


def read_utf8(name: str) -> bytes:
    """Read UTF-8 text without its byte order mark; raise as `read_file` does, and name the line of an invalid byte."""
    text = read_file(name).removeprefix(codecs.BOM_UTF8)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte 0x{text[error.start]:02x} is not UTF-8. Convert the file to UTF-8."
        ) from error
    return text


def read_text(path: Path) -> bytes:
    """Read a text file; raise as `read_file` does."""
    if fault := kinds.fault_of_name(path):
        raise NoTextError(fault)
    content = _unpacked(path)
    if fault := kinds.fault_of_content(path, content):
        raise NoTextError(fault)
    return content


def _opened(path: Path) -> BinaryIO:
    """Open a file without blocking; raise as `read_file` does."""
    try:
        return os.fdopen(_regular(path), "rb")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NoTextError(
                f"{path} is a link that leads back to itself: name the file."
            ) from None
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        if missing and path.is_symlink():
            raise NoTextError(
                f"{path} is a link to {os.readlink(path)}, which is not there: name the file."
            ) from None
        if missing:
            raise DataError(f"There is no file {path}.{paths.neighbour(path)}") from None
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _regular(path: Path) -> int:
    try:
        return open_regular(path)
    except UserError:  # it does not say what kind of file this is
        kind = stat.S_IFMT(path.stat().st_mode)
    if kind == stat.S_IFDIR:
        raise NoTextError(f"{path} is a folder; name a file in it.")
    what = _NO_FILES.get(kind, "something else")
    raise NoTextError(f"{path} is {what}, not a file: write its output to a file, and name that.")


def _unpacked(path: Path) -> bytes:
    with _opened(path) as file:
        try:
            if path.suffix == ".gz":
                return gzip.open(file).read()
            return _read_xz(path, file) if path.suffix == ".xz" else file.read()
        except EOFError as error:
            kind = {".gz": "gzip"}.get(path.suffix, "xz")
            raise DataError(f"{path} is a truncated {kind} file: fetch it again.") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{path} is not a sound gzip file ({error}): fetch it again, or drop .gz from its name."
            ) from error
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _read_xz(path: Path, file: BinaryIO) -> bytes:
    try:
        import lzma  # some builds of Python lack it, and only this function needs it
    except ImportError:
        raise DataError(
            f"{path}: this Python has no lzma to unpack it. Unpack it: unxz -k {shlex.quote(str(path))}"
        ) from None
    try:
        return lzma.open(file).read()
    except lzma.LZMAError as error:
        raise DataError(
            f"{path} is not a sound xz file ({error}): fetch it again, or drop .xz from its name."
        ) from error
