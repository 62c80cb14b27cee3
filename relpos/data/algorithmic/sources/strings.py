"""Strings over small alphabets: nine of the fifteen tasks of the randomized-positions paper.

Delétang et al. 2023, arXiv:2207.02098, and Ruoss et al. 2023, arXiv:2305.16843, whose code specifies all that follows.
Here and in arithmetic.py the length of an example is that of its question; as many placeholders follow as the answer
has symbols. At the shortest lengths, where a task has no meaning, the authors' generators return fixed examples; here
those lengths are refused.
"""

from __future__ import annotations

import numpy as np

from relpos.data.algorithmic.base import Example, Task, require_whole, rows

BITS = ("0", "1")


class EvenPairs(Task):
    """Tell whether the number of unequal pairs of adjacent bits is odd (1) or even (0)."""

    name = "even_pairs"
    alphabet = BITS

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(2, size=(count, length))
        unequal = (word[:, 1:] != word[:, :-1]).sum(axis=1, keepdims=True)
        return rows(word, unequal % 2)


class Parity(Task):
    """Add the bits modulo 2."""

    name = "parity"
    alphabet = BITS

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(2, size=(count, length))
        return rows(word, word.sum(axis=1, keepdims=True) % 2)


class CycleNavigation(Task):
    """Find the position on a cycle after steps 0 (back), 1 (stay) and 2 (forward), starting from 0."""

    name = "cycle_navigation"

    def __init__(self, *, cycle: int = 5):
        self.cycle = require_whole(self, "cycle", cycle, 3)  # the steps are symbols too
        self.alphabet = tuple(map(str, range(self.cycle)))

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        steps = rng.integers(3, size=(count, length))
        return rows(steps, (steps - 1).sum(axis=1, keepdims=True) % self.cycle)


class Padded(Task):
    """A task whose answers end with `end` and are padded with zeros to one length.

    The authors measure accuracy up to `end`, and train on the zeros too (`score_padding`).
    """

    _MARK = len(BITS)  # the id of `end`; the authors' code gives it to a symbol of the question too

    def __init__(self, *, score_padding: bool = False):
        self.score_padding = score_padding

    def _rows(self, question: np.ndarray, results: list[list[int]], size: int) -> list[Example]:
        """Return examples whose answers are results filled up to a size."""
        answers = np.zeros((len(results), size), np.int32)
        scored = np.full(answers.shape, self.score_padding)
        for i, result in enumerate(results):
            answers[i, : len(result)] = result
            answers[i, len(result)] = self._MARK
            scored[i, : len(result) + 1] = True
        return rows(question, answers, scored)


class StackManipulation(Padded):
    """Find what is on a stack after some instructions, from the top.

    Question: the stack, 1 to length - 1 bits from the bottom, then instructions: pop (no effect on an empty stack),
    push0, push1. Answer: the bits, end, and zeros up to length + 1 symbols, scored only with `score_padding`.
    """

    name = "stack_manipulation"
    alphabet = (*BITS, "pop|end", "push0", "push1")
    end = "pop|end"

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(2, size=(count, length))
        actions = rng.integers(self._MARK, self._MARK + 3, size=(count, length))
        filled = rng.integers(1, max(length, 2), size=(count, 1))
        question = np.where(np.arange(length) < filled, word, actions)
        stacks = [self._run(symbols) for symbols in question.tolist()]
        return self._rows(question, stacks, length + 1)

    def _run(self, symbols: list[int]) -> list[int]:
        stack: list[int] = []
        for symbol in symbols:
            if symbol != self._MARK:
                stack.append(symbol % 3)  # a bit of the first stack, or push0 = 3 and push1 = 4
            elif stack:
                stack.pop()
        return stack[::-1]


class Reverse(Task):
    """Reverse the bits."""

    name = "reverse"
    alphabet = BITS

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(2, size=(count, length))
        return rows(word, word[:, ::-1])


class Duplicate(Task):
    """Write the bits twice."""

    name = "duplicate"
    alphabet = BITS

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(2, size=(count, length))
        return rows(word, np.tile(word, 2))


class MissingDuplicate(Task):
    """Find the one bit that is masked in a string written twice. A question of odd length ends in pad."""

    name = "missing_duplicate"
    alphabet = (*BITS, "missing", "pad")
    min_length = 2

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        question = np.full((count, length), self.alphabet.index("pad"))
        half = length // 2
        question[:, : 2 * half] = np.tile(rng.integers(2, size=(count, half)), 2)
        place = rng.integers(2 * half, size=(count, 1))
        answer = np.take_along_axis(question, place, axis=1)
        np.put_along_axis(question, place, self.alphabet.index("missing"), axis=1)
        return rows(question, answer)


class OddsFirst(Task):
    """Return the bits at odd indices, then those at even ones, counted from 0."""

    name = "odds_first"
    alphabet = BITS

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(2, size=(count, length))
        return rows(word, np.concatenate([word[:, 1::2], word[:, ::2]], axis=1))


class BucketSort(Task):
    """Sort the symbols in ascending order."""

    name = "bucket_sort"

    def __init__(self, *, letters: int = 5):
        self.alphabet = tuple(map(str, range(require_whole(self, "letters", letters, 1))))

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(len(self.alphabet), size=(count, length))
        return rows(word, np.sort(word, axis=1))
