"""The contract of every encoding with attention. Schemes are discovered; nothing here names one."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention import choices
from relpos.attention.checks import check_positions
from relpos.attention.slots import SLOTS
from relpos.positions import Consecutive, consecutive
from tests import oracle
from tests.attending import (
    BLOCKS,
    WITHIN,
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
    differentiated,
    inputs,
    make,
    value_and_grads,
)
from tests.kinds import NAMES, OF_EACH_KIND, READ_TOKENS, quick_for, small

OF_REALS = [
    name
    for name in NAMES
    if small(name).reads_positions and small(name).reals and small(name).axes == 1
]


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
    "scattered, packed, window of two sides": {
        "window": (14, 5), "positions": SCATTERED, "segments": PACKED,
    },
    "an order of its own, dropout": {
        "causal": True, "window": 12, "positions": SCATTERED, "order": ORDER, "dropout_rate": 0.3,
        "K": 1,
    },
    "dropout": {"causal": True, "dropout_rate": 0.3},
    "cross, fewer keys": {"S": S, **ONE},
    "cross, fewer queries, softcap and scale": {
        "T": S, "S": T, "softcap": 2.0, "scale": 0.7, **ONE,
    },
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
    sizes = {axis: kw.pop(axis) for axis in ("T", "S", "B", "N", "K") if axis in kw}
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


VARIANTS = [(name, options) for name in NAMES for options in oracle_of(name).VARIANTS]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_options_are_those_of_the_papers_loop(name, options):
    encoding = make(name, key_heads=1, **options)
    kw, sizes = setting({"causal": encoding.causal_only, **ONE})
    arrays = inputs(**sizes)
    found = attend(encoding, *arrays, implementation="blockwise", block_sizes=BLOCKS, **kw)
    assert_as_in_the_paper(found, oracles_of(name, encoding, **options), encoding, arrays, **kw)


@pytest.mark.parametrize("name", quick_for(OF_EACH_KIND))
def test_cross_attention_is_that_of_the_papers_loop(name):
    encoding, heads = of_few_heads(name)
    kw, sizes = setting("cross, fewer keys")
    arrays = inputs(**sizes, N=heads)
    if encoding.causal_only:
        with pytest.raises(ValueError, match="causal=True"):
            attend(encoding, *arrays)
        return
    found = attend(encoding, *arrays, implementation="blockwise", block_sizes=BLOCKS, **kw)
    assert_as_in_the_paper(found, oracles_of(name, encoding, heads), encoding, arrays, **kw)


def of_few_heads(name, **kw):
    """An encoding, and of how many heads it is: JAX traces a program of one head in half the time."""
    heads = 2 if encodings.scheme(name).mixes else 1
    return make(name, heads=heads, key_heads=1, **kw), heads


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
            scale=encoding.logit_scale or H**-0.5, x=x[b],
        )  # fmt: skip
        np.testing.assert_allclose(found[b], expected, rtol=0, atol=1e-10)
    assert_embedded_as_in_the_paper(encoding, oracles[0], x[0, :T], places(q_positions, T, 0))


def assert_embedded_as_in_the_paper(encoding, oracle, x, at):
    """Absolute positions enter with the input."""
    embedded = encoding.embed(jnp.asarray(x), jnp.asarray(at))
    np.testing.assert_allclose(embedded, oracle.embed(np.asarray(x), at), atol=1e-10)


def weight_of(arrays):
    return jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))


FAST = [name for name in choices.IMPLEMENTATIONS if name not in ("auto", "reference")]


def assert_paths_agree(encoding, kind, layouts, paths=FAST, heads=N, **more_layouts):
    """Fast paths with these block sizes, and more for some, against the reference, in one of the settings.

    Returns:
      The arrays, the reference's output and the options of the call.
    """
    kw, sizes = setting(kind)
    kw["causal"] = kw.get("causal", False) or encoding.causal_only
    if encoding.max_length is not None:  # it has no place before 0
        kw |= {
            name: consecutive(where.start + 5)
            for name, where in kw.items()
            if isinstance(where, Consecutive)
        }
    arrays = inputs(**{"N": heads} | sizes)
    weight = weight_of(arrays)
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
    encoding, heads = of_few_heads(name)
    kw, sizes = setting(REALS | {"N": heads})
    # To one of several axes that is no place of a grid, whose next row begins elsewhere, one number is that of all.
    one_number = encoding.axes == 1 or encoding.shift_invariant
    if not encoding.reads_positions or (encoding.reals and one_number):
        arrays = inputs(**sizes)
        found = attend(encoding, *arrays, implementation="blockwise", block_sizes=BLOCKS, **kw)
        assert_as_in_the_paper(found, oracles_of(name, encoding, heads), encoding, arrays, **kw)
        return
    # One that adds to the input is checked by the model; of several axes, where its slots meet the positions.
    check = functools.partial(check_positions, encoding, kw["q_positions"][None])
    slots = functools.partial(attend, encoding, *inputs(**sizes), **kw)
    with pytest.raises(ValueError, match="integers"):
        (check if encoding.axes == 1 else slots)()


@pytest.mark.long
@pytest.mark.parametrize("name", OF_REALS)
def test_paths_agree_at_real_positions_packed_and_windowed(name):
    kw = {"causal": True, "window": 9, "positions": SCATTERED / 4 + 0.1, "segments": PACKED}
    assert_paths_agree(make(name), kw, [BLOCKS], ["blockwise"])


@pytest.mark.parametrize("name", NAMES)
def test_positions_have_the_axes_that_a_scheme_says(name):
    """What has others is refused, but where no positions are read."""
    encoding, heads = of_few_heads(name)
    columns = [SCATTERED, SCATTERED // 7 + ORDER, SCATTERED % 11 - ORDER]
    grid = jnp.stack([jnp.asarray(x) for x in columns[: max(2, encoding.axes or 2)]], -1)
    if encoding.axes == 1 and encoding.reads_positions:
        with pytest.raises(ValueError, match=f"{type(encoding).__name__} takes one number.*have 2"):
            check_positions(encoding, grid)
        return
    if encoding.reads_positions:
        kw = {"causal": True, "window": 9, "positions": grid, "segments": PACKED, "K": 1}
        assert_paths_agree(encoding, kw, [BLOCKS], FAST, heads)
        return
    arrays = inputs(B=1, N=heads, K=1)
    found, expected = (
        attend(encoding, *arrays, causal=True, q_positions=at, k_positions=at)
        for at in (grid[:1], jnp.arange(T))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", READ_TOKENS)
def test_padding_leaves_no_trace_in_what_is_read_of_tokens(name):
    """Nor where it stands between tokens, as in rows of a cache that got chunks of different lengths."""
    encoding, (*_, x) = make(name), inputs(B=1)
    there = np.arange(T) % 3 != 1
    found, state = encodings.tokens(encoding, x, jnp.asarray(there)[None])
    expected = encodings.tokens(encoding, x[:, there])
    assert_trees_close((jax.tree.map(lambda f: f[:, there], found), state), expected, 1e-10)


# What EverySlot is seen in, schemes that fill a slot which it leaves empty are seen in as well.
OF_OTHER_SLOTS = [
    name for name in WITHIN if (encodings.scheme(name).overridden & SLOTS) - EverySlot.overridden
]


def marks(name, kind):
    """What another quick test has of most schemes is for the long tests."""
    quick = {"causal": OF_EACH_KIND, "from anywhere": OF_OTHER_SLOTS}.get(kind, ())
    return () if name in quick else pytest.mark.long


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=marks(name, kind))
        for name in WITHIN
        for kind in ("causal", "packed, both directions", "stretched positions", "from anywhere")
    ],
)
def test_paths_agree_with_each_other_and_with_the_papers_loop(name, kind):
    encoding, heads = make(name, key_heads=key_heads(kind)), N
    if kind == "from anywhere":
        encoding, heads = of_few_heads(name)
    arrays, out, kw = assert_paths_agree(encoding, kind, [BLOCKS], ["blockwise"], heads)
    # The loops know of no tokens that stand in another order than their row's, and of one row of features alone.
    rows = (0,) if kind == "stretched positions" else (0, 1)
    rows = () if kind == "from anywhere" and encoding.needs_tokens else rows
    oracles = oracles_of(name, encoding, heads)
    assert_as_in_the_paper(out, oracles, encoding, arrays, rows=rows, **kw)


@pytest.mark.parametrize("name", [name for name in WITHIN if name not in OF_EACH_KIND])
def test_heads_are_those_of_the_papers_loop(name):
    """The quick part of the test above for schemes that share a kind: each one's own numbers."""
    kw, sizes = setting("causal")
    encoding, arrays = make(name), inputs(**sizes)
    found = attend(encoding, *arrays, implementation="blockwise", block_sizes=BLOCKS, **kw)
    assert_as_in_the_paper(found, oracles_of(name, encoding), encoding, arrays, **kw)


