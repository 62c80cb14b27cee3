"""What models of one sequence of tokens share."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos.nn.embedding import Embedding
from relpos.nn.layer_encodings import EncodingOptions
from relpos.nn.norms import make_final_norm
from relpos.nn.placing import longest, place
from relpos.nn.stack import Stack
from relpos.nn.transformer_config import TransformerConfig
from relpos.places import Placed, Places


class TokenModel(nnx.Module):
    """Embeddings, a stack of layers and a final norm.

    Attributes:
      max_length: the longest sequence that there are positions for; None: any.
    """

    causal = False
    has_logits = False

    def __init__(
        self,
        config: TransformerConfig,
        *,
        vocab_size: int,
        encoding_options: EncodingOptions | None = None,
        places: Places | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the model.

        Args:
          config: the sizes and the kind of the layers.
          vocab_size: V.
          encoding_options: scheme name -> its options.
          places: the positions of tokens for which a call gives none; None: consecutive ones.
          rngs: for the initial parameters.
        """
        self.config = config
        self.embed = Embedding(vocab_size, config, rngs, has_logits=self.has_logits)
        self.places = places or Places()
        self.stack = Stack(
            config, causal=self.causal, encoding_options=encoding_options,
            input_encoding=self.places.embeds, rngs=rngs,
        )  # fmt: skip
        self.max_length = longest(self.stack, self.places)
        self.norm = make_final_norm(config, rngs)

    def read(
        self,
        x_BTD: Float[Array, "B T D"],
        tokens_BT: Int[Array, "B T"],
        segments: Any,
        given: Placed,
        key: Array | None,
    ) -> Float[Array, "B T D"]:
        """Return a vector for each token, from its embedding x and the positions that a call gives."""
        placed = place(self.places, given, tokens_BT, segments, key=key)
        return self.norm(self.stack(x_BTD, segments=segments, key=key, **placed._asdict()))


class LogitsModel(TokenModel):
    """Tokens to logits."""

    has_logits = True

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
        """Return the logits at each place, in float32.

        Args:
          tokens_BT: token ids.
          positions: integers or reals, or with axes, [B, T, axes]; None: each token's place in its segment.
          order: what causality and windows use; None: the positions, or the order of the row where positions have axes.
          embed_positions: the positions that are added to the input; None: the positions.
          segments: ids of packed documents, 0 is padding; None: one document.
          key: a random key, which switches dropout on.
        """
        given = Placed(positions, order, embed_positions)
        x_BTD = self.read(self.embed(tokens_BT), tokens_BT, segments, given, key)
        return self.embed.logits(x_BTD)
