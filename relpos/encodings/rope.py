"""Rotations of queries and keys by their positions."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from relpos import positions
from relpos.encodings.base import Dims, Encoding, check_base

LAYOUTS = ("half", "interleaved")


def check_layout(key: str, layout: str) -> None:
    """Check which pairs of dimensions turn together; names the option `key`."""
    if layout not in LAYOUTS:
        raise ValueError(f"unknown {key} {layout!r}: known: {', '.join(LAYOUTS)}")


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


class RoPE(Encoding):
    """q_i R(i theta) . k_j R(j theta), which depends on i - j;  theta_m = base^(-2m/R).

    Su et al. 2021, "RoFormer", arXiv:2104.09864, sec. 3.2. The pairs that turn together are (m, m + H/2) in layout
    "half" (GPT-NeoX, LLaMA) and (2m, 2m + 1) in "interleaved" (the paper). `fraction` < 1 turns only the first
    R = fraction * H dimensions of a head (R = H in the paper). Angles are float32 whatever the compute type.
    """

    reals = True

    def __init__(
        self,
        *,
        base: float = 10000.0,
        layout: str = "half",
        fraction: float = 1.0,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_layout("rope.layout", layout)
        if not 0 < fraction <= 1:
            raise ValueError(f"rope.fraction must be in (0, 1], got {fraction}")
        check_base("rope.base", base)
        self.base = base
        self.layout = layout
        self.head_dim = dims.head_dim
        self.turned = round(dims.head_dim * fraction)
        if self.turned < 2 or self.turned % 2:
            raise ValueError(
                f"rope turns pairs of dimensions: head_dim * fraction must be even and at least 2, got "
                f"{dims.head_dim} * {fraction} = {self.turned}"
            )

    def _rotate(self, x_TH, positions_T):
        R = self.turned
        waves = positions.waves(positions_T, self.base, R)
        turned = rotated(x_TH[:, :R], *waves, self.layout)
        return jnp.concatenate([turned, x_TH[:, R:]], -1)

    def query(self, q_TH, positions_T, features_T):
        """Turn the query."""
        return self._rotate(q_TH, positions_T)

    def key(self, k_SH, positions_S, features_S):
        """Turn the key."""
        return self._rotate(k_SH, positions_S)
