"""Arithmetic: six of the fifteen tasks of the randomized-positions paper; see strings.py for the rest and citations."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from relpos.data.algorithmic.base import Example, Task, require_modulus, rows
from relpos.data.algorithmic.sources.strings import BITS, Padded

OPERATORS = ("+", "-", "*")


class _Modular(Task):
    """A task on digits below `modulus` and some other symbols."""

    others: ClassVar[tuple[str, ...]]

    def __init__(self, *, modulus: int = 5):
        self.modulus = require_modulus(self, modulus)
        self.alphabet = (*map(str, range(self.modulus)), *self.others)


class ModularArithmetic(_Modular):
    """Evaluate digits joined by + - *, products first, modulo `modulus`.

    A question has odd length: one symbol fewer than the length if that is even.
    """

    name = "modular_arithmetic"
    others = OPERATORS

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        terms = (length + 1) // 2
        question = np.empty((count, 2 * terms - 1), np.int64)
        question[:, ::2] = rng.integers(self.modulus, size=(count, terms))
        question[:, 1::2] = self.modulus + rng.integers(3, size=(count, terms - 1))
        total = np.zeros(count, np.int64)
        product = question[:, 0]
        for i in range(1, 2 * terms - 1, 2):
            sign, digit = question[:, i] - self.modulus, question[:, i + 1]
            total = np.where(sign == 2, total, total + product)
            # + and - begin a new product, * continues it.
            product = np.choose(sign, [digit, -digit, product * digit]) % self.modulus
        return rows(question, ((total + product) % self.modulus)[:, None])


class ModularArithmeticBrackets(_Modular):
    """Evaluate an expression in brackets modulo `modulus`.

    Lengths 1 to 4: d, -d, (d), (-d). Greater lengths: (L op R), where op is one of + - * and the length of L is uniform
    on 1..length - 4.
    """

    name = "modular_arithmetic_brackets"
    others = (*OPERATORS, "(", ")")

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        drawn = _expressions(rng, length, count, self.modulus, OPERATORS)
        question = np.array([self._ids_of(text) for text, _ in drawn])
        return rows(question, np.array([[value] for _, value in drawn]))


class SolveEquation(_Modular):
    """Find the digit x in EXPRESSION=d, modulo `modulus`.

    The expression is as above, with length - 2 symbols and no products. One of its digits is replaced by x: the first
    at or after a uniform position, wrapping around.
    """

    name = "solve_equation"
    min_length = 3
    others = ("+", "-", "(", ")", "x", "=")

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        size = length - 2
        drawn = _expressions(rng, size, count, self.modulus, OPERATORS[:2])
        starts = rng.integers(size, size=count).tolist()
        questions, answers = [], []
        for (text, value), start in zip(drawn, starts, strict=True):
            x = next(i % size for i in range(start, start + size) if text[i % size].isdigit())
            questions.append(self._ids_of(f"{text[:x]}x{text[x + 1 :]}={value}"))
            answers.append([int(text[x])])
        return rows(np.array(questions), np.array(answers))


class BinaryAddition(Padded):
    """Add two binary numbers, lowest bits first.

    Question: n, an operator and m, `length` symbols in all. n has 1 to length - 2 bits, and each number is uniform from
    1 to the largest with its number of bits. Answer: the sum without leading zeros, end, and zeros up to length + 1
    symbols, scored only with `score_padding`.
    """

    name = "binary_addition"
    alphabet = (*BITS, "op|end")
    end = "op|end"
    min_length = 3
    _combine = staticmethod(operator.add)
    _longer = 1  # how many more symbols an answer has than its question

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        first = rng.integers(1, length - 1, size=(count, 1))
        place = np.arange(length)
        question = np.where(place == first, self._MARK, 0)
        for part in (place < first, place > first):
            question += _positive(rng, part)
        results = []
        for symbols, cut in zip(question.tolist(), first[:, 0].tolist(), strict=True):
            result = self._combine(_number(symbols[:cut]), _number(symbols[cut + 1 :]))
            results.append([int(bit) for bit in f"{result:b}"[::-1]])
        return self._rows(question, results, length + self._longer)


class BinaryMultiplication(BinaryAddition):
    """Multiply two binary numbers; as `BinaryAddition`, but the answer has `length` symbols."""

    name = "binary_multiplication"
    _combine = staticmethod(operator.mul)
    _longer = 0


class ComputeSqrt(Task):
    """Compute the integer square root of a binary number, highest bits first.

    The number is uniform on 1..2**length - 1; the root has ceil(length / 2) bits.
    """

    name = "compute_sqrt"
    alphabet = BITS

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        question = _positive(rng, np.ones((count, length), bool))
        size = (length + 1) // 2
        roots = [math.isqrt(_number(symbols[::-1])) for symbols in question.tolist()]
        return rows(question, np.array([[int(bit) for bit in f"{r:0{size}b}"] for r in roots]))


def _positive(rng: np.random.Generator, mask_BT: np.ndarray) -> np.ndarray:
    """Draw uniform bits where the mask is set, at least one of them 1 in every row; [B, T]."""
    drawn = rng.integers(2, size=mask_BT.shape) * mask_BT
    while len(again := np.flatnonzero(~drawn.any(axis=1))):
        part = mask_BT[again]
        drawn[again] = rng.integers(2, size=part.shape) * part
    return drawn


def _number(low_first: list[int]) -> int:
    return int("".join(map(str, low_first[::-1])), 2)


def _expressions(
    rng: np.random.Generator, length: int, count: int, modulus: int, operators: tuple[str, ...]
) -> list[tuple[str, int]]:
    """Draw expressions in brackets; return them and their values."""
    uniform = rng.random((count, length))  # enough, as each number accounts for at least one symbol
    return [_expression(iter(u), length, modulus, operators) for u in uniform.tolist()]


def _expression(
    uniform: Iterator[float], length: int, modulus: int, operators: tuple[str, ...]
) -> tuple[str, int]:
    if length < 5:
        digit = int(next(uniform) * modulus)
        text = (f"{digit}", f"-{digit}", f"({digit})", f"(-{digit})")[length - 1]
        return text, (-digit if "-" in text else digit) % modulus
    left_length = 1 + int(next(uniform) * (length - 4))
    left, a = _expression(uniform, left_length, modulus, operators)
    right, b = _expression(uniform, length - 3 - left_length, modulus, operators)
    sign = operators[int(next(uniform) * len(operators))]
    value = {"+": a + b, "-": a - b, "*": a * b}[sign] % modulus
    return f"({left}{sign}{right})", value
