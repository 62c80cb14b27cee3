"""A learned bias for each bucket of offsets between two positions in an image."""

import bisect
import math

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead
from relpos.encodings.table_2d import rows_and_columns
from relpos.positions import distances
from relpos.registry import check_choice, check_range

METHODS = ("product", "cross", "euclidean", "quantization", "squares")
MOST_GAMMA = 1024
MOST_BUCKETS = 64  # each costs a comparison per pair
FAR = 2**14  # beyond all buckets; twice its square fits into int32


class IRPE(Encoding):
    """b[i, j] = table[bucket(y_i - y_j, x_i - x_j)],  the bias mode of image relative position encoding.

        product        table[g(dy), g(dx)]                 cross  rows[g(dy)] + columns[g(dx)]
        euclidean      table[g(round(sqrt(dy^2 + dx^2)))]
        quantization   table[g(rank of dy^2 + dx^2 among the sums of two squares)]
        g(n)           n for |n| <= alpha,  else sign(n) min(floor(beta), round(h)),
                       h = alpha + (beta - alpha) ln(|n| / alpha) / ln(gamma / alpha)

    Wu et al. 2021, "Rethinking and Improving Relative Position Encoding for Vision Transformer", arXiv:2107.14222, sec.
    3. Defaults and rounding are those of the authors' code, whose "quant" is g(dy^2 + dx^2) without the rank, "squares"
    here. Ranks are those of an unbounded image. Each head has its own table, or all share one (`shared`); each layer
    has its own; all start at 0. b is not scaled, as in the code; the text divides it by sqrt(H), a factor that a
    learned table absorbs. Positions are those of `table_2d`. `outside` adds one bucket, for pairs with a token in a row
    below 0.

    Choose it for images, with fewer parameters than `table_2d`: buckets grow with the offset. The paper
    reports better results for DeiT and DETR with this change alone.

    Choose another where long offsets must be told apart, or for the paper's contextual mode, which is left out.
    """

    shift_invariant = False  # shifting single numbers moves some tokens to the next row
    axes = 2

    def __init__(
        self,
        *,
        method: str = "product",
        alpha: float = 1.9,
        beta: float = 3.8,
        gamma: float = 15.2,
        width: int = 14,
        shared: bool = False,
        outside: bool = False,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_choice("irpe.method", method, METHODS)
        if not 0 < alpha < gamma <= MOST_GAMMA:
            raise ValueError(
                f"irpe.alpha must be above 0 and below irpe.gamma, which is at most {MOST_GAMMA}; got alpha {alpha}, "
                f"gamma {gamma}"
            )
        if not max(1, alpha) <= beta <= MOST_BUCKETS:
            raise ValueError(
                f"irpe.beta, the last bucket, must be from 1 to {MOST_BUCKETS} and not below irpe.alpha; got beta "
                f"{beta}, alpha {alpha}"
            )
        check_range("irpe.width", width, 1)
        self.method, self.width, self.outside = method, width, outside
        self.starts = _starts(method, alpha, beta, gamma)
        of_axis = 2 * len(self.starts) + 1
        buckets = {"product": of_axis**2, "cross": 2 * of_axis}.get(method, len(self.starts) + 1)
        size = buckets + (1 if outside else 0)
        self.table = (
            nnx.Param(jnp.zeros(size)) if shared else PerHead(jnp.zeros((dims.num_heads, size)))
        )

    def _bucket(self, n):
        """Return the bucket of n >= 0: how many of the later buckets begin at n or below."""
        return sum((n >= start).astype(jnp.int32) for start in self.starts)

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Look up every pair."""
        q, k = (rows_and_columns(x, self.width) for x in (q_positions, k_positions))
        dy, dx = (jnp.clip(distances(a, b), -FAR, FAR) for a, b in zip(q, k, strict=True))
        table, last = self.table[...], len(self.starts)
        if self.method in ("product", "cross"):
            row, column = (jnp.sign(d) * self._bucket(jnp.abs(d)) + last for d in (dy, dx))
            if self.method == "product":
                found = table[row * (2 * last + 1) + column]
            else:
                found = table[row] + table[column + 2 * last + 1]
        else:
            found = table[self._bucket(dy**2 + dx**2)]
        if self.outside:
            found = jnp.where((q[0] < 0)[:, None] | (k[0] < 0)[None], table[-1], found)
        return found


def _starts(method: str, alpha: float, beta: float, gamma: float) -> tuple[int, ...]:
    """Return where buckets 1, 2, ... begin: the least |n|, or dy^2 + dx^2 for methods without direction."""

    def g(n: int) -> int:
        if n <= alpha:
            return n
        grown = alpha + (beta - alpha) * math.log(n / alpha) / math.log(gamma / alpha)
        return min(int(beta), round(grown))

    reach = range(1, math.ceil(gamma) + 1)
    starts = [1 + bisect.bisect_left(reach, b, key=g) for b in range(1, int(beta) + 1)]
    if method == "euclidean":  # round(sqrt(n)) >= s from (s - 1/2)^2 on
        return tuple(s * s - s + 1 for s in starts)
    if method == "quantization":
        side = range(starts[-1] + 1)  # its square bounds at least that many sums
        sums = sorted({a * a + b * b for a in side for b in side if b <= a})
        return tuple(sums[s] for s in starts)
    return tuple(starts)
