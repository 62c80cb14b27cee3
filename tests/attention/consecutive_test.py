"""Positions that rise by one from any start: what they stand for, on every path, as the contract has it besides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relpos import attention
from relpos.attention import Slots
from relpos.positions import consecutive
from tests.attending import BLOCKS, B, EverySlot, S, T, attend, inputs
from tests.contract_attention_test import SETTINGS, assert_paths_agree, key_heads


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Endless(EverySlot):
    """It does not say where it becomes constant."""

    constant_beyond = None


@pytest.mark.parametrize("kind", [kind for kind in SETTINGS if "anywhere," in kind])
def test_a_table_of_all_distances_starts_where_the_rows_do(kind):
    assert_paths_agree(Endless(key_heads(kind)), kind, [BLOCKS], ["blockwise"])


@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_consecutive_positions_are_what_they_stand_for(implementation):
    """Of one call and of rows mapped; beside an order of its own, and of one side, they are written out."""
    q, k, v, x = inputs(S=S)
    encoding, starts = EverySlot(), jnp.asarray([20, 3])
    at_T, at_S = starts[:, None] + jnp.arange(T)[None], jnp.arange(S) + 2
    kw = {"causal": True, "window": 9, "implementation": implementation, "block_sizes": BLOCKS}
    run = lambda *arrays, **at: attend(encoding, *arrays, **kw, **at)  # noqa: E731
    expected = run(q, k, v, x, q_positions=at_T, k_positions=at_S)
    given = {"q_positions": consecutive(starts), "k_positions": consecutive(2)}
    order = {"q_order": jnp.broadcast_to(at_T, (B, T)), "k_order": at_S}
    for at in (given, given | order, given | {"k_positions": at_S}):
        np.testing.assert_allclose(run(q, k, v, x, **at), expected, atol=1e-12)

    def one(start, *row):
        at = {"q_positions": consecutive(start), "k_positions": consecutive(2)}
        return run(*(each[None] for each in row), **at)[0]

    np.testing.assert_allclose(jax.vmap(one)(starts, q, k, v, x), expected, atol=1e-12)


def test_where_positions_start_is_one_number_or_one_of_each_row():
    with pytest.raises(ValueError, match="start must be an integer"):
        consecutive(1.5)
    q, k, v, _ = inputs()
    with pytest.raises(ValueError, match="q_positions must have one start"):
        attention(q, k, v, q_positions=consecutive([1, 2, 3]), k_positions=consecutive(0))


SIZES = []


class Counted(Slots):
    """Notes of how many distances at once it is asked."""

    def bias(self, d):
        SIZES.append(d.shape[0])
        return jnp.cos(1.0 * d)


def test_distances_are_evaluated_once_and_not_for_each_pair():
    q, k, v, _ = inputs(T=64, S=48, B=1, N=1, K=1)

    def sizes(at):
        SIZES.clear()

        def call(start):
            places = {"q_positions": at(start, 64), "k_positions": at(0, 48)}
            kw = {"implementation": "blockwise", "block_sizes": (16, 16)}
            return attention(q, k, v, encoding=Counted(), **places, **kw)

        jax.eval_shape(call, jnp.int32(5))
        return set(SIZES)

    assert 64 + 48 in sizes(lambda start, length: consecutive(start))
    assert 64 + 48 not in sizes(lambda start, length: start + jnp.arange(length))
