"""The interface of an algorithmic task: draw examples of a given length from a random generator.

A task is one class in a file of `sources`, where the registry finds it. The shortest task:

    class Reverse(Task):
        name = "reverse"
        alphabet = ("0", "1")

        def draw(self, rng, length, count):
            word = rng.integers(2, size=(count, length))
            return rows(word, word[:, ::-1])

Shapes: B examples, T positions in a batch, n positions of one example.
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
    """One sequence: a question and its answer.

    Attributes:
      tokens: all symbols, including the hidden ones, int32 [n]. The first is never hidden.
      hidden: symbols that the model does not see and must predict, bool [n].
      scored: the hidden symbols that count for loss and accuracy, bool [n].
    """

    tokens: np.ndarray
    hidden: np.ndarray
    scored: np.ndarray


class Task(abc.ABC):
    """An algorithmic task. Its options are the keyword arguments of its constructor.

    Attributes:
      name: its name in configs.
      alphabet: the task's own symbols, as text; a symbol's index is its id.
      presentation: how the task's paper presents it to a model, see `batches.PRESENTATIONS`.
      min_length: the smallest length. The docstring of the task says what its length measures.
      max_length: the greatest length, or None.
      answer_mark: whether a causal model needs a mark where the question ends; False if the question's own symbols show
        it.
      answer_symbols: the number of symbols in every answer; None if it varies, see `answer_size`.
      variants: the paper's out-of-distribution tests, name -> options.
      end: the symbol that ends an answer, if there is one; what follows it is not scored.
    """

    name: ClassVar[str]
    alphabet: tuple[str, ...]
    presentation: ClassVar[str] = "placeholder"
    min_length: int = 1
    max_length: int | None = None
    answer_mark: ClassVar[bool] = True
    answer_symbols: ClassVar[int | None] = None
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    end: ClassVar[str | None] = None

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, length: int, count: int) -> Sequence[Example]:
        """Return `count` independent examples of one valid length."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """The alphabet and the blank, which replaces hidden symbols or marks where an answer begins."""
        return (*self.alphabet, BLANK)

    @property
    def vocab_size(self) -> int:
        """The number of ids, V."""
        return len(self.alphabet) + 1

    @property
    def blank(self) -> int:
        """The blank's id, V - 1. It is never an answer."""
        return len(self.alphabet)

    def example(self, rng: np.random.Generator, length: int) -> Example:
        """Return one example.

        Raises:
          DataError: the task has no such length.
        """
        self.check_length(length)
        return self.draw(rng, length, 1)[0]

    def examples(
        self, rng: np.random.Generator, lengths: Sequence[int] | np.ndarray
    ) -> list[Example]:
        """Return one example for each of the lengths [B], in their order.

        Examples of equal length are drawn together.

        Raises:
          DataError: the task does not have one of these lengths.
        """
        found: dict[int, Example] = {}
        for length in np.unique(lengths).tolist():
            self.check_length(length)
            rows_of = np.flatnonzero(np.equal(lengths, length)).tolist()
            found |= zip(rows_of, self.draw(rng, length, len(rows_of)), strict=True)
        return [found[place] for place in range(len(lengths))]

    def draw_lengths(
        self, rng: np.random.Generator, shortest: int, longest: int, count: int
    ) -> np.ndarray:
        """Return lengths for training, from shortest..longest, in proportion to `length_weights`."""
        lengths = np.arange(shortest, longest + 1)
        weights = self.length_weights(lengths)
        if weights is None:
            return rng.integers(shortest, longest + 1, size=count)
        return rng.choice(lengths, size=count, p=weights / weights.sum())

    def length_weights(self, lengths: np.ndarray) -> np.ndarray | None:
        """Return the relative frequency of each length in training; None, the default: all are equally frequent."""
        return None

    def most_tokens(self, length: int) -> int:
        """Return the most tokens that an example of at most this length can have."""
        return len(self.example(np.random.default_rng(0), length).tokens)

    def answer_size(self, question: Sequence[int] | np.ndarray) -> int:
        """Return the number of symbols in a question's answer, or the maximum if the answer ends with `end`.

        Raises:
          DataError: no question has this length.
        """
        if self.answer_symbols is not None:
            return self.answer_symbols
        return int(self.example(np.random.default_rng(0), len(question)).hidden.sum())

    def ids(self, text: str) -> list[int]:
        """Return the ids of symbols separated by spaces; the inverse of `text`.

        Raises:
          DataError: a word is not in the alphabet; the message names the nearest symbol.
        """
        for symbol in (words := text.split()):
            if symbol not in self._ids:
                known = did_you_mean(symbol, self.alphabet)
                raise DataError(f"{self.name} has no symbol {symbol!r}{known}.")
        return self._ids_of(words)

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the symbols of ids, separated by spaces."""
        return " ".join(self.symbols[i] for i in ids)

    def check_length(self, length: int) -> None:
        """Raise DataError if the task has no such length."""
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
        """Return the ids of symbols, or of the characters of a string."""
        return [self._ids[symbol] for symbol in symbols]


def rows(
    questions_BT: np.ndarray, answers_BT: np.ndarray, scored_BT: np.ndarray | bool = True
) -> list[Example]:
    """Return examples whose questions share one length and whose answers share one length.

    Args:
      questions_BT: the visible symbols.
      answers_BT: the hidden symbols that follow.
      scored_BT: which of the answers' symbols are scored.
    """
    seen = questions_BT.shape[1]
    tokens_BT = np.concatenate([questions_BT, answers_BT], axis=1, dtype=np.int32)
    hidden_BT, counted_BT = np.zeros((2, *tokens_BT.shape), bool)
    hidden_BT[:, seen:] = True
    counted_BT[:, seen:] = scored_BT
    return list(map(Example, tokens_BT, hidden_BT, counted_BT))


def row(question: Sequence[int], answer: Sequence[int]) -> Example:
    """Return one example whose whole answer is scored."""
    tokens = np.array([*question, *answer], np.int32)
    hidden = np.arange(len(tokens)) >= len(question)
    return Example(tokens, hidden, hidden)


def require_whole(task: Task, option: str, value: int, least: int) -> int:
    """Return an option's value, or raise if it is not a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise DataError(
            f"{task.name}.{option} must be a whole number of at least {least}, not {value!r}."
        )
    return int(value)


def require_modulus(task: Task, modulus: int) -> int:
    """Return the option `modulus`, or raise if it is not a whole number from 2 to 10."""
    if require_whole(task, "modulus", modulus, 2) > 10:
        raise DataError(
            f"{task.name}.modulus must be at most 10, so that every answer is one digit; got {modulus}."
        )
    return modulus


def require_share(task: Task, option: str, value: float) -> float:
    """Return an option's value, or raise if it is not a probability."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(
            f"{task.name}.{option} is a probability, from 0 to 1, so it cannot be {value!r}."
        )
    return float(value)
