"""Batches of packed documents, by Grain.

A model predicts every token t_1..t_n of a document, and the separator that ends it, starting from a separator:

    inputs   <sep> t_1 t_2 ... t_n
    targets  t_1   t_2 ... t_n <sep>

Documents longer than a sequence are cut into pieces, and pieces are packed side by side into rows with segment ids 1,
2, ... (0 is padding, which attends to nothing and has no loss). A batch is a dict of int32 arrays [B, T]: `inputs`,
`targets`, `segments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import grain
import numpy as np
from grain.experimental import (
    FirstFitPackIterDataset,
    FlatMapIterDataset,
    FlatMapTransform,
    WindowShuffleIterDataset,
    batch_and_pad,
)

from relpos.data.errors import DataError
from relpos.data.sampling import IN_THIS_THREAD, Epochs, endless

Batch = dict[str, np.ndarray]

# Pieces are shuffled in windows of this many tokens; a small corpus is one window. This bounds memory and the work of
# restoring a checkpoint, which refills one window.
SHUFFLE_TOKENS = 2**23
_MOST_SHUFFLED = 2**16  # pieces in a window, however short


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer, see tokenizers."""

    @property
    def separator(self) -> int:
        """The id that stands before and after a document."""

    @property
    def byte_lengths(self) -> np.ndarray:
        """The number of bytes of each id, [V]."""

    def encode(self, text: bytes) -> np.ndarray:
        """Return the ids of a text, int32."""


