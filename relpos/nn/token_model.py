"""What models of one sequence of tokens share."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int

from relpos.nn.embedding import Embedding
from relpos.nn.layer_encodings import EncodingOptions
from relpos.nn.norms import make_final_norm
from relpos.nn.placing import longest, place
from relpos.nn.stack import Stack
from relpos.nn.transformer_config import TransformerConfig
from relpos.places import Placed, Places


class TokenModel(nnx.Module):
    """Embeddings, a stack of layers and a final norm. Subclasses say what they return of it.

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
        given: Placed,
        segments: Any,
        key: Array | None,
    ) -> Float[Array, "B T D"]:
        """Return a vector for each token, from its embedding x and the positions that a call gives."""
        placed = place(self.places, given, tokens_BT, segments, key=key)
        return self.norm(self.stack(x_BTD, segments=segments, key=key, **placed._asdict()))
