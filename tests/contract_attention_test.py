"""The contract of every encoding with attention. Schemes are discovered; nothing here names one."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention import choices, split_heads
from relpos.attention.checks import check_places
from relpos.positions import Consecutive, consecutive
from tests import oracle
from tests.attending import (
    BLOCKS,
    B,
    EverySlot,
    H,
    K,
    N,
    S,
    T,
    assert_trees_close,
    attend,
    carried,
    inputs,
    make,
    value_and_grads,
)

NAMES = encodings.names()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def oracle_of(name):
    return importlib.import_module(f"tests.encodings.{name}_test").Oracle


PACKED = np.array([[1] * 5 + [2] * 1 + [3] * 20 + [0] * 11, [0] * 3 + [4] * 34])
SCATTERED = np.random.default_rng(3).integers(0, 60, (B, T))
# The first row goes beyond the trained tables and bands, to distances of 288.
STRETCHED = np.stack([8 * np.arange(T), SCATTERED[1]])
ORDER = np.random.default_rng(4).permutation(T)
# One row of one key head where that is all a setting needs: JAX traces each operation once more for each axis that is
# mapped over.
ONE = {"B": 1, "K": 1}
REALS = {"causal": True, "positions": 1.37 * np.arange(T) - 9.1, **ONE}
SETTINGS = {
    "causal": {"causal": True, "B": 1},
    "bidirectional": ONE,
    "causal window": {"causal": True, "window": 5, **ONE},
    "window of one": {"causal": True, "window": 1, **ONE},
    "bidirectional window": {"window": 7, **ONE},
    "window of two sides": {"window": (3, 12), **ONE},
    "packed": {"causal": True, "segments": PACKED},
    "packed, both directions": {"segments": PACKED, "K": 1},
    "packed, two arrays": {"causal": True, "q_segments": PACKED, "k_segments": PACKED.copy()},
    "scattered positions": {"causal": True, "positions": SCATTERED, "K": 1},
    "stretched positions": {"causal": True, "positions": STRETCHED, "K": 1},
    "scattered, packed, windowed": {
        "causal": True, "window": 9, "positions": SCATTERED, "segments": PACKED,
    },
    "scattered, window of two sides": {"window": (14, 5), "positions": SCATTERED, "K": 1},
    "an order of its own": {
        "causal": True, "window": 12, "positions": SCATTERED, "order": ORDER, "K": 1,
    },
    "softcap and scale": {"causal": True, "softcap": 2.0, "scale": 0.7, **ONE},
    "dropout": {"causal": True, "dropout_rate": 0.3},
    "cross, fewer keys": {"S": S, **ONE},
    "cross, fewer queries": {"T": S, "S": T, **ONE},
    "cross, causal": {"S": S, "causal": True, **ONE},
    "from anywhere": {
        "S": S, "causal": True, **ONE,
        "q_positions": consecutive(20), "k_positions": consecutive(2),
    },
    "from anywhere, both directions": {
        "q_positions": consecutive(9), "k_positions": consecutive(-4), **ONE,
    },
    "from anywhere, packed, windowed": {
        "causal": True, "window": 7, "segments": PACKED,
        "q_positions": consecutive([5, -5]), "k_positions": consecutive(0),
    },
}  # fmt: skip


def setting(kind):
    """Return the options of a call, and the sizes of its arrays; kind: one of the settings, or what they hold."""
    kw = dict(SETTINGS[kind] if isinstance(kind, str) else kind)
    sizes = {axis: kw.pop(axis) for axis in ("T", "S", "B", "K") if axis in kw}
    for what in ("segments", "positions", "order"):
        if what in kw:
            kw[f"q_{what}"] = kw[f"k_{what}"] = jnp.asarray(kw.pop(what))
    for side in ("q_segments", "k_segments"):
        kw |= {side: jnp.asarray(kw[side])} if side in kw else {}
    if "dropout_rate" in kw:
        kw["dropout_key"] = jax.random.key(7)
    return kw, sizes


def key_heads(kind):
    """Return how many an encoding is to be made for."""
    return SETTINGS[kind].get("K", K)


def test_each_scheme_has_an_oracle_and_its_own_name():
    for name in NAMES:
        assert issubclass(oracle_of(name), oracle.Oracle)
        assert name == "none" or "arXiv:" in encodings.scheme(name).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_weakly_typed(name):
    """The update of a weakly typed parameter has a type of its own: a training step would compile twice."""
    encoding = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(nnx.state(encoding)))


VARIANTS = [(name, options) for name in NAMES for options in oracle_of(name).VARIANTS]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_options_are_those_of_the_papers_loop(name, options):
    encoding = make(name, key_heads=1, **options)
    kw, sizes = setting({"causal": encoding.causal_only, **ONE})
    arrays = inputs(**sizes)
    found = attend(encoding, *arrays, implementation="blockwise", block_sizes=BLOCKS, **kw)
    assert_as_in_the_paper(found, oracles_of(name, encoding, **options), encoding, arrays, **kw)


@pytest.mark.parametrize("name", NAMES)
def test_cross_attention_is_that_of_the_papers_loop(name):
    encoding = make(name, key_heads=1)
    kw, sizes = setting("cross, fewer keys")
    arrays = inputs(**sizes)
    if encoding.causal_only:
        with pytest.raises(ValueError, match="causal=True"):
            attend(encoding, *arrays)
        return
    found = attend(encoding, *arrays, implementation="blockwise", block_sizes=BLOCKS, **kw)
    assert_as_in_the_paper(found, oracles_of(name, encoding), encoding, arrays, **kw)


def oracles_of(name, encoding, heads=N, **options):
    """Return one oracle for each head, with the encoding's parameters."""
    state = nnx.to_pure_dict(nnx.state(encoding))
    p = jax.tree.map(lambda value: np.asarray(value, np.float64), state)
    return [oracle_of(name)(p, n, heads, options) for n in range(heads)]


