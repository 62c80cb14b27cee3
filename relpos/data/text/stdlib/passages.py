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
# One 64-bit code per byte value, from a fixed seed, because the cuts determine the corpus.
_CODES = np.random.default_rng(20190112).integers(0, 2**64, size=256, dtype=np.uint64)
_BASE = 0x9E3779B97F4A7C15  # odd, so multiplying by it is invertible modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)


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
        self.starts = offsets[: len(self.hashes)]
        self.ends = offsets[window - 1 :] + 1


def _window_hashes(codes: np.ndarray, window: int) -> np.ndarray:
    """Return sum_j codes[i + j] * BASE**j, modulo 2**64, for every window i: [n] -> [max(n - window + 1, 0)]."""
    powers = np.cumprod(np.full(len(codes), _BASE, np.uint64))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes * powers)])
    scaled = sums[window:] - sums[:-window]  # by BASE**(i + 1)
    return scaled * np.cumprod(np.full(len(scaled), _INVERSE, np.uint64))


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
    ends = characters == ord("\n")
    line = np.cumsum(ends) - ends  # the line of each byte
    visible = ~_WHITE[characters]
    repeated = np.bincount(line[covered & visible], minlength=line[-1] + 1)
    cut = repeated > 0
    if wholly:
        cut &= repeated == np.bincount(line[visible], minlength=line[-1] + 1)
    return characters[~cut[line]].tobytes()


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
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    repeated = np.split(owners != owners[first[which]], np.cumsum(counts))
    kept = []
    for document, p, again in zip(documents, passages, repeated[:-1], strict=True):
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
            above = np.searchsorted(table, p.hashes, side="right")
            shared = np.searchsorted(table, p.hashes) < above
            if not shared.any():
                break
            covered = _coverage(len(document), p.starts[shared], p.ends[shared])
            document = cut_lines(document, covered, wholly=False)
        kept.append(document)
    return kept
