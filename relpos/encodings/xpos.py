"""Rotations whose pairs fade with the distance, the fast ones sooner."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import positions
from relpos.attention.reference import dot_rows
from relpos.encodings.base import Dims, Encoding, Passed, check_base
from relpos.encodings.rotations import check_head_dim, check_layout, rotated

MOST = 8.0  # the exponent of the largest power that is formed: float16 ends at e^11


class XPos(Encoding):
    """sum_m zeta_m^(d/scale_base) (q_i R(i theta))_m . (k_j R(j theta))_m,  zeta_m = (2m/H + gamma) / (1 + gamma).

    Sun et al. 2022, "A Length-Extrapolatable Transformer", arXiv:2212.10554, sec. 2.2; theta_m = base^(-2m/H), the
    pairs are those of `rope`, "interleaved" in the paper, and scale_base is 512 as in the authors' code. Its attention
    in blocks at inference is a window here. Causal: ahead of a query zeta^(d/512) has no bound.

    The paper multiplies queries by zeta^(i/512) and keys by zeta^(-j/512): at position 40,000 the one is 0 and the
    other infinite. Here powers are of distances from the last key of a block that is seen, and where a block reaches
    too far for that, of each pair's own.

    Choose it for decoders that read on beyond the trained length with a window, as the paper does: far tokens fade,
    fast pairs first.

    Choose another for encoders, since nothing bounds it ahead of a query, and where time counts: it walks along the
    row, which GPU kernels do not carry.
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
        check_base("xpos.base", base)
        check_layout("xpos.layout", layout)
        if scale_base < 1:
            raise ValueError(f"xpos.scale_base must be at least 1, got {scale_base}")
        if gamma <= 0:
            raise ValueError(f"xpos.gamma must be above 0, got {gamma}")
        check_head_dim("xpos", dims.head_dim)
        self.base, self.scale_base, self.gamma, self.layout = base, scale_base, gamma, layout
        self.head_dim = dims.head_dim

    def _rotate(self, x_TH, positions_T):
        sin, cos = positions.waves(positions_T, self.base, x_TH.shape[-1])
        return rotated(x_TH, sin, cos, self.layout)

    def query(self, q_TH, positions_T, features_T):
        """Turn the query."""
        return self._rotate(q_TH, positions_T)

    def key(self, k_SH, positions_S, features_S):
        """Turn the key."""
        return self._rotate(k_SH, positions_S)

    def _fading(self, H: int) -> np.ndarray:
        """Return -ln(zeta) / scale_base of each dimension, [H]."""
        zeta_M = (np.arange(0, H, 2) / H + self.gamma) / (1 + self.gamma)
        fading_M = -np.log(zeta_M) / self.scale_base
        return np.tile(fading_M, 2) if self.layout == "half" else np.repeat(fading_M, 2)

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Fade each pair; nothing is carried."""
        fading_H, wide = self._fading(q_CH.shape[1]), jnp.promote_types(q_CH.dtype, jnp.float32)
        seen_C = seen_K = jnp.bool_(True)
        if seen_CK is not None:
            seen_C, seen_K = seen_CK.any(1), seen_CK.any(0)
        last = jnp.where(seen_K, k_positions, k_positions.min()).max()
        ahead_C = jnp.where(seen_C, q_positions - last, 0).astype(float)
        behind_K = jnp.where(seen_K, last - k_positions, 0).astype(float)

        def of_few(q_CH, k_KH):
            return dot_rows(_faded(q_CH, ahead_C, fading_H), _faded(k_KH, behind_K, fading_H))

        def of_each(q_CH, k_KH):
            d_CK = q_positions[:, None] - k_positions[None]
            d_CK = d_CK if seen_CK is None else jnp.where(seen_CK, d_CK, 0)
            factor_CKH = jnp.exp(-d_CK.astype(float)[..., None] * fading_H[None, None])
            return (q_CH[:, None] * k_KH[None] * factor_CKH).sum(-1).astype(wide)

        reach = MOST / max(fading_H.max(), 1e-30)
        return Passed(
            jax.lax.cond(ahead_C.min() >= -reach, of_few, of_each, q_CH, k_KH), None, carry
        )


def _faded(x_TH, distance_T, fading_H):
    """Return x times exp(-distance fading), in the type of x."""
    return (x_TH * jnp.exp(-distance_T[:, None] * fading_H[None])).astype(x_TH.dtype)
