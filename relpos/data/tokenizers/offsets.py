"""Tokenizers that also give each token's characters in the text, for models that point at spans.

`WithOffsets` adds offsets to the lossless tokenizers, bytes and SentencePiece. `WordsWithOffsets` splits text into
words and punctuation and drops white space: a bAbI story takes a third as many tokens as bytes, and "Ada" is the same
token wherever it stands.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relpos.data import tokenizers
from relpos.data.errors import DataError
from relpos.data.tokenizers.words import read_vocabulary
from relpos.errors import did_you_mean
from relpos.files import write_atomically

_PIECE = re.compile(r"\w+|[^\w\s]")


class TokensWithOffsets(NamedTuple):
    """The tokens of a text and their offsets.

    Attributes:
      ids: int32 [N].
      offsets: the characters [start, stop) of each token, int64 [N, 2]; neither column decreases.
    """

    ids: np.ndarray
    offsets: np.ndarray


class WordsWithOffsets:
    """Known words and punctuation marks are one token each; others are spelt in UTF-8 bytes.

    The ids are the 256 bytes, the separator and the known pieces.

    Args:
      pieces: the known words and marks.
    """

    separator = 256

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = tuple(pieces)
        self.vocab_size = self.separator + 1 + len(self.pieces)
        self._ids = {piece: self.separator + 1 + i for i, piece in enumerate(self.pieces)}

    def tokens(self, text: str) -> TokensWithOffsets:
        """Return the tokens of a text: at least one, unless it is all white space."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for match in _PIECE.finditer(text):
            known = self._ids.get(match[0])
            if known is not None:
                ids.append(known)
                offsets.append(match.span())
                continue
            for i, character in enumerate(match[0], match.start()):
                spelt = character.encode()
                ids.extend(spelt)
                offsets.extend([(i, i + 1)] * len(spelt))
        return TokensWithOffsets(
            np.array(ids, np.int32), np.array(offsets, np.int64).reshape(-1, 2)
        )


def character_offsets(text: str, byte_lengths_N: np.ndarray) -> np.ndarray:
    """Return the characters [start, stop) of each token, int64 [N, 2].

    A token that starts or ends inside a character gets the whole character, so that every span of tokens is a span of
    characters.

    Args:
      text: the text.
      byte_lengths_N: the bytes of each token: byte_lengths[ids] of a lossless tokenizer.

    Raises:
      DataError: the tokens are not those of this text.
    """
    encoded = np.frombuffer(text.encode(), np.uint8)
    stops = np.cumsum(byte_lengths_N, dtype=np.int64)
    total = int(np.sum(byte_lengths_N))
    if total != len(encoded):
        raise DataError(f"The tokens stand for {total} bytes, but the text has {len(encoded)}.")
    # The character of each byte: a byte that does not continue a character starts the next.
    character = np.append(np.cumsum(encoded & 0xC0 != 0x80) - 1, len(text))
    starts = stops - byte_lengths_N
    last = np.maximum(stops - 1, 0)
    ends = np.where(byte_lengths_N > 0, character[last] + 1, character[starts])
    return np.stack([character[starts], ends], axis=1)


def learn_words(texts: Iterable[str], vocab_size: int) -> WordsWithOffsets:
    """Learn the most frequent pieces of the train split; ties are broken alphabetically.

    Of at most `vocab_size` ids, 257 are the bytes and the separator.

    Raises:
      DataError: the ids leave no room for a word.
    """
    room = vocab_size - WordsWithOffsets.separator - 1
    if room < 1:
        raise DataError(
            f"A vocabulary of {vocab_size} is too small: the bytes and a separator need "
            f"{WordsWithOffsets.separator + 1}, and words come on top."
        )
    counts = collections.Counter(piece for text in texts for piece in _PIECE.findall(text))
    return WordsWithOffsets(sorted(counts, key=lambda piece: (-counts[piece], piece))[:room])


class WithOffsets:
    """A lossless tokenizer, with the offsets of its tokens."""

    def __init__(self, tokenizer: tokenizers.Lossless) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.separator = tokenizer.separator

    def tokens(self, text: str) -> TokensWithOffsets:
        """Return the tokens of a text."""
        ids = self._tokenizer.encode(text.encode())
        return TokensWithOffsets(ids, character_offsets(text, self._tokenizer.byte_lengths[ids]))


OffsetTokenizer = WordsWithOffsets | WithOffsets


def create(
    kind: str, *, texts: Sequence[str] = (), path: str | Path = "", vocab_size: int = 0
) -> OffsetTokenizer:
    """Return a run's tokenizer: load it from `path`, or else learn it and save it there.

    Args:
      kind: "words", "bytes" or "sentencepiece".
      texts: the train split, to learn from; unused for bytes.
      path: the run's file; unused for bytes.
      vocab_size: the number of ids; for words, the maximum.

    Raises:
      DataError: the kind is unknown, or the tokenizer cannot be loaded or learned.
    """
    if kind not in (kinds := ("words", *tokenizers.KINDS)):
        raise DataError(f"There is no tokenizer {kind!r}{did_you_mean(kind, kinds)}")
    if kind != "words":
        encoded = [text.encode() for text in texts] if kind == "sentencepiece" else []
        return WithOffsets(
            tokenizers.create(kind, corpus=encoded, path=path, vocab_size=vocab_size)
        )
    path = Path(path)
    if path.exists():
        return WordsWithOffsets(read_vocabulary(path))
    words = learn_words(texts, vocab_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(words.pieces, indent=0) + "\n")
    return words
