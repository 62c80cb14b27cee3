"""Programs and lists are as frequent as the loops of their authors make them."""

import collections
import itertools
import math
import random

import numpy as np
import pytest

from relpos.data import algorithmic
from tests.data.algorithmic.drawing import assert_uniform, many, rng, shown
from tests.data.algorithmic.oracles import ORACLES


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
