"""The contract of every encoding with attention. Schemes are discovered; nothing here names one."""

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
ORDER = np.random.default_rng(4).permutation(T)
SETTINGS = {
    "causal": {"causal": True},
    "bidirectional": {},
    "causal window": {"causal": True, "window": 5},
    "window of one": {"causal": True, "window": 1},
    "bidirectional window": {"window": 7},
    "packed": {"causal": True, "q_segments": PACKED, "k_segments": PACKED},
    "packed, both directions": {"q_segments": PACKED, "k_segments": PACKED},
    "packed, two arrays": {"causal": True, "q_segments": PACKED, "k_segments": PACKED.copy()},
    "scattered positions": {"causal": True, "q_positions": SCATTERED, "k_positions": SCATTERED},
    "scattered, packed, windowed": {
        "causal": True,
        "window": 9,
        "q_positions": SCATTERED,
        "k_positions": SCATTERED,
        "q_segments": PACKED,
        "k_segments": PACKED,
    },
    "an order of its own": {
        "causal": True,
        "window": 12,
        "q_positions": SCATTERED,
        "k_positions": SCATTERED,
        "q_order": ORDER,
        "k_order": ORDER,
    },
    "softcap and scale": {"causal": True, "softcap": 2.0, "scale": 0.7},
    "dropout": {"causal": True, "dropout_rate": 0.3},
    "cross, fewer keys": {"S": S},
    "cross, fewer queries": {"T": S, "S": T},
    "cross, causal": {"S": S, "causal": True},
    "from anywhere": {
        "S": S,
        "causal": True,
        "q_positions": consecutive([3, 20]),
        "k_positions": consecutive([0, 2]),
    },
    "from anywhere, both directions": {
        "q_positions": consecutive(9),
        "k_positions": consecutive(-4),
    },
    "from anywhere, packed, windowed": {
        "causal": True,
        "window": 7,
        "q_positions": consecutive([5, -5]),
        "k_positions": consecutive(0),
        "q_segments": PACKED,
        "k_segments": PACKED,
    },
}


def setting(name):
    kw = dict(SETTINGS[name])
    sizes = {axis: kw.pop(axis) for axis in ("T", "S") if axis in kw}
    if "q_segments" in kw:
        same = kw["q_segments"] is kw["k_segments"]
        kw["q_segments"] = jnp.asarray(kw["q_segments"])
        kw["k_segments"] = kw["q_segments"] if same else jnp.asarray(kw["k_segments"])
    if "q_positions" in kw and not isinstance(kw["q_positions"], Consecutive):
        kw["q_positions"], kw["k_positions"] = map(
            jnp.asarray, (kw["q_positions"], kw["k_positions"])
        )
    if "q_order" in kw:
        kw["q_order"], kw["k_order"] = map(jnp.asarray, (kw["q_order"], kw["k_order"]))
    if "dropout_rate" in kw:
        kw["dropout_key"] = jax.random.key(7)
    return kw, sizes


def test_each_scheme_has_an_oracle_and_its_own_name():
    for name in NAMES:
        assert issubclass(oracle_of(name), oracle.Oracle)
        assert name == "none" or "arXiv:" in encodings.scheme(name).__doc__


# Where the two paths are compared for every scheme below, the loop is asked of one of them.
KINDS = [
    (kind, "reference") for kind in ("causal", "packed", "scattered", "bidirectional", "cross")
]
KINDS += [(kind, "blockwise") for kind in ("bidirectional", "cross", "reals")]


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_weakly_typed(name):
    """The update of a weakly typed parameter has a type of its own: a training step would compile twice."""
    encoding = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(nnx.state(encoding)))


