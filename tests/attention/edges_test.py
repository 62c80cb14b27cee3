"""Where attention could break: sizes, extreme numbers, transformations, what it refuses."""

import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import relpos
from relpos import attention, encodings
from relpos.attention import Slots, choices, tabulate
from relpos.attention.slots import SLOTS
from tests.attending import (
    BLOCKS,
    WITHIN,
    EverySlot,
    H,
    N,
    assert_trees_close,
    attend,
    carried,
    inputs,
    make,
    value_and_grads,
)

PATHS = ["reference", "blockwise", "pallas"]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def both_ways(encoding, arrays, paths=("pallas", "blockwise"), **kw):
    """Values and gradients of these paths and the reference, compared; the last path's."""
    weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape), arrays[0].dtype)
    expected = value_and_grads(encoding, arrays, weight, implementation="reference", **kw)
    for path in paths:
        found = value_and_grads(
            encoding, arrays, weight, implementation=path, block_sizes=BLOCKS, **kw
        )
        assert_trees_close(found, expected, 1e-10)
    return found


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("T", "S", "causal"),
    [
        (1, 1, True), (17, 17, False), (5, 23, False),
        *(pytest.param(*sizes, True, marks=pytest.mark.long) for sizes in ((7, 16), (9, 1))),
    ], ids=str,
)  # fmt: skip
def test_sizes_about_one_block(T, S, causal):
    # Interpreted kernels take long to compile.
    paths = ("pallas", "blockwise") if T > 1 and T != S and S > 1 else ("blockwise",)
    both_ways(EverySlot(1, heads=1), inputs(T=T, S=S, B=1, N=1, K=1), paths, causal=causal)