def assert_as_in_the_paper(
    found, oracles, encoding, arrays, *, causal=False, rows=(0, 1),
    q_positions=None, k_positions=None, q_segments=None, k_segments=None,
):  # fmt: skip
    """Compare rows of a result with the loop over the paper's equation; segments are those of both sides."""
    q, k, v, x = (np.asarray(a) for a in arrays)
    (size, T), S = q.shape[:2], k.shape[1]

    def places(given, length, b):
        if isinstance(given, Consecutive):
            return int(given.start) + np.arange(length)
        return np.arange(length) if given is None else np.broadcast_to(given, (size, length))[b]

    for b in (b for b in rows if b < size):
        q_at, k_at = places(q_positions, T, b), places(k_positions, S, b)
        segments = None if q_segments is None else np.asarray(q_segments)[b]
        if segments is not None:
            starts = [np.flatnonzero(segments == segment)[0] for segment in segments]
            q_at = k_at = np.arange(T) - np.array(starts)

        def visible(row, column, q_at=q_at, k_at=k_at, segments=segments):
            if causal and k_at[column] > q_at[row]:
                return False
            return segments is None or segments[row] == segments[column] != 0

        expected = oracle.attention(
            oracles, q[b], k[b], v[b], q_positions=q_at, k_positions=k_at, visible=visible,
            scale=H**-0.5, x=x[b],
        )  # fmt: skip
        np.testing.assert_allclose(found[b], expected, rtol=0, atol=1e-10)
    # Absolute positions enter with the input.
    x, q_at = x[0, :T], places(q_positions, T, 0)
    embedded = encoding.embed(jnp.asarray(x), jnp.asarray(q_at))
    np.testing.assert_allclose(embedded, oracles[0].embed(x, q_at), atol=1e-10)


FAST = [name for name in choices.IMPLEMENTATIONS if name not in ("auto", "reference")]


