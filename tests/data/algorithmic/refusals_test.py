"""Names, options, lengths and sizes that are refused."""

import inspect

import pytest

from relpos.data import DataError, algorithmic
from relpos.data.algorithmic.batches import batch
from tests.data.algorithmic.drawing import NAMES, rng, start


def test_an_unknown_task_or_option_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"no algorithmic task 'revers': did you mean 'reverse'\?"):
        algorithmic.create("revers")
    with pytest.raises(DataError, match=r"no option 'ignor': did you mean 'ignore'\?"):
        algorithmic.create("flip_flop", ignor=0.3)
    with pytest.raises(DataError, match=r"'reverse' has no option 'letters'; it has no options"):
        algorithmic.create("reverse", letters=3)
    with pytest.raises(DataError, match=r"no presentation 'casual'.*'causal'"):
        batch(algorithmic.create("reverse"), rng(), [3], presentation="casual")


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
            batch(task, rng(), [task.min_length, length])
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
    with pytest.raises(DataError, match="length 5 takes 10 tokens, more than the 9"):
        batch(task, rng(), [2, 5], 9)
    with pytest.raises(DataError, match="smallest and the largest, not 9 and 2"):
        start(lengths=(9, 2))
    with pytest.raises(DataError, match="batch_size must be at least 1, not 0"):
        start(batch_size=0)
    with pytest.raises(DataError, match="examples must be at least 1, not 0"):
        algorithmic.eval_batches(task, length=3, examples=0, batch_size=2, seed=0)
