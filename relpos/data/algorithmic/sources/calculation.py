"""Sums, sorting, polynomials and chains of variables, for causal models.

Kazemnejad et al. 2023, arXiv:2305.19466, appendix D and their dataset builders, without the words of their prompts and
without scratchpads. A number is written as its digits, highest first. An end symbol follows every answer and is scored,
see copying.py. Their parity task is `parity` in the causal presentation.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from relpos.data.algorithmic.base import Example, require_modulus, require_whole
from relpos.data.algorithmic.sources.copying import END, Ended


class Sum(Ended):
    """Add digits from 1 to 9 modulo `modulus`; the length is their number."""

    name = "sum"
    alphabet = (*string.digits, END)

    def __init__(self, *, modulus: int = 10):
        self.modulus = require_modulus(self, modulus)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        digits = rng.integers(1, 10, size=(count, length))
        return self._rows(digits, digits.sum(axis=1, keepdims=True) % self.modulus)


class Sort(Ended):
    """Sort symbols by their ids; the length is their number."""

    name = "sort"

    def __init__(self, *, letters: int = 50):
        self.letters = require_whole(self, "letters", letters, 1)
        self.alphabet = (*(f"t{i}" for i in range(self.letters)), END)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        word = rng.integers(self.letters, size=(count, length))
        return self._rows(word, np.sort(word, axis=1))


class SortNumbers(Ended):
    """Sort numbers from 10 to 9999, separated by commas, in ascending order; the length is their number."""

    name = "sort_numbers"
    alphabet = (*string.digits, ",", END)

    def answer_size(self, question: Sequence[int] | np.ndarray) -> int:
        return len(question) + 1

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        drawn = rng.integers(10, 10_000, size=(count, length)).tolist()
        return [self._row(_list(numbers), _list(sorted(numbers))) for numbers in drawn]

    def most_tokens(self, length: int) -> int:
        return 2 * (5 * length - 1) + 1


class Addition(Ended):
    """Compute a+b in decimal; the length is the number of digits of the longer number.

    The authors draw each pair (digits of a, digits of b) equally often. So the pairs whose maximum is the length and
    whose minimum is at least `min_digits` are equally frequent among the examples of a length, and training draws
    lengths in proportion to their number of pairs. A number is uniform among those with its number of digits; a number
    of one digit may be 0.
    """

    name = "addition"
    alphabet = (*string.digits, "+", END)
    max_length = 4299  # Python converts ints of at most 4300 digits

    def __init__(self, *, min_digits: int = 1):
        self.min_length = require_whole(self, "min_digits", min_digits, 1)

    def answer_size(self, question: Sequence[int] | np.ndarray) -> int:
        return len(question)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        shorter = length - self.min_length
        # In pairs below `shorter`, b is the shorter number; in those above it, a is.
        pair = rng.integers(2 * shorter + 1, size=count)
        digits = length - np.stack([np.maximum(pair - shorter, 0), np.maximum(shorter - pair, 0)])
        drawn = rng.integers(10, size=(2, count, length))
        drawn[:, :, 0] = np.where(digits > 1, rng.integers(1, 10, size=(2, count)), drawn[:, :, 0])
        examples = []
        for (a, b), (m, n) in zip(drawn.swapaxes(0, 1).tolist(), digits.T.tolist(), strict=True):
            first, second = "".join(map(str, a[:m])), "".join(map(str, b[:n]))
            examples.append(self._row(f"{first}+{second}", str(int(first) + int(second))))
        return examples

    def length_weights(self, lengths: np.ndarray) -> np.ndarray:
        return 2 * (lengths - self.min_length) + 1

    def most_tokens(self, length: int) -> int:
        return 3 * length + 3


class Polynomial(Ended):
    """Evaluate a polynomial at x modulo `modulus`; the length is its number of terms.

    Question: x, a semicolon, then terms c*x^d joined by +. x is uniform on -2..2, c on -3..3, d on 0..3.
    """

    name = "polynomial"
    alphabet = (*string.digits, "-", "+", "*", "^", "x", ";", END)
    answer_symbols = 2

    def __init__(self, *, modulus: int = 10):
        self.modulus = require_modulus(self, modulus)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        x = rng.integers(-2, 3, size=(count, 1))
        c = rng.integers(-3, 4, size=(count, length))
        d = rng.integers(4, size=(count, length))
        values = ((c * x**d).sum(axis=1) % self.modulus).tolist()
        examples = []
        for at, cs, ds, value in zip(x[:, 0].tolist(), c.tolist(), d.tolist(), values, strict=True):
            terms = "+".join(f"{a}*x^{b}" for a, b in zip(cs, ds, strict=True))
            examples.append(self._row(f"{at};{terms}", str(value)))
        return examples

    def most_tokens(self, length: int) -> int:
        return 3 + 7 * length - 1 + 2


class Lego(Ended):
    """Find the value of a variable in a chain a = +1, b = -a, c = +b, ...

    Zhang et al. 2022, arXiv:2206.04301, as Kazemnejad et al. use it. The length is the number of variables, which are
    random letters. The question asks for a variable drawn uniformly from the later half of the chain (for an odd
    length, without the middle one). The clauses are in the chain's order or, with `shuffle`, in a random one.
    """

    name = "lego"
    alphabet = (*string.ascii_lowercase, "=", "+", "-", "+1", "-1", ",", "?", END)
    min_length = 2
    max_length = 26
    answer_symbols = 2

    def __init__(self, *, shuffle: bool = False):
        self.shuffle = shuffle

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        letters = rng.permuted(np.tile(np.arange(26), (count, 1)), axis=1)[:, :length]
        values = rng.integers(2, size=(count, length))
        asked = rng.integers((length + 1) // 2, length, size=count)
        order = np.tile(np.arange(length), (count, 1))
        if self.shuffle:
            order = rng.permuted(order, axis=1)
        drawn = (letters.tolist(), values.tolist(), asked.tolist(), order.tolist())
        return [self._example(*each) for each in zip(*drawn, strict=True)]

    def _example(
        self, letters: list[int], values: list[int], asked: int, order: list[int]
    ) -> Example:
        names = [self.alphabet[letter] for letter in letters]
        signed = [("-1", "+1")[value] for value in values]
        question: list[str] = []
        for i in order:
            sign = "+" if values[i] == values[i - 1] else "-"
            value = [sign, names[i - 1]] if i else [signed[0]]
            question += [names[i], "=", *value, ","]
        question[-1:] = ["?", names[asked]]
        return self._row(question, [signed[asked]])


def _list(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))
