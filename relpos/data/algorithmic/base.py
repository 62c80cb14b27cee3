"""What an algorithmic task is: examples of a given length, drawn from a generator of random numbers.

A task is one class; its file is found by the registry. The shortest one:

    class Reverse(Task):
        name = "reverse"
        alphabet = ("0", "1")

        def draw(self, rng, length, count):
            word = rng.integers(2, size=(count, length))
            return rows(word, word[:, ::-1])

B examples in a row, T places, n what one example takes of them.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from relpos.data.errors import DataError
from relpos.errors import did_you_mean

BLANK = "_"


class Example(NamedTuple):
    """One sequence, question and answer.

    Attributes:
      tokens: all symbols, those to be found too, int32 [n]. The first one is never hidden.
      hidden: where the model does not see the symbol and has to produce it, bool [n].
      scored: where the answer counts for loss and accuracy, some of `hidden`, bool [n].
    """

    tokens: np.ndarray
    hidden: np.ndarray
    scored: np.ndarray


class Task(abc.ABC):
    """A task. Its options are the keyword arguments of its constructor.

    Attributes:
      name: what it is called in configs.
      alphabet: the task's own symbols, readable; the index is the id.
      presentation: how its paper shows it to a model, see `batches.PRESENTATIONS`.
      min_length: the smallest length there is. What a length measures, the class tells.
      max_length: the largest, or None.
      answer_mark: whether a model that reads from left to right needs to be told where the
        question ends; False where the question's own symbols say it.
      variants: tests of its paper on examples unlike those trained on, name -> options.
      end: the symbol that closes an answer, if one does: what follows it does not count.
    """

    name: ClassVar[str]
    alphabet: tuple[str, ...]
    presentation: ClassVar[str] = "placeholder"
    min_length: int = 1
    max_length: int | None = None
    answer_mark: ClassVar[bool] = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    end: ClassVar[str | None] = None

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, length: int, count: int) -> Sequence[Example]:
        """Return `count` independent examples of one length, which has been checked."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """The alphabet and the blank: a placeholder for the hidden, a mark before an answer."""
        return (*self.alphabet, BLANK)

    @property
    def vocab_size(self) -> int:
        """How many ids a model has to know, V."""
        return len(self.alphabet) + 1

    @property
    def blank(self) -> int:
        """The blank's id, V - 1. It is never an answer."""
        return len(self.alphabet)

    def example(self, rng: np.random.Generator, length: int) -> Example:
        """Return one example.

        Raises:
          DataError: there is none of that length.
        """
        self.check_length(length)
        return self.draw(rng, length, 1)[0]

    def examples(
        self, rng: np.random.Generator, lengths: Sequence[int] | np.ndarray
    ) -> list[Example]:
        """Return an example of each of the lengths [B], in their order.

        Those of equal length are drawn together.

        Raises:
          DataError: there is none of one of these lengths.
        """
        found: dict[int, Example] = {}
        for length in np.unique(lengths).tolist():
            self.check_length(length)
            places = np.flatnonzero(np.equal(lengths, length)).tolist()
            found |= zip(places, self.draw(rng, length, len(places)), strict=True)
        return [found[place] for place in range(len(lengths))]

    def draw_lengths(
        self, rng: np.random.Generator, shortest: int, longest: int, count: int
    ) -> np.ndarray:
        """Return lengths for training: uniform on shortest..longest, unless the paper has it otherwise."""
        return rng.integers(shortest, longest + 1, size=count)

    def most_tokens(self, length: int) -> int:
        """Return how many tokens an example of at most this length can have."""
        return len(self.example(np.random.default_rng(0), length).tokens)

    def answer_size(self, question: Sequence[int] | np.ndarray) -> int:
        """Return how many symbols the answer to a question has, the most where `end` closes it.

        Raises:
          DataError: no question is of this length.
        """
        return int(self.example(np.random.default_rng(0), len(question)).hidden.sum())

    def ids(self, text: str) -> list[int]:
        """Return the ids of symbols separated by spaces, what `text` is the inverse of.

        Raises:
          DataError: a word is no symbol of the alphabet; the nearest one is named.
        """
        for symbol in (words := text.split()):
            if symbol not in self._ids:
                known = did_you_mean(symbol, self.alphabet)
                raise DataError(f"{self.name} has no symbol {symbol!r}{known}.")
        return self._ids_of(words)

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return symbols separated by spaces."""
        return " ".join(self.symbols[i] for i in ids)

    def check_length(self, length: int) -> None:
        """Raise DataError where there is no example of that length."""
        if not isinstance(length, int | np.integer):
            raise DataError(f"A length of {self.name} is a whole number, not {length!r}.")
        if length < self.min_length:
            raise DataError(f"{self.name} has no length {length}: {self.min_length} is the least.")
        if self.max_length is not None and length > self.max_length:
            raise DataError(f"{self.name} has no length {length}: {self.max_length} is the most.")

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.alphabet)}

    def _ids_of(self, symbols: Sequence[str]) -> list[int]:
        """The ids of a text's symbols; of a string, those of its characters."""
        return [self._ids[symbol] for symbol in symbols]


def rows(
    questions_BT: np.ndarray, answers_BT: np.ndarray, scored_BT: np.ndarray | None = None
) -> list[Example]:
    """Return examples whose questions are of one length, and their answers too.

    Args:
      questions_BT: what is seen.
      answers_BT: what follows and is hidden.
      scored_BT: which symbols of the answers count; None: all of them.
    """
    count, seen = questions_BT.shape
    tokens_BT = np.concatenate([questions_BT, answers_BT], axis=1, dtype=np.int32)
    hidden_BT = np.zeros(tokens_BT.shape, bool)
    hidden_BT[:, seen:] = True
    if scored_BT is None:
        return list(map(Example, tokens_BT, hidden_BT, hidden_BT))
    unseen_BT = np.zeros((count, seen), bool)
    return list(map(Example, tokens_BT, hidden_BT, np.concatenate([unseen_BT, scored_BT], axis=1)))


def row(question: Sequence[int], answer: Sequence[int]) -> Example:
    """Return one example, of which all of the answer counts."""
    tokens = np.array([*question, *answer], np.int32)
    hidden = np.arange(len(tokens)) >= len(question)
    return Example(tokens, hidden, hidden)


def require_whole(task: Task, option: str, value: int, least: int) -> int:
    """Return the value of an option that must be a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise DataError(
            f"{task.name}.{option} must be a whole number of at least {least}, not {value!r}."
        )
    return int(value)


def require_share(task: Task, option: str, value: float) -> float:
    """Return the value of an option that must be a probability."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(
            f"{task.name}.{option} is a probability, from 0 to 1, so it cannot be {value!r}."
        )
    return float(value)
