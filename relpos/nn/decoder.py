"""A decoder-only Transformer."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from relpos.nn.cache import Cache
from relpos.nn.embedding import Embedding
from relpos.nn.stack import EncodingOptions, Stack, StackConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(StackConfig):
    """The sizes of a decoder.

    Attributes:
      vocab_size: V.
    """

    vocab_size: int


class Decoder(nnx.Module):
    """Tokens to logits, the embedding tied to the output."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        encoding_options: EncodingOptions | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the model.

        Args:
          config: the sizes.
          encoding_options: scheme name -> its options.
          rngs: for the initial parameters.
        """
        self.config = config
        self.embed = Embedding(config.vocab_size, config, rngs)
        self.stack = Stack(config, causal=True, encoding_options=encoding_options, rngs=rngs)
        self.norm = nnx.RMSNorm(config.features, dtype=jnp.dtype(config.dtype), rngs=rngs)

    @property
    def max_length(self) -> int | None:
        """The longest sequence the encodings have parameters for; None: any."""
        return self.stack.max_length

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        order: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        caches: tuple[Cache, ...] | None = None,
        key: Array | None = None,
    ) -> Any:
        """Return the logits of each next token.

        Args:
          tokens_BT: token ids.
          positions: any integers; None: each token's place in its segment.
          order: what causality and windows go by; None: the positions.
          segments: ids of packed documents, 0 is padding.
          caches: from `init_caches` or an earlier call.
          key: switches dropout on.

        Returns:
          [B, T, V] in float32; with caches the pair of that and the new caches.
        """
        x, grown = self.stack(
            self.embed(tokens_BT),
            positions=positions,
            order=order,
            segments=segments,
            caches=caches,
            key=key,
        )
        logits = self.embed.logits(self.norm(x))
        return logits if caches is None else (logits, grown)

    def init_caches(self, batch: int, max_length: int) -> tuple[Cache, ...]:
        """Return empty caches for all layers, for `batch` rows of up to `max_length` tokens."""
        return self.stack.init_caches(batch, max_length)
