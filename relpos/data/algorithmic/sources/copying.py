"""Copying and reversing words over a large alphabet, for models that read from left to right.

The copy and reverse tasks are those of Kazemnejad et al. 2023, arXiv:2305.19466, under the short names of their splits,
without the words of their prompts. The length is that of the word; theirs are uniform on 4 to 20 for training and on 21
to 40 for tests. An end symbol follows every answer and is scored: if all symbols are right, a model that decodes
greedily gives the answer and stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from relpos.data.algorithmic.base import Example, Task, require_whole, rows

END = "<end>"


class Ended(Task):
    """A task whose answers end with an end symbol."""

    presentation = "causal"
    end = END


class _Copying(Ended):
    """A task on a word over `letters` symbols; the answer ends with an end symbol."""

    extra: tuple[str, ...] = ()

    def __init__(self, *, letters: int = 100):
        self.letters = require_whole(self, "letters", letters, 2)
        self.alphabet = (*(f"t{i}" for i in range(self.letters)), END, *self.extra)

    def _word(self, rng: np.random.Generator, length: int, count: int) -> np.ndarray:
        return rng.integers(self.letters, size=(count, length))

    def _symbol(self, symbol: str, count: int) -> np.ndarray:
        """Return a column of one symbol, [B, 1]."""
        return np.full((count, 1), self._ids[symbol])

    def _rows(self, question: np.ndarray, *answer: np.ndarray) -> list[Example]:
        end = self._symbol(END, len(question))
        return rows(question, np.concatenate([*answer, end], axis=1))


class CopyCmc(_Copying):
    """Copy the word."""

    name = "copy_cmc"

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = self._word(rng, length, count)
        return self._rows(word, word)


class CopyCmc2x(_Copying):
    """Copy the word twice, with `next` between the copies."""

    name = "copy_cmc2x"
    extra = ("<next>",)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = self._word(rng, length, count)
        return self._rows(word, word, self._symbol("<next>", count), word)


class CopyRsc(_Copying):
    """Copy a word that is one symbol repeated.

    The authors have as many symbols as examples of a length, and use each once.
    """

    name = "copy_rsc"

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = np.tile(self._word(rng, 1, count), length)
        return self._rows(word, word)


class CopyRsc2x(_Copying):
    """Copy a word that is one symbol repeated, twice."""

    name = "copy_rsc2x"

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = np.tile(self._word(rng, 1, count), length)
        return self._rows(word, word, word)


class CopyRdc(_Copying):
    """Replace a by b in a...a: the question is a b a...a, the answer b...b, with two different symbols."""

    name = "copy_rdc"

    def answer_size(self, question: Sequence[int] | np.ndarray) -> int:
        return super().answer_size(question[2:])

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        a = self._word(rng, 1, count)
        b = (a + rng.integers(1, self.letters, size=a.shape)) % self.letters
        return self._rows(np.concatenate([a, b, np.tile(a, length)], axis=1), np.tile(b, length))


class ReverseMc(_Copying):
    """Reverse the word."""

    name = "reverse_mc"

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = self._word(rng, length, count)
        return self._rows(word, word[:, ::-1])


class ReverseMc2x(_Copying):
    """Reverse the word twice, with `next` between the copies."""

    name = "reverse_mc2x"
    extra = ("<next>",)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = self._word(rng, length, count)
        return self._rows(word, word[:, ::-1], self._symbol("<next>", count), word[:, ::-1])


class ReverseMcrv(_Copying):
    """Reverse the word, then copy it, with `next` between the two."""

    name = "reverse_mcrv"
    extra = ("<next>",)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = self._word(rng, length, count)
        return self._rows(word, word[:, ::-1], self._symbol("<next>", count), word)


class SelectiveCopy(Task):
    """Copy the letters of a word interleaved with `blanks` gaps.

    Golovneva et al. 2024, arXiv:2405.18719, sec. 5.1: 128 letters and 128 gaps; out of distribution 64 (dense) or 256
    (sparse) gaps. The length is the number of letters. Every interleaving is equally likely. The authors do not publish
    their number of symbols; 16, including the gap, is usual.
    """

    name = "selective_copy"
    presentation = "causal"
    variants: ClassVar = {"dense": {"blanks": 64}, "sparse": {"blanks": 256}}

    def __init__(self, *, blanks: int = 128, letters: int = 15):
        self.blanks = require_whole(self, "blanks", blanks, 0)
        self.letters = require_whole(self, "letters", letters, 1)
        self.alphabet = (*(f"t{i}" for i in range(self.letters)), "gap")

    def answer_size(self, question: Sequence[int] | np.ndarray) -> int:
        return int((np.asarray(question) != self._ids["gap"]).sum())

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(self.letters, size=(count, length))
        full = np.zeros((count, length + self.blanks), bool)
        full[:, :length] = True
        full = rng.permuted(full, axis=1)
        question = np.full(full.shape, self.letters)
        question[full] = word.ravel()
        return rows(question, word)
