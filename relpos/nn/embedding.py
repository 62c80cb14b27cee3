"""Token embeddings, and the logits of tokens."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from relpos.nn.linear import product
from relpos.nn.transformer_config import TransformerConfig
from relpos.sharding import left_to_the_compiler


class Embedding(nnx.Module):
    """sqrt(D) E[token], and logits x E^T, or x U^T + b where they have a table or a bias of their own."""

    def __init__(
        self, vocab_size: int, config: TransformerConfig, rngs: nnx.Rngs, *, has_logits: bool
    ):
        """Make the tables for V tokens; the config says whether logits, if there are any, have their own."""
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be positive, got {vocab_size}")
        table = functools.partial(
            nnx.Embed, vocab_size, config.features, dtype=jnp.dtype(config.dtype), rngs=rngs,
            embedding_init=jax.nn.initializers.normal(config.features**-0.5),
        )  # fmt: skip
        self.table = table()
        self.of_logits = table() if has_logits and not config.tied_embeddings else None
        biased = has_logits and "logits" in config.bias
        self.bias = nnx.Param(jnp.zeros(vocab_size, jnp.float32)) if biased else None

    def __call__(self, tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Return the vectors of tokens."""
        graphdef, state = nnx.split(self.table)
        look_up = left_to_the_compiler(_look_up, (graphdef,), tokens_BT, 0, 1)
        return look_up(state, tokens_BT) * self.table.features**0.5

    def logits(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return the logits of all tokens, in float32."""
        table = self.table if self.of_logits is None else self.of_logits
        logits = product(x_BTD, table.embedding[...].T.astype(x_BTD.dtype)).astype(jnp.float32)
        return (
            logits if self.bias is None else logits + self.bias[...].astype(jnp.float32)[None, None]
        )


def _look_up(graphdef, state, tokens_BT):
    return nnx.merge(graphdef, state)(tokens_BT)
