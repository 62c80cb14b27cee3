"""Rotations by the high frequencies alone."""

import math

from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims, Encoding, check_base
from relpos.encodings.rotations import check_head_dim, check_layout, rotated, turning_often


class HoPE(Encoding):
    """q_i R(i theta) . k_j R(j theta),  theta_m = base^(-2m/H) where that is at least 2 pi / L,  else 0.

    Chen et al. 2024, "HoPE: A Novel Positional Encoding Without Long-Term Decay", arXiv:2410.21216, sec. 4. What does
    not turn once within the trained length L is left as it is: a part of queries and keys without positions. L is 512,
    as the paper trains. The pairs that turn together are those of `rope`.

    Choose it in place of `rope` where far tokens are to count: pairs too slow to turn once in training carry no
    positions, which the paper finds to read longer rows better.

    Choose another where the trained length is not known beforehand: which pairs turn depends on it.
    """

    reals = True

    def __init__(
        self,
        *,
        trained_length: int = 512,
        base: float = 10000.0,
        layout: str = "half",
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_base("hope.base", base)
        check_layout("hope.layout", layout)
        H = dims.head_dim
        check_head_dim("hope", H)
        self.base, self.layout = base, layout
        self.head_dim = H
        often = turning_often("hope.trained_length", trained_length, base, H)
        self.slower = (*often * (1.0,), *(H // 2 - often) * (math.inf,))

    def _rotate(self, x_TH, positions_T):
        sin, cos = positions.waves(positions_T, self.base, x_TH.shape[-1], self.slower)
        return rotated(x_TH, sin, cos, self.layout)

    def query(self, q_TH, positions_T, features_T):
        """Turn the query."""
        return self._rotate(q_TH, positions_T)

    def key(self, k_SH, positions_S, features_S):
        """Turn the key."""
        return self._rotate(k_SH, positions_S)
