"""Files that are not text: how to recognise them by name or first bytes, and how to convert them to text."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

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
    Kind("a NumPy array", (".npy", ".npz"), b"\x93NUMPY", "name the text that its numbers were made from"),
    Kind("packed by bzip2", (".bz2",), b"BZh", "unpack it: bunzip2 -k {word}"),
    Kind("packed by Zstandard", (".zst",), b"\x28\xb5\x2f\xfd", "unpack it: zstd -d {word}"),
    Kind("packed by gzip", (), b"\x1f\x8b", "let its name end in .gz: mv {word} {word}.gz"),
    Kind("packed by xz", (), b"\xfd7zXZ\0", "let its name end in .xz: mv {word} {word}.xz"),
    Kind("text in UTF-16", (), b"\xff\xfe", "convert it: iconv -f UTF-16 -t UTF-8 {word} > {word}.txt"),
    Kind("text in UTF-16", (), b"\xfe\xff", "convert it: iconv -f UTF-16 -t UTF-8 {word} > {word}.txt"),
)  # fmt: skip


def ending(path: Path) -> str:
    """Return the last suffix in lower case, ignoring .gz and .xz."""
    return Path(path.name.lower().removesuffix(".gz").removesuffix(".xz")).suffix


def fault_of_name(path: Path) -> str:
    """Return why a file of this name is not text and what to do, or "" if the name does not tell."""
    kind = next((kind for kind in KINDS if ending(path) in kind.endings), None)
    return _told(kind, path) if kind else ""


def fault_of_content(path: Path, content: bytes) -> str:
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
