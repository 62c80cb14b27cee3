"""A Transformer that sees both sides of every token."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos.nn.decoder import DecoderConfig
from relpos.nn.embedding import Embedding
from relpos.nn.placing import longest, place
from relpos.nn.stack import EncodingOptions, Stack
from relpos.places import Placed, Places


class Encoder(nnx.Module):
    """Tokens to vectors; `logits` turns these into logits of tokens, the embedding tied to the output.

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
            config, causal=False, encoding_options=encoding_options,
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
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        """Return a vector for each token.

        Args:
          tokens_BT: token ids.
          positions: any integers or reals, or with axes, [B, T, axes]; None: each token's place in its segment.
          order: what windows go by; None: the positions, or where these have axes the row.
          embed_positions: of what is added to the input; None: the positions.
          segments: ids of packed documents, 0 is padding.
          key: switches dropout on.
        """
        given = Placed(positions, order, embed_positions)
        return self.read(self.embed(tokens_BT), tokens_BT, segments, given, key)

    def read(self, x_BTD, tokens_BT, segments, given: Placed, key) -> Float[Array, "B T D"]:
        """Return a vector for each token that is embedded as x."""
        placed = place(self.places, given, tokens_BT, segments, key=key)
        x_BTD, _ = self.stack(x_BTD, segments=segments, key=key, **placed)
        return self.norm(x_BTD)

    def logits(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return the logits of all tokens, in float32."""
        return self.embed.logits(x_BTD)


class TokenEncoder(Encoder):
    """An encoder that names the token at each place, for what is masked; called as a `Decoder` is."""

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        positions: Num[Array, "B T *axes"] | None = None,
        order: Num[Array, "B T"] | None = None,
        embed_positions: Num[Array, "B T *axes"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "B T V"]:
        """Return the logits of the token that stands at each place; the arguments are those of `Encoder`."""
        x_BTD = super().__call__(
            tokens_BT, positions=positions, order=order, embed_positions=embed_positions,
            segments=segments, key=key,
        )  # fmt: skip
        return self.logits(x_BTD)
