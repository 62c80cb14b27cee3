"""Learned rotations: either the speed of each pair of dimensions is learned, or the plane of rotation."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from relpos.encodings.base import Dims, PerKeyHead, normal
from relpos.encodings.rotations.pairs import Rotation
from relpos.registry import check_choice, check_range

GENERATORS = ("coordinates", "plane")
MOST_SLOWNESS = 1e6


class GrapeM(Rotation):
    """q_i exp(i L) . k_j exp(j L), which depends on i - j;  L + L^T = 0.

        coordinates:  L turns the pair (m, m + H/2) by theta_m,  theta_m = base^(-2m/H) at the start
        plane:        L = a b^T - b a^T,  exp(n L) = I + sin(n s) / s L + (1 - cos(n s)) / s^2 L^2,
                      s^2 = |a|^2 |b|^2 - (a . b)^2

    Zhang et al. 2025, "Group Representational Position Encoding", arXiv:2512.07805, sec. 2 and 3. "coordinates" is what
    the authors train, GRAPE-M-nonctx: RoPE in layout "half" with learned speeds, shared by the heads or, with
    `per_head`, one set for each key head. The parameter is `slowness` * log theta_m, so that speeds change slowly. In
    "plane" each key head has its own a and b [H], and the component at right angles to both stays as it is. Left out:
    phases that depend on the content, and planes that do not commute. Angles are float32 products of a position and a
    speed.

    Choose it as a `rope` that learns how fast each pair turns, or which plane turns: "coordinates" starts as `rope`,
    and both remain functions of i - j.

    Choose another beyond the trained length, where it has no advantage over `rope`, and where angles at far positions
    must be exact: speeds are float32 parameters.
    """

    reals = True

    def __init__(
        self,
        *,
        generator: str = "coordinates",
        base: float = 10000.0,
        per_head: bool = False,
        slowness: float = 16.0,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_choice("grape_m.generator", generator, GENERATORS)
        check_range("grape_m.base", base, 1)
        check_range("grape_m.slowness", slowness, 1 / MOST_SLOWNESS, MOST_SLOWNESS)
        K, H = dims.num_kv_heads, dims.head_dim
        if H < 2 or (H % 2 and generator == "coordinates"):
            raise ValueError(
                f"grape_m turns pairs of dimensions: head_dim must be even and at least 2, got {H}"
            )
        self.head_dim, self.slowness = H, slowness
        is_plane = generator == "plane"
        plane_K2H = normal(rngs, H**-0.5, K, 2, H)
        self.plane = PerKeyHead(plane_K2H) if is_plane else None
        logs_M = -slowness * math.log(base) / H * jnp.arange(0, H, 2, dtype=float)
        speeds = PerKeyHead(jnp.tile(logs_M, (K, 1))) if per_head else nnx.Param(logs_M)
        self.speeds = None if is_plane else speeds

    def _turn(self, x_TH, positions_T, features_T):
        if self.plane is not None:
            return turned_in_plane(x_TH, positions_T, *self.plane[...])
        return super()._turn(x_TH, positions_T, features_T)

    def _waves(self, positions_T, features_T):
        assert self.speeds is not None
        theta_M = jnp.exp(self.speeds[...] / self.slowness)
        angles_TM = positions_T[:, None].astype(theta_M.dtype) * theta_M[None]
        return jnp.sin(angles_TM), jnp.cos(angles_TM)


def turned_in_plane(
    x_TH: Float[Array, "T H"],
    positions_T: Num[Array, "T"],
    a_H: Float[Array, "H"],
    b_H: Float[Array, "H"],
) -> Float[Array, "T H"]:
    """Return exp(n (a b^T - b a^T)) x for each position n, in O(H)."""
    x_TH = x_TH.astype(jnp.promote_types(x_TH.dtype, a_H.dtype))
    aa, bb, ab = (a_H**2).sum(), (b_H**2).sum(), (a_H * b_H).sum()
    speed = jnp.sqrt(jnp.maximum(aa * bb - ab**2, 1e-12))
    half_T1 = (positions_T.astype(a_H.dtype) * speed / 2)[:, None]
    along_a_T1, along_b_T1 = ((x_TH * y_H[None]).sum(-1, keepdims=True) for y_H in (a_H, b_H))

    def generated(of_a_T1, of_b_T1):  # L x, of a . x and b . x
        return of_b_T1 * a_H[None] - of_a_T1 * b_H[None]

    once_TH = generated(along_a_T1, along_b_T1)
    twice_TH = generated(aa * along_b_T1 - ab * along_a_T1, ab * along_b_T1 - bb * along_a_T1)
    # 1 - cos x = 2 sin^2(x / 2) loses no digits where the plane hardly turns.
    once_by, twice_by = jnp.sin(2 * half_T1) / speed, 2 * (jnp.sin(half_T1) / speed) ** 2
    return x_TH + once_by * once_TH + twice_by * twice_TH
