"""Copying and reversing words over a large alphabet, for causal models.

The copy and reverse tasks are those of Kazemnejad et al. 2023, arXiv:2305.19466, under the short names of their splits,
without the words of their prompts. The length is that of the word; theirs are uniform on 4 to 20 for training and on 21
to 40 for tests. An end symbol follows every answer and is scored: if all symbols are right, a model that decodes
greedily gives the answer and stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from relpos.data.algorithmic.base import Example, Task, require_whole, row, rows

END, NEXT = "<end>", "<next>"
WORD, REVERSED = "word", "reversed"  # parts of an answer


class Ended(Task):
    """A task whose answers end with an end symbol."""

    presentation = "causal"
    end = END

    def _rows(self, questions_BT: np.ndarray, *answers_BT: np.ndarray) -> list[Example]:
        """Return the result of `rows`: the answers are these parts and the end symbol."""
        end_B1 = np.full((len(questions_BT), 1), self._ids[END])
        return rows(questions_BT, np.concatenate([*answers_BT, end_B1], axis=1))

    def _row(self, question: Sequence[str], answer: Sequence[str]) -> Example:
        """Return the result of `row`, given symbols in a list or a string; the end symbol follows the answer."""
        return row(self._ids_of(question), self._ids_of([*answer, END]))


class _Copying(Ended):
    """A task on a word over `letters` symbols.

    Attributes:
      answer: its parts, each `WORD`, `REVERSED` or `NEXT`.
      repeated: whether the word is one symbol repeated.
    """

    answer: ClassVar[tuple[str, ...]] = ()
    repeated: ClassVar[bool] = False

    def __init__(self, *, letters: int = 100):
        self.letters = require_whole(self, "letters", letters, 2)
        marks = [NEXT] if NEXT in self.answer else []
        self.alphabet = (*(f"t{i}" for i in range(self.letters)), END, *marks)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        drawn = rng.integers(self.letters, size=(count, 1 if self.repeated else length))
        word = np.broadcast_to(drawn, (count, length))
        mark = np.full((count, 1), self._ids.get(NEXT, 0))
        parts = {WORD: word, REVERSED: word[:, ::-1], NEXT: mark}
        return self._rows(word, *(parts[part] for part in self.answer))


class CopyCmc(_Copying):
    """Copy the word."""

    name = "copy_cmc"
    answer = (WORD,)


class CopyCmc2x(_Copying):
    """Copy the word twice, with `next` between the copies."""

    name = "copy_cmc2x"
    answer = (WORD, NEXT, WORD)


class CopyRsc(_Copying):
    """Copy a word that is one symbol repeated.

    The authors have as many symbols as there are examples of each length, and use each symbol once.
    """

    name = "copy_rsc"
    answer = (WORD,)
    repeated = True


class CopyRsc2x(_Copying):
    """Copy twice a word that is one symbol repeated."""

    name = "copy_rsc2x"
    answer = (WORD, WORD)
    repeated = True


class CopyRdc(_Copying):
    """Replace a by b in a...a: the question is a b a...a, the answer b...b, with two different symbols."""

    name = "copy_rdc"

    def answer_size(self, question: Sequence[int] | np.ndarray) -> int:
        return super().answer_size(question[2:])

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        a = rng.integers(self.letters, size=(count, 1))
        b = (a + rng.integers(1, self.letters, size=a.shape)) % self.letters
        return self._rows(np.concatenate([a, b, np.tile(a, length)], axis=1), np.tile(b, length))


class ReverseMc(_Copying):
    """Reverse the word."""

    name = "reverse_mc"
    answer = (REVERSED,)


class ReverseMc2x(_Copying):
    """Reverse the word twice, with `next` between the copies."""

    name = "reverse_mc2x"
    answer = (REVERSED, NEXT, REVERSED)


class ReverseMcrv(_Copying):
    """Reverse the word, then copy it, with `next` between the two."""

    name = "reverse_mcrv"
    answer = (REVERSED, NEXT, WORD)


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
