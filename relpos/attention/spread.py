"""Spread and collect: between values for each distance and a block of the attention matrix.

C consecutive queries and K consecutive keys have L = C + K - 1 distances. Per-distance values are stored with the
distance falling, so that the pair (i, j) of a block finds its own at column C - 1 - i + j: the skew of the Music
Transformer (Huang et al. 2018, arXiv:1809.04281, sec. 3.4). Row i of a block is then a slice of row i of the values
and the other way round; slices of rows are copied whole, where a reshape that skews would compute every index.

The `band` forms are for values that are constant on both sides of W distances: what lies outside of the band reads,
or is added to, its first or last column.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def _slice_rows(x_CW: Array, starts_C: Array, size: int) -> Array:
    """Take `size` columns of each row, from its own start on; starts are held inside of the row."""
    # JAX would count a negative start from the end.
    starts_C = jnp.maximum(starts_C, 0)
    return jax.vmap(lambda x, start: lax.dynamic_slice_in_dim(x, start, size))(x_CW, starts_C)


def _index(C: int) -> Int[Array, "C"]:
    return jnp.arange(C, dtype=jnp.int32)


def spread(x_CL: Float[Array, "C L"]) -> Float[Array, "C K"]:
    """Take each row's values from distances to keys: out[i, j] = x[i, C - 1 - i + j]."""
    C, L = x_CL.shape
    return _slice_rows(x_CL, C - 1 - _index(C), L - C + 1)


def spread_vector(x_L: Float[Array, "L"], C: int) -> Float[Array, "C K"]:
    """Spread one vector of per-distance values that all rows share: out[i, j] = x[C - 1 - i + j]."""
    size = x_L.shape[0] - C + 1
    return jax.vmap(lambda i: lax.dynamic_slice_in_dim(x_L, C - 1 - i, size))(_index(C))


def spread_columns(x_KL: Float[Array, "K L"]) -> Float[Array, "C K"]:
    """Take each column's values from distances to queries: out[i, j] = x[j, C - 1 - i + j]."""
    return spread(x_KL[:, ::-1]).T


def collect(p_CK: Float[Array, "C K"]) -> Float[Array, "C L"]:
    """Sum each row by distance, the transpose of `spread`: out[i, C - 1 - i + j] = p[i, j]."""
    C, K = p_CK.shape
    return _slice_rows(jnp.pad(p_CK, ((0, 0), (C - 1, C - 1))), _index(C), C + K - 1)


def collect_columns(p_CK: Float[Array, "C K"]) -> Float[Array, "K L"]:
    """Sum each column by distance, the transpose of `spread_columns`: out[j, C - 1 - i + j] = p[i, j]."""
    return collect(p_CK.T)[:, ::-1]


def spread_band(x_CW: Float[Array, "C W"], offset: Int[Array, ""], K: int) -> Float[Array, "C K"]:
    """out[i, j] = x[i, clip(offset - i + j, 0, W - 1)]."""
    padded = jnp.pad(x_CW, ((0, 0), (K, K)), mode="edge")
    return _slice_rows(padded, offset + K - _index(x_CW.shape[0]), K)


def spread_band_vector(
    x_W: Float[Array, "W"], offset: Int[Array, ""], C: int, K: int
) -> Float[Array, "C K"]:
    """out[i, j] = x[clip(offset - i + j, 0, W - 1)]."""
    padded = jnp.pad(x_W, K, mode="edge")
    starts_C = jnp.maximum(offset + K - _index(C), 0)
    return jax.vmap(lambda start: lax.dynamic_slice_in_dim(padded, start, K))(starts_C)


def collect_band(p_CK: Float[Array, "C K"], offset: Int[Array, ""], W: int) -> Float[Array, "C W"]:
    """Transpose of `spread_band`: out[i, w] = the sum of p[i, j] over j with clip(offset - i + j, 0, W - 1) = w."""
    C, K = p_CK.shape
    starts_C = _index(C) - offset  # the column of w = 0
    inside = _slice_rows(jnp.pad(p_CK, ((0, 0), (W, W))), starts_C + W, W)
    w_CK = _index(K)[None] - starts_C[:, None]
    before = jnp.where(w_CK < 0, p_CK, 0).sum(-1)
    after = jnp.where(w_CK >= W, p_CK, 0).sum(-1)
    return inside.at[:, 0].add(before).at[:, W - 1].add(after)