@pytest.mark.parametrize(("kind", "implementation"), KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_papers_loop(name, kind, implementation):
    assert_as_in_the_paper(name, {}, kind, implementation)


VARIANTS = [(name, options) for name in NAMES for options in oracle_of(name).VARIANTS]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_options_are_those_of_the_papers_loop(name, options):
    assert_as_in_the_paper(name, options, "bidirectional", "blockwise")


def assert_as_in_the_paper(name, options, kind, implementation):
    encoding = make(name, **options)
    if options and encoding.causal_only:
        kind = "causal"
    q, k, v, x = inputs(S=S if kind == "cross" else None)
    if kind in ("bidirectional", "cross") and encoding.causal_only:
        with pytest.raises(ValueError, match="causal=True"):
            attend(encoding, q, k, v, x)
        return
    causal = kind in ("causal", "packed", "scattered", "reals")
    kw = {"causal": causal}
    # Beyond the trained tables and bands: distances up to 290.
    stretch = np.array([8 * t for t in range(T)])
    places = {"q": np.arange(T), "k": np.arange(k.shape[1])}
    segments = np.ones((B, T), int)
    if kind == "packed":
        segments = PACKED
        kw["q_segments"] = kw["k_segments"] = jnp.asarray(segments)
    if kind == "scattered":
        places = {"q": stretch, "k": stretch}
        kw |= {f"{side}_positions": jnp.asarray(place) for side, place in places.items()}
    if kind == "reals":
        places = {"q": 1.37 * np.arange(T) - 9.1, "k": 1.37 * np.arange(T) - 9.1}
        kw |= {f"{side}_positions": jnp.asarray(place) for side, place in places.items()}
        if encoding.reads_positions and not (encoding.reals and encoding.axes == 1):
            check = (
                check_places
                if encoding.axes == 1
                else lambda *_: attend(encoding, q, k, v, x, **kw)
            )
            with pytest.raises(ValueError, match="whole"):
                check(encoding, kw["q_positions"][None])
            return
    valid = jnp.asarray(segments != 0)
    found = attend(
        encoding, q, k, v, x, valid=valid, implementation=implementation, block_sizes=BLOCKS, **kw
    )

    state = nnx.to_pure_dict(nnx.state(encoding))
    p = jax.tree.map(lambda value: np.asarray(value, np.float64), state)
    oracles = [oracle_of(name)(p, n, N, options) for n in range(N)]
    for b in range(B):
        q_at, k_at = places["q"], places["k"]
        if kind == "packed":
            starts = [np.flatnonzero(segments[b] == segments[b][t])[0] for t in range(T)]
            q_at = k_at = np.arange(T) - np.array(starts)

        def visible(row, column, b=b, q_at=q_at, k_at=k_at):
            if causal and k_at[column] > q_at[row]:
                return False
            if kind == "packed":
                return segments[b][row] == segments[b][column] != 0
            return True

        expected = oracle.attention(
            oracles, *(np.asarray(a[b]) for a in (q, k, v)), q_positions=q_at, k_positions=k_at,
            visible=visible, scale=H**-0.5, x=np.asarray(x[b]),
        )  # fmt: skip
        np.testing.assert_allclose(found[b], expected, rtol=0, atol=1e-10)
    # Absolute positions enter with the input.
    embedded = encoding.embed(x[0, :T], jnp.asarray(places["q"]))
    np.testing.assert_allclose(
        embedded, oracles[0].embed(np.asarray(x[0, :T]), places["q"]), atol=1e-10
    )


FAST = [name for name in choices.IMPLEMENTATIONS if name not in ("auto", "reference")]


def assert_paths_agree(encoding, kind, layouts, paths=FAST, **more_layouts):
    """Fast paths with these block sizes, and more for some, against the reference; kind: a setting or its options."""
    kw, sizes = setting(kind) if isinstance(kind, str) else (kind, {})
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


@pytest.mark.parametrize("name", NAMES)
def test_positions_mean_what_a_scheme_says_they_do(name):
    """Positions of as many axes, and reals, as it says; any where none are read: what is no such is refused."""
    encoding = make(name)
    reals = jnp.asarray(SCATTERED / 4 + 0.1)
    grid = jnp.stack([jnp.asarray(SCATTERED), jnp.asarray(SCATTERED) // 7 + ORDER], -1)
    if not encoding.reads_positions:
        arrays = inputs()
        found, expected = (
            attend(encoding, *arrays, causal=True, q_positions=at, k_positions=at)
            for at in (grid, jnp.arange(T))
        )
        np.testing.assert_array_equal(found, expected)
        return
    if encoding.axes == 1:
        with pytest.raises(ValueError, match=f"{type(encoding).__name__} takes one number.*have 2"):
            check_places(encoding, grid)
    if encoding.axes == 1 and not encoding.reals:
        return  # that they are refused is seen above
    at = reals if encoding.axes == 1 else grid
    kw = {"causal": True, "window": 9, "q_positions": at, "k_positions": at}
    kw |= {"q_segments": jnp.asarray(PACKED), "k_segments": jnp.asarray(PACKED)}
    assert_paths_agree(encoding, kw, [BLOCKS], ["blockwise"] if encoding.axes == 1 else FAST)


# Interpreted kernels take long to compile: of them the quick tests see these settings, the long ones all.
SEEN_BY_KERNELS = (
    "causal", "bidirectional window", "scattered, packed, windowed", "dropout", "cross, causal",
    "an order of its own",
)  # fmt: skip


@pytest.mark.parametrize("kind", SETTINGS)
def test_paths_agree_with_every_slot_at_once(kind):
    several = kind in ("causal window", "bidirectional window", "packed", "cross, causal")
    more = [(16, 8), (64, 64)] if several else []
    paths = [path for path in FAST if path != "pallas" or kind in SEEN_BY_KERNELS]
    assert_paths_agree(EverySlot(), kind, [BLOCKS], paths, blockwise=more)


@pytest.mark.long
@pytest.mark.parametrize("kind", SETTINGS)
def test_kernels_agree_with_every_slot_at_once(kind):
    assert_paths_agree(EverySlot(), kind, [BLOCKS, (4, 8)])


@pytest.mark.parametrize(
    "kind", ["causal", "packed, both directions", "scattered positions", "from anywhere"]
)
@pytest.mark.parametrize("name", NAMES)
def test_paths_agree_in_values_and_gradients(name, kind):
    paths = FAST if kind == "packed, both directions" else ["blockwise"]
    assert_paths_agree(make(name), kind, [BLOCKS], paths)


@pytest.mark.long
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_paths_agree_in_every_setting(name, kind):
    assert_paths_agree(make(name), kind, [BLOCKS, (16, 8), (64, 64)])


FEWER_BITS = [
    pytest.param("float32", 1e-4, ["reference", "blockwise"], id="float32"),
    pytest.param("float32", 1e-4, FAST, id="float32, fast", marks=pytest.mark.long),
    pytest.param("bfloat16", 3e-2, ["reference", *FAST], id="bfloat16", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("dtype", "tolerance", "paths"), FEWER_BITS)
@pytest.mark.parametrize("name", NAMES)
def test_fewer_bits_are_close_to_float64(name, dtype, tolerance, paths):
    """Of the same numbers: bfloat16 has 8 bits, and the gradients of a bfloat16 array are rounded to them too."""
    kw = {"causal": True, "block_sizes": BLOCKS}
    *arrays, weight = (x.astype(dtype) for x in (*inputs(B=1, N=2, K=1), fixed_weight()))
    encoding = make(name, heads=2, dtype=jnp.float32)
    wide = [x.astype(jnp.float64) for x in (*arrays, weight)]
    exact = value_and_grads(
        make(name, heads=2), wide[:-1], wide[-1], implementation="reference", **kw
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
