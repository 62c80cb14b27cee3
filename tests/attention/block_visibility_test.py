"""Blocks that cannot be seen are left out, and no other."""

import jax.numpy as jnp
import numpy as np
import pytest

from relpos import positions
from relpos.attention.block_visibility import may_see
from relpos.attention.reference import Rules, Tokens
from relpos.attention.regions import Layout

C, K, T = 4, 8, 48


def tokens(position, segment, size):
    cut = lambda x: None if x is None else jnp.asarray(x).reshape(-1, size)  # noqa: E731
    return Tokens(cut(np.arange(T)), cut(position), cut(segment))


def seen(rules, position, segment, consecutive):
    """For each block of queries: what is told, and the blocks of keys that do hold a visible pair."""
    q, k = tokens(position, segment, C), tokens(position, segment, K)
    mask = positions.visible(
        jnp.asarray(position), jnp.asarray(position),
        *(2 * [None if segment is None else jnp.asarray(segment)]),
        causal=rules.causal, window=rules.window,
    )  # fmt: skip
    visible = np.asarray(mask).reshape(T // C, C, T // K, K).any((1, 3))
    for row in range(T // C):
        block = Tokens(*(None if x is None else x[row] for x in q))
        told = may_see(rules, Layout(C, K, consecutive), block, k)
        yield None if told is None else tuple(map(int, told)), np.flatnonzero(visible[row])


@pytest.mark.parametrize("window", [None, 1, 9, (1, 12), (None, 5)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_no_visible_pair_is_left_out(seed, causal, window):
    random = np.random.default_rng(seed)
    first = random.choice([0, -30, 10**9])
    position = random.integers(first, first + 60, T)
    for segment in (None, random.integers(0, 4, T)):
        rules = Rules(1.0, causal, positions.Window.of(window))
        hides = causal or window is not None or segment is not None
        for told, visible in seen(rules, position, segment, consecutive=False):
            assert (told is not None) == hides
            if not hides:
                assert visible.tolist() == list(range(T // K))
            elif len(visible):
                assert told[0] <= visible[0]
                assert visible[-1] < told[1]


def test_documents_side_by_side_see_only_the_blocks_they_lie_in():
    segment = np.repeat([1, 2, 4, 0, 5], [10, 3, 21, 6, 8])
    for told, visible in seen(Rules(1.0), np.arange(T), segment, consecutive=True):
        expected = (visible[0], visible[-1] + 1) if len(visible) else (told[0], told[0])
        assert told == expected


@pytest.mark.parametrize(("causal", "window"), [(True, 9), (False, (9, 3)), (False, (1, 14))])
def test_sorted_positions_see_only_the_blocks_within_the_window(causal, window):
    position = np.cumsum(np.random.default_rng(0).integers(1, 5, T))
    rules = Rules(1.0, causal, positions.Window.of(window))
    for told, visible in seen(rules, position, None, consecutive=False):
        assert told[0] >= visible[0] - 1  # bounds of blocks, not pairs: one more at most
        assert visible[-1] + 1 <= told[1] <= visible[-1] + (1 if causal else 2)


def test_nothing_is_told_where_all_may_be_visible():
    assert {told for told, _ in seen(Rules(1.0), np.arange(T), None, consecutive=True)} == {None}
