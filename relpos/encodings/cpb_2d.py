"""A bias computed by a small network from the offset between two positions in an image, in rows and columns."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding
from relpos.encodings.cpb import OffsetNetwork
from relpos.encodings.table_2d import apart, rows_and_columns
from relpos.registry import check_range

MOST_SIDE = 128


class CPB2D(OffsetNetwork, Encoding):
    """b[i, j] = 16 sigmoid(f(u(y_i - y_j), u(x_i - x_j))),  u and its options as in `cpb`,  f an MLP 2 -> hidden -> 1.

    Liu et al. 2022, "Swin Transformer V2: Scaling Up Capacity and Resolution", arXiv:2111.09883, sec. 3.3. Positions
    are [T, 2], row and column; a single integer p stands for row p // width and column p mod width. Each block
    evaluates the network once for every offset of a grid of height x width; larger offsets are clipped to the grid's
    largest. When the grid grows, `window` remains the one of training. The paper also normalises queries and keys; that
    is left to the layer.

    Choose it for images whose size changes after training, as in Swin v2, which moves to larger windows.

    Choose another for text, and `table_2d` for images of one size: each block evaluates the network for every offset of
    the grid.
    """

    shift_invariant = False  # shifting single numbers moves some tokens to the next row
    axes = 2

    def __init__(
        self,
        *,
        height: int = 8,
        width: int = 8,
        hidden: int = 512,
        window: int = 8,
        spacing: str = "log",
        bound: float = 16.0,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("cpb_2d.height", height, 1, MOST_SIDE)
        check_range("cpb_2d.width", width, 1, MOST_SIDE)
        self.height, self.width = height, width
        self._make(
            "cpb_2d", 2, dims, rngs, hidden=hidden, window=window, spacing=spacing, bound=bound
        )

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Look up the network's value for every pair."""
        rows, columns = (jnp.arange(1 - size, size) for size in (self.height, self.width))
        dy, dx = (x.reshape(-1) for x in jnp.meshgrid(rows, columns, indexing="ij"))
        table = self._network(dy, dx)
        q, k = (rows_and_columns(x, self.width) for x in (q_positions, k_positions))
        return table[apart(q, k, self.height, self.width)]
