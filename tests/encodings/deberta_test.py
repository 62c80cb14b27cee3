import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from relpos.nn import RelativeAttention
from tests import oracle


def row(d, span, log_buckets, max_distance):
    """delta as the paper counts it, or by version 2's make_log_bucket_position."""
    if log_buckets:
        middle, n = span // 2, abs(d)
        if n > middle:
            share = math.log(n / middle) / math.log((max_distance - 1) / middle)
            d = math.copysign(math.ceil(share * (middle - 1) - 1e-12) + middle, d)
        return int(min(max(d + span, 0), 2 * span - 1))
    if d <= -span:
        return 0
    return 2 * span - 1 if d >= span else d + span


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"span": 4},
        {"span": 8, "log_buckets": True, "max_distance": 30},
        {"span": 5, "keys_by_query": True},
    )

    def logit(self, q, k, i, j, scale, x, at, column):
        chosen = {"span": 512, "log_buckets": False, "max_distance": 512} | self.options
        by_query = chosen.pop("keys_by_query", False)
        P, n = self.p["table"], self.head
        of_keys, of_queries = P @ self.p["of_keys"][n], P @ self.p["of_queries"][n]
        forth, back = (row(d, **chosen) for d in (i - j, i - j if by_query else j - i))
        return (q @ k + q @ of_keys[forth] + k @ of_queries[back]) / math.sqrt(3 * len(q))


def test_log_buckets_are_those_of_the_public_code():
    """make_log_bucket_position(256, 512) of DeBERTa version 2, in NumPy."""
    deberta = encodings.create(
        "deberta", num_heads=1, head_dim=2, rngs=nnx.Rngs(0), span=256, log_buckets=True
    )
    d = np.arange(-600, 601)
    middle, sign = 128, np.sign(d)
    near = np.where((d < middle) & (d > -middle), middle - 1, np.abs(d))
    far = np.ceil(np.log(near / middle) / np.log(511 / middle) * (middle - 1)) + middle
    expected = np.where(near <= middle, d, far * sign).astype(int)
    np.testing.assert_array_equal(deberta._row(jnp.asarray(d)), np.clip(expected + 256, 0, 511))


def test_shared_projections_are_those_of_the_layer():
    """A layer with shared projections is one whose own hold the layer's kernels, each key head's for its queries."""
    N, K, H, D = 4, 2, 3, 12
    made = [
        encodings.create(
            "deberta", num_heads=N, head_dim=H, features=D, rngs=nnx.Rngs(1), span=4, share=share
        )
        for share in (True, False)
    ]
    layers = [
        RelativeAttention(N, D, encoding=e, num_kv_heads=K, head_dim=H, rngs=nnx.Rngs(0))
        for e in made
    ]
    kernel = np.asarray(layers[0].qkv.kernel[...]).reshape(D, N + 2 * K, H)
    layers[1].encoding.table[...] = layers[0].encoding.table[...]
    layers[1].encoding.of_queries[...] = jnp.moveaxis(kernel[:, :N], 1, 0)
    of_keys = np.repeat(kernel[:, N : N + K], N // K, 1)
    layers[1].encoding.of_keys[...] = jnp.moveaxis(of_keys, 1, 0)
    x = jax.random.normal(jax.random.key(0), (2, 7, D))
    shared, own = (np.asarray(layer(x)) for layer in layers)
    np.testing.assert_allclose(shared, own, atol=1e-6)
    grads = nnx.grad(lambda layer: (layer(x) ** 2).sum())(layers[0])
    assert jnp.abs(grads["encoding"]["table"][...]).max() > 0


def test_shared_projections_have_to_be_bound():
    deberta = encodings.create("deberta", num_heads=2, head_dim=3, rngs=nnx.Rngs(0), share=True)
    q = jnp.ones((1, 4, 2, 3))
    with pytest.raises(ValueError, match=r"bind\(encoding, query_DNH, key_DKH\)"):
        attention(q, q, q, encoding=deberta)
    bound = encodings.bind(deberta, jnp.ones((6, 2, 3)), jnp.ones((6, 1, 3)))
    assert not jnp.isnan(attention(q, q, q, encoding=bound)).any()
