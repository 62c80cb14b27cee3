"""Learned absolute positions, added to the input."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, normal
from relpos.registry import check_range


class Learned(Encoding):
    """x_i + P[i], P a table [max_length, D].

    Gehring et al. 2017, "Convolutional Sequence to Sequence Learning", arXiv:1705.03122, sec. 3.1, and Vaswani et
    al. 2017, arXiv:1706.03762, table 3 (E). A position outside the table has no embedding: it gives NaN.

    Choose it as the absolute baseline, or to continue training models that have it, if no row is longer than the table.

    Choose another for longer rows: there is no vector beyond the table, and vectors beyond the trained length keep
    their initial values.
    """

    shift_invariant = False

    def __init__(self, *, max_length: int = 4096, stddev: float = 0.02, dims: Dims, rngs: nnx.Rngs):
        check_range("learned.max_length", max_length, 1)
        check_range("learned.stddev", stddev, 0)
        self.max_length = max_length
        self.table = nnx.Param(normal(rngs, stddev, max_length, dims.features))

    def embed(self, x_TD, positions_T):
        """Add each token's row."""
        # JAX counts a negative index from the end: send it out of bounds instead.
        index = jnp.where(positions_T < 0, self.table.shape[0], positions_T)
        rows = self.table[...].at[index].get(mode="fill", fill_value=jnp.nan)
        return (x_TD + rows).astype(x_TD.dtype)
