"""Where tokens stand, in layers and models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.nn import Decoder, Encoder, TokenEncoder, TransformerConfig

B, T, V = 2, 9, 11


def make(kind, *encodings):
    sizes = TransformerConfig(
        num_layers=2, features=8, num_heads=2, encodings=encodings
    )  # fmt: skip
    return kind(sizes, vocab_size=V, rngs=nnx.Rngs(0))


X = jnp.asarray(np.random.default_rng(1).integers(0, V, (B, T)), jnp.int32)


@pytest.mark.parametrize("kind", [Decoder, Encoder, TokenEncoder])
def test_what_is_added_to_the_input_has_places_of_its_own(kind):
    model = make(kind, "sinusoidal", "rope")
    here, there = jnp.arange(T), 3 * jnp.arange(T) % 7
    run = nnx.jit(lambda model, **places: model(X, **places))
    both = run(model, positions=here, embed_positions=there)
    assert jnp.abs(both - run(model, positions=here)).max() > 1e-2
    assert jnp.abs(both - run(model, positions=there, order=here)).max() > 1e-2
    np.testing.assert_array_equal(run(model, positions=here, embed_positions=here), run(model))


def test_a_table_that_is_added_to_the_input_is_of_whole_places_and_one_axis():
    model = make(Decoder, "learned", "rope")
    with pytest.raises(ValueError, match="Learned is defined for integer positions only"):
        jax.eval_shape(lambda: model(X, positions=jnp.arange(T) / 2))
    with pytest.raises(ValueError, match="Learned takes one number"):
        jax.eval_shape(lambda: model(X, embed_positions=jnp.zeros((T, 2), int)))
