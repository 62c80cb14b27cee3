"""The Linen module is the NNX one: same values, all parameters where a Linen train step looks for them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import relpos
from relpos import encodings
from relpos import linen as relpos_linen

N, D = 3, 18
X = jax.random.normal(jax.random.key(0), (2, 11, D))
NAMES = [name for name in encodings.names() if not encodings.scheme(name).adds_to_input()]


def make(name, **options):
    return relpos_linen.RelativeAttention(N, encoding=name, options=nn.FrozenDict(options))


@pytest.mark.parametrize("name", NAMES)
def test_values_and_parameters_are_those_of_the_nnx_module(name):
    layer = make(name)
    variables = layer.init(jax.random.key(1), X)
    assert set(variables) == {"params"}
    same = relpos.RelativeAttention(N, D, encoding=name, rngs=nnx.Rngs(jax.random.key(5)))
    trained = nnx.state(same, nnx.Param)
    shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(trained))
    assert jax.tree.map(jnp.shape, variables["params"]["layer"]) == shapes
    nnx.replace_by_pure_dict(trained, variables["params"]["layer"])
    nnx.update(same, trained)
    found, expected = jax.jit(layer.apply)(variables, X), same(X)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_every_parameter_of_the_encoding_is_trained():
    layer = make("t5")
    variables = layer.init(jax.random.key(1), X)
    gradients = jax.grad(lambda v: (layer.apply(v, X) ** 2).sum())(variables)
    table = gradients["params"]["layer"]["encoding"]["table"]
    assert table.shape[0] == N
    assert jnp.abs(table).max() > 0


def test_inside_a_linen_model_with_options_and_dropout():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic=True):
            x = relpos_linen.RelativeAttention(
                N, encoding="shaw", encoding_options=nn.FrozenDict(k=2),
                options=nn.FrozenDict(dropout_rate=0.5),
            )(nn.LayerNorm()(x), deterministic=deterministic)  # fmt: skip
            return nn.Dense(4)(x)

    model = Model()
    variables = model.init(jax.random.key(1), X)
    keys = variables["params"]["RelativeAttention_0"]["layer"]["encoding"]
    assert 5 in jax.tree.leaves(keys)[0].shape  # distances -2 ... 2
    run = lambda seed: model.apply(  # noqa: E731
        variables, X, deterministic=False, rngs={"dropout": jax.random.key(seed)}
    )
    np.testing.assert_array_equal(run(0), run(0))
    assert jnp.abs(run(0) - run(1)).max() > 1e-3
    assert jnp.abs(model.apply(variables, X) - run(0)).max() > 1e-3
    with pytest.raises(Exception, match="dropout"):
        model.apply(variables, X, deterministic=False)


@pytest.mark.parametrize("name", ["rope", "fox"])
def test_cached_decoding(name):
    layer = make(name)
    variables = layer.init(jax.random.key(1), X)
    cache = layer.init_cache(2, 11, D)
    outputs = []
    for t in range(11):
        out, cache = layer.apply(variables, X[:, t : t + 1], cache, method="decode")
        outputs.append(out)
    np.testing.assert_allclose(
        jnp.concatenate(outputs, 1), layer.apply(variables, X), rtol=0, atol=1e-4
    )
