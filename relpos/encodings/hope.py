"""Rotations by high frequencies only."""

import math

from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims
from relpos.encodings.rotations.pairs import Rotation, turning_often


class HoPE(Rotation):
    """q_i R(i theta) . k_j R(j theta),  theta_m = base^(-2m/H) where that is at least 2 pi / L,  else 0.

    Chen et al. 2024, "HoPE: A Novel Positional Encoding Without Long-Term Decay", arXiv:2410.21216, sec. 4. Pairs that
    do not complete a turn within the trained length L do not turn at all: that part of queries and keys has no
    positions. L is 512, as in the paper's training. The pairs are those of `rope`.

    Choose it in place of `rope` where far tokens matter: pairs too slow to complete a turn in training carry no
    positions, and so the paper's models read longer rows better.

    Choose another where the trained length is not known beforehand: it decides which pairs turn.
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
        super().__init__("hope", dims, base, layout)
        H = dims.head_dim
        often = turning_often("hope.trained_length", trained_length, base, H)
        self.slower = (*often * (1.0,), *(H // 2 - often) * (math.inf,))

    def _waves(self, positions_T, features_T):
        return positions.waves(positions_T, self.base, self.head_dim, self.slower)
