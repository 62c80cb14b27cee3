"""An encoder that points at the first and the last token of a span."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from relpos.nn.decoder import DecoderConfig
from relpos.nn.encoder import Encoder
from relpos.nn.stack import EncodingOptions

_NEVER = -1e9  # finite: a row of padding has no candidate at all


class SpanEncoder(nnx.Module):
    """start = x w_1, stop = x w_2 for the encoder's output x. Devlin et al. 2019, arXiv:1810.04805, sec. 4.2."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        encoding_options: EncodingOptions | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the model.

        Args:
          config: the encoder's sizes.
          encoding_options: scheme name -> its options.
          rngs: for the initial parameters.
        """
        self.encoder = Encoder(config, encoding_options=encoding_options, rngs=rngs)
        self.ends = nnx.Linear(config.features, 2, use_bias=False, rngs=rngs)

    @property
    def max_length(self) -> int | None:
        """The longest sequence the encodings have parameters for; None: any."""
        return self.encoder.max_length

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        candidates_BT: Bool[Array, "B T"],
        *,
        segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Return the logits of each token as the first and as the last of the span, in float32.

        Args:
          tokens_BT: token ids.
          candidates_BT: the tokens that a span may begin or end with.
          segments: 0 is padding.
          key: switches dropout on.
        """
        x_BTD = self.encoder(tokens_BT, segments=segments, key=key)
        ends_BT2 = jnp.where(candidates_BT[..., None], self.ends(x_BTD.astype(jnp.float32)), _NEVER)
        return ends_BT2[..., 0], ends_BT2[..., 1]
