"""Lossless SentencePiece: text that no piece covers is spelt in bytes."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from relpos.data.errors import DataError
from relpos.data.tokenizers.bytes import check_ids
from relpos.files import read_file, write_atomically

SAMPLE_BYTES = 2_000_000  # of text, on which SentencePiece is trained
MOST_PIECES = 1_000_000  # the number of candidates that SentencePiece starts from
_PARAGRAPH_BYTES = 2000  # SentencePiece learns from pieces of text about this long


class SentencePiece:
    """A SentencePiece model made by `train_sentencepiece`.

    Text that no piece covers is spelt in bytes. SentencePiece writes a space as U+2581, so a real U+2581 is spelt in
    bytes too, as are NUL and invalid UTF-8. Decoding joins the pieces and does not use the library's decoder.

    Args:
      model_file: the model's path.

    Raises:
      DataError: the file is missing or is not such a model.
      UserError: it is not a regular file, or cannot be read.
    """

    def __init__(self, model_file: str | os.PathLike[str]) -> None:
        try:
            model = read_file(Path(model_file))
        except FileNotFoundError:
            raise DataError(f"There is no SentencePiece model {model_file}: restore it.") from None
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            self.vocab_size: int = self._processor.vocab_size()
            self._pieces = [self._piece_bytes(i) for i in range(self.vocab_size)]
        except (RuntimeError, ValueError) as error:  # also a piece's UnicodeDecodeError
            raise DataError(
                f"{model_file} is not a SentencePiece model ({error}): restore it."
            ) from error
        self.separator: int = self._processor.bos_id()
        self._byte_ids = np.array(
            [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)], np.int32
        )
        if self.separator < 0 or self._processor.unk_id() in self._byte_ids:
            raise DataError(
                f"{model_file} has no byte pieces or no separator, so it cannot spell every text: "
                "restore it."
            )
        self.byte_lengths = np.array([len(piece) for piece in self._pieces], np.int32)

    def _piece_bytes(self, i: int) -> bytes:
        if self._processor.is_control(i) or self._processor.is_unknown(i):
            return b""
        piece = self._processor.id_to_piece(i)
        if self._processor.is_byte(i):
            return bytes([int(piece[1:-1], 16)])
        return piece.replace("\u2581", " ").encode()

    def encode(self, text: bytes) -> np.ndarray:
        """Return the ids of a text, int32 [n]."""
        string = text.decode("utf-8", "surrogateescape")
        ids: list[int] = []
        for part in _SPELT_OUT.split(string):
            if _SPELT_OUT.fullmatch(part):
                spelt = np.frombuffer(part.encode("utf-8", "surrogateescape"), np.uint8)
                ids.extend(self._byte_ids[spelt].tolist())
            elif part:
                ids.extend(self._processor.encode(part))
        return np.array(ids, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Return the text, without separators."""
        ids = np.asarray(ids, np.int64)
        check_ids(ids, self.vocab_size)
        return b"".join(self._pieces[i] for i in ids.tolist())


_SPELT_OUT = re.compile("([\u2581\0\udc80-\udcff]+)")


def train_sentencepiece(
    documents: Sequence[bytes], *, vocab_size: int, path: str | os.PathLike[str]
) -> SentencePiece:
    """Train a model on at most `SAMPLE_BYTES` of the documents and write it to `path` atomically.

    Args:
      documents: the train split only.
      vocab_size: the number of pieces, of which 256 are bytes and two are special.
      path: where to write the model.

    Raises:
      DataError: the vocabulary is too large for this text, or too small to hold its characters.
    """
    if not any(len(documents[i]) for i in range(len(documents))):
        raise DataError("There is no text to train a SentencePiece model on.")
    if vocab_size < 1:
        raise _too_small(vocab_size, 258)
    if vocab_size > MOST_PIECES:
        raise DataError(
            f"A vocabulary of {vocab_size} is too large: {MOST_PIECES} pieces are the most."
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sample(documents),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.9995,
            max_sentence_length=2 * _PARAGRAPH_BYTES,
            unk_id=0,
            bos_id=1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise _explained(error, vocab_size) from error
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), model.getvalue())
    return SentencePiece(path)


def _sample(documents: Sequence[bytes]) -> Iterator[str]:
    """Yield paragraphs of randomly drawn documents, at most `SAMPLE_BYTES` in all."""
    left = SAMPLE_BYTES
    for i in np.random.default_rng(0).permutation(len(documents)):
        text = documents[int(i)].decode("utf-8", "replace")
        lines, size = [], 0
        for line in text[:left].splitlines(keepends=True):
            lines.append(line[:_PARAGRAPH_BYTES])
            size += len(lines[-1])
            if size >= _PARAGRAPH_BYTES // 2:
                yield "".join(lines)
                lines, size = [], 0
        if lines:
            yield "".join(lines)
        left -= len(text)
        if left <= 0:
            return


def _explained(error: Exception, vocab_size: int) -> DataError:
    message = str(error)
    if limit := re.search(r"value <= (\d+)", message):
        return DataError(
            f"A vocabulary of {vocab_size} is too large for this text: set vocab_size to at most "
            f"{limit[1]}, or give more text."
        )
    if needed := re.search(
        r"required_chars\. \d+ vs (\d+)|smaller than required_chars (\d+)", message
    ):
        return _too_small(vocab_size, int(needed[1] or needed[2]))
    return DataError(f"SentencePiece could not be trained with vocab_size={vocab_size}: {message}")


def _too_small(vocab_size: int, needed: int) -> DataError:
    return DataError(
        f"A vocabulary of {vocab_size} is too small: the 256 bytes, a separator and this text's "
        f"characters need more than {needed}."
    )
