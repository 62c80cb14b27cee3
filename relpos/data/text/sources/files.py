"""The user's own text: files, globs and folders, split so that no part is in two splits.

Bytes stay unchanged, including a byte order mark and repetitions within a text. A file is read as documents of at most
`DOCUMENT_BYTES`, cut at line ends, so that a single long file can be shuffled; joined together, they are the file. In a
JSON lines file every line is a document.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path

from relpos.data import json_lines, paths
from relpos.data.corpus import Corpus
from relpos.data.errors import DataError
from relpos.data.reading import NoTextError, ending, read_text
from relpos.data.splits import SPLITS, held_out
from relpos.data.text.corpus import text_corpus

VERSION = "1.0.0"  # of the rules below, which cut and split
DOCUMENT_BYTES = 65536
HELD_OUT_BYTES = 250_000  # at most, in each of validation and test, to keep evaluation cheap
HELD_OUT_FRACTION = 0.025
MANY_FILES = 40  # or more: hold out whole files; fewer: the end of every file

_log = logging.getLogger(__name__)


def load(*, path: str = "", field: str = "text") -> Corpus[bytes]:
    """Load the user's own text: read the files that a path names, drop identical ones, and split them.

    Of many files, whole ones are held out, chosen by the hash of their content; of few, or if all are large, the end of
    each file is test and the part before it validation, each at most a fortieth. Each JSON line is a document, and
    documents are held out by the hash of their content.

    Args:
      path: a file, a glob, or a folder, which stands for all its text files that are not hidden. Files that end in
        .gz or .xz are decompressed.
      field: the field of .jsonl and .ndjson files that holds the text.

    Raises:
      DataError: no path is given, there are no files, or they cannot be read, are not text, or are too short to be
        split.
    """
    if not path:
        raise DataError("No files given: set path to a file, a glob or a folder of text.")
    texts, whole = _read(path, field)
    texts = list(dict.fromkeys(texts))
    size = sum(map(len, texts + whole))
    if size < 40:
        raise DataError(
            f"{path} holds only {size} bytes, too few to hold some out for validation and test."
        )
    splits: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    split_texts = _split_files if len(texts) >= MANY_FILES else _split_ends
    for split_up, held in ((split_texts, texts), (_split_documents, whole)):
        if held:
            for split, documents in split_up(held).items():
                splits[split] += documents
    return text_corpus(paths.expanded(path).resolve().name, VERSION, splits)


def read_documents(path: str, field: str = "text") -> list[bytes]:
    """Read all files that a path names and drop none; arguments and errors as for `load`."""
    texts, whole = _read(path, field)
    return [part for text in texts for part in documents_of(text)] + whole


def _read(pattern: str, field: str) -> tuple[list[bytes], list[bytes]]:
    """Return the texts, which may be cut, and the documents of JSON lines, which may not.

    Files of a folder that are not text are skipped with a warning.
    """
    texts: list[bytes] = []
    whole: list[bytes] = []
    left_out: list[tuple[Path, DataError]] = []
    in_folder = paths.expanded(pattern).is_dir()
    named = paths.find(pattern)
    for path in named:
        try:
            content = read_text(path)
        except NoTextError as error:
            if not in_folder:
                raise
            left_out.append((path, error))
            continue
        if content and ending(path) in json_lines.ENDINGS:
            whole += json_lines.documents(path, content, field)
        elif content:
            _warn_of_other_encodings(path, content)
            texts.append(content)
    if left_out and len(left_out) == len(named):
        raise DataError(f"{pattern} holds no text: {left_out[0][1]}")
    if left_out:
        some = ", ".join(path.name for path, _ in left_out[:3])
        _log.warning(
            "%s: %d of %d files are not text and are left out: %s%s",
            pattern, len(left_out), len(named), some, ", ..." if len(left_out) > 3 else "",
        )  # fmt: skip
    if not texts and not whole:
        raise DataError(f"{pattern} holds no text: no file there has any.")
    return texts, whole


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


def _split_documents(documents: Sequence[bytes]) -> dict[str, list[bytes]]:
    """Hold out documents, keeping identical ones in one split."""
    numbers: dict[bytes, list[int]] = {}
    for i, document in enumerate(documents):
        numbers.setdefault(document, []).append(i)
    sizes = [len(document) * len(same) for document, same in numbers.items()]
    budget = min(HELD_OUT_BYTES, int(HELD_OUT_FRACTION * sum(sizes)))
    budget = max(budget, statistics.median_low(sizes))  # at least one document
    # Train must keep more than a few long documents.
    budget = min(budget, -(-sum(size for size in sizes if size <= budget) // 3))
    keys = [hashlib.sha256(document).digest() for document in numbers]
    dealt = held_out(keys, sizes, budget=budget, largest=budget)
    kin = list(numbers.values())
    splits = {
        s: [documents[i] for i in sorted(j for k in dealt[s] for j in kin[k])] for s in SPLITS
    }
    if not all(splits.values()):
        raise DataError(
            f"{len(numbers)} different documents are too few to hold some out for validation and test."
        )
    return splits


def _split_files(texts: Sequence[bytes]) -> dict[str, list[bytes]]:
    sizes = [len(text) for text in texts]
    budget = min(HELD_OUT_BYTES, int(HELD_OUT_FRACTION * sum(sizes)))
    keys = [hashlib.sha256(text).digest() for text in texts]
    dealt = held_out(keys, sizes, budget=budget, largest=budget)
    if not dealt["test"] or not dealt["validation"]:  # all files are large compared with the budget
        return _split_ends(texts)
    return {s: [d for i in dealt[s] for d in documents_of(texts[i])] for s in SPLITS}


def _split_ends(texts: Sequence[bytes]) -> dict[str, list[bytes]]:
    """Hold out the end of every text."""
    total = sum(map(len, texts))
    fraction = min(HELD_OUT_FRACTION, HELD_OUT_BYTES / total)
    splits: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for text in texts:
        share = int(fraction * len(text))
        test = cut_before(text, len(text) - share, reach=share // 2)
        validation = cut_before(text, test - share, reach=share // 2)
        bounds = itertools.pairwise((0, validation, test, len(text)))
        for split, (low, high) in zip(SPLITS, bounds, strict=True):
            splits[split] += documents_of(text[low:high])
    for split, documents in splits.items():
        if not documents:
            raise DataError(f"The text's {total} bytes are too few to hold out any for {split}.")
    return splits


def documents_of(text: bytes) -> list[bytes]:
    """Cut a text into documents of at most `DOCUMENT_BYTES`, at line ends where possible."""
    bounds = [0]
    while len(text) - bounds[-1] > DOCUMENT_BYTES:
        bounds.append(cut_before(text, bounds[-1] + DOCUMENT_BYTES, reach=DOCUMENT_BYTES // 2))
    return [text[low:high] for low, high in itertools.pairwise([*bounds, len(text)]) if low < high]


def cut_before(text: bytes, place: int, *, reach: int) -> int:
    """Return the last line end in the `reach` bytes before `place`.

    If no line ends there, return the start of the UTF-8 character at `place`.
    """
    line_end = text.rfind(b"\n", max(place - reach, 0), place) + 1
    if line_end:
        return line_end
    for back in range(min(4, place)):  # a character has at most three continuation bytes
        if place - back >= len(text) or text[place - back] & 0xC0 != 0x80:
            return place - back
    return place
