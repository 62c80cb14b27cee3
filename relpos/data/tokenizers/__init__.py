"""Lossless tokenizers: bytes or SentencePiece. words.py and offsets.py hold the others.

A tokenizer has `vocab_size`, a `separator` id that stands before the first and after the last token of a document,
`encode(bytes) -> int32 [n]`, `decode(ids) -> bytes` and `byte_lengths` [V], the number of bytes of each id.
decode(encode(text)) == text for every text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from relpos.data.errors import DataError, nearest
from relpos.data.tokenizers.bytes import Bytes as Bytes
from relpos.data.tokenizers.sentencepiece import SentencePiece as SentencePiece
from relpos.data.tokenizers.sentencepiece import train_sentencepiece as train_sentencepiece

KINDS = ("bytes", "sentencepiece")
Lossless = Bytes | SentencePiece  # both have all that is listed above


def create(
    kind: str,
    *,
    corpus: Sequence[bytes] = (),
    path: str | os.PathLike[str] = "",
    vocab_size: int = 0,
) -> Lossless:
    """Return a run's tokenizer: load it from `path`, or else train it and save it there.

    Args:
      kind: "bytes" or "sentencepiece".
      corpus: the train documents, for SentencePiece.
      path: the run's model file, for SentencePiece.
      vocab_size: the number of ids, for SentencePiece.

    Raises:
      DataError: an unknown kind, or SentencePiece cannot be loaded or trained.
    """
    if kind == "bytes":
        return Bytes()
    if kind != "sentencepiece":
        raise DataError(
            f"There is no tokenizer {kind!r}.{nearest(kind, KINDS)} Known: {', '.join(KINDS)}."
        )
    if not path:
        raise DataError("The sentencepiece tokenizer needs a path to keep its model at.")
    if Path(path).exists():
        loaded = SentencePiece(path)
        if vocab_size and loaded.vocab_size != vocab_size:
            raise DataError(
                f"{path} has {loaded.vocab_size} pieces, but vocab_size is {vocab_size}: "
                "set vocab_size to the former, or use another run directory."
            )
        return loaded
    return train_sentencepiece(corpus, vocab_size=vocab_size, path=path)
