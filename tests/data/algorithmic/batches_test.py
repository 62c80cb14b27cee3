"""Batches of examples, for training and evaluation."""

import itertools
import json

import numpy as np
import pytest

from relpos.data import algorithmic
from relpos.data.algorithmic.batches import PRESENTATIONS, batch
from tests.data.algorithmic.drawing import NAMES, assert_uniform, rng, start


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


@pytest.mark.parametrize("presentation", PRESENTATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_batches_show_the_examples(name, presentation):
    task = algorithmic.create(name)
    wanted = rng().integers(task.min_length, task.min_length + 12, size=13)
    examples = task.examples(rng(7), wanted)
    got = batch(task, rng(7), wanted, presentation=presentation)
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
    assert longest <= algorithmic.size_for(task, most, presentation)
    assert algorithmic.size_for(task, most, presentation) <= 8 * max(most, 40)


def test_a_batch_can_have_more_places():
    task = algorithmic.create("reverse")
    got, wide = (batch(task, rng(), [3, 5], size) for size in (None, 17))
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
            batch(task, rng(), length, presentation=presentation)
            for presentation in (None, task.presentation)
        )
        assert all((a[key] == b[key]).all() for key in a)


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
    assert {b["inputs"].shape for b in batches} == {(6, algorithmic.size_for(task, high))}


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
