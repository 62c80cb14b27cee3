import itertools

import numpy as np
import pytest

from relpos import data
from relpos.data.questions.windows import (
    best_span,
    holding,
    token_span,
    windows,
)
from relpos.data.tokenizers import Bytes
from relpos.data.tokenizers.offsets import character_offsets

SHAPES = [(1, 5, 3), (5, 5, 1), (6, 5, 5), (23, 7, 3), (23, 7, 7), (24, 11, 5), (3, 100, 50)]


@pytest.mark.parametrize(("length", "size", "stride"), SHAPES)
def test_windows_cover_every_token_and_every_short_span(length, size, stride):
    found = windows(length, size=size, stride=stride)
    assert all(0 < high - low <= size for low, high in found)
    assert all(low == stride * i for i, (low, _) in enumerate(found))
    assert found[-1, 1] == length
    assert (found[:-1, 1] < length).all()  # none is needless
    longest = size - stride + 1
    for start in range(length):
        for stop in range(start + 1, min(start + longest, length) + 1):
            whole = [low <= start and stop <= high for low, high in found]
            assert any(whole)
            assert holding(found, start, stop).tolist() == whole


def test_a_context_without_tokens_has_no_window():
    found = windows(0, size=5, stride=2)
    assert found.shape == (0, 2)
    with pytest.raises(data.DataError, match="no windows"):
        best_span(np.zeros((0, 5)), np.zeros((0, 5)), found, longest=3)


@pytest.mark.parametrize("stride", [0, 6, -1])
def test_windows_with_gaps_are_refused(stride):
    with pytest.raises(data.DataError, match="from 1 to size=5"):
        windows(20, size=5, stride=stride)


def slow_best_span(starts, stops, bounds, longest):
    """Every span by itself, in the window where the smaller side of its context is largest."""
    best = (-np.inf, None)
    for start, length in itertools.product(range(bounds[-1][1]), range(1, longest + 1)):
        stop = start + length
        choices = []
        for w, (low, high) in enumerate(bounds):
            if low <= start and stop <= high:
                sides = min(start - low, high - stop) + 0.01 * (high - low)
                choices.append((sides, -w))
        if choices:
            w = -max(choices)[1]
            low = bounds[w][0]
            total = starts[w][start - low] + stops[w][stop - 1 - low]
            best = max(best, (total, (start, stop)), key=lambda pair: pair[0])
    return best


@pytest.mark.parametrize(("length", "size", "stride"), SHAPES)
def test_the_best_span_is_that_of_a_search_one_by_one(length, size, stride):
    bounds = windows(length, size=size, stride=stride)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        starts, stops = rng.normal(size=(2, len(bounds), size))
        found = best_span(starts, stops, bounds, longest=4)
        score, span = slow_best_span(starts, stops, bounds.tolist(), 4)
        assert (found.start, found.stop) == span
        assert found.score == pytest.approx(score)


def test_a_span_is_scored_where_it_has_the_most_context():
    bounds = windows(9, size=6, stride=3)  # [0, 6) and [3, 9)
    starts, stops = np.zeros((2, 6)), np.zeros((2, 6))
    starts[1, 0] = 9.0  # token 3 at the very edge of the second window: it stands well in the first
    starts[0, 2] = stops[0, 3] = 1.0
    assert best_span(starts, stops, bounds, longest=2)[:2] == (2, 4)


TEXTS = ["plain", "é", "añb€c𝄞d", "שלום עולם", "e\u0301\u200d👩\u200d🚀!", "\x00\n", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_every_span_of_characters_comes_back_from_its_bytes(text):
    tokenizer = Bytes()
    offsets = character_offsets(text, tokenizer.byte_lengths[tokenizer.encode(text.encode())])
    assert len(offsets) == len(text.encode())
    for start, stop in itertools.combinations(range(len(text) + 1), 2):
        first, behind = token_span(offsets, start, stop)
        assert text.encode()[first:behind].decode() == text[start:stop]
        assert (offsets[first, 0], offsets[behind - 1, 1]) == (start, stop)


@pytest.mark.parametrize("seed", range(20))
def test_tokens_of_any_number_of_bytes(seed):
    text = "añb€c𝄞d 👩 שלום"
    size = len(text.encode())
    rng = np.random.default_rng(seed)
    cuts = np.unique([0, size, *rng.integers(1, size, 8)])
    offsets = character_offsets(text, np.diff(cuts))
    for (low, high), (start, stop) in zip(itertools.pairwise(cuts), offsets, strict=True):
        # The fewest characters whose bytes hold the token's.
        assert len(text[:start].encode()) <= low < len(text[: start + 1].encode())
        assert len(text[: stop - 1].encode()) < high <= len(text[:stop].encode())
    for start, stop in itertools.combinations(range(len(text) + 1), 2):
        first, behind = token_span(offsets, start, stop)
        low, high = len(text[:start].encode()), len(text[:stop].encode())
        assert cuts[first] <= low < cuts[first + 1]
        assert cuts[behind - 1] < high <= cuts[behind]


def test_tokens_of_another_text_are_refused():
    with pytest.raises(data.DataError, match="stand for 3 bytes, but the text has 4"):
        character_offsets("abcd", np.array([1, 2]))


def test_tokens_without_bytes_have_no_characters():
    assert character_offsets("aé", np.array([0, 1, 0, 2, 0])).tolist() == [
        [0, 0],
        [0, 1],
        [1, 1],
        [1, 2],
        [2, 2],
    ]
