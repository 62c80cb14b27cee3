"""Every task's examples: their answers, their form, their symbols."""

import numpy as np
import pytest

from relpos.data import algorithmic
from relpos.data.algorithmic.base import BLANK
from relpos.data.algorithmic.batches import PRESENTATIONS
from tests.data.algorithmic.drawing import NAMES, readable, rng, shown
from tests.data.algorithmic.oracles import ORACLES

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


def lengths(task):
    return range(task.min_length, min(task.min_length + 23, (task.max_length or 99) + 1))


def test_every_task_has_an_oracle():
    assert set(ORACLES) == set(NAMES), "tests/data/algorithmic/oracles.py has one for each task"


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
    assert task.presentation in PRESENTATIONS
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
    assert task.text([task.blank]) == BLANK
