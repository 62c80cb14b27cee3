"""Hypothesis looks for a call on which a fast path and the reference differ."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st

from relpos import encodings
from relpos.positions import consecutive
from tests.attending import EverySlot, assert_trees_close, carried, inputs, make, value_and_grads

SIZES = st.integers(1, 40)
EXAMPLES = 50  # of each encoding
COMPOSED = 500  # of sums and heads of several kinds
PARTS = [name for name in encodings.names() if not encodings.scheme(name).adds_to_input()]


@st.composite
def segments(draw, T):
    """A row of documents side by side, padding before, between and behind them."""
    row, name = [], 0
    while len(row) < T:
        name += 1
        length = draw(st.integers(1, T))
        row += [name if draw(st.integers(0, 3)) else 0] * length
    return row[:T]


SIDES = st.none() | st.integers(1, 50)
WINDOWS = SIDES | st.tuples(SIDES, SIDES)


@st.composite
def calls(draw):
    """The sizes of the inputs and the arguments of a call."""
    T, B, K = draw(SIZES), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    sizes = {"B": B, "T": T, "S": T, "K": K, "N": K * draw(st.integers(1, 2))}
    kw = {"causal": draw(st.booleans()), "window": draw(WINDOWS)}
    kw["softcap"] = draw(st.none() | st.just(3.0))
    kw["block_sizes"] = (draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    kinds = ["plain", "other length", "positions", "from anywhere", "packed", "packed apart"]
    kind = draw(st.sampled_from(kinds))
    if kind == "other length":
        sizes["S"] = draw(SIZES)
    if kind == "positions":
        first, last = draw(st.sampled_from([(0, 60), (-30, 30), (10**6, 10**6 + 99)]))
        rows = [[draw(st.integers(first, last)) for _ in range(T)] for _ in range(B)]
        kw["q_positions"] = kw["k_positions"] = rows
    if kind == "from anywhere":
        sizes["S"] = draw(SIZES)
        for side in ("q_positions", "k_positions"):
            kw[side] = consecutive(draw(st.integers(0, 45)))
    if kind.startswith("packed"):
        rows = [draw(segments(T)) for _ in range(B)]
        kw["q_segments"] = rows
        kw["k_segments"] = rows if kind == "packed" else [list(row) for row in rows]
    return sizes, kw


def arrays_of(kw):
    """Lists as arrays; one list twice is one array twice."""
    made = {id(value): jnp.asarray(value) for value in kw.values() if isinstance(value, list)}
    return {name: made.get(id(value), value) for name, value in kw.items()}


def check(encoding, sizes, kw, paths=("blockwise", "pallas")):
    """Compare each fast path with the reference, values and gradients."""
    with jax.enable_x64(True):
        kw = arrays_of(kw)
        kw["causal"] |= encoding.causal_only
        is_array = isinstance(kw.get("q_positions"), jax.Array)
        if is_array and not encoding.shift_invariant:
            kw["q_positions"] = kw["k_positions"] = jnp.abs(kw["q_positions"]) % 50
        arrays = inputs(**sizes)
        weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))
        blocks = kw.pop("block_sizes")
        expected = value_and_grads(encoding, arrays, weight, implementation="reference", **kw)
        for path in carried(encoding, paths):
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


@st.composite
def compositions(draw, sizes):
    """Sums of up to three schemes, for all heads or for those of a part of the key heads."""

    def one():
        names = draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3, unique=True))
        return "+".join(names)

    N, K = sizes["N"], sizes["K"]
    if K == 1 or draw(st.booleans()):
        return one()
    first = N // K * draw(st.integers(1, K - 1))
    return f"{one()}:{first}/{one()}:{N - first}"


CANNOT = r"cannot be summed|does not expect|differ"


@pytest.mark.long
@pytest.mark.parametrize("number", range(10))
def test_no_call_of_a_composition_is_found_on_which_the_paths_differ(number):
    tried = itertools.count()

    @seed(number)
    @settings(
        max_examples=COMPOSED // 10, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # others take an hour
    )  # fmt: skip
    @given(st.data(), calls())
    def search(data, call):
        sizes, kw = call
        text = data.draw(compositions(sizes))
        try:
            with jax.enable_x64(True):
                encoding = make(text, heads=sizes["N"], key_heads=sizes["K"])
            check(encoding, sizes, kw, ["blockwise"])  # kernels refuse many of them
        except ValueError as error:
            assert re.search(CANNOT, str(error)), text  # noqa: PT017
            reject()
        if next(tried) % 10 == 9:
            jax.clear_caches()

    search()
    assert next(tried) >= COMPOSED // 10
