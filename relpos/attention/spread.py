"""Spread values by distance to a block of the attention matrix, and collect a block's sums by distance.

C consecutive queries and K consecutive keys have C + K - 1 distances. Values are stored by falling distance, so that
the pair (i, j) of a block finds its value in column C - i + j: the skew of the Music Transformer (Huang et al. 2018,
arXiv:1809.04281, sec. 3.4). Column 0 is unused, which makes L = C + K a round number. Row i of a block is then a slice
of row i of the values and vice versa; slices of rows are copied whole, while a skew by reshaping would compute every
index.

The `band` forms are for values that are constant on both sides of W distances: pairs outside the band read, or add to,
its first or last column.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from relpos.positions import contiguous


def _slice_rows(x: Array, starts_C: Array, size: int) -> Array:
    """Return `size` columns of each row, from its own start on; starts are clipped. A vector stands for all rows."""
    # JAX would count a negative start from the end.
    starts_C = jnp.maximum(starts_C, 0)
    rows = None if x.ndim == 1 else 0
    one = lambda x, start: lax.dynamic_slice_in_dim(x, start, size)  # noqa: E731
    return jax.vmap(one, in_axes=(rows, 0))(x, starts_C)


def spread(x_CL: Float[Array, "C L"]) -> Float[Array, "C K"]:
    """Spread each row's values by distance to its keys: out[i, j] = x[i, C - i + j]."""
    C, L = x_CL.shape
    return _slice_rows(x_CL, C - contiguous(C), L - C)


def spread_vector(x_L: Float[Array, "L"], C: int) -> Float[Array, "C K"]:
    """Spread one vector of values by distance that all rows share: out[i, j] = x[C - i + j]."""
    return _slice_rows(x_L, C - contiguous(C), x_L.shape[0] - C)


def spread_columns(x_KL: Float[Array, "K L"]) -> Float[Array, "C K"]:
    """Spread each column's values by distance to its queries: out[i, j] = x[j, C - i + j]."""
    # For keys distances increase. Column 0, which is unused, stays in front.
    risen = jnp.pad(x_KL[:, :0:-1], ((0, 0), (1, 0)))
    return spread(risen).T


def collect(p_CK: Float[Array, "C K"]) -> Float[Array, "C L"]:
    """Sum each row by distance, the transpose of `spread`: out[i, C - i + j] = p[i, j]."""
    C, K = p_CK.shape
    return _slice_rows(jnp.pad(p_CK, ((0, 0), (C, C))), contiguous(C), C + K)


def collect_sum(p_CK: Float[Array, "C K"]) -> Float[Array, "L"]:
    """Sum all rows by distance, the transpose of `spread_vector`: out[C - i + j] = p[i, j]."""
    C, K = p_CK.shape
    groups = 8 if C % 8 == 0 else 1
    size = C // groups
    # Rows `size` apart are added first, each group shifted as a whole, which leaves fewer rows to skew.
    folded = jnp.zeros((size, K + C - size), p_CK.dtype)
    for i, part in enumerate(p_CK.reshape(groups, size, K)):
        folded += jnp.pad(part, ((0, 0), (C - size - i * size, i * size)))
    return collect(folded).sum(0)


def collect_columns(p_CK: Float[Array, "C K"]) -> Float[Array, "K L"]:
    """Sum each column by distance, the transpose of `spread_columns`: out[j, C - i + j] = p[i, j]."""
    return jnp.pad(collect(p_CK.T)[:, :0:-1], ((0, 0), (1, 0)))


def spread_band(x_CW: Float[Array, "C W"], offset: Int[Array, ""], K: int) -> Float[Array, "C K"]:
    """Spread each row of a band: out[i, j] = x[i, clip(offset - i + j, 0, W - 1)]."""
    padded = jnp.pad(x_CW, ((0, 0), (K, K)), mode="edge")
    return _slice_rows(padded, offset + K - contiguous(x_CW.shape[0]), K)


def spread_band_vector(
    x_W: Float[Array, "W"], offset: Int[Array, ""], C: int, K: int
) -> Float[Array, "C K"]:
    """Spread a band that all rows share: out[i, j] = x[clip(offset - i + j, 0, W - 1)]."""
    return _slice_rows(jnp.pad(x_W, K, mode="edge"), offset + K - contiguous(C), K)


def collect_band(p_CK: Float[Array, "C K"], offset: Int[Array, ""], W: int) -> Float[Array, "C W"]:
    """Transpose `spread_band`: out[i, w] = the sum of p[i, j] over j with clip(offset - i + j, 0, W - 1) = w."""
    C, K = p_CK.shape
    starts_C = contiguous(C) - offset  # the column of w = 0
    inside = _slice_rows(jnp.pad(p_CK, ((0, 0), (W, W))), starts_C + W, W)
    w_CK = contiguous(K)[None] - starts_C[:, None]
    before = jnp.where(w_CK < 0, p_CK, 0).sum(-1)
    after = jnp.where(w_CK >= W, p_CK, 0).sum(-1)
    return inside.at[:, 0].add(before).at[:, W - 1].add(after)


class Ring(NamedTuple):
    """The columns of this block of keys and of the previous one, side by side: [C, 3K], C <= K.

    Blocks 0, 2, 4, ... are stored in the third part (and, for the next block, in the first), 1, 3, ... in the second.
    """

    parts: Float[Array, "C 3K"]

    @classmethod
    def of(cls, before_Cn: Float[Array, "C n"], K: int) -> "Ring":
        """Return a ring that holds the last n columns before the first block."""
        part = jnp.pad(before_Cn, ((0, 0), (K - before_Cn.shape[1], 0)))
        return cls(jnp.concatenate([part, part, jnp.zeros_like(part)], 1))

    def push(self, block: Array, new_CK: Float[Array, "C K"]) -> "Ring":
        """Write the columns of a block."""
        K = new_CK.shape[1]
        even = block % 2 == 0
        parts = self.parts
        for part in (jnp.where(even, 2, 1), jnp.where(even, 0, 1)):
            parts = lax.dynamic_update_slice_in_dim(parts, new_CK, part * K, 1)
        return Ring(parts)

    def spread(self, block: Array) -> Float[Array, "C K"]:
        """Spread each row's values by distance to its keys: out[i, j] = x[i, K - i + j], x both blocks [C, 2K]."""
        C, K = self.parts.shape[0], self.parts.shape[1] // 3
        begin = jnp.where(block % 2 == 0, K, 0)
        return _slice_rows(self.parts, begin + K - contiguous(C), K)

    def collect(self, block: Array, size: int) -> Float[Array, "C n"]:
        """Collect each row at its first distances: out[i, C - i + j] = x[i, K + j], x both blocks [C, 2K]."""
        C, K = self.parts.shape[0], self.parts.shape[1] // 3
        begin = jnp.where(block % 2 == 0, K, 0)
        return _slice_rows(self.parts, begin + K - C + contiguous(C), size)
