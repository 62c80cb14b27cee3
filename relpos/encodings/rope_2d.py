"""Rotations of queries and keys by row and column in an image."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from relpos import positions
from relpos.encodings.base import Dims, PerHead
from relpos.encodings.rotations.pairs import Rotation
from relpos.encodings.table_2d import rows_and_columns
from relpos.registry import check_range


class RoPE2D(Rotation):
    """q_i R(y_i, x_i) . k_j R(y_j, x_j), which depends only on the offsets y_i - y_j and x_i - x_j.

        axial:  angle_m = x theta_m, then y theta_m,          theta_m = base^(-4m/H),  half of the H/2 pairs each
        mixed:  angle_m = x f_m + y g_m,                      f, g learned for each head of each layer

    Heo et al. 2024, "Rotary Position Embedding for Vision Transformer", arXiv:2403.13298, sec. 3.2 and 3.3. Mixed
    frequencies start as theta_m in a direction drawn for each head, and at right angles to it in the second half of the
    pairs. Positions are [T, 2], row and column, integers or reals. A single integer p is an index into a grid that is
    read row by row: row p // width and column p mod width; width 14 is that of 224 pixels in patches of 16. `base` 0
    means the authors' base: 100, or 10 if mixed. The pairs are those of `rope`, "interleaved" in the authors' code.

    Choose it for images, including sizes not seen in training: the paper's gains at higher resolution are larger with
    "mixed" than "axial".

    Choose another for text: a single number is read as an index into a grid.
    """

    shift_invariant = False  # shifting single numbers moves some tokens to the next row
    axes = 2
    reals = True

    def __init__(
        self,
        *,
        mixed: bool = False,
        width: int = 14,
        base: float = 0.0,
        layout: str = "interleaved",
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("rope_2d.width", width, 1)
        if dims.head_dim % 2 or dims.head_dim < 4:
            raise ValueError(
                f"rope_2d turns pairs of dimensions by rows and by columns: head_dim must be even and at least 4, "
                f"got {dims.head_dim}"
            )
        base = base or (10.0 if mixed else 100.0)
        super().__init__("rope_2d", dims, base, layout)
        self.width = width
        # [2, H/2] for each head, those of rows first.
        self.frequencies = PerHead(_directed(base, dims, rngs)) if mixed else None

    def _waves(self, positions_T, features_T):
        if positions_T.ndim == 1 and jnp.issubdtype(positions_T.dtype, jnp.floating):
            raise ValueError(
                "rope_2d reads a single number as an index into a grid, which must be an integer: give positions "
                "[..., 2], row and column, or integers"
            )
        rows_T, columns_T = rows_and_columns(positions_T, self.width)
        if self.frequencies is not None:
            frequencies_2M = self.frequencies[...]
            places_T2 = jnp.stack([rows_T, columns_T], -1).astype(frequencies_2M.dtype)
            angles_TM = places_T2 @ frequencies_2M
        else:
            M = self.head_dim // 2
            row_TM, column_TM = (positions.angles(x, self.base, M) for x in (rows_T, columns_T))
            angles_TM = jnp.concatenate([column_TM, row_TM[:, : M // 2]], -1)
        return jnp.sin(angles_TM), jnp.cos(angles_TM)


def _directed(base: float, dims: Dims, rngs: nnx.Rngs) -> Float[Array, "N 2 M"]:
    """Return theta_m in a direction drawn for each head, and at right angles to it in the second half."""
    M = dims.head_dim // 2
    m = jnp.arange(M, dtype=float)
    is_second = m >= M - M // 2
    speed_1M = (base ** (-2 * jnp.where(is_second, m - (M - M // 2), m) / M))[None]
    toward_N1 = jax.random.uniform(rngs.params(), (dims.num_heads, 1), maxval=2 * jnp.pi)
    toward_NM = toward_N1 + jnp.where(is_second, jnp.pi / 2, 0.0)[None]
    return jnp.stack([jnp.sin(toward_NM) * speed_1M, jnp.cos(toward_NM) * speed_1M], 1)
