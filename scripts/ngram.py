"""An interpolated Witten-Bell n-gram model over bytes: a baseline for language models.

For a context h of n-1 symbols that was followed N(h) times by T(h) different symbols in the
training text,

    p(c | h) = (N(h, c) + T(h) p(c | h')) / (N(h) + T(h)),      h' = h without its oldest symbol,

down to the empty context, whose p(c | h') is uniform.  Witten and Bell 1991, in the interpolated
form of Chen and Goodman 1998, sec. 2.4.

The symbols are the 256 bytes and an end of document, which also fills the context before a document's first byte. So
contexts never reach into another document, and ends are predicted, as a neural model predicts them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

END = 256
SYMBOLS = 257


class WittenBell:
    """Counts n-grams of every order up to `order` in the documents.

    Args:
        documents: the training text.
        order: symbols in the longest n-gram; at most 7, so that one fits in 64 bits.
    """

    def __init__(self, documents: Sequence[bytes], order: int = 5) -> None:
        if not 1 <= order <= 7:
            raise ValueError(f"order must be from 1 to 7, not {order}")
        self.order = order
        self._by_length: list[tuple[np.ndarray, ...]] = []
        longest = _grams(documents, order)
        for length in range(1, order + 1):
            grams, counts = _count(longest % np.uint64(SYMBOLS**length))
            contexts, first, kinds = np.unique(
                grams // np.uint64(SYMBOLS), return_index=True, return_counts=True
            )
            totals = np.add.reduceat(counts, first)
            self._by_length.append((grams, counts, contexts, totals, kinds))

    def probabilities(self, documents: Sequence[bytes]) -> np.ndarray:
        """Return p(symbol | preceding symbols) of every byte and every end, [symbols]."""
        longest = _grams(documents, self.order)
        p = np.full(len(longest), 1.0 / SYMBOLS)
        for length, (grams, counts, contexts, totals, kinds) in enumerate(self._by_length, 1):
            gram = longest % np.uint64(SYMBOLS**length)
            n, t = _look_up(contexts, gram // np.uint64(SYMBOLS), totals, kinds)
            (count,) = _look_up(grams, gram, counts)
            # A context that never occurred keeps the shorter context's estimate.
            p = np.where(n > 0, (count + t * p) / np.maximum(n + t, 1), p)
        return p

    def bits_per_byte(self, documents: Sequence[bytes]) -> float:
        """Return the code length of the documents and their ends, divided by their bytes."""
        size = sum(len(document) for document in documents)
        return float(-np.log2(self.probabilities(documents)).sum() / size)


def _grams(documents: Sequence[bytes], order: int) -> np.ndarray:
    """Return the `order` symbols that end at each symbol as one number in base 257: [symbols] uint64."""
    parts = []
    for document in documents:
        text = np.frombuffer(document, np.uint8).astype(np.uint64)
        ends = np.full(order - 1, END, np.uint64)
        symbols = np.concatenate([ends, text, [np.uint64(END)]])
        gram = np.zeros(len(text) + 1, np.uint64)
        for back in range(order):  # the oldest symbol first
            gram = gram * np.uint64(SYMBOLS) + symbols[back : back + len(gram)]
        parts.append(gram)
    return np.concatenate(parts)


def _count(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values, ascending, and their counts (np.unique hashes, which is slower)."""
    values = np.sort(values)
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[first], np.diff(np.append(first, len(values)))


def _look_up(keys: np.ndarray, wanted: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the columns' values at each wanted key, or 0 for a missing key."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = keys[place] == wanted
    return tuple(np.where(found, column[place], 0) for column in columns)
