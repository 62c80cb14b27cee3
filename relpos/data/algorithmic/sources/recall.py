"""Associative recall: look values up by their keys."""

from __future__ import annotations

import numpy as np

from relpos.data.algorithmic.base import Example, Task, require_whole
from relpos.data.errors import DataError


class MQAR(Task):
    """Multi-query associative recall: pairs of a key and a value, then each key again, to be answered by its value.

    Arora et al. 2023, arXiv:2312.04927, app. E, and multiquery_ar in their code. The length is the number of slots of
    two symbols. The first `pairs` slots hold a key and its value; keys are distinct, values need not be. Each key then
    appears once more, followed by its value, in a slot of its own, the g-th after the pairs with a probability
    proportional to g^(power - 1); only these values are hidden and scored. The other slots are empty. The paper has 32
    to 256 slots with 4 to 64 pairs, and an empty or random symbol after a query where this task has the value.
    """

    name = "mqar"
    presentation = "causal"
    answer_mark = False
    answer_symbols = 1

    def __init__(
        self, *, pairs: int = 8, keys: int = 4095, values: int = 4096, power: float = 0.01
    ):
        self.pairs = require_whole(self, "pairs", pairs, 1)
        self.keys = require_whole(self, "keys", keys, 1)
        self.values = require_whole(self, "values", values, 1)
        if self.pairs > self.keys:
            raise DataError(
                f"mqar.pairs is at most mqar.keys, {keys}, as keys are distinct; not {pairs}."
            )
        if not isinstance(power, int | float) or not 0 < power < float("inf"):
            raise DataError(f"mqar.power must be a number above 0, not {power!r}.")
        self.power = float(power)
        self.min_length = 2 * self.pairs
        self.alphabet = (*(f"k{i}" for i in range(keys)), *(f"v{i}" for i in range(values)), ".")

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        pairs, later = self.pairs, length - self.pairs
        keys = _distinct(rng, np.zeros(self.keys), count, pairs)
        values = self.keys + rng.integers(self.values, size=(count, pairs))
        said = np.stack([keys, values], axis=2, dtype=np.int32)
        asked_at = _distinct(rng, (self.power - 1) * np.log(np.arange(1, later + 1)), count, pairs)
        asked = np.full((count, later, 2), self._ids["."], np.int32)
        np.put_along_axis(asked, asked_at[:, :, None], said, axis=1)
        tokens = np.concatenate([said, asked], axis=1).reshape(count, 2 * length)
        hidden = np.zeros((count, length, 2), bool)
        np.put_along_axis(hidden[:, pairs:, 1], asked_at, True, axis=1)
        return [Example(t, h, h) for t, h in zip(tokens, hidden.reshape(tokens.shape), strict=True)]


def _distinct(rng: np.random.Generator, logits: np.ndarray, count: int, some: int) -> np.ndarray:
    """Draw `some` of n numbers without replacement, each by softmax(logits [n]) over the rest; [B, some]."""
    # The Gumbel trick: sorting logits plus Gumbel noise orders the numbers as such draws do.
    noisy = logits + rng.gumbel(size=(count, len(logits)))
    return np.argsort(-noisy, axis=1)[:, :some]
