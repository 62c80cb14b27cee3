"""Token embeddings, tied to the output."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from relpos.nn.linear import product
from relpos.nn.stack import StackConfig
from relpos.sharding import left_to_the_compiler


class Embedding(nnx.Module):
    """sqrt(D) E[token], and back: x E^T."""

    def __init__(self, vocab_size: int, config: StackConfig, rngs: nnx.Rngs):
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be positive, got {vocab_size}")
        dtype = jnp.dtype(config.dtype)
        init = jax.nn.initializers.normal(config.features**-0.5)
        self.table = nnx.Embed(
            vocab_size, config.features, embedding_init=init, dtype=dtype, rngs=rngs
        )

    def __call__(self, tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Return the vectors of tokens."""
        graphdef, state = nnx.split(self.table)
        look_up = left_to_the_compiler(_look_up, (graphdef,), tokens_BT, 0, 1)
        return look_up(state, tokens_BT) * self.table.features**0.5

    def logits(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return the logits of all tokens, in float32."""
        return product(x_BTD, self.table.embedding[...].T.astype(x_BTD.dtype)).astype(jnp.float32)


def _look_up(graphdef, state, tokens_BT):
    return nnx.merge(graphdef, state)(tokens_BT)
