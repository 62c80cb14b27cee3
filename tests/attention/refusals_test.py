"""Arguments of attention that are refused, and some that are not."""

import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from relpos.attention import tabulate
from tests.attending import (
    H,
    N,
    inputs,
)


def rope(**sizes):
    return encodings.create("rope", rngs=nnx.Rngs(0), **{"num_heads": N, "head_dim": H} | sizes)


Q, K, V, X = inputs(dtype=np.float32)


FOX = encodings.create("fox", num_heads=N, head_dim=H, features=X.shape[-1], rngs=nnx.Rngs(0))


TABLED = encodings.create("transformer_xl", num_heads=N, head_dim=H, rngs=nnx.Rngs(0))


REFUSED = {
    "8 heads on 3": ({"q": jnp.ones((1, 4, 8, 2)), "k": jnp.ones((1, 4, 3, 2)), "v": jnp.ones((1, 4, 3, 2))},
                     "8 query heads cannot share 3 key heads evenly"),
    "a name": ({"encoding": "rope"}, "relpos.encodings.create"),
    "another head size": ({"encoding": rope(head_dim=4)}, "made for head_dim=4"),
    "another number of heads": ({"encoding": encodings.create(
        "t5", num_heads=2, head_dim=H, rngs=nnx.Rngs(0))}, "made for 2 heads"),
    "a gate without features": ({"encoding": FOX, "causal": True}, "pass q_features"),
    "a gate of other tokens": ({"encoding": FOX, "causal": True, "q_features": jnp.ones((2, 9, N)),
                                    "k_features": jnp.ones((2, 9, N))}, "must have the tokens and heads of q"),
    "a gate that looks ahead": ({"encoding": FOX}, "causal=True"),
    "one block size": ({"block_sizes": 8}, "two positive integers"),
    "fractional block sizes": ({"block_sizes": (8.0, 8.0)}, "two positive Python integers"),
    "a fractional window": ({"window": 2.5}, "window must be an integer"),
    "no window at all": ({"window": 0}, "at least 1"),
    "a side without the token itself": ({"window": (4, 0)}, "on each side, got (4, 0)"),
    "a window of three sides": ({"window": (4, 2, 1)}, "a pair (past, future), got (4, 2, 1)"),
    "a side that is no integer": ({"window": (4, "2")}, "(past, future), got (4, '2')"),
    "a scale that is no number": ({"scale": float("nan")}, "scale must be finite"),
    "segments of one side": ({"q_segments": jnp.ones((2, 37), int)}, "k_segments"),
    "no such path": ({"implementation": "fast"}, "unknown implementation 'fast'"),
    "a cache's tables without causality": ({"tables": tabulate(TABLED, 37), "encoding": TABLED}, "causal=True"),
    "dropout without a key": ({"dropout_rate": 0.5}, "dropout_key"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_why(case):
    given, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        attention(**{"q": Q, "k": K, "v": V} | given)


def test_lists_and_numpy_integers_are_taken():
    out = attention(Q, K, V, window=np.int64(5), block_sizes=[8, 16], implementation="blockwise")
    np.testing.assert_allclose(out, attention(Q, K, V, window=5), atol=1e-5)


def test_what_is_traced_but_must_not_be_says_so():
    for name in ("scale", "window"):
        with pytest.raises(ValueError, match=f"{name} must be a Python"):
            jax.jit(lambda value, name=name: attention(Q, K, V, **{name: value}))(2)
