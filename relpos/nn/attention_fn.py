"""Position encodings in Flax's own attention layers."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float

from relpos.attention import attention
from relpos.attention.checks import check_encoding
from relpos.encodings import Encoding
from relpos.nn.attention_helpers import dropout_options


class AttentionFunction(nnx.Module):
    """See `attention_fn`. The parameters of the encoding belong to this module."""

    def __init__(self, encoding: Encoding, causal: bool):
        self.encoding = encoding
        self.causal = causal

    def __call__(
        self,
        query: Float[Array, "B T N H"],
        key: Float[Array, "B S K H"],
        value: Float[Array, "B S K H"],
        bias: Any = None,
        mask: Bool[Array, "B 1 T S"] | None = None,
        *,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = True,
        broadcast_dropout: bool = True,
        dtype: Any = None,
        precision: Any = None,
        module: Any = None,
        is_causal: bool = False,
    ) -> Float[Array, "B T N H"]:
        """Attend as `flax.nnx.dot_product_attention` does, with positions; weights are dropped independently.

        Raises:
          ValueError: a mask or a bias of pairs is given, a precision, weights to be sown, or an encoding that needs the
            layer's input.
        """
        if mask is not None or bias is not None:
            raise ValueError(
                "relpos.nn.attention_fn takes no mask or bias of pairs [.., T, S], which would cost their memory: give "
                "it causal=True in place of a causal mask; for padding, packing and caches use relpos.RelativeAttention"
            )
        if precision is not None:
            raise ValueError(
                f"precision={precision!r} is not supported: use jax.default_matmul_precision instead"
            )
        if module is not None:
            raise ValueError("the weights are never stored as a whole: call with sow_weights=False")
        causal = self.causal or is_causal
        check_encoding(self.encoding, query.shape[2], key.shape[2], query.shape[3], causal)
        if self.encoding.needs_tokens:
            raise ValueError(
                f"{type(self.encoding).__name__} computes features from the layer's input, which attention_fn is not "
                "given: use relpos.RelativeAttention"
            )
        out = attention(
            query, key, value, encoding=self.encoding, causal=causal,
            **dropout_options(dropout_rate, dropout_rng, deterministic),
        )  # fmt: skip
        return out if dtype is None else out.astype(dtype)


def attention_fn(encoding: Encoding, *, causal: bool = False) -> AttentionFunction:
    """Return an `attention_fn` for `flax.nnx.MultiHeadAttention`.

        layer = nnx.MultiHeadAttention(8, 512, decode=False, rngs=rngs, attention_fn=relpos.nn.attention_fn(t5))

    The encoding becomes a part of the layer, and its parameters are trained with the others. For layers of `flax.linen`
    see `relpos.linen.attention_fn`.

    Args:
      encoding: made by `relpos.encodings.create`, for the layer's heads.
      causal: see only the past, in place of a mask.
    """
    return AttentionFunction(encoding, causal)