@pytest.mark.parametrize("sizes", [{"B": 0}, {"T": 0, "S": 9}, {"T": 9, "S": 0}], ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_nothing_to_attend_to_gives_zeros(sizes, path):
    q, k, v, _ = inputs(**({"T": 9} | sizes), dtype=np.float32)
    out, pull = jax.vjp(lambda *x: attention(*x, implementation=path), q, k, v)
    np.testing.assert_array_equal(out, jnp.zeros(q.shape))
    assert [d.shape for d in pull(out)] == [q.shape, k.shape, v.shape]


def test_a_layer_takes_no_rows():
    layer = relpos.RelativeAttention(2, 8, encoding="rope", rngs=nnx.Rngs(0))
    assert layer(jnp.zeros((0, 9, 8))).shape == (0, 9, 8)


@pytest.mark.usefixtures("float64")
def test_a_row_that_sees_nothing_is_zero_and_leaves_no_trace():
    T = 19
    segments = np.ones((2, T), int)
    segments[0, 3:11] = 0  # over the edge of a block
    segments[1, :] = 0
    segments = jnp.asarray(segments)
    out, (_, gradients) = both_ways(
        EverySlot(1, heads=1), inputs(T=T, N=1, K=1),
        causal=True, q_segments=segments, k_segments=segments,
    )  # fmt: skip
    hidden = np.asarray(segments) == 0
    assert not np.asarray(out)[hidden].any()
    for gradient in gradients[:3]:
        assert np.isfinite(gradient).all()
        assert not np.asarray(gradient)[hidden].any()


class OneDistance(Slots):
    """Lights one distance through one slot."""

    def __init__(self, slot, distance):
        self.slot, self.distance = slot, nnx.Variable(jnp.asarray(distance))

    def _light(self, slot, d, size):
        return jnp.where(d == self.distance[...], size, 0.0) if slot == self.slot else None

    def bias(self, d):
        return self._light("bias", d, 1e4)

    def key_vectors(self, d):
        light = self._light("key", d, 1e4)
        return None if light is None else light[:, None] * jnp.ones((1, H))

    def query_vectors(self, d):
        light = self._light("query", d, 1e4)
        return None if light is None else light[:, None] * jnp.ones((1, H))


@pytest.mark.parametrize("slot", ["bias", "key", "query"])
@pytest.mark.parametrize("distance", [0, 1, 7, 13, -1, -6])
@pytest.mark.parametrize("path", PATHS)
def test_one_huge_distance_lights_exactly_that_diagonal(slot, distance, path):
    T = 21
    ones = jnp.ones((1, T, 1, H))
    units = jnp.eye(T)[None, :, None]
    encoding = OneDistance(slot, distance)
    if path == "pallas":
        encoding.constant_beyond = 14  # it takes no vectors without a band
    out = attention(
        ones, ones, units, encoding=encoding, implementation=path, block_sizes=BLOCKS
    )[0, :, 0]  # fmt: skip
    for i in range(T):
        if 0 <= i - distance < T:
            np.testing.assert_allclose(out[i], np.eye(T)[i - distance], atol=1e-6)
        else:
            np.testing.assert_allclose(out[i], 1 / T, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("path", PATHS)
def test_a_window_of_one_is_the_value_itself(path):
    q, k, v, _ = inputs(N=2, K=2)
    out = attention(q, k, v, window=1, implementation=path, block_sizes=BLOCKS)
    np.testing.assert_allclose(out, v, atol=1e-12)


@pytest.mark.parametrize("window", [37, 2**30, 2**31 - 1, 2**31, 2**40])
def test_a_window_beyond_every_distance_is_none(window):
    q, k, v, _ = inputs(dtype=np.float32)
    kw = {"causal": True, "implementation": "blockwise", "block_sizes": BLOCKS}
    np.testing.assert_array_equal(attention(q, k, v, window=window, **kw), attention(q, k, v, **kw))


@pytest.mark.usefixtures("float64")
def test_scale_zero_is_the_mean_of_the_past():
    q, k, v, _ = inputs(N=2, K=2)
    out = attention(q, k, v, causal=True, scale=0.0, block_sizes=BLOCKS)
    mean = np.cumsum(v, 1) / np.arange(1, v.shape[1] + 1)[:, None, None]
    np.testing.assert_allclose(out, mean, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_values_may_have_a_size_of_their_own():
    q, k, v, _ = inputs()
    paths = [
        attention(q, k, v[..., :4], causal=True, implementation=path, block_sizes=BLOCKS)
        for path in PATHS
    ]
    assert paths[1].shape == (*q.shape[:3], 4)
    for path in paths[1:]:
        np.testing.assert_allclose(paths[0], path, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("path", PATHS)
def test_half_precision_survives_logits_of_ten_thousand(dtype, path):
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(1, 19, 2, H)) * s, dtype) for s in (100, 100, 1))
    run = lambda *x: attention(*x, causal=True, scale=1.0, implementation=path)  # noqa: E731
    out, pull = jax.vjp(run, q, k, v)
    assert np.isfinite(out.astype(np.float32)).all()
    assert all(np.isfinite(d.astype(np.float32)).all() for d in pull(out))
    exact = attention(*(x.astype(jnp.float32) for x in (q, k, v)), causal=True, scale=1.0)
    # The logits differ by half a unit of their last place: up to 2^-9 * 1e4. Only clear winners must agree.
    clear = np.abs(np.asarray(out, np.float32) - np.asarray(exact)).max(-1) < 0.05
    assert clear.mean() > 0.9


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("path", PATHS[1:])
def test_half_precision_has_no_gradient_where_there_is_no_choice(dtype, path):
    random = np.random.default_rng(0)
    q, k, v, weight = (jnp.asarray(random.normal(size=(1, 16, 2, 64)), dtype) for _ in range(4))

    def loss(q, k):
        out = attention(q, k, v, window=1, causal=True, implementation=path)
        return (out.astype(jnp.float32) * weight.astype(jnp.float32)).sum()

    for gradient in jax.grad(loss, (0, 1))(q, k):
        assert jnp.abs(gradient).max() < 1e-5


def sum_of_squares(state, q, graphdef, path):
    encoding = nnx.merge(graphdef, state)
    out = attention(
        q, q, q, encoding=encoding, causal=True, implementation=path, block_sizes=(4, 4)
    )
    return (out**2).sum()


@pytest.fixture(params=PATHS[1:])
def shaw(request):
    encoding = encodings.create("shaw", num_heads=1, head_dim=4, rngs=nnx.Rngs(0), k=2)
    graphdef, state = nnx.split(encoding)
    q = jax.random.normal(jax.random.key(0), (2, 11, 1, 4))
    loss = lambda path: lambda state, q: sum_of_squares(state, q, graphdef, path)  # noqa: E731
    return state, q, loss("reference"), loss(request.param), request.param


@pytest.mark.parametrize("checked", [True, False])
def test_inside_shard_map(shaw, checked):
    state, q, expected, loss, path = shaw
    if path == "pallas" and checked:
        pytest.skip("JAX's interpreter of kernels wants check_vma=False, and says so")
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def sharded(state, q):
        one = lambda state, q: loss(state, q)[None]  # noqa: E731
        split = {"in_specs": (spec(), spec("batch")), "out_specs": spec("batch")}
        return jax.shard_map(one, mesh=mesh, check_vma=checked, **split)(state, q).sum()

    found = jax.jit(jax.grad(sharded, (0, 1)))(state, q)
    assert_trees_close(found, jax.jit(jax.grad(expected, (0, 1)))(state, q), 1e-5)


def test_inside_vmap_remat_and_scan(shaw):
    state, q, expected, loss, _ = shaw
    many = jnp.stack([q, 2 * q, -q])
    gradient = lambda loss: lambda q: jax.grad(loss, (0, 1))(state, q)  # noqa: E731
    wanted = jax.tree.map(lambda *x: jnp.stack(x), *map(jax.jit(gradient(expected)), many))
    assert_trees_close(jax.jit(jax.vmap(gradient(loss)))(many), wanted, 1e-5)
    in_turn = jax.jit(lambda many: jax.lax.map(gradient(jax.checkpoint(loss)), many))
    assert_trees_close(in_turn(many), wanted, 1e-5)


def squares(encoding):
    """A loss by path, and the point where it is differentiated."""
    graphdef, state = nnx.split(encoding)
    q, k, v, x = inputs(B=1, T=11, N=1, K=1)

    def loss(path):
        def of(state, q):
            out = attend(
                nnx.merge(graphdef, state), q, k, v, x, causal=True, implementation=path, block_sizes=(4, 4)
            )  # fmt: skip
            return (out**2).sum()

        return of

    return loss, (state, q)


def slopes(loss, state, q):
    """The gradient, and its slope along the point itself: forward over reverse."""
    return jax.jvp(jax.grad(loss, (0, 1)), (state, q), (state, q))


def marks(name):
    """What is no table, vector or rotation may have derivatives of its own; of the others EverySlot has one each."""
    slots = encodings.scheme(name).overridden & SLOTS
    by_itself = "block_bias" in slots or slots - EverySlot.overridden
    alike = name in ("cope", "fire", "wall")  # path walks too, fox has a bias of pairs
    return () if by_itself and not alike else pytest.mark.long


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10, 2),
    reason="older JAX cannot differentiate a loop forward whose arguments it has no names for",
)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["every slot", *(pytest.param(n, marks=marks(n)) for n in WITHIN)])
def test_gradients_and_second_derivatives_under_vmap_are_those_of_each_call(name):
    loss, (state, q) = squares(
        EverySlot(1, heads=1) if name == "every slot" else make(name, heads=1)
    )
    many = jnp.stack([q, 0.4 * q[:, ::-1]])
    found = jax.jit(jax.vmap(lambda q: slopes(loss("blockwise"), state, q)))(many)
    each = jax.jit(lambda q: slopes(loss("reference"), state, q))
    expected = jax.tree.map(lambda *x: jnp.stack(x), *map(each, many))
    assert_trees_close(found, expected, 1e-10)


