import collections
import inspect
import itertools
import json
import math
import random

import numpy as np
import pytest

from relpos.data import DataError, algorithmic
from tests.data.algorithmic.oracles import ORACLES

NAMES = algorithmic.names()
# Besides the defaults, and instead of those that make long examples.
OPTIONS = {
    "addition": [{}, {"min_digits": 3}],
    "bucket_sort": [{}, {"letters": 3}],
    "copy_cmc": [{}, {"letters": 7}],
    "counting": [{}, {"variables": 3}, {"variables": 5, "max_tokens": 0}],
    "cycle_navigation": [{}, {"cycle": 7}],
    "flip_flop": [{}, {"ignore": 0.1}, {"ignore": 1.0}],
    "lego": [{}, {"shuffle": True}],
    "listops": [{"expand": 0.5}, {"expand": 0.7, "max_depth": 4, "max_arguments": 6}],
    "modular_arithmetic": [{}, {"modulus": 7}],
    "modular_arithmetic_brackets": [{}, {"modulus": 10}],
    "mqar": [
        {"pairs": 3, "keys": 5, "values": 4},
        {"pairs": 1, "keys": 1, "values": 1, "power": 2},
    ],
    "polynomial": [{}, {"modulus": 7}],
    "selective_copy": [{"blanks": 11}, {"blanks": 0}],
    "solve_equation": [{}, {"modulus": 7}],
    "sum": [{}, {"modulus": 3}],
}
TASKS = [
    pytest.param(name, chosen, id=f"{name}-{i}")
    for name in NAMES
    for i, chosen in enumerate(OPTIONS.get(name, [{}]))
]
# Tasks whose answers are filled up, to so many symbols more than the question's length.
PADDED = {"stack_manipulation": 1, "binary_addition": 1, "binary_multiplication": 0}


def rng(seed=0):
    return np.random.default_rng(seed)


def lengths(task):
    return range(task.min_length, min(task.min_length + 23, (task.max_length or 99) + 1))


def readable(task, ids):
    return [task.symbols[i] for i in ids]


def shown(task, example):
    return [
        None if hidden else task.symbols[i]
        for i, hidden in zip(example.tokens, example.hidden, strict=True)
    ]


def many(name, length, count, seed=0, **chosen):
    """Readable questions and answers."""
    task = algorithmic.create(name, **chosen)
    for tokens, hidden, scored in task.examples(rng(seed), [length] * count):
        yield readable(task, tokens[~hidden]), readable(task, tokens[scored])


def assert_uniform(drawn, values, sigmas=5):
    """Every value is as frequent as the others, and nothing else occurs."""
    counts = collections.Counter(drawn)
    values = list(values)
    assert set(counts) == set(values)
    total, share = sum(counts.values()), 1 / len(values)
    tolerance = sigmas * math.sqrt(total * share * (1 - share))
    assert max(abs(n - total * share) for n in counts.values()) <= tolerance, counts


def test_every_task_has_an_oracle():
    assert set(ORACLES) == set(NAMES), "tests/data/algorithmic_oracles.py has one for each task"


@pytest.mark.parametrize(("name", "chosen"), TASKS)
def test_answers_are_what_the_oracle_says(name, chosen):
    task = algorithmic.create(name, **chosen)
    wanted = [length for length in lengths(task) for _ in range(12)]
    for length, example in zip(wanted, task.examples(rng(), wanted), strict=True):
        seen = shown(task, example)
        answer, measured = ORACLES[name](seen, task)
        assert readable(task, example.tokens[example.scored]) == answer, seen
        even = name == "modular_arithmetic" and length % 2 == 0
        assert measured == length - even


