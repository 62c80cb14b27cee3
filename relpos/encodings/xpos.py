"""Rotations whose products decay with distance, faster for fast pairs than for slow ones."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import positions
from relpos.attention.reference import dot_rows
from relpos.encodings.base import Dims, Passed
from relpos.encodings.rotations.pairs import Rotation
from relpos.registry import check_range

MOST = 8.0  # the largest exponent in use: float16 ends at e^11


class XPos(Rotation):
    """sum_m zeta_m^(d/scale_base) (q_i R(i theta))_m . (k_j R(j theta))_m,  zeta_m = (2m/H + gamma) / (1 + gamma).

    Sun et al. 2022, "A Length-Extrapolatable Transformer", arXiv:2212.10554, sec. 2.2. theta_m = base^(-2m/H); the
    pairs are those of `rope`, "interleaved" as in the paper; `scale_base` is 512 as in the authors' code. The paper's
    blockwise attention at inference is a window here. Causal: for keys in the future zeta^(d/512) would grow without
    bound.

    The paper multiplies queries by zeta^(i/512) and keys by zeta^(-j/512): at position 40,000 the first is 0 and the
    second infinite. Here exponents are distances from the last visible key of a block; if these are too large, each
    pair gets its own power.

    Choose it for decoders that read beyond the trained length with a window, as in the paper: the products with far
    tokens decay, in fast pairs first.

    Choose another for encoders, since it grows without bound for keys in the future, and where speed matters: it walks
    along the row, which GPU kernels do not support.
    """

    reals = True
    causal_only = True

    def __init__(
        self,
        *,
        base: float = 10000.0,
        scale_base: float = 512.0,
        gamma: float = 0.4,
        layout: str = "interleaved",
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        super().__init__("xpos", dims, base, layout)
        check_range("xpos.scale_base", scale_base, 1)
        if gamma <= 0:
            raise ValueError(f"xpos.gamma must be above 0, got {gamma}")
        self.scale_base, self.gamma = scale_base, gamma

    def _waves(self, positions_T, features_T):
        return positions.waves(positions_T, self.base, self.head_dim)

    def _decay(self, H: int) -> np.ndarray:
        """Return -ln(zeta) / scale_base for each dimension, [H]."""
        zeta_M = (np.arange(0, H, 2) / H + self.gamma) / (1 + self.gamma)
        decay_M = -np.log(zeta_M) / self.scale_base
        return np.tile(decay_M, 2) if self.layout == "half" else np.repeat(decay_M, 2)

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Scale each pair by its decay; nothing is carried."""
        decay_H, wide = self._decay(q_CH.shape[1]), jnp.promote_types(q_CH.dtype, jnp.float32)
        seen_C = seen_K = jnp.bool_(True)
        if seen_CK is not None:
            seen_C, seen_K = seen_CK.any(1), seen_CK.any(0)
        last = jnp.where(seen_K, k_positions, k_positions.min()).max()
        ahead_C = jnp.where(seen_C, q_positions - last, 0).astype(float)
        behind_K = jnp.where(seen_K, last - k_positions, 0).astype(float)

        def of_few(q_CH, k_KH):
            return dot_rows(_decayed(q_CH, ahead_C, decay_H), _decayed(k_KH, behind_K, decay_H))

        def of_each(q_CH, k_KH):
            d_CK = q_positions[:, None] - k_positions[None]
            d_CK = d_CK if seen_CK is None else jnp.where(seen_CK, d_CK, 0)
            factor_CKH = jnp.exp(-d_CK.astype(float)[..., None] * decay_H[None, None])
            return (q_CH[:, None] * k_KH[None] * factor_CKH).sum(-1).astype(wide)

        reach = MOST / max(decay_H.max(), 1e-30)
        near = ahead_C.min() >= -reach
        return Passed(jax.lax.cond(near, of_few, of_each, q_CH, k_KH), None, carry)


def _decayed(x_TH, distance_T, decay_H):
    """Return x times exp(-distance * decay), in the type of x."""
    return (x_TH * jnp.exp(-distance_T[:, None] * decay_H[None])).astype(x_TH.dtype)
