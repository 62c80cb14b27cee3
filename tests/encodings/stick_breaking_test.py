import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relpos import attention, encodings
from relpos.positions import consecutive
from tests import oracle
from tests.attending import BLOCKS, H, attend, inputs, make, value_and_grads


class Oracle(oracle.Oracle):
    VARIANTS = ({"attend_current": True},)

    def logits(self, q, keys, i, js, scale, x, row, columns):
        itself = self.options.get("attend_current", False)
        seen = [itself or j != i for j in js]
        return [scale * float(q @ k) if s else -math.inf for k, s in zip(keys, seen, strict=True)]

    def weights(self, logits):
        stick, found = 1.0, []
        for z in reversed(logits):
            beta = 0.0 if z == -math.inf else 1 / (1 + math.exp(-z))
            found.append(beta * stick)
            stick -= beta * stick
        return np.array(found[::-1])


def test_a_row_of_three_keys_by_hand():
    """Products of 0 break sticks in halves: 1/2, 1/4, 1/8 from the query backward."""
    q = jnp.zeros((1, 4, 1, 2))
    v = jnp.eye(4)[None, :, None]
    k = jnp.ones((1, 4, 1, 2))
    halves, current = (
        attention(q, k, v, encoding=make(text, heads=1, dtype=jnp.float32), causal=True)[0, 3, 0]
        for text in ("stick_breaking", "stick_breaking(attend_current=True)")
    )
    np.testing.assert_allclose(halves, [1 / 8, 1 / 4, 1 / 2, 0], rtol=1e-6)
    np.testing.assert_allclose(current, [1 / 16, 1 / 8, 1 / 4, 1 / 2], rtol=1e-6)


@pytest.mark.parametrize("path", ["reference", "blockwise"])
def test_a_query_that_sees_no_key_gives_zeros_and_no_gradient(path):
    encoding, kw = make("stick_breaking", heads=1, dtype=jnp.float32), {"block_sizes": BLOCKS}
    arrays = inputs(T=20, N=1, K=1, B=1, dtype=np.float32)
    first = jnp.zeros((1, 20, 1, H)).at[:, 0].set(1.0)
    out, grads = value_and_grads(encoding, arrays, first, causal=True, implementation=path, **kw)
    assert not out[0, 0].any()
    assert out[0, 1].any()
    assert not any(g.any() for g in jax.tree.leaves(grads))
    alone = attend(encoding, *arrays, causal=True, window=1, implementation=path, **kw)
    assert not alone.any()


@pytest.mark.parametrize("path", ["reference", "blockwise"])
def test_products_of_any_size_break_a_stick(path):
    """Where beta is 1 nothing is left for others, where it is 0 all: no exponential overflows."""
    q, k, v, x = inputs(T=20, N=1, K=1, B=1, dtype=np.float32)
    for sign, nearest in ((1, 1.0), (-1, 0.0)):
        k = jnp.full_like(q, 1.0)
        found = attend(
            make("stick_breaking", heads=1, dtype=jnp.float32), 1e4 * sign * k, k, v, x,
            causal=True, implementation=path, block_sizes=BLOCKS,
        )  # fmt: skip
        np.testing.assert_allclose(found[:, 1:], nearest * v[:, :-1], atol=1e-6)


def test_rotations_turn_what_breaks_the_stick():
    arrays = inputs(T=20, N=1, K=1, B=1, dtype=np.float32)
    q, k, v, x = arrays
    rope = make("rope", heads=1, dtype=jnp.float32)
    at = jnp.arange(20)
    turned = rope.query(q[0, :, 0], at, None), rope.key(k[0, :, 0], at, None)
    expected = attend(
        make("stick_breaking", heads=1, dtype=jnp.float32), *(t[None, :, None] for t in turned),
        v, x, causal=True,
    )  # fmt: skip
    both = make("rope+stick_breaking", heads=1, dtype=jnp.float32)
    for path in ("reference", "blockwise"):
        found = attend(both, *arrays, causal=True, implementation=path, block_sizes=BLOCKS)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_biases_beside_it_weigh_what_is_broken_off():
    q, k, _, x = inputs(T=20, N=1, K=1, B=1, dtype=np.float32)
    units = jnp.eye(20)[None, :, None]
    kw = {"causal": True, "block_sizes": BLOCKS}
    alone, both = (
        [
            attend(
                make(text, heads=1, dtype=jnp.float32), q, k, units, x, implementation=path, **kw
            )
            for path in ("reference", "blockwise")
        ]
        for text in ("stick_breaking", "alibi+stick_breaking")
    )
    at = np.arange(20)
    slope = 2.0**-8  # of one head
    expected = alone[0][0, :, 0] * np.exp(-slope * np.maximum(at[:, None] - at, 0))
    for found in both:
        np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-6)


def test_blocks_that_end_at_a_query_hide_it():
    """Wherever rows and columns of blocks meet: the query's own key is the last of its block for one row in four."""
    arrays = inputs(T=24, N=1, K=1, B=1, dtype=np.float32)
    encoding = make("stick_breaking", heads=1, dtype=jnp.float32)
    places = {"q_positions": consecutive(3), "k_positions": consecutive(1)}
    for kw in ({}, places):
        expected = attend(encoding, *arrays, causal=True, implementation="reference", **kw)
        for blocks in ((1, 4), (3, 2)):
            found = attend(
                encoding, *arrays, causal=True, implementation="blockwise", block_sizes=blocks, **kw
            )
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_does_not_go_together_is_refused():
    encoding = make("stick_breaking", heads=1, dtype=jnp.float32)
    arrays = inputs(T=8, N=1, K=1, B=1, dtype=np.float32)
    with pytest.raises(ValueError, match=r"softcap=3.0 caps the logits of a softmax.*leave soft"):
        attend(encoding, *arrays, causal=True, softcap=3.0)
    with pytest.raises(ValueError, match="walks along the row"):
        attend(encoding, *arrays, causal=True, implementation="pallas")
    for text in ("stick_breaking+sink", "sink+stick_breaking"):
        with pytest.raises(ValueError, match=r"StickBreaking.*no softmax.*Sink"):
            make(text, heads=1)
    assert encodings.options("stick_breaking") == {"attend_current": False}
