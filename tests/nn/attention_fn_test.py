"""Encodings inside of Flax's own layers."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import relpos.linen
import relpos.nn
from relpos import encodings

N, D = 3, 18
X = jax.random.normal(jax.random.key(0), (2, 11, D))


def make(name, **options):
    return encodings.create(
        name, num_heads=N, head_dim=D // N, features=D, rngs=nnx.Rngs(1), **options
    )


def layer_of(function, **options):
    return nnx.MultiHeadAttention(
        N, D, decode=False, rngs=nnx.Rngs(0), attention_fn=function, **options
    )


def test_without_positions_it_is_flaxs_own():
    mine, flaxs = (
        layer_of(relpos.nn.attention_fn(make("none"))),
        layer_of(nnx.dot_product_attention),
    )
    np.testing.assert_allclose(mine(X), flaxs(X), atol=1e-5)
    causal = layer_of(relpos.nn.attention_fn(make("none"), causal=True))
    mask = nnx.make_causal_mask(X[..., 0])
    np.testing.assert_allclose(causal(X), flaxs(X, mask=mask), atol=1e-5)


@pytest.mark.parametrize("name", ["t5", "shaw", "rope", "transformer_xl"])
def test_flax_nnx_trains_the_encoding(name):
    layer = layer_of(relpos.nn.attention_fn(make(name), causal=True))
    gradient = nnx.grad(lambda layer: (layer(X) ** 2).sum())(layer)
    function = nnx.to_pure_dict(nnx.state(gradient)).get("attention_fn", {"encoding": {}})
    found, own = function["encoding"], nnx.to_pure_dict(nnx.state(make(name)))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, own)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(found))
    own = relpos.attention(
        layer.query(X), layer.key(X), layer.value(X), encoding=make(name), causal=True
    )
    np.testing.assert_allclose(layer(X), layer.out(own), atol=1e-5)


def test_flax_linen_trains_the_encoding():
    encoding = make("t5")
    layer = flax.linen.MultiHeadDotProductAttention(
        N, attention_fn=relpos.linen.attention_fn(encoding, causal=True)
    )
    variables = layer.init(jax.random.key(0), X)
    tables = variables["params"]["attention_fn"]["function"]["encoding"]
    np.testing.assert_array_equal(tables["table"], encoding.table[...])
    gradient = jax.grad(lambda v: (layer.apply(v, X) ** 2).sum())(variables)
    assert (gradient["params"]["attention_fn"]["function"]["encoding"]["table"] != 0).any()
    other = jax.tree.map(lambda x: x + 1.0 * jnp.arange(x.shape[-1]), variables)
    assert (layer.apply(other, X) != layer.apply(variables, X)).any()


def test_dropout_is_the_layers():
    layer = layer_of(relpos.nn.attention_fn(make("shaw")), dropout_rate=0.5)
    kept = layer(X, deterministic=True)
    np.testing.assert_array_equal(kept, layer(X, deterministic=True))
    assert (layer(X, deterministic=False) != kept).any()


def test_what_it_cannot_do_is_refused():
    layer = layer_of(relpos.nn.attention_fn(make("t5", bidirectional=True)))
    with pytest.raises(ValueError, match=r"no mask or bias of pairs.*causal=True"):
        layer(X, mask=nnx.make_causal_mask(X[..., 0]))
    with pytest.raises(ValueError, match=r"precision='highest' is not supported"):
        layer_of(relpos.nn.attention_fn(make("shaw")), precision="highest")(X)
    with pytest.raises(ValueError, match="sow_weights=False"):
        layer(X, sow_weights=True)
    with pytest.raises(ValueError, match=r"FoX computes features.*relpos.RelativeAttention"):
        layer_of(relpos.nn.attention_fn(make("fox"), causal=True))(X)
    with pytest.raises(ValueError, match="made for 3 heads"):
        nnx.MultiHeadAttention(
            2, D, decode=False, rngs=nnx.Rngs(0),
            attention_fn=relpos.nn.attention_fn(make("t5"), causal=True),
        )(X)  # fmt: skip
