"""Read text files: decompress them, and refuse other kinds of files and anything that could block."""

from __future__ import annotations

import codecs
import dataclasses
import errno
import gzip
import os
import shlex
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

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


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file that cannot be read as text.

    Attributes:
      name: a description, such as "a zip archive".
      endings: suffixes of file names, without a further .gz or .xz.
      start: the first bytes of every such file, or b"" if they vary.
      remedy: how to convert a file to text; {word} stands for its path, quoted for the shell.
    """

    name: str
    endings: tuple[str, ...]
    start: bytes
    remedy: str


_UNPACK_AND_NAME = "unpack it and name the folder or a file in it: "
KINDS = (
    Kind(
        "a Parquet table", (".parquet",), b"PAR1",
        "write it as lines of JSON: python -c \"import pandas, sys; pandas.read_parquet(sys.argv[1])"
        ".to_json(sys.argv[1] + '.jsonl', orient='records', lines=True)\" {word}",
    ),
    Kind(
        "an Arrow table", (".arrow", ".feather"), b"ARROW1",
        "write it as lines of JSON: python -c \"import datasets, sys; datasets.Dataset.from_file(sys.argv[1])"
        ".to_json(sys.argv[1] + '.jsonl')\" {word}",
    ),
    Kind("a zip archive", (".zip",), b"PK\x03\x04", _UNPACK_AND_NAME + "unzip {word} -d text"),
    Kind("a tar archive", (".tar", ".tgz"), b"", _UNPACK_AND_NAME + "mkdir text; tar -xf {word} -C text"),
    Kind("a PDF document", (".pdf",), b"%PDF-", "take its text out: pdftotext {word} {word}.txt"),
    Kind("a Word document", (".docx",), b"", "take its text out: pandoc {word} -t plain -o {word}.txt"),
    Kind("an old Word document", (".doc",), b"", "take its text out: soffice --headless --convert-to txt:Text {word}"),
    Kind("a NumPy array", (".npy", ".npz"), b"\x93NUMPY", "use the text that the array was made from"),
    Kind("packed by bzip2", (".bz2",), b"BZh", "unpack it: bunzip2 -k {word}"),
    Kind("packed by Zstandard", (".zst",), b"\x28\xb5\x2f\xfd", "unpack it: zstd -d {word}"),
    Kind("packed by gzip", (), b"\x1f\x8b", "let its name end in .gz: mv {word} {word}.gz"),
    Kind("packed by xz", (), b"\xfd7zXZ\0", "let its name end in .xz: mv {word} {word}.xz"),
    Kind("text in UTF-16", (), b"\xff\xfe", "convert it: iconv -f UTF-16 -t UTF-8 {word} > {word}.txt"),
    Kind("text in UTF-16", (), b"\xfe\xff", "convert it: iconv -f UTF-16 -t UTF-8 {word} > {word}.txt"),
)  # fmt: skip


def read_text(path: Path) -> bytes:
    """Read a text file; one that ends in .gz or .xz is decompressed.

    Raises:
      NoTextError: it is something else: a folder, a pipe, an archive, a binary file.
      DataError: it does not exist or cannot be read.
    """
    if fault := fault_of_name(path):
        raise NoTextError(fault)
    content = _content(path)
    if fault := _fault_of_content(path, content):
        raise NoTextError(fault)
    return content


def read_utf8(name: str) -> bytes:
    """Read UTF-8 text without its byte order mark; raise as `read_text` does, and name the line of an invalid byte."""
    text = read_text(paths.expanded(name)).removeprefix(codecs.BOM_UTF8)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: byte 0x{text[error.start]:02x} is not UTF-8. Convert the file to UTF-8."
        ) from error
    return text


def ending(path: Path) -> str:
    """Return the last suffix in lower case, ignoring .gz and .xz."""
    return Path(path.name.lower().removesuffix(".gz").removesuffix(".xz")).suffix


def fault_of_name(path: Path) -> str:
    """Return why a file of this name is not text and what to do, or "" if the name does not show it."""
    kind = next((kind for kind in KINDS if ending(path) in kind.endings), None)
    return _told(kind, path) if kind else ""


def _fault_of_content(path: Path, content: bytes) -> str:
    """Return why a file with this content is not text and what to do, or "" if it is text."""
    kind = next((kind for kind in KINDS if kind.start and content.startswith(kind.start)), None)
    if kind:
        return _told(kind, path)
    place = content.find(b"\0")
    if place < 0:
        return ""
    line, word = content.count(b"\n", 0, place) + 1, shlex.quote(str(path))
    return (
        f"{path}, line {line}: a NUL byte, so this is not text, or not UTF-8. Name a text file; to remove "
        f"stray NUL bytes: tr -d '\\000' < {word} > {word}.txt"
    )


def _told(kind: Kind, path: Path) -> str:
    remedy = kind.remedy.format(word=shlex.quote(str(path)))
    return f"{path} is {kind.name}, not readable text: {remedy}"


def _content(path: Path) -> bytes:
    """Return a file's content, decompressed; never wait for a pipe or a device."""
    try:
        with os.fdopen(_regular(path), "rb") as file:
            if path.suffix == ".gz":
                return gzip.open(file).read()
            return _read_xz(path, file) if path.suffix == ".xz" else file.read()
    except EOFError as error:
        kind = "gzip" if path.suffix == ".gz" else "xz"
        raise DataError(f"{path} is a truncated {kind} file: fetch it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is not a sound gzip file ({error}): fetch it again, or drop .gz from its name."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _regular(path: Path) -> int:
    try:
        return open_regular(path)
    except UserError:  # the error does not say what kind of file this is
        kind = stat.S_IFMT(path.stat().st_mode)
    if kind == stat.S_IFDIR:
        raise NoTextError(f"{path} is a folder; name a file in it.")
    what = _NO_FILES.get(kind, "something else")
    raise NoTextError(f"{path} is {what}, not a file: write its output to a file, and name that.")


def _unreadable(path: Path, error: OSError) -> DataError:
    if error.errno == errno.ELOOP:
        return NoTextError(f"{path} is a link that leads back to itself: name the file.")
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return DataError(f"Cannot read {path}: {error.strerror or error}.")
    if path.is_symlink():
        return NoTextError(
            f"{path} is a link to {os.readlink(path)}, which is not there: name the file."
        )
    return DataError(f"There is no file {path}.{paths.neighbour(path)}")


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
