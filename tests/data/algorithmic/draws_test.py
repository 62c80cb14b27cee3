"""What each task draws, and how often."""

import collections
import itertools
import math

import numpy as np
import pytest

from relpos.data import algorithmic
from tests.data.algorithmic.drawing import assert_uniform, many, rng, shown


@pytest.mark.parametrize(
    ("name", "alphabet"),
    [
        *((n, "01") for n in ("even_pairs", "parity", "reverse", "duplicate", "odds_first")),
        ("cycle_navigation", "012"),
        ("bucket_sort", "01234"),
        ("sum", "123456789"),
        ("sort", [f"t{i}" for i in range(50)]),
        ("copy_cmc", [f"t{i}" for i in range(100)]),
        ("reverse_mc", [f"t{i}" for i in range(100)]),
    ],
)
def test_words_are_uniform(name, alphabet):
    words = [question for question, _ in many(name, 6, 3000)]
    for place in (0, 3, 5):
        assert_uniform((word[place] for word in words), alphabet)
    if len(alphabet) < 10:  # neighbours are independent
        assert_uniform(((a, b) for a, b, *_ in words), itertools.product(alphabet, repeat=2))


def test_arithmetic_has_all_digits_and_operators():
    texts = ["".join(question) for question, _ in many("modular_arithmetic", 8, 1000)]
    assert {len(text) for text in texts} == {7}
    assert_uniform((c for text in texts for c in text[::2]), "01234")
    assert_uniform((c for text in texts for c in text[1::2]), "+-*")


def split_top(text):
    """L, operator, R of (L operator R)."""
    depth = 0
    for i, c in enumerate(text[1:-1], start=1):
        depth += {"(": 1, ")": -1}.get(c, 0)
        if depth == 0 and c in "+-*" and text[i - 1] != "(":
            return text[1:i], c, text[i + 1 : -1]


@pytest.mark.parametrize(
    ("name", "more", "operators"),
    [("modular_arithmetic_brackets", 0, "+-*"), ("solve_equation", 2, "+-")],
)
def test_brackets_are_split_anywhere(name, more, operators):
    length = 15
    texts = ["".join(q)[:length] for q, _ in many(name, length + more, 4000)]
    parts = [split_top(text) for text in texts if text[1] != "-"]
    assert_uniform((operator for _, operator, _ in parts), operators)
    sizes = collections.Counter(len(left) for left, _, _ in parts)
    # A left part that begins with a minus is not told apart above: those of 2 symbols are missing.
    assert_uniform(sizes.elements(), [n for n in range(1, length - 3) if n != 2])
    digits = [c for text in texts for c in text if c.isdigit()]
    assert_uniform(digits, "01234")


def test_the_unknown_is_the_next_digit_after_a_uniform_place():
    chosen = collections.Counter()
    expected = collections.Counter()
    for question, _ in many("solve_equation", 11, 4000):
        text = "".join(question)[:9].replace("x", "0")
        digits = [i for i, c in enumerate(text) if c.isdigit()]
        chosen[digits.index(question.index("x"))] += 1
        for start in range(9):
            following = [d for d in digits if d >= start] or digits
            expected[digits.index(following[0])] += 1 / 9
    assert set(chosen) == set(expected)
    for which, count in expected.items():
        assert chosen[which] == pytest.approx(count, abs=5 * math.sqrt(count))


def test_stacks_have_every_size_and_actions_are_uniform():
    questions = [question for question, _ in many("stack_manipulation", 9, 4000)]
    sizes = [sum(s in "01" for s in question) for question in questions]
    assert_uniform(sizes, range(1, 9))
    actions = [s for question, n in zip(questions, sizes, strict=True) for s in question[n:]]
    assert_uniform(actions, ["pop|end", "push0", "push1"])
    assert_uniform((s for q, n in zip(questions, sizes, strict=True) for s in q[:n]), "01")


def test_any_symbol_may_be_missing():
    questions = [question for question, _ in many("missing_duplicate", 9, 2000)]
    assert_uniform((question.index("missing") for question in questions), range(8))
    assert_uniform((answer[0] for _, answer in many("missing_duplicate", 9, 2000)), "01")


@pytest.mark.parametrize("name", ["binary_addition", "binary_multiplication"])
def test_binary_numbers_are_uniform_and_positive(name):
    words = ["".join(question).split("op|end") for question, _ in many(name, 7, 6000)]
    assert_uniform((len(n) for n, _ in words), range(1, 6))
    for size in range(1, 6):
        pairs = [(n, m) for n, m in words if len(n) == size]
        for drawn, bits in zip(zip(*pairs, strict=True), (size, 6 - size), strict=True):
            values = itertools.islice(itertools.product("01", repeat=bits), 1, None)
            assert_uniform(drawn, ["".join(value) for value in values])


def test_radicands_are_uniform():
    drawn = ["".join(question) for question, _ in many("compute_sqrt", 4, 5000)]
    assert_uniform(drawn, [f"{n:04b}" for n in range(1, 16)])


def test_repeated_and_replaced_symbols_are_uniform():
    letters = [f"t{i}" for i in range(5)]
    assert_uniform((q[0] for q, _ in many("copy_rsc", 3, 2000, letters=5)), letters)
    pairs = [tuple(q[:2]) for q, _ in many("copy_rdc", 3, 4000, letters=5)]
    assert_uniform(pairs, itertools.permutations(letters, 2))