def assert_paths_agree(encoding, kind, layouts, paths=FAST, **more_layouts):
    """Fast paths with these block sizes, and more for some, against the reference, in one of the settings.

    Returns:
      The arrays, the reference's output and the options of the call.
    """
    kw, sizes = setting(kind)
    kw["causal"] = kw.get("causal", False) or encoding.causal_only
    arrays = inputs(**sizes)
    weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))
    expected = value_and_grads(encoding, arrays, weight, implementation="reference", **kw)
    for path in carried(encoding, paths):
        for blocks in layouts + more_layouts.get(path, []):
            found = value_and_grads(
                encoding, arrays, weight, implementation=path, block_sizes=blocks, **kw
            )
            assert_trees_close(found, expected, 1e-10)
    return arrays, expected[0], kw


@pytest.mark.parametrize("name", NAMES)
def test_real_positions_are_those_of_the_papers_loop(name):
    encoding = make(name, key_heads=1)
    kw, sizes = setting(REALS)
    if not encoding.reads_positions or (encoding.reals and encoding.axes == 1):
        arrays = inputs(**sizes)
        found = attend(encoding, *arrays, implementation="blockwise", block_sizes=BLOCKS, **kw)
        assert_as_in_the_paper(found, oracles_of(name, encoding), encoding, arrays, **kw)
        return
    # One that adds to the input is checked by the model; of several axes, where its slots meet the positions.
    check = functools.partial(check_places, encoding, kw["q_positions"][None])
    slots = functools.partial(attend, encoding, *inputs(**sizes), **kw)
    with pytest.raises(ValueError, match="whole"):
        (check if encoding.axes == 1 else slots)()


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_paths_agree_at_real_positions_packed_and_windowed(name):
    encoding = make(name)
    if encoding.reads_positions and encoding.reals and encoding.axes == 1:
        at = SCATTERED / 4 + 0.1
        kw = {"causal": True, "window": 9, "positions": at, "segments": PACKED}
        assert_paths_agree(encoding, kw, [BLOCKS], ["blockwise"])


@pytest.mark.parametrize("name", NAMES)
def test_positions_have_the_axes_that_a_scheme_says(name):
    """What has others is refused, but where no positions are read."""
    encoding = make(name)
    grid = jnp.stack([jnp.asarray(SCATTERED), jnp.asarray(SCATTERED) // 7 + ORDER], -1)
    if encoding.axes == 1 and encoding.reads_positions:
        with pytest.raises(ValueError, match=f"{type(encoding).__name__} takes one number.*have 2"):
            check_places(encoding, grid)
        return
    if encoding.reads_positions:
        kw = {"causal": True, "window": 9, "positions": grid, "segments": PACKED}
        assert_paths_agree(encoding, kw, [BLOCKS], FAST)
        return
    arrays = inputs(B=1)
    found, expected = (
        attend(encoding, *arrays, causal=True, q_positions=at, k_positions=at)
        for at in (grid[:1], jnp.arange(T))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


# Interpreted kernels take long to compile: of them the quick tests see these settings, the long ones all.
SEEN_BY_KERNELS = (
    "causal", "window of two sides", "scattered, packed, windowed", "dropout", "cross, causal",
    "an order of its own",
)  # fmt: skip


# What every scheme is seen in, and what another setting has beside other things, is left to the long tests.
QUICK = (
    "causal", "window of two sides", "packed, two arrays", "scattered, packed, windowed", "an order of its own",
    "scattered, window of two sides", "softcap and scale", "dropout", "cross, fewer queries", "cross, causal",
    "from anywhere, both directions", "from anywhere, packed, windowed",
)  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.long) for kind in SETTINGS],
)
def test_paths_agree_with_every_slot_at_once(kind):
    several = kind in ("causal window", "window of two sides", "packed", "cross, causal")
    more = [(16, 8), (64, 64)] if several else []
    paths = [path for path in FAST if path != "pallas" or kind in SEEN_BY_KERNELS]
    assert_paths_agree(EverySlot(key_heads(kind)), kind, [BLOCKS], paths, blockwise=more)


