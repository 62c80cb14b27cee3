"""The norms of a Transformer."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from relpos.nn.attention_helpers import unchanged
from relpos.nn.transformer_config import TransformerConfig


def make_norm(config: TransformerConfig, rngs: nnx.Rngs) -> nnx.RMSNorm | nnx.LayerNorm:
    """Make the norm that a config names, over its features."""
    dtype = jnp.dtype(config.dtype)
    if config.norm == "rms":
        return nnx.RMSNorm(config.features, epsilon=config.norm_epsilon, dtype=dtype, rngs=rngs)
    return nnx.LayerNorm(
        config.features, epsilon=config.norm_epsilon, dtype=dtype, rngs=rngs,
        use_fast_variance=False,  # which cancels where the mean is large
    )  # fmt: skip


def make_final_norm(config: TransformerConfig, rngs: nnx.Rngs) -> Callable[[Array], Array]:
    """Make the norm after the last layer; the identity if there is none."""
    return make_norm(config, rngs) if config.final_norm else unchanged
