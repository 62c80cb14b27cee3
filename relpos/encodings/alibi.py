"""A bias that falls linearly with distance."""

import math

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, PerHeadConstant


def paper_slopes(num_heads: int) -> list[float]:
    """Return 2^(-8h/N), h = 1..N; if N is no power of two, those of c = 2^floor(log2 N), then every other of 2c."""
    c = 2 ** math.floor(math.log2(num_heads))
    powers = [2 ** (-8 * h / c) for h in range(1, c + 1)]
    between = [2 ** (-8 * h / (2 * c)) for h in range(1, 2 * c + 1, 2)]
    return powers + between[: num_heads - c]


class ALiBi(Encoding):
    """b[d] = -m |d|, m fixed for each head.

    Press, Smith, Lewis 2022, "Train Short, Test Long", arXiv:2108.12409, sec. 3; slopes for any number of heads as
    in the authors' code. `literal_slopes`: 2^(-8h/N) for every N. `learned`: the slopes are trained.
    """

    reals = True

    def __init__(
        self,
        *,
        learned: bool = False,
        literal_slopes: bool = False,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        N = dims.num_heads
        literal = [2 ** (-8 * h / N) for h in range(1, N + 1)]
        slopes = jnp.array(literal if literal_slopes else paper_slopes(N), jnp.float32)
        self.slopes = (PerHead if learned else PerHeadConstant)(slopes)

    def bias(self, d):
        """Return -m |d|."""
        return -self.slopes[...] * jnp.abs(d)
