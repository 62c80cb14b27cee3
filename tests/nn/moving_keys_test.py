"""Keys of a cache that come along, past more tokens than one block has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import relpos

SIZES = {"num_kv_heads": 2, "head_dim": 6}
CHUNKS = (70, 70, 1)


@nnx.jit
def run(layer, x, cache=None):
    return layer(x) if cache is None else layer.decode(x, cache)


@pytest.mark.parametrize("name", ["path", "wall", "path+fox"])
def test_chunks_of_several_blocks_are_the_whole_row(name):
    with jax.enable_x64(True):
        layer = relpos.RelativeAttention(
            4, 10, encoding=name, dtype=float, rngs=nnx.Rngs(0), **SIZES
        )
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, sum(CHUNKS), 10)))
        cache, found, at = layer.init_cache(2, x.shape[1]), [], 0
        for size in CHUNKS:
            part, cache = run(layer, x[:, at : at + size], cache)
            found.append(part)
            at += size
        np.testing.assert_allclose(jnp.concatenate(found, 1), run(layer, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "heads"), [("path", 2), ("wall", 4), ("path+fox", 2), ("cope", 2)]
)
def test_a_cache_keeps_moved_keys_in_float32_and_no_features_of_the_walk(name, heads):
    layer = relpos.RelativeAttention(
        4, 10, encoding=name, dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **SIZES
    )
    cache = layer.init_cache(1, 5)
    assert cache.key.shape == (1, 5, heads, 6)
    assert cache.key.dtype == (jnp.bfloat16 if name == "cope" else jnp.float32)
    shapes = [f.shape for f in jax.tree.leaves(cache.features)]
    assert shapes == ([(1, 5, 4)] if name == "path+fox" else [])
    x = jax.ShapeDtypeStruct((1, 1, 10), jnp.bfloat16)
    out, cache = nnx.eval_shape(run, layer, x, cache)
    assert out.dtype == cache.values.dtype == jnp.bfloat16
