"""Transformers that see both sides of every token."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from relpos.nn.token_model import TokenModel
from relpos.nn.transformer_config import TransformerConfig
from relpos.places import Placed

_NEVER = -1e9  # finite, because a row of padding has no candidates


class Encoder(TokenModel):
    """Tokens to vectors, [B, T, D]."""


class TokenEncoder(TokenModel):
    """Tokens to the logits of the token at each position, [B, T, V], for masked language models and the like."""

    has_logits = True


class SpanEncoder(nnx.Module):
    """start = x w_1, stop = x w_2, for the output x of an encoder whose input is E[token] + P[part].

    Devlin et al. 2019, arXiv:1810.04805, sec. 3 and 4.2. P distinguishes the parts of a text, such as question and
    context.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        vocab_size: int,
        num_parts: int = 2,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        """Make the model.

        Args:
          config: the sizes and the kind of the layers.
          vocab_size: V.
          num_parts: the number of parts of a text, not counting 0, padding.
          rngs: for the initial parameters.
          **options: `encoding_options` and `places`, as for `Encoder`.
        """
        self.encoder = Encoder(config, vocab_size=vocab_size, rngs=rngs, **options)
        self.parts = nnx.Embed(
            num_parts + 1, config.features, dtype=jnp.dtype(config.dtype), rngs=rngs,
            embedding_init=nnx.initializers.normal(1.0),
        )  # fmt: skip
        self.ends = nnx.Linear(config.features, 2, use_bias=False, rngs=rngs)

    @property
    def max_length(self) -> int | None:
        """The longest sequence that there are positions for; None: any."""
        return self.encoder.max_length

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        parts_BT: Int[Array, "B T"],
        candidates_BT: Bool[Array, "B T"],
        *,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Return the logits of each token as the first and as the last of the span, in float32.

        Args:
          tokens_BT: token ids.
          parts_BT: the part of each token, 1, 2, ...; 0 is padding.
          candidates_BT: the tokens that a span may begin or end with.
          key: a random key, which switches dropout on.
        """
        encoder, segments = self.encoder, (parts_BT > 0).astype(jnp.int32)
        embedded_BTD = encoder.embed(tokens_BT) + self.parts(parts_BT)
        x_BTD = encoder.read(embedded_BTD, tokens_BT, segments, Placed(), key)
        ends_BT2 = jnp.where(candidates_BT[..., None], self.ends(x_BTD.astype(jnp.float32)), _NEVER)
        return ends_BT2[..., 0], ends_BT2[..., 1]