@pytest.mark.long
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", encodings.names())
def test_the_reference_has_second_derivatives_in_every_order(name):
    loss, point = squares(make(name, heads=1))
    loss = loss("reference")
    reverse = jax.grad(lambda *p: sum(
        (a * b).sum() for a, b in zip(
            jax.tree.leaves(jax.grad(loss, (0, 1))(*p)), jax.tree.leaves(point), strict=True
        )
    ), (0, 1))(*point)  # fmt: skip
    assert_trees_close(reverse, slopes(loss, *point)[1], 1e-10)
    slope = jax.jvp(loss, point, point)[1]
    gradient = jax.grad(loss, (0, 1))(*point)
    along = sum(
        (a * b).sum() for a, b in zip(*map(jax.tree.leaves, (gradient, point)), strict=True)
    )
    np.testing.assert_allclose(slope, along, rtol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_where_the_encoding_is_not_trained(causal):
    """A bias that nobody differentiates is left out of the backward pass, and nothing else."""
    arrays, encoding = inputs(T=19, B=1, N=1, K=1), EverySlot(1, heads=1)
    weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))

    def gradients(path):
        loss = lambda *x: (  # noqa: E731
            attend(encoding, *x, causal=causal, implementation=path, block_sizes=(4, 8)) * weight
        ).sum()
        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*arrays)

    assert_trees_close(gradients("blockwise"), gradients("reference"), 1e-10)


