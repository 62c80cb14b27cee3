"""Batches of packed documents, by Grain.

A document with tokens t_1..t_n is predicted from a separator on, and its end is predicted too:

    inputs   <sep> t_1 t_2 ... t_n
    targets  t_1   t_2 ... t_n <sep>

What is longer than a sequence is cut into pieces, and pieces are packed into rows side by side with
segment ids 1, 2, ... (0 is padding, which attends to nothing and carries no loss). A batch is a
dict of int32 arrays [B, T]: `inputs`, `targets`, `segments`.
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

# Pieces are shuffled in windows of this many tokens, all of a small corpus. It bounds memory, and the
# work of restoring a checkpoint, which fills one window anew.
SHUFFLE_TOKENS = 2**23
_MOST_SHUFFLED = 2**16  # pieces, however short they are


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer, see tokenizers.py."""

    @property
    def separator(self) -> int:
        """The id that stands before and after a document."""

    @property
    def byte_lengths(self) -> np.ndarray:
        """Bytes of text that each id stands for, [V]."""

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

    Every epoch visits the documents in another order and cuts them at other places, and the pieces
    are shuffled again over a window of `SHUFFLE_TOKENS`, so that a long document spreads over many
    batches. Documents are read and tokenized when their turn comes. Text smaller than a batch
    repeats within it.

    The order is a function of `seed`. The iterator's `get_state` and `set_state` continue exactly,
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
    """Yield batches in which every token and every document's end is a target exactly once.

    A document is cut into consecutive windows, of which a later one starts from the last token of
    the one before: the targets are the same at any sequence length. The last batch is
    filled up with padding.

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
    """Return how many bytes of text a batch's targets stand for (separators stand for none)."""
    return int(tokenizer.byte_lengths[batch["targets"]][batch["segments"] > 0].sum())


class _TokenStreams:
    """Random access to <sep> tokens <sep> of each document."""

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
    """Gives for the number of a draw the document it falls on, and where to cut it."""

    def __init__(self, streams: _TokenStreams, sequence_length: int, seed: int) -> None:
        self._streams = streams
        self._length = sequence_length
        self._seed = seed
        self._epochs = Epochs(len(streams), (seed,))

    def __call__(self, index: int) -> tuple[np.ndarray, int]:
        """Return a document's stream, and how short its first piece is to be."""
        stream = self._streams[self._epochs[index]]
        if len(stream) - 1 <= self._length:
            return stream, 0
        rng = np.random.default_rng((self._seed, index))
        return stream, int(rng.integers(self._length))


class _Cut(FlatMapTransform):
    """Cuts (stream, short) into pieces of one sequence, the first of them `short` tokens less."""

    max_fan_out = 2**62  # as many as it takes

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
    """Any integer, negative ones too, as entropy."""
    return 2 * seed if seed >= 0 else -2 * seed - 1


def _check_sizes(sequence_length: int, batch_size: int) -> None:
    for name, value in (("sequence_length", sequence_length), ("batch_size", batch_size)):
        if value < 1:
            raise DataError(f"{name} must be at least 1, not {value}.")


def _check_enough(documents: Sequence[bytes], tokenizer: Tokenizer, sequence_length: int) -> None:
    """Refuse text which cannot fill one sequence, reading no further than it must."""
    streams = _TokenStreams(documents, tokenizer)
    tokens = 0
    for i in range(len(streams)):
        tokens += len(streams[i]) - 1  # as many as there are targets
        if tokens >= sequence_length:
            return
    raise DataError(
        f"The training text has {tokens} tokens, less than one sequence of {sequence_length}: "
        f"give more text, or set sequence_length to {tokens} or less."
        if tokens
        else "There are no documents to train on: give some text."
    )
