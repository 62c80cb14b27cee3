"""Spread and collect: between a block's distances and the block, without a gather.

C consecutive queries and K consecutive keys have L = C + K - 1 distances. Per-distance values are stored with the
distance falling, so that the pair (i, j) of a block finds its own at column C - 1 - i + j. Both operators are
the skew of the Music Transformer (Huang et al. 2018, arXiv:1809.04281, sec. 3.4): a reshape and a slice (or pad).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def spread(x_CL: Float[Array, "C L"]) -> Float[Array, "C K"]:
    """Take each row's values from distances to keys: out[i, j] = x[i, C - 1 - i + j]."""
    C, L = x_CL.shape
    if C == 1:
        return x_CL
    return x_CL.reshape(-1)[C - 1 : C - 1 + C * (L - 1)].reshape(C, L - 1)[:, : L - C + 1]


def spread_vector(x_L: Float[Array, "L"], C: int) -> Float[Array, "C K"]:
    """Spread one vector of per-distance values that all rows share: out[i, j] = x[C - 1 - i + j]."""
    return spread(jnp.broadcast_to(x_L, (C, x_L.shape[0])))


def spread_columns(x_KL: Float[Array, "K L"]) -> Float[Array, "C K"]:
    """Take each column's values from distances to queries: out[i, j] = x[j, C - 1 - i + j]."""
    return spread(x_KL[:, ::-1]).T


def collect(p_CK: Float[Array, "C K"]) -> Float[Array, "C L"]:
    """Sum each row by distance, the transpose of `spread`: out[i, C - 1 - i + j] = p[i, j]."""
    C, K = p_CK.shape
    L = C + K - 1
    if C == 1:
        return p_CK
    flat = jnp.pad(p_CK, ((0, 0), (0, L - 1 - K))).reshape(-1)
    return jnp.pad(flat, (C - 1, 1)).reshape(C, L)