def test_gaps_are_anywhere():
    places = [
        tuple(i for i, s in enumerate(question) if s == "gap")
        for question, _ in many("selective_copy", 3, 4000, blanks=2)
    ]
    assert_uniform(places, itertools.combinations(range(5), 2))
    assert {s for q, _ in many("selective_copy", 64, 99) for s in q} == {
        *(f"t{i}" for i in range(15)), "gap",
    }  # fmt: skip


def test_numbers_to_sort_are_uniform():
    numbers = [int(n) for q, _ in many("sort_numbers", 5, 2000) for n in "".join(q).split(",")]
    assert min(numbers) >= 10
    assert max(numbers) <= 9999
    assert_uniform((min((n - 10) // 999, 9) for n in numbers), range(10))


@pytest.mark.parametrize(("least", "most"), [(1, 3), (2, 4)])
def test_addition_has_all_pairs_of_numbers_of_digits(least, most):
    task = algorithmic.create("addition", min_digits=least)
    drawn = task.draw_lengths(rng(), least, most, 5000)
    words = ["".join(shown(task, e)[: e.hidden.argmax()]) for e in task.examples(rng(), drawn)]
    pairs = [tuple(map(len, word.split("+"))) for word in words]
    assert_uniform(pairs, itertools.product(range(least, most + 1), repeat=2))
    firsts = [word[0] for word, (n, _) in zip(words, pairs, strict=True) if n > 1]
    assert_uniform(firsts, "123456789")
    if least == 1:
        single = [word.split("+")[1] for word, (_, n) in zip(words, pairs, strict=True) if n == 1]
        assert_uniform(single, "0123456789")


def test_polynomials_are_uniform():
    texts = ["".join(question).split(";") for question, _ in many("polynomial", 4, 3000)]
    assert_uniform((x for x, _ in texts), ["-2", "-1", "0", "1", "2"])
    terms = [term.split("*x^") for _, text in texts for term in text.split("+")]
    assert_uniform((c for c, _ in terms), map(str, range(-3, 4)))
    assert_uniform((d for _, d in terms), "0123")


@pytest.mark.parametrize(("length", "later"), [(7, [4, 5, 6]), (6, [3, 4, 5]), (2, [1]), (3, [2])])
def test_lego_asks_for_the_later_half(length, later):
    drawn = list(many("lego", length, 2000))
    chains = ["".join(q[:-2]).split(",") for q, _ in drawn]
    names = [[clause[0] for clause in chain] for chain in chains]
    assert_uniform((n.index(q[-1]) for n, (q, _) in zip(names, drawn, strict=True)), later)
    assert_uniform((chain[0][2:] for chain in chains), ["+1", "-1"])
    assert_uniform((chain[1][2] for chain in chains), "+-")
    assert_uniform((n[0] for n in names), "abcdefghijklmnopqrstuvwxyz")


def test_lego_clauses_are_in_order_unless_shuffled():
    firsts = {
        shuffle: ["".join(q).split(",")[0] for q, _ in many("lego", 5, 500, shuffle=shuffle)]
        for shuffle in (False, True)
    }
    assert all(first.endswith("1") for first in firsts[False])
    assert sum(first.endswith("1") for first in firsts[True]) == pytest.approx(100, abs=45)


@pytest.mark.parametrize("ignore", [0.8, 0.98, 0.1])
def test_flip_flops_ignore_as_often_as_said(ignore):
    task = algorithmic.create("flip_flop", ignore=ignore)
    examples = task.examples(rng(), [256] * 60)
    kinds = collections.Counter(
        task.symbols[i] for example in examples for i in example.tokens[2:-2:2]
    )
    total = 60 * 254
    for kind, share in (("i", ignore), ("w", (1 - ignore) / 2), ("r", (1 - ignore) / 2)):
        sigma = math.sqrt(total * share * (1 - share))
        assert kinds[kind] == pytest.approx(total * share, abs=5 * sigma)
    bits = [task.symbols[i] for e in examples for i in e.tokens[1::2][~e.hidden[1::2]]]
    assert_uniform(bits, "01")


def test_keys_are_asked_for_after_gaps_of_a_power_law():
    """One pair: the g-th of 24 slots with g^(power - 1), as multiquery_ar of the authors' code draws it."""
    for power in (0.01, 1.0):
        task = algorithmic.create("mqar", pairs=1, keys=3, values=7, power=power)
        examples = task.examples(rng(), [25] * 4000)
        gaps = np.array([int(example.hidden.argmax()) // 2 for example in examples])
        share = power * np.arange(1, 25) ** (power - 1)
        share /= share.sum()
        found = np.bincount(gaps - 1, minlength=24) / 4000
        assert (abs(found - share) < 5 * np.sqrt(share * (1 - share) / 4000)).all()
        assert_uniform((e.tokens[0] for e in examples), range(3))
        assert_uniform((e.tokens[1] for e in examples), range(3, 10))


def test_of_two_gaps_the_second_is_drawn_from_the_others():
    """p_a p_b / (1 - p_a): the authors draw without replacement."""
    task = algorithmic.create("mqar", pairs=2, keys=2, values=2, power=0.01)
    drawn = collections.Counter()
    for tokens, hidden, _ in task.examples(rng(), [5] * 6000):
        by_key = dict(
            zip(tokens[np.flatnonzero(hidden) - 1], np.flatnonzero(hidden) // 2 - 2, strict=True)
        )
        drawn[by_key[tokens[0]], by_key[tokens[2]]] += 1
    share = np.arange(1, 4) ** -0.99
    share /= share.sum()
    assert len(drawn) == 6
    for (first, second), n in drawn.items():
        p = share[first] * share[second] / (1 - share[first])
        assert n / 6000 == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 6000))
