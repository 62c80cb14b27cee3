"""Random access to draws: endless batches as a function of their index, and epochs in shuffled order.

An iterator's state is then a single number, so a run resumes exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import grain
import numpy as np
from grain.experimental import index_shuffle

Drawn = TypeVar("Drawn")

# Grain's workers and buffers would only cost time: making a batch takes less time than a training step.
IN_THIS_THREAD = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
MOST_PERMUTED = 2**20  # the largest count whose order is held in memory


def endless(draw: Callable[[int], Drawn]) -> grain.MapDataset[Drawn]:
    """Return an endless dataset whose element i is draw(i).

    Its iterators resume exactly with `get_state` and `set_state`, and Orbax saves them with
    `grain.checkpoint.CheckpointSave`.
    """
    return grain.MapDataset.range(1).repeat().map_with_index(lambda index, _: draw(index))


class Epochs:
    """The numbers 0 ... count-1, repeated, in a new order in each epoch.

    Grain's own shuffle walks through 2**16 numbers for each index: fast for millions of items, but milliseconds for a
    few. So a permutation is drawn if it fits into memory.

    Args:
      count: the number of items.
      entropy: the seed of all orders, as for `numpy.random.default_rng`.
    """

    def __init__(self, count: int, entropy: tuple[int, ...]) -> None:
        self._count = count
        self._entropy = entropy
        draw = lambda epoch: np.random.default_rng((*entropy, epoch)).permutation(count)  # noqa: E731
        self._permutation = functools.lru_cache(maxsize=2)(draw)

    def __getitem__(self, index: int) -> int:
        """Return the item at an index."""
        epoch, place = divmod(index, self._count)
        if self._count > MOST_PERMUTED:
            seed = (sum(self._entropy) + epoch) % 2**32
            return int(index_shuffle(place, max_index=self._count - 1, seed=seed, rounds=4))
        return int(self._permutation(epoch)[place])
