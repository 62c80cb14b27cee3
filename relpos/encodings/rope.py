"""Rotations of queries and keys by their positions."""

import jax.numpy as jnp
from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims, Encoding, check_base

LAYOUTS = ("half", "interleaved")


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
        if layout not in LAYOUTS:
            raise ValueError(f"unknown rope.layout {layout!r}: known: {', '.join(LAYOUTS)}")
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
        sin, cos = (wave.astype(x_TH.dtype) for wave in positions.waves(positions_T, self.base, R))
        x, rest = x_TH[:, :R], x_TH[:, R:]
        if self.layout == "half":
            a, b = x[:, : R // 2], x[:, R // 2 :]
            turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
        else:
            a, b = x[:, ::2], x[:, 1::2]
            turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
        return jnp.concatenate([turned, rest], -1)

    def query(self, q_TH, positions_T, features_T):
        """Turn the query."""
        return self._rotate(q_TH, positions_T)

    def key(self, k_SH, positions_S, features_S):
        """Turn the key."""
        return self._rotate(k_SH, positions_S)
