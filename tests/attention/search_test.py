"""Hypothesis looks for a call on which a fast path and the reference differ."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from relpos import encodings
from tests.attending import EverySlot, assert_trees_close, carried, inputs, make, value_and_grads

SIZES = st.integers(1, 40)
EXAMPLES = 50  # of each encoding


@st.composite
def segments(draw, T):
    """A row of documents side by side, padding before, between and behind them."""
    row, name = [], 0
    while len(row) < T:
        name += 1
        length = draw(st.integers(1, T))
        row += [name if draw(st.integers(0, 3)) else 0] * length
    return row[:T]


@st.composite
def calls(draw):
    """The sizes of the inputs and the arguments of a call."""
    T, B, K = draw(SIZES), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    sizes = {"B": B, "T": T, "S": T, "K": K, "N": K * draw(st.integers(1, 2))}
    kw = {"causal": draw(st.booleans()), "window": draw(st.none() | st.integers(1, 50))}
    kw["softcap"] = draw(st.none() | st.just(3.0))
    kw["block_sizes"] = (draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    kind = draw(st.sampled_from(["plain", "other length", "positions", "packed", "packed apart"]))
    if kind == "other length":
        sizes["S"] = draw(SIZES)
    if kind == "positions":
        first, last = draw(st.sampled_from([(0, 60), (-30, 30), (10**6, 10**6 + 99)]))
        rows = [[draw(st.integers(first, last)) for _ in range(T)] for _ in range(B)]
        kw["q_positions"] = kw["k_positions"] = rows
    if kind.startswith("packed"):
        rows = [draw(segments(T)) for _ in range(B)]
        kw["q_segments"] = rows
        kw["k_segments"] = rows if kind == "packed" else [list(row) for row in rows]
    return sizes, kw


def arrays_of(kw):
    """Lists as arrays; one list twice is one array twice."""
    made = {id(value): jnp.asarray(value) for value in kw.values() if isinstance(value, list)}
    return {name: made.get(id(value), value) for name, value in kw.items()}


def check(encoding, sizes, kw):
    """Compare each fast path with the reference, values and gradients."""
    with jax.enable_x64(True):
        kw = arrays_of(kw)
        kw["causal"] |= encoding.causal_only
        if "q_positions" in kw and not encoding.shift_invariant:
            kw["q_positions"] = kw["k_positions"] = jnp.abs(kw["q_positions"]) % 50
        arrays = inputs(**sizes)
        weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))
        blocks = kw.pop("block_sizes")
        expected = value_and_grads(encoding, arrays, weight, implementation="reference", **kw)
        for path in carried(encoding, ("blockwise", "pallas")):
            found = value_and_grads(
                encoding, arrays, weight, implementation=path, block_sizes=blocks, **kw
            )
            assert_trees_close(found, expected, 1e-10)


@pytest.mark.long
@pytest.mark.parametrize(("number", "name"), list(enumerate([*encodings.names(), "every slot"])))
def test_no_call_is_found_on_which_the_paths_differ(number, name):
    examples = itertools.count(1)

    @seed(number)  # other calls for each encoding, the same ones every time
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(calls())
    def search(call):
        sizes, kw = call
        with jax.enable_x64(True):
            if name == "every slot":
                encoding, sizes = EverySlot(), sizes | {"N": 6, "K": 3}
            else:
                encoding = make(name, heads=sizes["N"], key_heads=sizes["K"])
        check(encoding, sizes, kw)
        # A fresh compiler for every example would make anew what all of them share.
        if next(examples) % 25 == 0:
            jax.clear_caches()

    search()
    assert next(examples) > EXAMPLES