TOGETHER = np.ones(T, int)
PLACED = {  # the first goes beyond the trained tables and bands, to distances of 288
    "far apart": (STRETCHED[0], TOGETHER),
    "scattered": (SCATTERED[1], TOGETHER),
    "scattered and packed": (SCATTERED[0], PACKED[0]),
}


@pytest.mark.parametrize("name", quick_for(OF_EACH_KIND))
def test_paths_agree_wherever_tokens_stand_and_whatever_they_are_packed_with(name):
    """Positions and segments are data: one program of each path takes them all."""
    encoding, heads = of_few_heads(name)
    oracles, arrays = oracles_of(name, encoding, heads), inputs(B=1, N=heads, K=1)
    if encoding.adds_to_input():
        assert_embedded_as_in_the_paper(encoding, oracles[0], arrays[-1][0], PLACED["far apart"][0])
        return
    kw = {"causal": encoding.causal_only}
    path = functools.partial(differentiated, encoding, weight_of(arrays), **kw)
    reference = path(implementation="reference")
    blockwise = path(implementation="blockwise", block_sizes=BLOCKS)
    for kind, places in PLACED.items():
        positions, segments = (jnp.asarray(x)[None] for x in places)
        expected = reference(arrays, positions=positions, segments=segments)
        found = blockwise(arrays, positions=positions, segments=segments)
        assert_trees_close(found, expected, 1e-10)
        if kind == "far apart":
            at = {"q_positions": positions, "k_positions": positions}
            assert_as_in_the_paper(expected[0], oracles, encoding, arrays, **at, **kw)
    # Positions that are not given are each segment's own: gradients there are another setting's.
    attended = functools.partial(
        attend, encoding, *arrays, implementation="blockwise", block_sizes=BLOCKS, **kw
    )
    blockwise = jax.jit(lambda segments: attended(q_segments=segments, k_segments=segments))
    for row in PACKED:
        segments, positions = jnp.asarray(row)[None], places_in_segments(row)
        expected = reference(arrays, positions=positions, segments=segments)
        np.testing.assert_allclose(blockwise(segments), expected[0], rtol=0, atol=1e-10)
        of_both = {"q_segments": segments, "k_segments": segments}
        assert_as_in_the_paper(expected[0], oracles, encoding, arrays, **of_both, **kw)


