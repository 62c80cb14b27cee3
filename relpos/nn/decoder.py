"""A decoder-only Transformer."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, Num

from relpos.nn.cache import Cache
from relpos.nn.earlier import Earlier
from relpos.nn.embedding import Embedding
from relpos.nn.placing import longest, place
from relpos.nn.stack import EncodingOptions, Stack, StackConfig
from relpos.places import Placed, Places


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(StackConfig):
    """The sizes of a decoder.

    Attributes:
      vocab_size: V.
    """

    vocab_size: int


class Decoder(nnx.Module):
    """Tokens to logits, the embedding tied to the output.

    Attributes:
      max_length: the longest sequence that there are positions for; None: any.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        encoding_options: EncodingOptions | None = None,
        places: Places | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the model.

        Args:
          config: the sizes.
          encoding_options: scheme name -> its options.
          places: where tokens stand whose positions are not given; None: one behind the other.
          rngs: for the initial parameters.
        """
        self.config = config
        self.embed = Embedding(config.vocab_size, config, rngs)
        self.places = places or Places()
        self.stack = Stack(
            config, causal=True, encoding_options=encoding_options,
            input_encoding=self.places.embeds, rngs=rngs,
        )  # fmt: skip
        self.max_length = longest(self.stack, self.places)
        self.norm = nnx.RMSNorm(config.features, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        positions: Num[Array, "B T *axes"] | None = None,
        order: Num[Array, "B T"] | None = None,
        embed_positions: Num[Array, "B T *axes"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        caches: tuple[Cache, ...] | None = None,
        earlier: tuple[Earlier, ...] | None = None,
        key: Array | None = None,
    ) -> Any:
        """Return the logits of each next token.

        Args:
          tokens_BT: token ids.
          positions: any integers or reals, or with axes, [B, T, axes]; None: each token's place in its segment, or
            behind the tokens in the caches.
          order: what causality and windows go by; None: the positions, or where these have axes the row.
          embed_positions: of what is added to the input; None: the positions.
          segments: ids of packed documents, 0 is padding.
          caches: from `init_caches` or an earlier call.
          earlier: from `init_earlier` or the call for the segment of the text before this one: all layers see its last
            M tokens too (Transformer-XL, arXiv:1901.02860, sec. 3.2).
          key: switches dropout on.

        Returns:
          [B, T, V] in float32; with caches the pair of that and the new caches, with `earlier` that and the new one.
        """
        given = Placed(positions, order, embed_positions)
        before = caches if earlier is None else earlier
        placed = place(self.places, given, tokens_BT, segments, before, key)
        x, grown = self.stack(
            self.embed(tokens_BT), segments=segments, caches=caches, earlier=earlier, key=key,
            **placed,
        )  # fmt: skip
        logits = self.embed.logits(self.norm(x))
        return logits if before is None else (logits, grown)

    def apart(self) -> "Decoder":
        """Return a copy as loops of decoding want it, see `Stack.apart`."""
        alike = nnx.merge(*nnx.split(self))
        alike.stack = self.stack.apart()
        return alike

    def init_caches(
        self, batch: int, max_length: int, *, positions: Num[Array, "B T *axes"] | None = None
    ) -> tuple[Cache, ...]:
        """Return empty caches for all layers, see `Stack.init_caches`."""
        return self.stack.init_caches(batch, max_length, positions=positions)

    def init_earlier(self, batch: int, length: int) -> tuple[Earlier, ...]:
        """Return what all layers remember before the first segment: nothing, see `Stack.init_earlier`."""
        return self.stack.init_earlier(batch, length)
