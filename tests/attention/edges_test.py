"""Where attention could break: sizes, extreme numbers, transformations."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import relpos
from relpos import attention, encodings
from relpos.attention import Slots, choices
from tests.attending import (
    BLOCKS,
    EverySlot,
    H,
    assert_trees_close,
    inputs,
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
