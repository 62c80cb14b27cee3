"""Batches of packed documents, by Grain.

A model predicts every token t_1..t_n of a document, and the separator that ends it, starting from a separator:

    inputs   <sep> t_1 t_2 ... t_n
    targets  t_1   t_2 ... t_n <sep>

Documents longer than a sequence are cut into pieces, and pieces are packed side by side into rows with segment ids 1,
2, ... (0 is padding, which attends to nothing and has no loss). A batch is a dict of int32 arrays [B, T]: `inputs`,
`targets`, `segments`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

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
from relpos.data.mapped import Mapped
from relpos.data.sampling import IN_THIS_THREAD, Epochs, endless
from relpos.data.tokenizers import Lossless

Batch = dict[str, np.ndarray]

# Pieces are shuffled in windows of this many tokens; a small corpus is one window. This bounds memory and the work of
# restoring a checkpoint, which refills one window.
SHUFFLE_TOKENS = 2**23
_MOST_SHUFFLED = 2**16  # pieces in a window, however short


def train_batches(
    documents: Sequence[bytes],
    tokenizer: Lossless,
    *,
    sequence_length: int,
    batch_size: int,
    seed: int,
) -> grain.IterDataset[Batch]:
    """Return endless shuffled batches for training.

    Every epoch visits the documents in a new order and cuts them at new places. The pieces are shuffled again within
    windows of `SHUFFLE_TOKENS`, so that a long document is spread over many batches. Documents are read and tokenized
    on demand. Text that is smaller than a batch is repeated to fill the batch.

    The order is a function of `seed`. The iterator's `get_state` and `set_state` restore it exactly,
    and Orbax saves it with `grain.checkpoint.CheckpointSave`.

    Raises:
      DataError: a size is not positive, or the text is shorter than one sequence.
    """
    _check_sizes(sequence_length, batch_size)
    streams = _streams(documents, tokenizer)
    _check_enough(streams, sequence_length)
    entropy = 2 * seed if seed >= 0 else -2 * seed - 1  # NumPy accepts no negative seed
    draw_seed, window_seed, pack_seed = (
        int(s) for s in np.random.SeedSequence(entropy).generate_state(3) >> 1
    )
    epochs = Epochs(len(streams), (draw_seed,))

    def draw(index: int) -> tuple[np.ndarray, int]:
        """Return a document's stream and how many tokens its first piece lacks."""
        stream = streams[epochs[index]]
        if len(stream) - 1 <= sequence_length:
            return stream, 0
        rng = np.random.default_rng((draw_seed, index))
        return stream, int(rng.integers(sequence_length))

    drawn = endless(draw).to_iter_dataset(IN_THIS_THREAD)
    pieces = FlatMapIterDataset(drawn, _Cut(sequence_length))
    window = min(max(SHUFFLE_TOKENS // sequence_length, 64), _MOST_SHUFFLED)
    pieces = WindowShuffleIterDataset(pieces, window_size=window, seed=window_seed)
    return _packed(pieces, sequence_length, rows=max(batch_size, 64), seed=pack_seed).batch(
        batch_size, drop_remainder=True
    )


def eval_batches(
    documents: Sequence[bytes],
    tokenizer: Lossless,
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
    streams = grain.MapDataset.source(_streams(documents, tokenizer))
    uncut = streams.map(lambda stream: (stream, 0)).to_iter_dataset(IN_THIS_THREAD)
    pieces = FlatMapIterDataset(uncut, _Cut(sequence_length))
    rows = _packed(pieces, sequence_length, rows=batch_size, seed=None)
    return iter(
        rows.batch(batch_size, batch_fn=functools.partial(batch_and_pad, batch_size=batch_size))
    )


def _streams(documents: Sequence[bytes], tokenizer: Lossless) -> Mapped[np.ndarray]:
    """Return the stream <sep> tokens <sep> of each document."""
    separator = np.array([tokenizer.separator], np.int32)
    return Mapped(
        documents, lambda text: np.concatenate([separator, tokenizer.encode(text), separator])
    )


class _Cut(FlatMapTransform):
    """Cut the stream of (stream, short) into pieces of the sequence length, the first `short` tokens shorter."""

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


def _check_sizes(sequence_length: int, batch_size: int) -> None:
    for name, value in (("sequence_length", sequence_length), ("batch_size", batch_size)):
        if value < 1:
            raise DataError(f"{name} must be at least 1, not {value}.")


def _check_enough(streams: Sequence[np.ndarray], sequence_length: int) -> None:
    """Raise if the text cannot fill one sequence; read only as much of it as needed."""
    tokens = 0
    for stream in streams:
        tokens += len(stream) - 1  # the number of targets
        if tokens >= sequence_length:
            return
    raise DataError(
        f"The training text has {tokens} tokens, fewer than one sequence of {sequence_length}: "
        f"give more text, or set sequence_length to {tokens} or less."
        if tokens
        else "There are no documents to train on: give some text."
    )
