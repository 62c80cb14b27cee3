"""Repeated passages: find text that occurs elsewhere, and cut the lines that repeat it.

A passage is a run of `WINDOW` characters other than white space, so that re-indented or re-wrapped copies (a docstring
in a .py file and the same words in a C module) count as the same. Every window of every document is hashed with NumPy:
12 MB take about two seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW = 48
_WHITE = np.isin(np.arange(256), np.frombuffer(b" \t\n\r\v\f", np.uint8))
# One 64-bit code per byte value, from a fixed seed, as the cuts define the corpus.
_CODES = np.random.default_rng(20190112).integers(0, 2**64, size=256, dtype=np.uint64)
_BASE = 0x9E3779B97F4A7C15  # odd, so multiplying by it is invertible modulo 2**64


class Passages:
    """The windows of one text: where they start and end in its bytes, and their hashes.

    Attributes:
      starts: byte offset of the first character of each window, [windows] int64.
      ends: byte offset after the last character of each window, [windows] int64.
      hashes: [windows] uint64.
    """

    def __init__(self, text: bytes, window: int = WINDOW) -> None:
        characters = np.frombuffer(text, np.uint8)
        offsets = np.flatnonzero(~_WHITE[characters])
        self.hashes = _window_hashes(_CODES[characters[offsets]], window)
        count = len(self.hashes)
        self.starts = offsets[:count]
        self.ends = offsets[window - 1 : window - 1 + count] + 1


def _window_hashes(codes: np.ndarray, window: int) -> np.ndarray:
    """Return the polynomial hash of every run of `window` codes: [n] -> [max(n - window + 1, 0)]."""
    if len(codes) < window:
        return np.empty(0, np.uint64)
    # Double the window while it fits, and concatenate the binary parts of `window`.
    whole = np.zeros(len(codes) + 1, np.uint64)
    covered, part, length = 0, codes, 1
    while True:
        if window & length:
            # whole[i] covers [i, i + covered); append the part which starts at i + covered.
            count = len(codes) - covered - length + 1
            whole = whole[:count] * _power(length) + part[covered : covered + count]
            covered += length
        if covered == window:
            return whole
        part = part[:-length] * _power(length) + part[length:]
        length *= 2


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_BASE, exponent, 2**64))


def cut_lines(text: bytes, covered: np.ndarray, *, wholly: bool) -> bytes:
    """Return `text` without the lines that repeat something.

    Args:
      text: the document.
      covered: [len(text)] bool, True for every byte inside a repeated window.
      wholly: cut only lines whose characters are all covered, not every line that is touched.
    """
    if not covered.any():
        return text
    characters = np.frombuffer(text, np.uint8)
    line_starts = np.concatenate([[0], np.flatnonzero(characters == ord("\n")) + 1])
    line_starts = line_starts[line_starts < len(text)]
    visible = ~_WHITE[characters]
    covered_counts = np.add.reduceat((covered & visible).astype(np.int64), line_starts)
    if wholly:
        visible_counts = np.add.reduceat(visible.astype(np.int64), line_starts)
        cut = (covered_counts == visible_counts) & (visible_counts > 0)
    else:
        cut = covered_counts > 0
    lengths = np.diff(np.append(line_starts, len(text)))
    return characters[np.repeat(~cut, lengths)].tobytes()


def _coverage(size: int, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return [size] bool: True inside any of the spans [starts, ends)."""
    steps = np.bincount(starts, minlength=size + 1) - np.bincount(ends, minlength=size + 1)
    return np.cumsum(steps[:size]) > 0


def drop_repeats(documents: Sequence[bytes], *, window: int = WINDOW) -> list[bytes]:
    """Cut from each document the lines that only repeat passages of earlier documents.

    Repetitions within a document stay. A line is cut if all its visible characters lie in repeated windows, so copied
    paragraphs go and shared idioms within new lines stay.
    """
    passages = [Passages(document, window) for document in documents]
    counts = [len(p.hashes) for p in passages]
    owners = np.repeat(np.arange(len(documents), dtype=np.int32), counts)
    hashes = np.concatenate([p.hashes for p in passages] or [np.empty(0, np.uint64)])
    order = np.argsort(hashes, kind="stable")  # equal hashes stay in the order of the documents
    ordered = hashes[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    first_owner = owners[order][np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    repeated = np.empty(len(order), bool)
    repeated[order] = owners[order] != first_owner
    kept = []
    bounds = np.cumsum([0, *counts])
    for document, p, low, high in zip(documents, passages, bounds[:-1], bounds[1:], strict=True):
        again = repeated[low:high]
        covered = _coverage(len(document), p.starts[again], p.ends[again])
        kept.append(cut_lines(document, covered, wholly=True))
    return kept


def cut_shared(
    documents: Sequence[bytes], others: Sequence[bytes], *, window: int = WINDOW
) -> list[bytes]:
    """Cut every line of `documents` that touches a passage of `others`.

    Afterwards no passage of `window` visible characters is shared: cutting joins lines that were apart, so it is
    repeated until nothing more is found.
    """
    known = [Passages(other, window).hashes for other in others]
    table = np.sort(np.concatenate(known)) if known else np.empty(0, np.uint64)
    kept = []
    for document in documents:
        while True:
            p = Passages(document, window)
            shared = _is_in(p.hashes, table)
            if not shared.any():
                break
            covered = _coverage(len(document), p.starts[shared], p.ends[shared])
            document = cut_lines(document, covered, wholly=False)
        kept.append(document)
    return kept


def _is_in(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return [n] bool: which values are in the sorted table."""
    if not len(table):
        return np.zeros(len(values), bool)
    found = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return table[found] == values
