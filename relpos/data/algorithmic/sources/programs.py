"""Programs to execute: counting, flip-flops, nested lists."""

from __future__ import annotations

import functools
import statistics
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from relpos.data.algorithmic.base import Example, Task, require_share, require_whole, row
from relpos.data.errors import DataError

# The probability, by depth and by k, that k consecutive lists have n symbols in all.
Shares = list[list[np.ndarray]]

_OPERATIONS: Sequence[Callable[..., Any]] = (min, max, statistics.median, sum)


class Counting(Task):
    """Find the value of a variable after a program of `length` steps.

    Golovneva et al. 2024, arXiv:2405.18719, sec. 5.2, and their count_data_gen.py. A step is

        v = 0 ;    four symbols: sets a variable chosen at random       weight 1
        v ++;      two: adds 1 to one of the set variables       weight 7
        pass;      one                                        weight 50

    and an impossible step (no variable is set, or the drawn one holds 10) is drawn again, including its kind. Then one
    of the set variables, chosen at random, is printed. Programs that set no variable are dropped, so short lengths are
    rarer, see `length_weights`. The authors use 3 to 512 steps. Only the last `max_tokens` symbols are kept (0: all),
    so the visible part may not determine the answer.
    """

    name = "counting"
    presentation = "causal"
    answer_mark = False
    answer_symbols = 1
    most = 10  # the largest value of a variable
    _SET, _ADD, _PASS = range(3)
    _weights = (1, 7, 50)
    _shares = np.cumsum(_weights)[:-1] / sum(_weights)  # where on 0..1 the next kind of step begins
    # The probability that a step sets no variable while none is set.
    _none_set = _weights[_PASS] / (_weights[_PASS] + _weights[_SET])

    def __init__(self, *, variables: int = 1, max_tokens: int = 512):
        self.variables = require_whole(self, "variables", variables, 1)
        if self.variables > 26:
            raise DataError(f"counting.variables is at most 26, the letters; not {variables}.")
        self.max_tokens = require_whole(self, "max_tokens", max_tokens, 0)
        if self.max_tokens in (1, 2):
            raise DataError("counting.max_tokens leaves no room for a step: 3 or more, or 0: all.")
        names = string.ascii_lowercase[: self.variables]
        numbers = map(str, range(self.most + 1))
        self.alphabet = (*names, *numbers, "=", ";", "++;", "pass;", "print")

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        kinds = np.searchsorted(self._shares, rng.random((count, length)), side="right")
        # Before a variable is set only pass is possible, so the index of the first set follows a geometric
        # distribution.
        chance = rng.random(count) * (1 - self._none_set**length)
        first = np.log1p(-chance) / np.log(self._none_set)
        first = np.minimum(first.astype(int), length - 1)[:, None]
        place = np.arange(length)
        kinds = np.where(place < first, self._PASS, np.where(place == first, self._SET, kinds))
        uniform = _uniform(rng)
        return [self._example(steps, uniform) for steps in kinds.tolist()]

    def _example(self, steps: list[int], uniform: Iterator[float]) -> Example:
        held: dict[str, int] = {}
        program: list[str] = []
        for kind in steps:
            if kind == self._ADD:
                variable = _choose(list(held), uniform)
                while kind == self._ADD and held[variable] == self.most:
                    kind = int(np.searchsorted(self._shares, next(uniform), side="right"))
                    variable = _choose(list(held), uniform)
            if kind == self._PASS:
                program.append("pass;")
            elif kind == self._ADD:
                held[variable] += 1
                program += [variable, "++;"]
            else:
                variable = _choose(self.alphabet[: self.variables], uniform)
                held[variable] = 0
                program += [variable, "=", "0", ";"]
        variable = _choose(list(held), uniform)
        question = self._ids_of([*program, "print", variable])
        seen = self.max_tokens - 1 if self.max_tokens else len(question)
        return row(question[-seen:], self._ids_of([str(held[variable])]))

    def length_weights(self, lengths: np.ndarray) -> np.ndarray:
        return 1 - self._none_set**lengths

    def most_tokens(self, length: int) -> int:
        return min(4 * length + 3, self.max_tokens or 4 * length + 3)


class FlipFlop(Task):
    """Read the bit that was written last, among instructions that write, ignore or read one.

    Liu et al. 2023, arXiv:2306.00946: FFL(p) is `length` pairs of an instruction and a bit (256 in the paper). The
    first instruction is w, the last r; every other is i with probability `ignore`, and w or r with half of the rest
    each. The bits are uniform, except those after r, which alone are hidden and scored. The paper trains on p = 0.8 and
    tests on 0.8, 0.98 (sparse) and 0.1 (dense).
    """

    name = "flip_flop"
    presentation = "causal"
    alphabet = ("0", "1", "w", "i", "r")
    min_length = 2
    answer_mark = False
    answer_symbols = 1
    variants: ClassVar = {"sparse": {"ignore": 0.98}, "dense": {"ignore": 0.1}}

    def __init__(self, *, ignore: float = 0.8):
        self.ignore = require_share(self, "ignore", ignore)

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        write, ignore, read = self._ids_of("wir")
        change = (1 - self.ignore) / 2
        kinds = rng.choice(
            [write, ignore, read], p=[change, self.ignore, change], size=(count, length)
        )
        kinds[:, 0], kinds[:, -1] = write, read
        bits = rng.integers(2, size=(count, length))
        written = np.maximum.accumulate(np.where(kinds == write, np.arange(length), 0), axis=1)
        reads = kinds == read
        bits = np.where(reads, np.take_along_axis(bits, written, axis=1), bits)
        tokens = np.stack([kinds, bits], axis=2, dtype=np.int32).reshape(count, 2 * length)
        hidden = np.stack([np.zeros_like(reads), reads], axis=2).reshape(count, 2 * length)
        return list(map(Example, tokens, hidden, hidden))


