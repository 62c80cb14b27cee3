"""A window has two sides: a query sees keys with d < past and -d < future."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention
from relpos.nn import Encoder, RelativeAttention, TransformerConfig
from relpos.positions import Window
from tests import oracle
from tests.attending import BLOCKS, B, H, N, T, attend, inputs, make
from tests.encodings.shaw_test import Oracle

PACKED = np.array([[1] * 9 + [2] * 20 + [0] * 8, [0] * 3 + [4] * 34])
SCATTERED = np.random.default_rng(3).integers(0, 60, (B, T))
PATHS = ("reference", "blockwise")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def from_the_equation(causal, window, kind):
    """Shaw's vectors of keys and values, in a loop over tokens."""
    q, k, v, _ = (np.asarray(a) for a in inputs())
    p = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(make("shaw"))))
    oracles, found = [Oracle(p, n, N, {}) for n in range(N)], []
    for b in range(B):
        at, ids = np.arange(T), np.ones(T, int)
        if kind == "packed":
            ids = PACKED[b]
            at = at - np.array([np.flatnonzero(ids == one)[0] for one in ids])
        if kind == "scattered":
            at = SCATTERED[b]

        def visible(row, column, at=at, ids=ids):
            d = at[row] - at[column]
            past, future = window
            hidden = (past and d >= past) or (future and -d >= future) or (causal and d < 0)
            return not hidden and ids[row] == ids[column] != 0

        of_row = {"q_positions": at, "k_positions": at, "visible": visible, "scale": H**-0.5}
        found.append(oracle.attention(oracles, q[b], k[b], v[b], **of_row))
    return np.stack(found)


@pytest.mark.parametrize("implementation", PATHS)
@pytest.mark.parametrize("kind", ["row", "packed", "scattered"])
@pytest.mark.parametrize(
    ("causal", "window"), [(False, (4, 9)), (False, (None, 3)), (False, (6, None)), (True, (5, 2))]
)
def test_a_query_sees_what_is_near_enough_on_each_side(causal, window, kind, implementation):
    kw = {"causal": causal, "window": window, "implementation": implementation}
    if kind == "packed":
        kw["q_segments"] = kw["k_segments"] = jnp.asarray(PACKED)
    if kind == "scattered":
        kw["q_positions"] = kw["k_positions"] = jnp.asarray(SCATTERED)
    found = attend(make("shaw"), *inputs(), block_sizes=BLOCKS, **kw)
    expected = from_the_equation(causal, window, kind)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("implementation", PATHS)
def test_two_equal_sides_are_a_window_of_one_number(implementation):
    q, k, v, _ = inputs()
    run = functools.partial(attention, q, k, v, implementation=implementation, block_sizes=BLOCKS)
    np.testing.assert_array_equal(run(window=(5, 5)), run(window=5))
    np.testing.assert_array_equal(run(window=(5, 1)), run(window=5, causal=True))
    np.testing.assert_array_equal(run(window=[None, None]), run())
    assert Window.of((7, 2**31)) == (7, None)


def test_an_encoder_has_a_window_on_both_sides():
    sizes = {"num_layers": 2, "features": 8, "num_heads": 2, "dtype": "float64"}
    x = jnp.arange(16)[None] % 7

    def run(window):
        config = TransformerConfig(window=window, **sizes)
        return Encoder(config, vocab_size=7, rngs=nnx.Rngs(0))(x)

    np.testing.assert_array_equal(run(Window(4, 4)), run(4))
    assert jnp.abs(run(Window(4, 2)) - run(4)).max() > 1e-3


def test_a_ring_is_as_long_as_the_past():
    layer = RelativeAttention(2, 8, window=(3, 9), rngs=nnx.Rngs(0))
    assert layer.init_cache(1, 50).capacity == 3
    layer = RelativeAttention(2, 8, window=(None, 9), rngs=nnx.Rngs(0))
    assert layer.init_cache(1, 50).capacity == 50
