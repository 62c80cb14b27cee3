"""The online softmax of FlashAttention (Dao et al. 2022, arXiv:2205.14135), over blocks of keys in any order."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


class Result(NamedTuple):
    """The result of the forward pass, with queries cut into blocks of C."""

    out: Array  # [blocks, C, H], in float32 or wider
    # [blocks, C], the logarithm of the softmax's denominator; lower than any logit if a row sees no key.
    log_total: Array


def hidden_logit(dtype) -> tuple[Any, Any]:
    """Return the logit of a hidden pair, and an initial peak so far above it that exp(logit - peak) is 0.

    The peak of a query that sees no key stays there; no computed logit is as low.
    """
    lowest = jnp.finfo(dtype).min
    return lowest, lowest / 2


def hide(mask_CK: Array | None, logits_CK: Array) -> Array:
    """Replace the logits of hidden pairs; mask None: all are visible."""
    if mask_CK is None:
        return logits_CK
    return jnp.where(mask_CK, logits_CK, hidden_logit(logits_CK.dtype)[0])


class Softmax(NamedTuple):
    """The softmax of the rows over the blocks visited so far."""

    peak: Array  # [C]
    total: Array  # [C], the sum of exp(logit - peak)
    out: Array  # [C, H], the products with exp(logit - peak)

    @classmethod
    def empty(cls, rows: tuple[int, ...], H: int, dtype: Any) -> "Softmax":
        """Return the softmax before the first block; rows: their shape."""
        peak = jnp.full(rows, hidden_logit(dtype)[1])
        return cls(peak, jnp.zeros(rows, dtype), jnp.zeros((*rows, H), dtype))

    def after(self, logits_CK: Array) -> tuple["Softmax", Array, Array]:
        """Return the softmax after a block, the block's weights, and the factor by which older sums shrink.

        The softmax's `out` is still without the block's products.
        """
        # The result does not depend on the peak, so its gradient is stopped.
        peak_C = jnp.maximum(self.peak, lax.stop_gradient(logits_CK).max(-1))
        weights_CK = jnp.exp(logits_CK - peak_C[..., None])
        shrink_C = jnp.exp(self.peak - peak_C)
        total_C = self.total * shrink_C + weights_CK.sum(-1)
        return Softmax(peak_C, total_C, self.out * shrink_C[..., None]), weights_CK, shrink_C

    def result(self) -> Result:
        """Return the result after the last block."""
        total_C = jnp.where(self.total == 0, 1, self.total)
        return Result(self.out / total_C[..., None], self.peak + jnp.log(total_C))