@pytest.mark.parametrize(("name", "chosen"), TASKS)
def test_examples_are_well_formed(name, chosen):
    task = algorithmic.create(name, **chosen)
    assert len(set(task.symbols)) == task.vocab_size == task.blank + 1
    assert task.presentation in algorithmic.PRESENTATIONS
    for length in lengths(task):
        for tokens, hidden, scored in task.examples(rng(length), [length] * 5):
            assert (tokens.dtype, hidden.dtype, scored.dtype) == (np.int32, bool, bool)
            assert tokens.shape == hidden.shape == scored.shape
            assert len(tokens) <= task.most_tokens(length)
            assert tokens.min() >= 0
            assert tokens.max() < task.blank
            assert scored.any()
            assert not (scored & ~hidden).any()
            assert not hidden[0]
            if task.answer_mark:  # one answer, at the end
                assert (np.diff(hidden.astype(int)) >= 0).all()
                question = int((~hidden).sum())
                padded = name in PADDED
                assert hidden.sum() == (question + PADDED[name] if padded else scored.sum())
                after = tokens[question:][~scored[question:]]
                assert (after == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_symbol_occurs(name):
    task = algorithmic.create(name, **OPTIONS.get(name, [{}])[0])
    wanted = [9] * 900 + [min(150, task.max_length or 150)] * 100
    used = set().union(*(example.tokens.tolist() for example in task.examples(rng(), wanted)))
    assert used == set(range(task.blank))


@pytest.mark.parametrize("name", sorted(PADDED))
def test_padding_counts_if_wanted(name):
    plain, padded = (algorithmic.create(name, score_padding=b) for b in (False, True))
    a, b = (task.examples(rng(), [20] * 9) for task in (plain, padded))
    for x, y in zip(a, b, strict=True):
        assert (x.tokens == y.tokens).all()
        assert (y.scored == y.hidden).all()
        assert (y.scored[: len(x.scored)] >= x.scored).all()
    assert any((x.scored != x.hidden).any() for x in a)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_a_function_of_the_generator(name):
    task = algorithmic.create(name)
    wanted = rng().integers(task.min_length, task.min_length + 9, size=20)
    first, again, other = (task.examples(rng(seed), wanted) for seed in (1, 1, 2))
    same = [[np.array_equal(a.tokens, b.tokens) for a, b in zip(first, x)] for x in (again, other)]  # noqa: B905
    assert all(same[0])
    assert not all(same[1])
    texts = {example.tokens.tobytes() for example in first}
    assert len(texts) > 10  # they differ from each other


@pytest.mark.parametrize("name", NAMES)
def test_one_example_is_the_first_of_many_alike(name):
    task = algorithmic.create(name)
    length = task.min_length + 3
    one, (of_one,) = task.example(rng(), length), task.examples(rng(), [length])
    assert all((a == b).all() for a, b in zip(one, of_one, strict=True))


def test_text_is_readable():
    task = algorithmic.create("solve_equation")
    text = task.text(task.example(rng(), 7).tokens)
    assert text.replace(" ", "")[-3] == "="
    assert task.text([task.blank]) == algorithmic.BLANK


# What is drawn


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


def counting_by_hand(rand, steps, variables):
    """count_data_gen.py in words: draw a step, and again while it cannot be; None if nothing is set."""
    held, sets, adds = {}, 0, 0
    for _ in range(steps):
        while True:
            kind = rand.choices(["set", "pass", "add"], [1, 50, 7])[0]
            if kind == "set":
                held[rand.randrange(variables)] = 0
                sets += 1
            elif kind == "add":
                if not held:
                    continue
                variable = rand.choice(list(held))
                if held[variable] == 10:
                    continue
                held[variable] += 1
                adds += 1
            break
    return (rand.choice(list(held.values())), sets, adds) if held else None


@pytest.mark.parametrize(("steps", "variables"), [(40, 3), (150, 1)])
def test_programs_are_as_frequent_as_by_hand(steps, variables):
    count = 2500
    rand = random.Random(0)
    by_hand = []
    while len(by_hand) < count:
        by_hand += filter(None, [counting_by_hand(rand, steps, variables)])
    drawn = [
        (int(answer[0]), question.count("="), question.count("++;"))
        for question, answer in many("counting", steps, count, variables=variables, max_tokens=0)
    ]
    for ours, theirs in zip(np.transpose(drawn), np.transpose(by_hand), strict=True):
        tolerance = 5 * np.sqrt((ours.var() + theirs.var()) / count)
        assert ours.mean() == pytest.approx(theirs.mean(), abs=tolerance)
        a, b = (np.sort(x) for x in (ours, theirs))  # and the whole distribution
        apart = max(
            abs(np.searchsorted(a, v, side) - np.searchsorted(b, v, side)) / count
            for v in np.unique([a, b])
            for side in ("left", "right")
        )
        assert apart < 2 * math.sqrt(2 / count)


def test_lengths_of_programs_are_as_frequent_as_by_hand():
    rand = random.Random(0)
    kept = collections.Counter()
    for _ in range(6000):
        steps = rand.randint(3, 30)
        kept[steps] += counting_by_hand(rand, steps, 2) is not None
    total = sum(kept.values())
    drawn = algorithmic.create("counting").draw_lengths(rng(), 3, 30, total)
    assert set(drawn) == set(range(3, 31))
    for low, high in ((3, 10), (10, 20), (20, 31)):
        theirs = sum(kept[n] for n in range(low, high))
        ours = int(((drawn >= low) & (drawn < high)).sum())
        assert ours == pytest.approx(theirs, abs=5 * math.sqrt(2 * theirs))


def test_long_programs_lose_their_beginning():
    task = algorithmic.create("counting", variables=2)
    whole = algorithmic.create("counting", variables=2, max_tokens=0)
    lengths = task.draw_lengths(rng(), 3, 512, 1500)
    long = 0
    pairs = zip(task.examples(rng(), lengths), whole.examples(rng(), lengths), strict=True)
    for trimmed, full in pairs:
        long += len(full.tokens) > 512
        assert len(trimmed.tokens) == min(512, len(full.tokens))
        assert (trimmed.tokens == full.tokens[-512:]).all()
    assert long / len(lengths) == pytest.approx(0.14, abs=0.04)  # what the paper's data has


def lists_by_hand(rand, depth, max_depth, most, expand):
    """The symbols of a list of Long Range Arena, of any length."""
    if depth >= max_depth or rand.random() > expand:
        return [str(rand.randrange(10))]
    parts = [
        lists_by_hand(rand, depth + 1, max_depth, most, expand)
        for _ in range(rand.randint(2, most))
    ]
    operator = rand.choice(["[MIN", "[MAX", "[MED", "[SM"])
    return [operator, *itertools.chain(*parts), "]"]


def test_lists_are_as_frequent_as_by_hand():
    rand = random.Random(0)
    chosen = {"expand": 0.5, "max_depth": 3, "max_arguments": 4}
    by_hand = [lists_by_hand(rand, 1, 3, 4, 0.5) for _ in range(40_000)]
    task = algorithmic.create("listops", **chosen)

    sizes = [len(word) for word in by_hand if 4 <= len(word) <= 14]
    drawn = task.draw_lengths(rng(), 4, 14, len(sizes))
    for size in range(4, 15):
        a, b = sizes.count(size), int((drawn == size).sum())
        assert b == pytest.approx(a, abs=5 * math.sqrt(a + b))

    def form(word):
        return "".join({"]": "]"}.get(s, "[" if s[0] == "[" else ".") for s in word)

    theirs = [word for word in by_hand if len(word) == 11]
    ours = [question for question, _ in many("listops", 11, len(theirs), **chosen)]
    counts = [collections.Counter(map(form, words)) for words in (theirs, ours)]
    assert len(counts[0] | counts[1]) > 5
    for each in counts[0] | counts[1]:
        a, b = counts[0][each], counts[1][each]
        assert abs(a - b) <= 5 * math.sqrt(a + b), each
    assert_uniform((s for q in ours for s in q if s.isdigit()), "0123456789")
    assert_uniform((s for q in ours for s in q if s[0] == "["), ["[MIN", "[MAX", "[MED", "[SM"])


def test_lists_of_the_published_lengths():
    task = algorithmic.create("listops")
    rand = random.Random(0)
    sizes = [len(lists_by_hand(rand, 1, 10, 10, 0.25)) for _ in range(5000)]
    theirs = [size for size in sizes if 500 < size < 2000]
    ours = task.draw_lengths(rng(), 501, 1999, 5000)
    assert np.mean(ours < 1000) == pytest.approx(
        np.mean(np.less(theirs, 1000)), abs=5 * math.sqrt(0.25 / len(theirs))
    )
    example = task.example(rng(), 1000)
    answer, length = ORACLES["listops"](shown(task, example), task)
    assert length == 1000
    assert task.text(example.tokens[-1:]) == answer[0]


# Batches


def by_hand(task, example, presentation):
    """Inputs, targets and scored of one example, as lists."""
    shown_, targets, scored = [], [], []
    if presentation == "placeholder":
        for token, hidden, counts in zip(*example, strict=True):
            shown_.append(task.blank if hidden else token)
            targets.append(token)
            scored.append(counts)
        return shown_, targets, scored
    stream, marked = [], False
    for token, hidden, counts in zip(*example, strict=True):
        if hidden and task.answer_mark and not marked:
            stream.append((task.blank, False))
            marked = True
        stream.append((token, counts))
    for (before, _), (token, counts) in itertools.pairwise(stream):
        shown_.append(before)
        targets.append(token)
        scored.append(counts)
    return shown_, targets, scored


@pytest.mark.parametrize("presentation", algorithmic.PRESENTATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_batches_show_the_examples(name, presentation):
    task = algorithmic.create(name)
    wanted = rng().integers(task.min_length, task.min_length + 12, size=13)
    examples = task.examples(rng(7), wanted)
    got = algorithmic.batch(task, rng(7), wanted, presentation=presentation)
    assert {key: value.dtype for key, value in got.items()} == {
        "inputs": np.int32, "targets": np.int32, "scored": bool, "segments": np.int32,
    }  # fmt: skip
    assert len({value.shape for value in got.values()}) == 1
    longest = 0
    for i, example in enumerate(examples):
        rows = by_hand(task, example, presentation)
        n = len(rows[0])
        longest = max(longest, n)
        for key, row in zip(("inputs", "targets", "scored"), rows, strict=True):
            assert got[key][i, :n].tolist() == row
            assert not got[key][i, n:].any()
        assert got["segments"][i].tolist() == [1] * n + [0] * (len(got["segments"][i]) - n)
        assert got["scored"][i].sum() == example.scored.sum()
    assert got["inputs"].shape == (13, longest)
    most = max(wanted)
    assert longest <= algorithmic.places(task, most, presentation)
    assert algorithmic.places(task, most, presentation) <= 8 * max(most, 40)


def test_a_batch_can_have_more_places():
    task = algorithmic.create("reverse")
    got, wide = (algorithmic.batch(task, rng(), [3, 5], size) for size in (None, 17))
    for key, value in got.items():
        assert value.shape == (2, 10)
        assert wide[key].shape == (2, 17)
        assert (wide[key][:, :10] == value).all()
        assert not wide[key][:, 10:].any()


def test_the_papers_presentation_is_the_default():
    for name in NAMES:
        task = algorithmic.create(name)
        length = [task.min_length + 2]
        a, b = (
            algorithmic.batch(task, rng(), length, presentation=presentation)
            for presentation in (None, task.presentation)
        )
        assert all((a[key] == b[key]).all() for key in a)


def start(name="reverse", **changed):
    chosen = {"lengths": (2, 9), "batch_size": 6, "seed": 0} | changed
    return iter(algorithmic.train_batches(algorithmic.create(name), **chosen))


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def equal(a, b):
    return all((x[key] == y[key]).all() for x, y in zip(a, b, strict=True) for key in x)


def test_training_batches_are_a_function_of_the_seed():
    first = take(start(seed=3), 5)
    assert equal(first, take(start(seed=3), 5))
    for seed in (4, -3, 2**40):
        assert not equal(first, take(start(seed=seed), 5))
    assert not equal(first[:1], first[1:2])


@pytest.mark.parametrize("name", NAMES)
def test_training_batches_have_one_shape(name):
    task = algorithmic.create(name)
    high = task.min_length + 9
    batches = take(start(name, lengths=(task.min_length, high)), 4)
    assert {b["inputs"].shape for b in batches} == {(6, algorithmic.places(task, high))}


@pytest.mark.parametrize("before", [0, 1, 40])
def test_restoring_the_state_continues_exactly(before):
    iterator = start("counting")
    take(iterator, before)
    state = json.loads(json.dumps(iterator.get_state()))
    after = take(iterator, 5)
    restored = start("counting")
    take(restored, 3)  # wherever it stood
    restored.set_state(state)
    assert equal(take(restored, 5), after)


def test_training_lengths_are_uniform():
    sizes = [n for b in take(start(), 300) for n in (b["segments"].sum(axis=1) // 2).tolist()]
    assert_uniform(sizes, range(2, 10))


def test_a_batch_may_be_of_one_length():
    sizes = [set(b["segments"].sum(axis=1)) for b in take(start(one_length=True), 400)]
    assert all(len(each) == 1 for each in sizes)
    assert_uniform((next(iter(each)) // 2 for each in sizes), range(2, 10))


def test_evaluation_is_the_same_at_any_batch_size():
    task = algorithmic.create("stack_manipulation")
    got = [
        algorithmic.eval_batches(task, length=7, examples=20, batch_size=size, seed=1)
        for size in (20, 8, 50)
    ]
    assert [len(batches) for batches in got] == [1, 3, 1]
    assert {b["inputs"].shape for b in got[1]} == {(8, 15)}
    for key in got[0][0]:
        whole = got[0][0][key]
        for batches in got:
            joined = np.concatenate([b[key] for b in batches])
            assert (joined[:20] == whole).all()
            assert not joined[20:].any()
    others = algorithmic.eval_batches(task, length=7, examples=20, batch_size=20, seed=2)
    assert not equal(others, got[0])


def test_evaluation_draws_other_numbers_than_training():
    task = algorithmic.create("reverse")
    evaluated = algorithmic.eval_batches(task, length=30, examples=6, batch_size=6, seed=0)
    trained = take(start(lengths=(30, 30)), 40)
    rows = {row.tobytes() for b in trained for row in b["inputs"]}
    assert not rows & {row.tobytes() for row in evaluated[0]["inputs"]}


# What cannot be


def test_an_unknown_task_or_option_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"no algorithmic task 'revers': did you mean 'reverse'\?"):
        algorithmic.create("revers")
    with pytest.raises(DataError, match=r"no option 'ignor': did you mean 'ignore'\?"):
        algorithmic.create("flip_flop", ignor=0.3)
    with pytest.raises(DataError, match=r"'reverse' has no option 'letters', it has none"):
        algorithmic.create("reverse", letters=3)
    with pytest.raises(DataError, match=r"no presentation 'casual'.*'causal'"):
        algorithmic.batch(algorithmic.create("reverse"), rng(), [3], presentation="casual")


@pytest.mark.parametrize("name", NAMES)
def test_options_are_the_constructors_with_defaults(name):
    known = algorithmic.options(name)
    assert inspect.Parameter.empty not in known.values()
    task = algorithmic.create(name, **known)
    assert task.name == name
    for option, default in known.items():
        for wrong in (-1, "1", None, float("nan")):
            if not isinstance(default, bool):
                with pytest.raises(DataError, match=f"{name}.{option}"):
                    algorithmic.create(name, **{option: wrong})


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("counting", {"variables": 27}, "at most 26"),
        ("counting", {"max_tokens": 2}, "no room"),
        ("cycle_navigation", {"cycle": 2}, "at least 3"),
        ("flip_flop", {"ignore": 1.1}, "from 0 to 1"),
        ("listops", {"expand": 0.0}, "above 0"),
        ("modular_arithmetic", {"modulus": 11}, "at most 10"),
        ("modular_arithmetic_brackets", {"modulus": 1}, "at least 2"),
        ("mqar", {"pairs": 5, "keys": 4}, "at most mqar.keys, 4"),
        ("mqar", {"power": 0.0}, "above 0"),
        ("polynomial", {"modulus": 11}, "at most 10"),
        ("solve_equation", {"modulus": 12}, "at most 10"),
        ("sum", {"modulus": 11}, "at most 10"),
        ("copy_rdc", {"letters": 1}, "at least 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, chosen, message):
    with pytest.raises(DataError, match=message):
        algorithmic.create(name, **chosen)


@pytest.mark.parametrize("name", NAMES)
def test_lengths_that_do_not_exist_are_refused(name):
    task = algorithmic.create(name)
    assert len(task.example(rng(), task.min_length).tokens) > 1
    wrong = [task.min_length - 1, 0, -3, 2.5, "4"]
    wrong += [task.max_length + 1] if task.max_length else []
    for length in wrong:
        with pytest.raises(DataError, match=f"{name}.*{length}"):
            task.example(rng(), length)
        with pytest.raises(DataError, match=f"{name}.*({length}|whole number)"):
            algorithmic.batch(task, rng(), [task.min_length, length])
        if not isinstance(length, str):
            with pytest.raises(DataError, match=f"{name}.*{length}"):
                start(name, lengths=(length, max(length, task.min_length)))


@pytest.mark.parametrize("name", ["addition", "listops"])
def test_the_longest_examples_are_drawn_and_longer_ones_refused(name):
    task = algorithmic.create(name)
    longest = task.max_length
    assert len(task.example(rng(), longest).tokens) > longest
    with pytest.raises(DataError, match=f"{name} has no length 10000: {longest} is the most"):
        task.example(rng(), 10_000)


def test_lists_that_cannot_be_are_refused():
    task = algorithmic.create("listops", max_depth=2, max_arguments=3)
    assert len(task.example(rng(), 5).tokens) == 6
    with pytest.raises(DataError, match=r"no list of length 6 within max_depth=2"):
        task.example(rng(), 6)
    with pytest.raises(DataError, match=r"no list of length 6 to 9"):
        task.draw_lengths(rng(), 6, 9, 1)


def test_sizes_that_make_no_sense_are_refused():
    task = algorithmic.create("reverse")
    with pytest.raises(DataError, match="length 5 takes 10 places, more than the 9"):
        algorithmic.batch(task, rng(), [2, 5], 9)
    with pytest.raises(DataError, match="up to 9 needs 18 places, size is 17"):
        start(size=17)
    with pytest.raises(DataError, match="smallest and the largest, not 9 and 2"):
        start(lengths=(9, 2))
    with pytest.raises(DataError, match="batch_size must be at least 1, not 0"):
        start(batch_size=0)
    with pytest.raises(DataError, match="examples must be at least 1, not 0"):
        algorithmic.eval_batches(task, length=3, examples=0, batch_size=2, seed=0)