class ListOps(Task):
    """Evaluate a nested list of operations on digits.

    Nangia and Bowman 2018, arXiv:1804.06028, as in Long Range Arena, Tay et al. 2021, arXiv:2011.04006. A list is a
    digit, or with probability `expand` an operator, 2 to `max_arguments` lists, and a bracket; those at depth
    `max_depth` are digits. Operators: minimum, maximum, integer part of the median, sum modulo 10.

    The length is the number of symbols. The lists are distributed as the authors' generator makes those of this length.
    It rejects lists until one has more than 500 and fewer than 2000 symbols, so `draw_lengths` on 501..1999 gives its
    distribution. Their tokenizer drops the brackets; here they stay. A single digit is never drawn.
    """

    name = "listops"
    alphabet = (*string.digits, "[MIN", "[MAX", "[MED", "[SM", "]")
    min_length = 4
    max_length = 4095  # one example of ten thousand symbols takes minutes
    answer_symbols = 1

    def __init__(self, *, expand: float = 0.25, max_depth: int = 10, max_arguments: int = 10):
        self.expand = require_share(self, "expand", expand)
        self.max_depth = require_whole(self, "max_depth", max_depth, 2)
        self.max_arguments = require_whole(self, "max_arguments", max_arguments, 2)
        if not self.expand:
            raise DataError("listops.expand must be above 0: else there are no lists.")

    def draw(self, rng: np.random.Generator, length: int, count: int) -> list[Example]:
        shares = self._shares(length)
        if not shares[0][1][length] > 0:
            raise DataError(
                f"{self.name} has no list of length {length} within max_depth={self.max_depth} and "
                f"max_arguments={self.max_arguments}."
            )
        uniform = _uniform(rng)
        examples = []
        for _ in range(count):
            question: list[int] = []
            value = _list(shares, length, uniform, question)
            examples.append(row(question, [value]))
        return examples

    def length_weights(self, lengths: np.ndarray) -> np.ndarray:
        weights = self._shares(int(lengths[-1]))[0][1][lengths]
        if not weights.sum() > 0:
            raise DataError(f"{self.name} has no list of length {lengths[0]} to {lengths[-1]}.")
        return weights

    def most_tokens(self, length: int) -> int:
        return length + 1

    def _shares(self, length: int) -> Shares:
        """Return `_list_shares` for all lengths up to this one."""
        return _list_shares(
            self.expand, self.max_depth, self.max_arguments, 1 << length.bit_length()
        )


def _list(shares: Shares, length: int, uniform: Iterator[float], symbols: list[int]) -> int:
    """Append a list of the given length to `symbols` and return its value."""
    if length == 1:
        symbols.append(int(next(uniform) * 10))
        return symbols[-1]
    inner = shares[1:]
    lists = inner[0]  # lists[k][n]: k lists have n symbols in all
    rest = length - 2
    arguments = 2 + _draw([sums[rest] for sums in lists[2:]], uniform)
    operator = int(next(uniform) * 4)
    symbols.append(10 + operator)
    values = []
    for left in range(arguments - 1, -1, -1):
        size = rest if left == 0 else _first_size(lists, left, rest, uniform)
        values.append(_list(inner, size, uniform, symbols))
        rest -= size
    symbols.append(14)
    return int(_OPERATIONS[operator](values)) % 10


@functools.lru_cache(maxsize=8)
def _list_shares(expand: float, max_depth: int, max_arguments: int, limit: int) -> Shares:
    """Return the shares of all n < limit."""
    by_depth: Shares = []
    one = np.zeros(limit)
    one[1] = 1
    for _ in range(max_depth):
        sums = [np.eye(1, limit)[0], one]
        while len(sums) <= max_arguments:
            sums.append(np.convolve(sums[-1], one)[:limit])
        by_depth.insert(0, sums)
        one = np.zeros(limit)
        one[2:] = expand * np.mean(sums[2:], axis=0)[:-2]
        one[1] = 1 - expand
    return by_depth


def _first_size(lists: list[np.ndarray], left: int, rest: int, uniform: Iterator[float]) -> int:
    """Draw how many of `rest` symbols the first of left + 1 lists has."""
    u = next(uniform) * lists[left + 1][rest]
    digit = lists[1][1] * lists[left][rest - 1]
    if u < digit:  # the usual case: no need to look at the other sizes
        return 1
    sizes = lists[1][2 : rest - left + 1] * lists[left][rest - 2 : left - 1 : -1]
    below = np.cumsum(sizes) + digit
    return 2 + min(int(np.searchsorted(below, u, side="right")), np.flatnonzero(sizes)[-1])


def _draw(weights: list[float], uniform: Iterator[float]) -> int:
    """Draw an index in proportion to its weight."""
    below = np.cumsum(weights)
    return int(np.searchsorted(below, next(uniform) * below[-1], side="right"))


def _choose(from_: Sequence[str], uniform: Iterator[float]) -> str:
    return from_[int(next(uniform) * len(from_))]


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    """Yield uniform numbers on 0..1, drawn in blocks."""
    while True:
        yield from rng.random(1024).tolist()
