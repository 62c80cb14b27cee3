"""What an encoding computes for each token, against the equation as it stands, and what a cache keeps of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import relpos
from relpos import encodings
from relpos.attention import split_heads
from relpos.attention.per_head import for_heads
from relpos.encodings import Encoding, PerHead, PerKeyHead
from tests.attending import BLOCKS, B, D, EverySlot, H, K, N, T, attend, carried, inputs, make


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_every_slot_has_its_place_in_the_equation():
    encoding, arrays = EverySlot(), inputs()
    found = attend(encoding, *arrays, causal=True, implementation="reference")
    q, k, v, x = (np.asarray(each) for each in arrays)
    split, per_head, shared = split_heads(encoding)
    at = jnp.arange(T)
    d = at[:, None] - at[None, :]
    seen = np.asarray(d >= 0)

    @jax.jit
    def of_head(per_head, q, k, v, x):
        one = nnx.merge(split, per_head, shared)
        f, _ = one.tokens(x, jnp.ones(T, bool))
        logits = one.query(q, at, f) @ one.key(k, at, f).T
        with_keys = jnp.einsum("sw,tsw->ts", one.vector_key(k, at, f), one.query_vectors(d))
        logits = encoding.logit_scale * (logits + with_keys)
        logits += jnp.einsum("tw,tsw->ts", one.vector_query(q, at, f), one.key_vectors(d))
        logits += one.bias(d) + one.block_bias(at, at, f, f)
        weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf))
        values = one.value(v, at, f)[None] + one.value_vectors(d)
        return one.finish(jnp.einsum("ts,tsh->th", weights, values), at, f)

    for n in range(N):
        own = jax.tree.map(lambda p, n=n: p[n], for_heads(per_head, N))
        m = n // (N // K)
        for b in range(B):
            expected = of_head(own, q[b, :, n], k[b, :, m], v[b, :, m], x[b])
            np.testing.assert_allclose(found[b, :, n], expected, rtol=0, atol=1e-12)


@nnx.jit
def run(layer, x, cache=None):
    return layer(x) if cache is None else layer.decode(x, cache)


@pytest.mark.parametrize("window", [None, 6])
def test_every_slot_is_cached(window):
    layer = relpos.RelativeAttention(
        N, D, num_kv_heads=K, head_dim=H, window=window, encoding=EverySlot(), rngs=nnx.Rngs(0), dtype=float
    )  # fmt: skip
    x = inputs()[-1]
    cache, found, at = layer.init_cache(B, T), [], 0
    for size in (18, 1, 18):
        part, cache = run(layer, x[:, at : at + size], cache)
        found.append(part)
        at += size
    np.testing.assert_allclose(jnp.concatenate(found, 1), run(layer, x), rtol=0, atol=1e-12)


class RopeAndALiBi(Encoding):
    """Parameters per head, but not in what is done to keys."""

    def __init__(self, heads):
        make = lambda name: encodings.create(name, num_heads=heads, head_dim=8, rngs=nnx.Rngs(0))  # noqa: E731
        self.rope, self.alibi = make("rope"), make("alibi")

    def query(self, q_TH, positions_T, features_T):
        return self.rope.query(q_TH, positions_T, features_T)

    def key(self, k_SH, positions_S, features_S):
        return self.rope.key(k_SH, positions_S, features_S)

    def bias(self, d):
        return -self.alibi.slopes[...] * jnp.abs(d)


class Stretched(RopeAndALiBi):
    """And in what is done to keys as well."""

    def key(self, k_SH, positions_S, features_S):
        return k_SH * self.alibi.slopes[...]


class TurnedValues(RopeAndALiBi):
    """And in what is done to values, not to keys."""

    def value(self, v_SH, positions_S, features_S):
        return v_SH * self.alibi.slopes[...]


@pytest.mark.parametrize(("made", "heads"), [(RopeAndALiBi, 2), (Stretched, 8), (TurnedValues, 8)])
def test_a_cache_has_as_many_heads_as_keys_and_values_differ_by(made, heads):
    layer = relpos.RelativeAttention(8, 64, encoding=made(8), num_kv_heads=2, rngs=nnx.Rngs(0))
    cache = layer.init_cache(1, 4)
    assert cache.key.shape == cache.value.shape == (1, 4, heads, 8)
    x = jnp.ones((1, 4, 64)) * jnp.arange(1, 5)[:, None]
    np.testing.assert_allclose(run(layer, x, cache)[0], run(layer, x), rtol=0, atol=1e-5)


def expanded(encoding):
    """The encoding of as many key heads as query heads, each with what its group shared."""
    graphdef, per_key_head, others = nnx.split(encoding, PerKeyHead, ...)
    return nnx.merge(graphdef, for_heads(per_key_head, N), others)


PER_KEY_HEAD = ["selective_rope", "path", "selective_rope+fox", "pope"]


@pytest.mark.parametrize("name", PER_KEY_HEAD)
def test_what_is_of_key_heads_is_cached_once_for_each_of_them(name):
    layer = relpos.RelativeAttention(
        N, D, num_kv_heads=K, head_dim=H, encoding=name, rngs=nnx.Rngs(0)
    )
    cache = layer.init_cache(1, 4)
    assert cache.key.shape[:3] == cache.value.shape[:3] == (1, 4, K)


@pytest.mark.parametrize("name", PER_KEY_HEAD)
def test_key_heads_are_shared_as_if_each_query_head_had_its_own(name):
    encoding, (q, k, v, x) = make(name), inputs(B=1)
    own_k, own_v = (jnp.repeat(a, N // K, 2) for a in (k, v))
    kw = {"causal": True, "implementation": "reference"}
    alone = attend(expanded(encoding), q, own_k, own_v, x, **kw)
    for path in carried(encoding, ["reference", "blockwise", "pallas"]):
        kw = {"causal": True, "implementation": path, "block_sizes": BLOCKS}
        found = attend(encoding, q, k, v, x, **kw)
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-12)


class OfBoth(Encoding):
    """Parameters of query heads in one slot, of key heads in the features: those are of key heads."""

    needs_tokens = True

    def __init__(self, heads, key_heads):
        self.slope, self.weight = PerHead(jnp.ones(heads)), PerKeyHead(jnp.ones((key_heads, D)))

    def tokens(self, x_TD, valid_T, state=None):
        return x_TD @ self.weight[...], jnp.zeros(())

    def key(self, k_SH, positions_S, features_S):
        return k_SH * features_S[:, None]

    def bias(self, d):
        return -self.slope[...] * d


def test_features_are_of_key_heads_where_nothing_of_query_heads_is_in_them():
    encoding, (_, k, _, x) = OfBoth(N, K), inputs()
    features, state = encodings.tokens(encoding, x)
    assert features.shape == (B, T, K)
    assert state.shape == (B, K)
    again, _ = encodings.tokens(encoding, x, state=state)
    np.testing.assert_array_equal(again, features)
    assert encodings.transform_keys(encoding, k, jnp.arange(T), N, features).shape == k.shape


def test_an_encoding_of_other_key_heads_is_refused():
    q, k, v, x = inputs()
    with pytest.raises(
        ValueError, match=r"made for 6 key heads \(up\), but the keys have 3: .*num_kv_heads"
    ):
        attend(make("selective_rope", key_heads=N), q, k, v, x, causal=True)
    with pytest.raises(ValueError, match="must divide the 6 query heads, got 4"):
        make("selective_rope", key_heads=4)


def test_an_error_in_a_slot_is_raised_as_it_is():
    class Broken(Stretched):
        def key(self, k_SH, positions_S, features_S):
            raise ValueError("this key cannot be")

    x = jnp.ones((1, 4, 64))
    with pytest.raises(ValueError, match="this key cannot be"):
        relpos.RelativeAttention(8, 64, encoding=Broken(8), rngs=nnx.Rngs(0))(x)


def test_features_are_cached_only_where_they_meet_in_blocks():
    class InQueries(Encoding):
        needs_tokens = True

        def tokens(self, x_TD, valid_T, state=None):
            return x_TD[:, :8], jnp.zeros(())

        def query(self, q_TH, positions_T, features_T):
            return q_TH * features_T

    encoding = InQueries(dims=encodings.Dims(2, 8, 16), rngs=nnx.Rngs(0))
    layer = relpos.RelativeAttention(
        2, 16, encoding=encoding, num_kv_heads=1, rngs=nnx.Rngs(0), dtype=float
    )
    cache = layer.init_cache(1, 6)
    assert cache.features is None
    x = jax.random.normal(jax.random.key(0), (1, 6, 16))
    first, cache = run(layer, x[:, :3], cache)
    second, _ = run(layer, x[:, 3:], cache)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), run(layer, x), atol=1e-12)


def test_no_token_sees_its_future_where_position_ids_repeat():
    ids, order = jnp.asarray([1, 2, 3, 0, 1, 2, 3, 0]), jnp.arange(8)  # digits of two numbers
    q, k, v, _ = inputs(T=8, N=2, K=2)

    def first(v, **kw):
        out = relpos.attention(q, k, v, causal=True, q_positions=ids, k_positions=ids, **kw)
        return out[:, 0].sum()

    seen = lambda **kw: np.flatnonzero(np.abs(jax.grad(first)(v, **kw)).sum((0, 2, 3)))  # noqa: E731
    assert seen().tolist() == [0, 3, 4, 7]
    assert seen(q_order=order, k_order=order).tolist() == [0]


def test_distances_are_of_positions_where_an_order_is_given():
    q, k, v, _ = inputs(T=7, N=2, K=2)
    positions = jnp.asarray([3, 0, 5, 1, 9, 2, 4])
    alibi = encodings.create("alibi", num_heads=2, head_dim=H, rngs=nnx.Rngs(0))
    order = {"q_order": jnp.arange(7), "k_order": jnp.arange(7)}
    places = {"q_positions": positions, "k_positions": positions}
    found = relpos.attention(q, k, v, encoding=alibi, causal=True, **places, **order)
    logits = jnp.einsum("btnh,bsnh->bnts", q, k) / H**0.5
    distances = jnp.abs(positions[:, None] - positions)
    logits -= alibi.slopes[...][:, None, None] * distances
    weights = jax.nn.softmax(jnp.where(jnp.tri(7, dtype=bool), logits, -jnp.inf))
    np.testing.assert_allclose(found, jnp.einsum("bnts,bsnh->btnh", weights, v), atol=1e-12)


def test_what_cannot_be_is_refused():
    q, k, v, x = inputs()
    with pytest.raises(ValueError, match="EverySlot adds products that are not scaled"):
        attend(EverySlot(), q, k, v, x, causal=True, scale=0.0)
    with pytest.raises(ValueError, match=r"the keys are 7 wide.*the queries 10 wide"):
        relpos.attention(q, k[..., :7], v, keys_ready=True)
