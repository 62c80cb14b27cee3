"""The user's own text: files, globs and folders, split so that no part of it is in two splits.

Bytes pass through unchanged; what a text repeats of itself is left as it is. A file is read as
documents of at most `DOCUMENT_BYTES`, cut at line ends, so that a single long file can be shuffled;
its documents put together again are the file.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from relpos.data.errors import DataError, nearest
from relpos.data.splits import SPLITS, held_out

VERSION = "1.0.0"  # of the rules that cut and split, below
DOCUMENT_BYTES = 65536
HELD_OUT_BYTES = 250_000  # at most, in each of validation and test: evaluation stays cheap
HELD_OUT_FRACTION = 0.025
MANY_FILES = 40  # from here on whole files are held out, below it the end of every file

_log = logging.getLogger(__name__)


def read_splits(pattern: str) -> dict[str, list[bytes]]:
    """Reads what a path names, drops identical files, and splits it.

    With many files whole files are held out, chosen by the hash of their content; with few, the
    last fortieth of each file is test and the fortieth before it validation.

    Args:
        pattern: a file, a glob, or a folder, of which every text file is taken, hidden ones
            excepted. Files that end in .gz or .xz are unpacked.

    Raises:
        DataError: nothing is there, it cannot be read, or it is too short to be split.
    """
    texts = list(dict.fromkeys(_texts(pattern)))
    size = sum(map(len, texts))
    if size < 40:
        raise DataError(
            f"{pattern} holds only {size} bytes, too few to put some aside for validation and test."
        )
    if len(texts) >= MANY_FILES:
        return _split_files(texts)
    return _split_ends(texts)


def read_documents(pattern: str) -> list[bytes]:
    """Reads all that a path names, nothing dropped; arguments and errors as for `read_splits`."""
    return [document for text in _texts(pattern) for document in documents_of(text)]


def read_file(name: str) -> bytes:
    """Reads one file; one that ends in .gz or .xz is unpacked.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    path = Path(name).expanduser()
    if os.path.isdir(path):
        raise DataError(f"{name} is a folder; name a file in it.")
    if not os.path.exists(path):
        raise DataError(f"There is no file {name}.{_neighbour(path)}")
    return _read(path)


def _texts(pattern: str) -> list[bytes]:
    """Returns the files that hold any text."""
    read = {path: _read(path) for path in find(pattern)}
    if Path(pattern).is_dir():
        read = _without_binary(read, pattern)
    for path, text in read.items():
        _warn_of_other_encodings(path, text)
    texts = [text for text in read.values() if text]
    if not texts:
        raise DataError(f"{pattern} holds no text: no file there has any.")
    return texts


def find(pattern: str) -> list[Path]:
    """Returns the files that a path, a glob or a folder names, in the order of their names.

    Raises:
        DataError: there are none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = [Path(folder, file) for folder, _, files in os.walk(path) for file in files]
        found = [p for p in found if not _is_hidden(p.relative_to(path)) and p.is_file()]
        if not found:
            raise DataError(f"The folder {pattern} holds no files.")
        return sorted(found)
    if path.exists():
        return [path]
    found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if found:
        return found
    if glob.has_magic(pattern):
        raise DataError(
            f"No file matches {pattern!r} (searched from {Path.cwd()}). Quote the pattern, so that "
            "it and not the shell's expansion is passed on."
        )
    raise DataError(f"There is no file {pattern}.{_neighbour(path)}")


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _neighbour(path: Path) -> str:
    """Says which folder of a missing path is missing, or which name in it is near."""
    folder = path.parent
    if not folder.is_dir():
        missing = next(p for p in reversed([folder, *folder.parents]) if not p.exists())
        return f" Its folder {missing} is missing." + _neighbour_name(missing)
    return _neighbour_name(path)


def _neighbour_name(path: Path) -> str:
    try:
        return nearest(path.name, os.listdir(path.parent))
    except OSError:
        return ""


def _read(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        if path.suffix == ".xz":
            return _read_xz(path)
        return path.read_bytes()
    except EOFError as error:
        kind = "xz" if path.suffix == ".xz" else "gzip"
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


def _without_binary(read: dict[Path, bytes], folder: str) -> dict[Path, bytes]:
    """Leaves out the files of a folder that are no text: a NUL among the first bytes tells."""
    kept = {path: text for path, text in read.items() if b"\0" not in text[:8192]}
    if len(kept) < len(read):
        _log.warning(
            "%s: %d of %d files hold a NUL byte, so are no text, and are left out; name them to use them.",
            folder,
            len(read) - len(kept),
            len(read),
        )
    return kept


def _warn_of_other_encodings(path: Path, text: bytes) -> None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        _log.warning(
            "%s: byte %d (0x%02x) is not UTF-8; the bytes are used as they are. Convert the file if "
            "it is text in another encoding.",
            path,
            error.start,
            text[error.start],
        )


def _split_files(texts: Sequence[bytes]) -> dict[str, list[bytes]]:
    sizes = [len(text) for text in texts]
    budget = min(HELD_OUT_BYTES, int(HELD_OUT_FRACTION * sum(sizes)))
    keys = [hashlib.sha256(text).digest() for text in texts]
    dealt = held_out(keys, sizes, budget=budget, largest=budget)
    if not dealt["test"] or not dealt["validation"]:  # all files are large, compared to the budget
        return _split_ends(texts)
    return {s: [d for i in dealt[s] for d in documents_of(texts[i])] for s in SPLITS}


def _split_ends(texts: Sequence[bytes]) -> dict[str, list[bytes]]:
    """Holds out the end of every text."""
    total = sum(map(len, texts))
    fraction = min(HELD_OUT_FRACTION, HELD_OUT_BYTES / total)
    splits: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for text in texts:
        share = int(fraction * len(text))
        test = cut_before(text, len(text) - share, reach=share // 2)
        validation = cut_before(text, test - share, reach=share // 2)
        bounds = {"train": (0, validation), "validation": (validation, test)}
        for split, (low, high) in {**bounds, "test": (test, len(text))}.items():
            splits[split] += documents_of(text[low:high])
    for split, documents in splits.items():
        if not documents:
            raise DataError(f"The text's {total} bytes are too few to hold out any for {split}.")
    return splits


def documents_of(text: bytes) -> list[bytes]:
    """Cuts a text into documents of at most `DOCUMENT_BYTES`, at line ends where there are any."""
    documents = []
    start = 0
    while len(text) - start > DOCUMENT_BYTES:
        end = cut_before(text, start + DOCUMENT_BYTES, reach=DOCUMENT_BYTES // 2)
        documents.append(text[start:end])
        start = end
    if start < len(text):
        documents.append(text[start:])
    return documents


def cut_before(text: bytes, place: int, *, reach: int) -> int:
    """Returns the last line end in the `reach` bytes before `place`.

    Where no line ends there it is the start of the UTF-8 character at `place`.
    """
    line_end = text.rfind(b"\n", max(place - reach, 0), place) + 1
    if line_end:
        return line_end
    for back in range(min(4, place)):  # a character has at most three continuation bytes
        if place - back >= len(text) or text[place - back] & 0xC0 != 0x80:
            return place - back
    return place
