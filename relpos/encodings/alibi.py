"""A bias that falls linearly with distance."""

import math
import numbers

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, PerHeadConstant

MOST_SLOPE = 1e28  # its product with any int32 distance is finite in float32


def paper_slopes(num_heads: int) -> list[float]:
    """Return 2^(-8h/N), h = 1..N; if N is not a power of two, those of c = 2^floor(log2 N), then every other of 2c."""
    c = 2 ** math.floor(math.log2(num_heads))
    powers = [2 ** (-8 * h / c) for h in range(1, c + 1)]
    between = [2 ** (-8 * h / (2 * c)) for h in range(1, 2 * c + 1, 2)]
    return powers + between[: num_heads - c]


class ALiBi(Encoding):
    """b[d] = -m |d|, m fixed for each head;  with `right_slopes` -m' |d| where d < 0, the key in the future.

    Press, Smith, Lewis 2022, "Train Short, Test Long", arXiv:2108.12409, sec. 3; slopes for any number of heads as
    in the authors' code. `literal_slopes`: 2^(-8h/N) for every N. `slopes`, `right_slopes`: given slopes, one for each
    head; a slope of 1e9 hides a side. `learned`: the slopes are trained. `asymmetric`: m' is separate, and starts as m.
    The paper is causal; the two-sided forms are those of issue 5 of the authors' repository, which draws learned
    slopes at random.

    Choose it to read rows longer than those of training, with nothing to train and at hardly any cost: in README's
    results, language modelling improves with length, and flip-flop hardly suffers.

    Choose another where far tokens matter as much as near ones: the bias always falls with distance. At the trained
    length, README's language model is better with `rope` and `t5`.
    """

    reals = True

    def __init__(
        self,
        *,
        learned: bool = False,
        literal_slopes: bool = False,
        slopes: tuple = (),
        right_slopes: tuple = (),
        asymmetric: bool = False,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        N = dims.num_heads
        if slopes and literal_slopes:
            raise ValueError("give alibi.slopes or alibi.literal_slopes, not both")
        if asymmetric and not learned and not right_slopes:
            raise ValueError(
                "alibi.asymmetric needs slopes that differ: learn them (alibi.learned) or give alibi.right_slopes"
            )
        for key, given in (("slopes", slopes), ("right_slopes", right_slopes)):
            _check(f"alibi.{key}", given, N)
        literal = [2 ** (-8 * h / N) for h in range(1, N + 1)]
        past = slopes or (literal if literal_slopes else paper_slopes(N))
        future = right_slopes or (past if asymmetric else None)
        kind = PerHead if learned else PerHeadConstant
        self.slopes = kind(jnp.array(past, jnp.float32))
        self.right_slopes = None if future is None else kind(jnp.array(future, jnp.float32))

    def bias(self, d):
        """Return -m |d|."""
        slope = self.slopes[...]
        if self.right_slopes is not None:
            slope = jnp.where(d < 0, self.right_slopes[...], slope)
        return -slope * jnp.abs(d)


def _check(key: str, given: tuple, heads: int) -> None:
    """Check given slopes: none, or a number for each head."""
    if given and len(given) != heads:
        raise ValueError(f"{key} must be {heads} numbers, one for each head, got {len(given)}")
    for slope in given:
        is_number = isinstance(slope, numbers.Real) and not isinstance(slope, bool)
        if not is_number or not abs(slope) <= MOST_SLOPE:
            raise ValueError(f"{key} must be numbers of at most {MOST_SLOPE}, got {slope!r}")
