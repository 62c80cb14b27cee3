"""Interpreted kernels with every scheme that they carry; `tests/attention/pallas_test.py` is of kernels themselves."""

import functools

import jax
import jax.numpy as jnp
import pytest

from tests.attending import BLOCKS, WITHIN, assert_trees_close, carried, differentiated, inputs
from tests.contract_attention_test import PACKED, of_few_heads, places_in_segments, weight_of
from tests.kinds import quick_for, small

CARRIED = [name for name in WITHIN if carried(small(name), ["pallas"])]
# They take as long to compile as all else that a scheme is seen in, and EverySlot is seen packed, too. A rotation, a
# bias of features and one without a table, vectors for keys, values and queries.
QUICK = ("rope", "fox", "kerple", "shaw", "deberta")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", quick_for(QUICK, CARRIED))
def test_packed_rows_are_those_of_the_reference(name):
    encoding, heads = of_few_heads(name)
    arrays = inputs(B=1, N=heads, K=1)
    path = functools.partial(
        differentiated, encoding, weight_of(arrays), causal=encoding.causal_only
    )
    reference = path(implementation="reference")
    kernels = path(implementation="pallas", block_sizes=BLOCKS)
    for row in PACKED:
        segments, positions = jnp.asarray(row)[None], places_in_segments(row)
        expected = reference(arrays, positions=positions, segments=segments)
        assert_trees_close(kernels(arrays, segments=segments), expected, 1e-10)