def train_batches(
    documents: Sequence[bytes],
    tokenizer: Tokenizer,
    *,
    sequence_length: int,
    batch_size: int,
    seed: int,
) -> grain.IterDataset[Batch]:
    """Return endless shuffled batches for training.

    Every epoch visits the documents in a new order and cuts them at new places. The pieces are shuffled again within
    windows of `SHUFFLE_TOKENS`, so that a long document is spread over many batches. Documents are read and tokenized
    on demand. If the text is smaller than a batch, it is repeated to fill it.

    The order is a function of `seed`. The iterator's `get_state` and `set_state` restore it exactly,
    and Orbax saves it with `grain.checkpoint.CheckpointSave`.

    Raises:
      DataError: a size is not positive, or the text is shorter than one sequence.
    """
    _check_sizes(sequence_length, batch_size)
    _check_enough(documents, tokenizer, sequence_length)
    draw_seed, window_seed, pack_seed = (
        int(s) for s in np.random.SeedSequence(_entropy(seed)).generate_state(3) >> 1
    )
    draw = _Draw(_TokenStreams(documents, tokenizer), sequence_length, draw_seed)
    drawn = endless(draw).to_iter_dataset(IN_THIS_THREAD)
    pieces = FlatMapIterDataset(drawn, _Cut(sequence_length))
    window = min(max(SHUFFLE_TOKENS // sequence_length, 64), _MOST_SHUFFLED)
    pieces = WindowShuffleIterDataset(pieces, window_size=window, seed=window_seed)
    return _packed(pieces, sequence_length, rows=max(batch_size, 64), seed=pack_seed).batch(
        batch_size, drop_remainder=True
    )


def eval_batches(
    documents: Sequence[bytes],
    tokenizer: Tokenizer,
    *,
    sequence_length: int,
    batch_size: int,
) -> Iterator[Batch]:
    """Yield batches in which every token and every document end is a target exactly once.

    A document is cut into consecutive windows, and each window's inputs start with the last token of the one before, so
    the targets are the same at any sequence length. The last batch is padded.

    Raises:
      DataError: a size is not positive, or there are no documents.
    """
    _check_sizes(sequence_length, batch_size)
    if not len(documents):
        raise DataError("There are no documents to evaluate on.")
    streams = grain.MapDataset.source(_TokenStreams(documents, tokenizer))
    uncut = streams.map(lambda stream: (stream, 0)).to_iter_dataset(IN_THIS_THREAD)
    pieces = FlatMapIterDataset(uncut, _Cut(sequence_length))
    rows = _packed(pieces, sequence_length, rows=batch_size, seed=None)
    return iter(rows.batch(batch_size, batch_fn=_pad_to(batch_size)))


def text_bytes(batch: Batch, tokenizer: Tokenizer) -> int:
    """Return the number of bytes of a batch's targets (separators have none)."""
    return int(tokenizer.byte_lengths[batch["targets"]][batch["segments"] > 0].sum())


class _TokenStreams:
    """Random access to the stream <sep> tokens <sep> of each document."""

    def __init__(self, documents: Sequence[bytes], tokenizer: Tokenizer) -> None:
        self._documents = documents
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> np.ndarray:
        separator = np.array([self._tokenizer.separator], np.int32)
        tokens = self._tokenizer.encode(self._documents[index])
        return np.concatenate([separator, tokens, separator])


class _Draw:
    """Map the index of a draw to a document and to where it is first cut."""

    def __init__(self, streams: _TokenStreams, sequence_length: int, seed: int) -> None:
        self._streams = streams
        self._length = sequence_length
        self._seed = seed
        self._epochs = Epochs(len(streams), (seed,))

    def __call__(self, index: int) -> tuple[np.ndarray, int]:
        """Return a document's stream and how many tokens its first piece lacks."""
        stream = self._streams[self._epochs[index]]
        if len(stream) - 1 <= self._length:
            return stream, 0
        rng = np.random.default_rng((self._seed, index))
        return stream, int(rng.integers(self._length))


class _Cut(FlatMapTransform):
    """Cut (stream, short) into pieces of one sequence, the first one `short` tokens shorter."""

    max_fan_out = 2**62  # no limit

    def __init__(self, sequence_length: int) -> None:
        self._length = sequence_length

    def flat_map(self, element: tuple[np.ndarray, int]) -> list[Batch]:
        stream, short = element
        bounds = np.arange(-short, len(stream) - 1, self._length)
        starts = np.maximum(bounds, 0)
        ends = np.minimum(bounds + self._length, len(stream) - 1)
        return [
            {"inputs": stream[a:b], "targets": stream[a + 1 : b + 1]}
            for a, b in zip(starts, ends, strict=True)
        ]


def _packed(
    pieces: grain.IterDataset, sequence_length: int, *, rows: int, seed: int | None
) -> grain.IterDataset:
    """Pack pieces first-fit, `rows` open rows at a time."""
    packed = FirstFitPackIterDataset(
        pieces,
        length_struct={"inputs": sequence_length, "targets": sequence_length},
        num_packing_bins=rows,
        seed=seed or 0,
        shuffle_bins=seed is not None,
    )
    return packed.map(
        lambda row: {
            "inputs": row["inputs"],
            "targets": row["targets"],
            "segments": row["inputs_segment_ids"],
        }
    )


def _pad_to(batch_size: int) -> Callable[[Sequence[Batch]], Batch]:
    return lambda rows: batch_and_pad(rows, batch_size=batch_size)


def _entropy(seed: int) -> int:
    """Map a seed, which may be negative, to an integer that is not, as NumPy requires."""
    return 2 * seed if seed >= 0 else -2 * seed - 1


def _check_sizes(sequence_length: int, batch_size: int) -> None:
    for name, value in (("sequence_length", sequence_length), ("batch_size", batch_size)):
        if value < 1:
            raise DataError(f"{name} must be at least 1, not {value}.")


def _check_enough(documents: Sequence[bytes], tokenizer: Tokenizer, sequence_length: int) -> None:
    """Raise if the text cannot fill one sequence; read only as much of it as needed."""
    streams = _TokenStreams(documents, tokenizer)
    tokens = 0
    for i in range(len(streams)):
        tokens += len(streams[i]) - 1  # the number of targets
        if tokens >= sequence_length:
            return
    raise DataError(
        f"The training text has {tokens} tokens, fewer than one sequence of {sequence_length}: "
        f"give more text, or set sequence_length to {tokens} or less."
        if tokens
        else "There are no documents to train on: give some text."
    )