def places_in_segments(row):
    """Return each token's distance to the first of its segment, [1, T]."""
    return jnp.arange(T)[None] - np.array([[np.flatnonzero(row == one)[0] for one in row]])


# Blocks and kernels are the engine's: EverySlot is seen in each setting with all of them, a scheme with one of these.
IN_TURN = (("pallas", BLOCKS), ("blockwise", (16, 8)), ("blockwise", (64, 64)))
LAYOUTS = [BLOCKS, (16, 8), (64, 64)]


@pytest.mark.long
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", WITHIN)
def test_paths_agree_in_every_setting(name, kind):
    encoding = make(name, key_heads=key_heads(kind))
    if "softcap" in SETTINGS[kind] and not encoding.normalized:
        with pytest.raises(ValueError, match=r"softcap=2\.0 caps the logits"):
            assert_paths_agree(encoding, kind, [BLOCKS])
        return
    if "pallas" not in carried(encoding, FAST):  # it walks, mixes or has a sink: EverySlot does not
        assert_paths_agree(encoding, kind, LAYOUTS)
        return
    turn = list(SETTINGS).index(kind) + NAMES.index(name)
    path, blocks = IN_TURN[turn % len(IN_TURN)]
    assert_paths_agree(encoding, kind, [blocks], [path])
