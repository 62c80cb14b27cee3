"""A learned bias for each offset between two positions in an image."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from relpos.encodings.base import Dims, Encoding, PerHead, normal
from relpos.positions import distances
from relpos.registry import check_range

MOST_SIDE = 1024


def rows_and_columns(
    positions_T: Int[Array, "T *axes"], width: int
) -> tuple[Int[Array, "T"], Int[Array, "T"]]:
    """Return rows and columns, given positions [T, 2] or indices into a grid that is read row by row."""
    if positions_T.ndim == 2:
        return positions_T[:, 0], positions_T[:, 1]
    return positions_T // width, positions_T % width


def apart(q: tuple[Array, Array], k: tuple[Array, Array], height: int, width: int) -> Array:
    """Return each pair's index [C, K] into a table [(2 height - 1) (2 width - 1)] of offsets, query minus key."""
    dy, dx = (
        jnp.clip(distances(a, b), 1 - side, side - 1) + side - 1
        for a, b, side in zip(q, k, (height, width), strict=True)
    )
    return dy * (2 * width - 1) + dx


class Table2D(Encoding):
    """b[i, j] = table[y_i - y_j, x_i - x_j],  offsets clipped to a grid of height x width.

    Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv:2103.14030, sec.
    3.2; Bao et al. 2022, "BEiT: BERT Pre-Training of Image Transformers", arXiv:2106.08254, code. Each head has its own
    table [(2 height - 1) (2 width - 1)]; so has each layer, unless `per_layer=False`, as in BEiT's pre-training.
    Positions are [T, 2], row and column; a single integer p stands for row p // width and column p mod width. With
    `outside`, a token in a row below 0, such as [CLS] at position -1, is outside the image, and each head has three
    more biases: from outside tokens to the image, from the image to outside tokens, and between outside tokens. The
    papers' images fill the grid; larger offsets are clipped to the grid's largest. Tables start with standard
    deviation 0.02.

    Choose it for images or windows of one size, as in Swin and BEiT: one number for each offset, looked up.

    Choose another where sizes change: offsets beyond the grid are clipped. `cpb_2d` computes the bias from the offset.
    """

    shift_invariant = False  # shifting single numbers moves some tokens to the next row
    axes = 2

    def __init__(
        self,
        *,
        height: int = 14,
        width: int = 14,
        outside: bool = False,
        per_layer: bool = True,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("table_2d.height", height, 1, MOST_SIDE)
        check_range("table_2d.width", width, 1, MOST_SIDE)
        self.height, self.width, self.outside = height, width, outside
        size = (2 * height - 1) * (2 * width - 1) + (3 if outside else 0)
        table_NR = normal(rngs, 0.02, dims.num_heads, size)
        self.table = PerHead(table_NR, shared_by_layers=not per_layer)

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Look up every pair."""
        q, k = (rows_and_columns(x, self.width) for x in (q_positions, k_positions))
        index = apart(q, k, self.height, self.width)
        if self.outside:
            first = self.table.shape[-1] - 3
            q_out, k_out = (q[0] < 0)[:, None], (k[0] < 0)[None]
            index = jnp.where(q_out, first, index)
            index = jnp.where(k_out, jnp.where(q_out, first + 2, first + 1), index)
        return self.table[...][index]
