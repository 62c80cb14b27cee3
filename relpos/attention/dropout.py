"""Dropout of attention weights as a function of (seed, row, column).

The mask is computed, never stored, and does not depend on how the attention matrix is cut into blocks: all paths, in
the forward and the backward pass, use the same one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt


def seeds(key: Array, shape: tuple[int, ...]) -> UInt[Array, "*shape 2"]:
    """Draw one seed for each (batch, head) from a JAX random key."""
    return jax.random.bits(key, (*shape, 2), jnp.uint32)


def _mix(x: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """Hash a 32-bit integer by `lowbias32`, in which every input bit affects every output bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def keep(
    seed: UInt[Array, "2"], rows_T: Int[Array, "T"], columns_S: Int[Array, "S"], rate: float
) -> Bool[Array, "T S"]:
    """Return which weights are kept: each with probability 1 - rate, independently."""
    row_T = _mix(rows_T.astype(jnp.uint32) ^ seed[0])
    column_S = _mix(columns_S.astype(jnp.uint32) ^ seed[1])
    bits_TS = _mix(row_T[:, None] + column_S[None, :] * jnp.uint32(0x9E3779B9))
    return bits_TS >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
