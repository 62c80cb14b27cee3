"""A vocabulary of whole words, for text with a closed vocabulary, such as SCAN's commands.

offsets.py has one for spans. Words are separated by spaces; decoding joins them with single spaces. A word that is not
in train becomes the unknown word.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from relpos.data.errors import DataError
from relpos.files import parse_json, read_file, write_atomically

UNKNOWN = b"<unknown>"


class Words:
    """Ids 0 ... n-1 are words, n is the unknown word, n+1 is the separator."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._words = list(words)
        self._ids = {word: i for i, word in enumerate(self._words)}
        self.vocab_size = len(self._words) + 2
        self.separator = len(self._words) + 1

    def encode(self, text: bytes) -> np.ndarray:
        """Return the ids of a text, int32 [n]."""
        unknown = len(self._words)
        return np.array([self._ids.get(word, unknown) for word in text.split()], np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the words, without separators."""
        words = [*self._words, UNKNOWN]
        return b" ".join(words[i] for i in np.asarray(ids).tolist() if i != self.separator)

    def unknown(self, text: bytes) -> list[str]:
        """Return the words of a text that are not in the vocabulary."""
        return [word.decode("utf-8", "replace") for word in text.split() if word not in self._ids]


def read_vocabulary(path: Path) -> list[str]:
    """Return the words in a file, a JSON list without duplicates.

    Raises:
      FileNotFoundError: the file does not exist.
      UserError: it cannot be read.
      DataError: it does not hold such a list.
    """
    try:
        words = parse_json(read_file(path))
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("not a list of words")
        if len({word.encode("utf-8", "surrogateescape") for word in words}) < len(words):
            raise ValueError("a duplicate word")
    except ValueError as error:
        raise DataError(f"{path} is not a vocabulary ({error}): restore it.") from error
    return words


def load_or_make(path: str | os.PathLike[str], texts: Iterable[bytes]) -> Words:
    """Return the vocabulary saved at `path`, or else make it from the texts, most frequent first, and save it.

    Raises:
      DataError: the file is not a vocabulary, or there are no words.
    """
    path = Path(path)
    if path.exists():
        return Words([word.encode("utf-8", "surrogateescape") for word in read_vocabulary(path)])
    counts = collections.Counter(word for text in texts for word in text.split())
    if not counts:
        raise DataError("There are no words to make a vocabulary of.")
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    spelt = [word.decode("utf-8", "surrogateescape") for word in ranked]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(spelt))
    return Words(ranked)
