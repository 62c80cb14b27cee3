"""Batches of sentence pairs of similar length, by Grain.

A pair with source tokens s_1..s_m and target tokens t_1..t_n is shown to an encoder-decoder as

    source   s_1 ... s_m <sep>      inputs   <sep> t_1 ... t_n      targets  t_1 ... t_n <sep>

padded to one length for both sides of a batch; there are few such lengths, so that few programs are compiled. A
batch is a dict of int32 arrays [B, T]: `source`, `source_segments`, `inputs`, `targets`, `segments`
(1 for tokens, 0 for padding).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from relpos.data.errors import DataError
from relpos.data.mapped import Mapped
from relpos.data.pairs.corpus import Pair
from relpos.data.sampling import IN_THIS_THREAD, Epochs, endless
from relpos.data.tokenizers import Lossless
from relpos.data.tokenizers.words import Words

Batch = dict[str, np.ndarray]
Tokenizer = Lossless | Words
TokenizedPair = tuple[np.ndarray, np.ndarray]

_POOL = 50  # batches whose pairs are sorted by length together


class Tokenized(Mapped[TokenizedPair]):
    """The tokens of pairs, without separators.

    Attributes:
      separators: the ids that end a source and a target.
    """

    def __init__(self, pairs: Sequence[Pair], source: Tokenizer, target: Tokenizer) -> None:
        super().__init__(pairs, lambda pair: (source.encode(pair[0]), target.encode(pair[1])))
        self.separators = source.separator, target.separator


def sentences(pairs: Sequence[Pair], sides: Sequence[int]) -> Mapped[bytes]:
    """Return the sentences of one side of pairs (0: source, 1: target), or of both in turn."""
    count = len(sides)
    return Mapped(
        range(len(pairs) * count), lambda number: pairs[number // count][sides[number % count]]
    )


def padded_length(needed: int, longest: int, *, between: bool = True) -> int:
    """Return the least of 8, 12, 16, 24, 32, 48, ... that holds `needed` tokens, but at most `longest`.

    The result is at least a sixth of `longest`: short batches cost little in any case, and every length needs its own
    program. Without `between`, choose among 8, 16, 32, ..., for code that runs rarely.
    """
    size = 8
    while size < max(needed, longest / 6):
        if between:
            size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
        else:
            size *= 2
    return min(size, longest)


def _needed(pairs: Sequence[TokenizedPair]) -> int:
    return 1 + max(len(tokens) for pair in pairs for tokens in pair)


def fits(pair: TokenizedPair, sequence_length: int) -> bool:
    """Return whether neither side is empty and both fit with their separators."""
    return all(0 < len(tokens) < sequence_length for tokens in pair)


def train_batches(
    pairs: Tokenized, *, sequence_length: int, batch_size: int, seed: int
) -> grain.IterDataset[Batch]:
    """Return endless batches; each is a function of the seed and of its index.

    Every epoch visits the pairs in a new order. Pools of several batches are sorted by length, cut into batches and
    shuffled. Pairs that do not fit are skipped, and others are repeated instead.

    Raises:
      DataError: there are no pairs.
    """
    if not len(pairs):
        raise DataError("There are no pairs to train on.")
    entropy = (abs(seed), seed < 0)
    epochs = Epochs(len(pairs), (*entropy, 0))
    batches_of_pool = min(_POOL, -(-len(pairs) // batch_size))
    pairs_of_pool = batches_of_pool * batch_size

    def fitting(number: int) -> list[TokenizedPair]:
        indices = range(number * pairs_of_pool, (number + 1) * pairs_of_pool)
        return [pair for i in indices if fits(pair := pairs[epochs[i]], sequence_length)]

    @functools.lru_cache(maxsize=2)
    def pool(number: int) -> list[list[TokenizedPair]]:
        # If few pairs fit, a pool may have none; the next pool that has some then replaces it.
        whole_epoch = range(number, number + 1 + -(-len(pairs) // pairs_of_pool))
        found = next(filter(None, map(fitting, whole_epoch)), None)
        if found is None:
            raise DataError(
                f"None of {len(pairs)} pairs fits into sequence_length={sequence_length} tokens: increase "
                "sequence_length."
            )
        rng = np.random.default_rng((*entropy, 1, number))
        found += [found[i] for i in rng.integers(len(found), size=pairs_of_pool - len(found))]
        found.sort(key=lambda pair: max(map(len, pair)))
        batches = [found[i : i + batch_size] for i in range(0, pairs_of_pool, batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def draw(index: int) -> Batch:
        number, place = divmod(index, batches_of_pool)
        chosen = pool(number)[place]
        T = padded_length(_needed(chosen), sequence_length)
        return make_batch(chosen, T, batch_size, pairs.separators)

    return endless(draw).to_iter_dataset(IN_THIS_THREAD)


def eval_batches(
    pairs: Sequence[TokenizedPair],
    *,
    sequence_length: int,
    batch_size: int,
    separators: tuple[int, int],
) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches with the indices of their pairs, shortest first; the last rows may be padding.

    The caller must remove pairs that do not fit.
    """
    order = sorted(range(len(pairs)), key=lambda i: max(map(len, pairs[i])))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        some = [pairs[i] for i in chosen]
        T = padded_length(_needed(some), sequence_length, between=False)
        yield chosen, make_batch(some, T, batch_size, separators)


def make_batch(
    pairs: Sequence[TokenizedPair], T: int, rows: int, separators: tuple[int, int]
) -> Batch:
    """Return the pairs as a batch of `rows` rows; the remaining rows are empty.

    Args:
      pairs: tokens without separators; with them, both sides must fit into T.
      T: tokens of a row.
      rows: B.
      separators: the ids for source and target.
    """
    names = ("source", "source_segments", "inputs", "targets", "segments")
    batch = {name: np.zeros((rows, T), np.int32) for name in names}
    of_source, of_target = separators
    for row, (source, target) in enumerate(pairs):
        m, n = len(source), len(target)
        batch["source"][row, :m], batch["source"][row, m] = source, of_source
        batch["source_segments"][row, : m + 1] = 1
        batch["inputs"][row, 0], batch["inputs"][row, 1 : n + 1] = of_target, target
        batch["targets"][row, :n], batch["targets"][row, n] = target, of_target
        batch["segments"][row, : n + 1] = 1
    return batch