@pytest.mark.long
@pytest.mark.parametrize("kind", SETTINGS)
def test_kernels_agree_with_every_slot_at_once(kind):
    assert_paths_agree(EverySlot(key_heads(kind)), kind, [BLOCKS, (4, 8)])


@pytest.mark.parametrize(
    "kind", ["causal", "packed, both directions", "stretched positions", "from anywhere"]
)
@pytest.mark.parametrize("name", NAMES)
def test_paths_agree_with_each_other_and_with_the_papers_loop(name, kind):
    encoding = make(name, key_heads=key_heads(kind))
    paths = FAST if kind == "packed, both directions" else ["blockwise"]
    arrays, out, kw = assert_paths_agree(encoding, kind, [BLOCKS], paths)
    # The loops know of no tokens that stand in another order than their row's, and of one row of features alone.
    rows = (0,) if kind == "stretched positions" else (0, 1)
    rows = () if kind == "from anywhere" and encoding.needs_tokens else rows
    assert_as_in_the_paper(out, oracles_of(name, encoding), encoding, arrays, rows=rows, **kw)


@pytest.mark.long
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_paths_agree_in_every_setting(name, kind):
    assert_paths_agree(make(name, key_heads=key_heads(kind)), kind, [BLOCKS, (16, 8), (64, 64)])


FEWER_BITS = [
    pytest.param("float32", 1e-4, ["blockwise"], id="float32"),
    pytest.param("float32", 1e-4, ["reference", *FAST], id="float32, all", marks=pytest.mark.long),
    pytest.param("bfloat16", 3e-2, ["reference", *FAST], id="bfloat16", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("dtype", "tolerance", "paths"), FEWER_BITS)
@pytest.mark.parametrize("name", NAMES)
def test_fewer_bits_are_close_to_float64(name, dtype, tolerance, paths):
    """Of the same numbers: bfloat16 has 8 bits, and the gradients of a bfloat16 array are rounded to them too."""
    kw = {"causal": True, "block_sizes": BLOCKS}
    *arrays, weight = (x.astype(dtype) for x in (*inputs(B=1, N=2, K=2), fixed_weight()))
    encoding = make(name, heads=2, key_heads=2, dtype=jnp.float32)
    wide = [x.astype(jnp.float64) for x in (*arrays, weight)]
    exact = value_and_grads(
        make(name, heads=2, key_heads=2), wide[:-1], wide[-1], implementation="reference", **kw
    )
    for implementation in carried(encoding, paths):
        out, (of_parameters, of_arrays) = value_and_grads(
            encoding, arrays, weight, implementation=implementation, **kw
        )
        assert {x.dtype for x in jax.tree.leaves((out, of_arrays))} == {jnp.dtype(dtype)}
        assert {x.dtype for x in jax.tree.leaves(of_parameters)} <= {jnp.dtype("float32")}
        found = (out, (of_parameters, of_arrays))
        assert_trees_close(jax.tree.map(lambda x: x.astype(jnp.float64), found), exact, tolerance)


def fixed_weight():
    return jnp.asarray(np.random.default_rng(9).normal(size=(1, T, 2, H)))


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in NAMES), *VARIANTS], ids=str)
def test_constant_beyond_says_where_a_scheme_becomes_constant(name, options):
    encoding = make(name, **options)
    split, per_head, shared = split_heads(encoding)
    one = nnx.merge(split, jax.tree.map(lambda x: x[0], per_head), shared)
    beyond = encoding.constant_beyond
    for slot in (one.bias, one.key_vectors, one.query_vectors, one.value_vectors):
        if beyond is None:  # then it may not be: a band that is not told of costs time
            far = slot(jnp.array([10**4, 10**5, 10**6]))
            assert far is None or (far[0] != far[1]).any()
            continue
        for sign in (1, -1):
            far = slot(sign * (beyond + jnp.array([0, 1, 2, 50, 10**6, 2**31 - 1 - beyond])))
            if far is not None:
                np.testing.assert_array_equal(far, jnp.broadcast_to(far[:1], far.shape))
