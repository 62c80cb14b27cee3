"""Every byte is a token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relpos.data.errors import DataError


class Bytes:
    """Every byte is a token; 256 is the separator."""

    vocab_size = 257
    separator = 256
    byte_lengths = np.array([1] * 256 + [0], np.int32)

    def encode(self, text: bytes) -> np.ndarray:
        """Return the bytes as int32 [n]."""
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the bytes, without separators."""
        ids = np.asarray(ids, np.int64)
        check_ids(ids, self.vocab_size)
        return ids[ids < 256].astype(np.uint8).tobytes()


def check_ids(ids: np.ndarray, vocab_size: int) -> None:
    """Raise a DataError that names an id outside the vocabulary, if there is one."""
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        wrong = int(ids.min() if ids.min() < 0 else ids.max())
        raise DataError(f"Token {wrong} is outside the vocabulary of {vocab_size}.")
