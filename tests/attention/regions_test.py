"""How the attention matrix is cut: every pair is visited once, in a region that tells the truth about it."""

import itertools

import numpy as np
import pytest

from relpos.attention import regions
from relpos.attention.reference import Rules
from relpos.positions import Window

SIZES = [(1, 1), (1, 37), (9, 8), (16, 23), (37, 37), (64, 9)]
LAYOUTS = [(8, 16), (16, 8), (1, 1), (3, 5), (64, 64)]


@pytest.fixture
def numpy_indices(monkeypatch):
    """Index arithmetic one block at a time, without a compiled program for each."""
    monkeypatch.setattr(regions, "jnp", np)


def distances_of(row, block, rows, columns):
    first = row - block * columns
    return np.arange(first - columns + 1, first + rows)


@pytest.mark.usefixtures("numpy_indices")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "window", [None, 1, 2, 7, 9, (1, 9), (9, 2), (None, 7), (7, None)], ids=str
)
@pytest.mark.parametrize("beyonds", [(None,), (0,), (1,), (4,), (30,), (4, None, 30, 1, 4), ()])
def test_regions_cover_what_is_visible_and_tables_hold_it(beyonds, window, causal):
    rules = Rules(1.0, causal, Window.of(window))
    for sizes, (C, K) in itertools.product(SIZES, LAYOUTS):
        assert_covered(beyonds, rules, regions.Layout(C, K, True), *sizes)


@pytest.mark.usefixtures("numpy_indices")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 7, 2**31 - 1])
@pytest.mark.parametrize("offset", [5, -9, 100, -100, 10**9, -(10**9), 2**31 - 100, -(2**31) + 99])
def test_regions_cover_what_is_visible_wherever_rows_start(offset, window, causal):
    rules = Rules(1.0, causal, Window.of(window))
    for sizes, (C, K) in itertools.product(SIZES[2:], LAYOUTS[:4]):
        layout = regions.Layout(C, K, True, offset=True)
        assert_covered((4, None, 30), rules, layout, *sizes, offset)


def assert_covered(beyonds, rules, layout, T, S, offset=0):
    C, K = layout.rows, layout.columns
    spans = [regions.near_span(beyond, rules, layout, T, S) for beyond in beyonds]
    key_blocks = -(-S // K)
    for row in range(0, -(-T // C) * C, C):
        visited = {}
        for region in regions.regions(beyonds, rules, layout, np.int32(row + offset), key_blocks):
            for block in range(int(region.begin), int(region.end)):
                assert block not in visited
                visited[block] = region.tables
        for block in range(key_blocks):
            d = distances_of(row + offset, block, C, K)
            visible = (d >= 0) if rules.causal else np.ones(len(d), bool)
            if rules.window.past is not None:
                visible &= d < rules.window.past
            if rules.window.future is not None:
                visible &= -d < rules.window.future
            assert block in visited or not visible.any()
            for beyond, span, table in zip(
                beyonds, spans, visited.get(block, ("none",) * len(beyonds)), strict=True
            ):
                if table == "near":
                    most = d.max() - offset if span.relative else d.max()
                    start = span.first - (most + 1)  # a column before them is nobody's
                    assert 0 <= start <= span.size - (len(d) + 1)
                if table == "past":
                    assert d.min() >= beyond
                if table == "future":
                    assert d.max() <= -beyond


@pytest.mark.usefixtures("numpy_indices")
@pytest.mark.parametrize("length", [10**6, 2**30])
@pytest.mark.parametrize("causal", [True, False])
def test_indices_fit_int32_where_pairs_do_not(length, causal):
    layout = regions.Layout(512, 512, True)
    key_blocks = length // 512
    for beyond, window in itertools.product((None, 128), (None, 4096, 2**30 - 1)):
        for row in (0, 512, (key_blocks - 1) * 512):
            cut = [
                [(int(r.begin), int(r.end)) for r in regions.regions(
                    (beyond,), Rules(1.0, causal, Window.of(window)), layout, dtype(row), key_blocks)]
                for dtype in (np.int32, np.int64)
            ]  # fmt: skip
            assert cut[0] == cut[1]


@pytest.mark.usefixtures("numpy_indices")
@pytest.mark.parametrize("causal", [True, False])
def test_an_endless_part_is_near_everywhere_and_widens_no_other_one(causal):
    layout = regions.Layout(8, 8, True)
    cut = regions.regions((16, None, 40), Rules(1.0, causal), layout, np.int32(96), 40)
    blocks = {region.tables: (int(region.begin), int(region.end)) for region in cut}
    past = {("past", "near", "past"): (0, 7), ("near",) * 3: (10, 13 if causal else 15)}
    assert blocks.items() >= past.items()
    assert blocks[("past", "near", "near")] == (7, 10)
    assert len(blocks) == (3 if causal else 5)
