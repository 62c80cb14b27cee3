"""Pairs of dimensions that turn together."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from relpos.encodings.base import Dims, Encoding
from relpos.registry import check_choice, check_range

LAYOUTS = ("half", "interleaved")


class Rotation(Encoding):
    """q_i R(i) . k_j R(j): the base class of schemes that turn queries and keys alike.

    A subclass fills `_waves`, or `tokens` with features that are the angles. `rope` and `grape_m` fill `_turn`.
    """

    head_dim: int
    layout: str = "half"

    def __init__(self, name: str, dims: Dims, base: float = 1.0, layout: str = "half"):
        """Check and keep what the pairs depend on; errors name the scheme; some have no base."""
        check_range(f"{name}.base", base, 1)
        check_choice(f"{name}.layout", layout, LAYOUTS)
        if dims.head_dim % 2:
            raise ValueError(
                f"{name} turns pairs of dimensions: head_dim must be even, got {dims.head_dim}"
            )
        self.base, self.layout, self.head_dim = base, layout, dims.head_dim

    def _waves(
        self, positions_T: Num[Array, "T *axes"], features_T: Array
    ) -> tuple[Float[Array, "T M"], Float[Array, "T M"]]:
        """Return the sines and the cosines of the angles by which each token's pairs turn."""
        return jnp.sin(features_T), jnp.cos(features_T)

    def _turn(self, x_TH, positions_T, features_T):
        return rotated(x_TH, *self._waves(positions_T, features_T), self.layout)

    def query(self, q_TH, positions_T, features_T):
        """Turn the query, see the class."""
        return self._turn(q_TH, positions_T, features_T)

    def key(self, k_SH, positions_S, features_S):
        """Turn the key, see the class."""
        return self._turn(k_SH, positions_S, features_S)


def rotated(
    x_TR: Float[Array, "T R"], sin_TM: Float[Array, "T M"], cos_TM: Float[Array, "T M"], layout: str
) -> Float[Array, "T R"]:
    """Turn the M = R/2 pairs of dimensions, (m, m + M) in layout "half" and (2m, 2m + 1) in "interleaved"."""
    sin, cos = sin_TM.astype(x_TR.dtype), cos_TM.astype(x_TR.dtype)
    if layout == "half":
        a, b = jnp.split(x_TR, 2, -1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    a, b = x_TR[:, ::2], x_TR[:, 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x_TR.shape)


def turning_often(key: str, length: int, base: float, width: int) -> int:
    """Return how many pairs turn at least once in `length` positions,  base^(-2m/width) >= 2 pi / length.

    These are the first pairs, as each pair turns faster than the next.

    Raises:
      ValueError: no pair does; the message names the option `key` that gives the length.
    """
    check_range(key, length, 7)  # a turn of the fastest pair
    theta_M = base ** (-np.arange(0, width, 2) / width)
    return int((theta_M >= 2 * np.pi / length).sum())