class Looked(encodings.Encoding):
    """An encoding with an integer table among its variables."""

    def __init__(self):
        self.values = nnx.Param(jnp.arange(5.0))
        self.order = nnx.Variable(jnp.array([4, 2, 0, 1, 3]))

    def bias(self, d):
        return self.values[self.order[...][jnp.clip(d, 0, 4)]]


@pytest.mark.parametrize("places", [None, jnp.arange(0, 22, 2)])
def test_an_encoding_may_hold_integers(places):
    graphdef, trained, rest = nnx.split(Looked(), nnx.Param, ...)
    q = jax.random.normal(jax.random.key(0), (1, 11, 1, 4))

    def loss(trained, path):
        encoding = nnx.merge(graphdef, trained, rest)
        kw = {"q_positions": places, "k_positions": places, "implementation": path}
        return (attention(q, q, q, encoding=encoding, causal=True, **kw) ** 2).sum()

    found, expected = (jax.grad(loss)(trained, path) for path in ("blockwise", "reference"))
    assert_trees_close(found, expected, 1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", encodings.names())
def test_rank_promotion_may_raise_and_float64_be_on(name, dtype):
    def run():
        encoding = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
        q, x = jnp.ones((1, 40, 2, 4), dtype), jnp.ones((1, 40, 8), dtype)
        loss = lambda e, q: attend(  # noqa: E731
            e, q, q, q, x, causal=True, implementation="blockwise", block_sizes=(8, 8)
        ).sum()
        return nnx.grad(loss, argnums=(0, 1))(encoding, q)[1], encoding.embed(x[0], jnp.arange(40))

    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        assert {x.dtype for x in jax.eval_shape(run)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("offset", [10**5, 10**6, 10**7, -(10**6)])
def test_far_positions_turn_as_near_ones_do(offset, path):
    encoding = encodings.create("rope", num_heads=1, head_dim=64, rngs=nnx.Rngs(0))
    q = jax.random.normal(jax.random.key(0), (1, 40, 1, 64))
    at = lambda first: jnp.arange(first, first + 40)  # noqa: E731
    near, far = (
        attention(q, q, q, encoding=encoding, causal=True, implementation=path,
                  q_positions=at(first), k_positions=at(first))
        for first in (0, offset)
    )  # fmt: skip
    assert jnp.abs(near - far).max() < (5e-3 if abs(offset) <= 10**6 else 5e-2)


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
    "fractional block sizes": ({"block_sizes": (8.0, 8.0)}, "must be an integer"),
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


def test_a_segment_in_pieces_is_the_same_by_every_way():
    row = jnp.array([[1, 2, 1, 0, 1, 2, 2]])
    places = jnp.array([[0, 0, 2, 0, 4, 4, 5]])
    q = jax.random.normal(jax.random.key(0), (1, 7, 2, 4))
    alibi = encodings.create("alibi", num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    run = lambda **kw: attention(q, q, q, encoding=alibi, causal=True, window=4, **kw)  # noqa: E731
    same = run(q_segments=row, k_segments=row)
    np.testing.assert_allclose(run(q_segments=row, k_segments=row.copy()), same, atol=1e-6)
    placed = run(q_segments=row, k_segments=row, q_positions=places, k_positions=places)
    np.testing.assert_allclose(placed, same, atol=1e-6)


@pytest.mark.parametrize(("at_once", "K"), [pytest.param(2, 6, marks=pytest.mark.long), (2**31, 3)])
def test_heads_together_as_on_accelerators(monkeypatch, at_once, K):
    """How many heads and rows are computed together is chosen by platform and shape: other choices, here."""
    with jax.enable_x64(True):
        packed = jnp.asarray(np.repeat([[1, 2, 2, 0]], 2, 0).repeat(6, 1))
        kw = {"causal": True, "q_segments": packed, "k_segments": packed}
        kw |= {"dropout_rate": 0.3, "dropout_key": jax.random.key(3)}
        arrays = inputs(T=24, K=K)
        jax.clear_caches()
        monkeypatch.setattr(choices, "heads_at_once", lambda *_: at_once)
        both_ways(EverySlot(key_heads=K), arrays, paths=("blockwise",), **kw)
    jax.clear_caches()


@pytest.mark.parametrize("name", ["none", "transformer_xl"])
def test_the_backward_pass_is_kept_no_vectors_and_no_forward_pass_runs_twice(monkeypatch, name):
    """Heads one after another, as on a CPU: queries, keys, values and results are kept, and a number for each row."""
    jax.clear_caches()
    monkeypatch.setattr(choices, "heads_at_once", lambda *_: 1)
    graphdef, state = nnx.split(make(name, heads=2, dtype=jnp.float32))
    q, k, v, x = inputs(T=64, N=2, K=2, B=1, dtype=np.float32)

    def out(state, q, k, v):
        encoding = nnx.merge(graphdef, state)
        return attend(encoding, q, k, v, x, causal=True, implementation="blockwise")

    kept = sum(leaf.size for leaf in jax.tree.leaves(jax.vjp(out, state, q, k, v)[1]))
    assert kept < 4.5 * q.size + sum(leaf.size for leaf in jax.tree.leaves(state))
    gradient = jax.jit(jax.grad(lambda *x: out(*x).sum(), (0, 1, 2, 3))).lower(state, q, k, v)
    # Weights and peak going forward, weights going back.
    assert gradient.as_text().count("stablehlo.exponential ") == 3
    jax.clear_caches()


def sizes_in(jaxpr):
    """The number of elements of everything that a program computes, inner programs too."""
    for equation in jaxpr.eqns:
        yield from (var.aval.size for var in equation.outvars)
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr)
        ):
            inner = getattr(value, "jaxpr", value)
            if isinstance(inner, jax.extend.core.Jaxpr):
                yield from sizes_in(inner)


@pytest.mark.parametrize("name", WITHIN)
@pytest.mark.parametrize("path", ["auto", "pallas"])
def test_nothing_of_size_t_by_t_is_made(path, name):
    T = 16384
    encoding = encodings.create(name, num_heads=1, head_dim=4, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(encoding)

    def loss(state, q, x):
        encoding = nnx.merge(graphdef, state)
        return attend(encoding, q, q, q, x, causal=True, implementation=path).sum()

    q, x = (
        jax.ShapeDtypeStruct((1, T, 1, 4), jnp.float32),
        jax.ShapeDtypeStruct((1, T, 4), jnp.float32),
    )
    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))
    if not carried(encoding, [path]):
        with pytest.raises(
            ValueError, match=r"walks along the row|mixes the logits|has an attention sink"
        ):
            program(state, q, x)
        return
    largest = max(sizes_in(program(state, q, x).jaxpr))
    assert largest < T * T / 8
    dense = lambda q: attention(q, q, q, implementation="reference")  # noqa: E731
    assert max(sizes_in(jax.make_jaxpr(dense)(q).jaxpr)) >= T * T


def test_what_positions_alone_say_is_not_kept_for_all_heads():
    """XLA moves what is the same for every head out of the loop over heads: for FIRE an array [T, T] for each unit."""
    T, N = 512, 2  # one block
    encoding = encodings.create("fire", num_heads=N, head_dim=4, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(encoding)
    q = jax.ShapeDtypeStruct((1, T, N, 4), jnp.float32)

    def attend(state, q):
        encoding = nnx.merge(graphdef, state)
        return attention(q, q, q, encoding=encoding, implementation="blockwise")

    def plain(q):
        return attention(q, q, q, implementation="blockwise")

    def temporaries(f, *args):
        return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(attend, state, q) < temporaries(plain, q) + 8 * T * T
