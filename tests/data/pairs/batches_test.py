import collections

import numpy as np
import pytest

from relpos.data import DataError
from relpos.data.pairs import batches as pair_batches
from relpos.data.pairs.batches import Tokenized
from relpos.data.tokenizers.words import Words

VOCABULARY = [b"w%d" % i for i in range(500)]
SOURCE, TARGET = Words(VOCABULARY), Words(VOCABULARY[:50])


def corpus(count=300, longest=20, seed=0):
    """Pairs that tell themselves apart by their first word."""
    random = np.random.default_rng(seed)

    def sentence(first, words):
        return b" ".join(
            [first, *(words[i] for i in random.integers(50, size=random.integers(longest - 1)))]
        )

    return [
        (sentence(VOCABULARY[i], VOCABULARY), sentence(b"w0", VOCABULARY)) for i in range(count)
    ]


def batches(count, pairs=None, seed=0, length=24, size=7):
    tokenized = Tokenized(corpus() if pairs is None else pairs, SOURCE, TARGET)
    iterator = iter(
        pair_batches.train_batches(tokenized, sequence_length=length, batch_size=size, seed=seed)
    )
    return [next(iterator) for _ in range(count)]


def test_a_batch_shows_source_and_target_with_their_ends():
    pairs = [(b"w1 w2", b"w3"), (b"w4", b"w5 w6 w7")]
    tokenized = Tokenized(pairs, SOURCE, TARGET)
    batch = pair_batches.make_batch([tokenized[0], tokenized[1]], 24, 3, (500, 51))
    assert batch["source"][:, :4].tolist() == [[1, 2, 500, 0], [4, 500, 0, 0], [0] * 4]
    assert batch["source_segments"][:, :4].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [0] * 4]
    assert batch["inputs"][:, :4].tolist() == [[51, 3, 0, 0], [51, 5, 6, 7], [0] * 4]
    assert batch["targets"][:, :4].tolist() == [[3, 51, 0, 0], [5, 6, 7, 51], [0] * 4]
    assert batch["segments"].sum(1).tolist() == [2, 4, 0]


def firsts(found):
    return collections.Counter(int(row[0]) for batch in found for row in batch["source"])


@pytest.mark.parametrize("seed", [0, 1, -5])
def test_an_epoch_visits_every_pair_once(seed):
    # 301 batches of 7 are 7 epochs of 300 pairs and 7 pairs more: pools of 43 batches.
    counts = firsts(batches(300 * 3, seed=seed))
    assert set(counts) == set(range(300))
    assert max(counts.values()) - min(counts.values()) <= 2


def test_pairs_of_a_batch_have_about_one_length():
    filled = [batch["source_segments"].mean() for batch in batches(43)]
    assert np.mean(filled) > 0.6
    assert len({batch["source"].shape for batch in batches(43)}) <= 4
    # But batches do not come in the order of their length.
    widths = [batch["source"].shape[1] for batch in batches(43)]
    assert widths != sorted(widths)


def test_pairs_that_do_not_fit_are_left_out_and_others_take_their_place():
    pairs = [(b"w1", b"w2"), (b" ".join([b"w3"] * 24), b"w4"), (b"", b"w5"), (b"w6", b"w7 w8")]
    found = batches(20, pairs=pairs, size=4)
    assert set(firsts(found)) == {1, 6}
    assert all((batch["segments"].sum(1) > 0).all() for batch in found)
    # Many batches' worth of pairs without one that fits, before the only one that does.
    rare = [(b"w3 " * 24, b"w4")] * 999 + [(b"w1", b"w2")]
    assert set(firsts(batches(500, pairs=rare, size=4))) == {1}
    with pytest.raises(DataError, match="None of 3 pairs fits into sequence_length=2"):
        batches(1, pairs=[(b"w1 w1", b"w2 w2")] * 3, length=2)
    with pytest.raises(DataError, match="no pairs"):
        batches(1, pairs=[])


def test_batches_are_a_function_of_the_seed_and_go_on_where_they_stopped():
    tokenized = Tokenized(corpus(), SOURCE, TARGET)
    make = lambda: iter(  # noqa: E731
        pair_batches.train_batches(tokenized, sequence_length=24, batch_size=7, seed=3)
    )
    whole = make()
    expected = [next(whole) for _ in range(60)]
    part = make()
    for _ in range(45):
        next(part)
    state = part.get_state()
    resumed = make()
    resumed.set_state(state)
    for batch in expected[45:]:
        found = next(resumed)
        for name in batch:
            np.testing.assert_array_equal(found[name], batch[name])
    assert any(
        (a["source"].shape != b["source"].shape) or (a["source"] != b["source"]).any()
        for a, b in zip(batches(5, seed=3), batches(5, seed=4), strict=True)
    )


@pytest.mark.parametrize(
    ("needed", "longest", "expected"),
    [
        (1, 40, 8),
        (8, 40, 8),
        (9, 40, 12),
        (13, 40, 16),
        (17, 40, 24),
        (25, 40, 32),
        (33, 40, 40),
        (1, 160, 32),
        (33, 160, 48),
        (129, 160, 160),
        (1, 4, 4),
    ],
)
def test_few_lengths(needed, longest, expected):
    assert pair_batches.padded_length(needed, longest) == expected


@pytest.mark.parametrize(
    ("needed", "longest", "expected"),
    [(1, 40, 8), (9, 40, 16), (17, 40, 32), (33, 40, 40), (1, 160, 32), (65, 160, 128), (1, 4, 4)],
)
def test_fewer_lengths_for_evaluation(needed, longest, expected):
    assert pair_batches.padded_length(needed, longest, between=False) == expected


def test_evaluation_has_every_pair_once_shortest_first():
    tokenized = Tokenized(corpus(23), SOURCE, TARGET)
    pairs = [tokenized[i] for i in range(23)]
    found = list(
        pair_batches.eval_batches(pairs, sequence_length=24, batch_size=5, separators=(500, 51))
    )
    numbers = [number for chosen, _ in found for number in chosen]
    assert sorted(numbers) == list(range(23))
    for chosen, batch in found:
        assert len(batch["source"]) == 5
        for row, number in enumerate(chosen):
            assert batch["source"][row, 0] == pairs[number][0][0]
        assert (batch["segments"][len(chosen) :] == 0).all()
    widths = [batch["source"].shape[1] for _, batch in found]
    assert widths == sorted(widths)
    assert set(widths) == {16, 24}  # not 12
