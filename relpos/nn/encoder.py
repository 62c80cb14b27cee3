"""Transformers that see both sides of every token."""

from jaxtyping import Array, Float, Int, Num

from relpos.nn.token_model import LogitsModel, TokenModel
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
        """Return a vector for each token; the arguments are those of `TokenEncoder`."""
        given = Placed(positions, order, embed_positions)
        return self.read(self.embed(tokens_BT), tokens_BT, segments, given, key)


class TokenEncoder(LogitsModel):
    """Tokens to the logits of the token at each place, for masked language models and the like."""
