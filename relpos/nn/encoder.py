"""Transformers that see both sides of every token."""

from jaxtyping import Array, Float, Int, Num

from relpos.nn.token_model import TokenModel
from relpos.places import Placed


class Encoder(TokenModel):
    """Tokens to vectors."""

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
          positions: integers or reals, or with axes, [B, T, axes]; None: each token's place in its segment.
          order: what windows use; None: the positions, or the order of the row where positions have axes.
          embed_positions: the positions that are added to the input; None: the positions.
          segments: ids of packed documents, 0 is padding; None: one document.
          key: a random key, which switches dropout on.
        """
        given = Placed(positions, order, embed_positions)
        return self.read(self.embed(tokens_BT), tokens_BT, given, segments, key)


class TokenEncoder(TokenModel):
    """Tokens to the logits of the token at each place, for masked language models and the like."""

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
        """Return the logits of the token at each place, in float32; the arguments are those of `Encoder`."""
        given = Placed(positions, order, embed_positions)
        x_BTD = self.read(self.embed(tokens_BT), tokens_BT, given, segments, key)
        return self.embed.logits(x_BTD)
