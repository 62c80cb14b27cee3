"""What models of one sequence of tokens share."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos.nn.embedding import Embedding
from relpos.nn.layer_encodings import EncodingOptions
from relpos.nn.norms import make_final_norm
from relpos.nn.stack import Stack
from relpos.nn.transformer_config import TransformerConfig
from relpos.places import Placed, Places

_STREAM = 0x706C6163  # of random numbers, apart from dropout's


class TokenModel(nnx.Module):
    """Embeddings, a stack of layers and a final norm; with `has_logits` also the logits of tokens.

    Attributes:
      causal: whether a token sees only those before it, for the whole class.
      has_logits: whether a call returns logits, for the whole class.
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
          places: the positions if a call gives none; None: consecutive ones.
          rngs: for the initial parameters.

        Raises:
          ValueError: an encoding or an option is unknown, or encodings have no parameters for the positions.
        """
        self.config = config
        self.embed = Embedding(vocab_size, config, rngs, has_logits=self.has_logits)
        self.places = places or Places()
        self.stack = Stack(
            config, causal=self.causal, encoding_options=encoding_options,
            input_encoding=self.places.embeds, rngs=rngs,
        )  # fmt: skip
        self.max_length = _longest(self.stack, self.places)
        self.norm = make_final_norm(config, rngs)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        positions: Num[Array, "B T *axes"] | None = None,
        order: Num[Array, "B T"] | None = None,
        embed_positions: Num[Array, "B T *axes"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "B T _"]:
        """Return the logits of each token, [B, T, V] in float32, if the class has them, or else a vector, [B, T, D].

        Args:
          tokens_BT: token ids.
          positions: integers or reals, or with axes, [B, T, axes]; None: each token's index in its segment.
          order: what causality and windows use; None: the positions, or the index in the row where positions have axes.
          embed_positions: the positions that are added to the input; None: the positions.
          segments: ids of packed documents, 0 is padding; None: one document.
          key: a random key, which switches dropout on.
        """
        given = Placed(positions, order, embed_positions)
        x_BTD = self.read(self.embed(tokens_BT), tokens_BT, segments, given, key)
        return self.embed.logits(x_BTD) if self.has_logits else x_BTD

    def read(
        self,
        x_BTD: Float[Array, "B T D"],
        tokens_BT: Int[Array, "B T"],
        segments: Any,
        placed: Placed,
        key: Array | None,
    ) -> Float[Array, "B T D"]:
        """Return a vector for each token, from its embedding x and the positions that a call gives."""
        if not self.places.are_consecutive and all(given is None for given in placed):
            of_places = None if key is None else jax.random.fold_in(key, _STREAM)
            placed, _ = self.places.begin(tokens_BT, segments, key=of_places)
        return self.norm(self.stack(x_BTD, placed, segments=segments, key=key))


def _longest(stack: Stack, places: Places) -> int | None:
    """Return the largest number of tokens of a row; None: any. Check that encodings have enough positions."""
    most = stack.max_length
    _check_drawn(places.largest, most, ", ".join(map(str, stack.config.encodings)))
    if stack.input_encoding is not None:
        _check_drawn(places.largest_embedded, stack.input_encoding.max_length, places.embeds)
    return min((limit for limit in (most, places.most) if limit is not None), default=None)


def _check_drawn(largest: int | None, most: int | None, whose: str) -> None:
    if most is not None and largest is not None and largest >= most:
        raise ValueError(
            f"positions up to {largest} are drawn, more than the {most} of {whose}: raise its max_length, or draw from "
            "fewer"
        )
