"""Rotations of queries and keys by their positions."""

import math
from typing import NamedTuple

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


class Scaled(NamedTuple):
    """How a model is stretched beyond the length it was trained at.

    Attributes:
      slower: what each theta_m is divided by, M numbers; (): nothing.
      attention: what turned queries and keys are multiplied by, each.
    """

    slower: tuple[float, ...] = ()
    attention: float = 1.0


def longrope(
    trained_length: int,
    target_length: int,
    short_factors: tuple[float, ...],
    long_factors: tuple[float, ...],
) -> Scaled:
    """Return the factors of the length that the model is to serve, and sqrt(1 + ln s / ln L0),  s = target / L0.

    Which set of factors it is depends on nothing that changes from call to call: keys in a cache, turned by one set,
    would not fit queries turned by the other.
    """
    if trained_length < 2:
        raise ValueError(f"rope.trained_length must be at least 2, got {trained_length}")
    is_longer = target_length > trained_length
    stretch = max(1.0, target_length / trained_length)
    attention = math.sqrt(1 + math.log(stretch) / math.log(trained_length))
    return Scaled(long_factors if is_longer else short_factors, attention)


def unscaled(
    trained_length: int,
    target_length: int,
    short_factors: tuple[float, ...],
    long_factors: tuple[float, ...],
) -> Scaled:
    """Return theta_m as trained."""
    if short_factors or long_factors:
        raise ValueError("rope.short_factors and rope.long_factors want rope.scaling=longrope")
    return Scaled()


SCALINGS = {"none": unscaled, "longrope": longrope}


class RoPE(Encoding):
    """q_i R(i theta) . k_j R(j theta), which depends on i - j;  theta_m = base^(-2m/R).

    Su et al. 2021, "RoFormer", arXiv:2104.09864, sec. 3.2. The pairs that turn together are (m, m + H/2) in layout
    "half" (GPT-NeoX, LLaMA) and (2m, 2m + 1) in "interleaved" (the paper). `fraction` < 1 turns only the first
    R = fraction * H dimensions of a head (R = H in the paper). Angles are float32 whatever the compute type.

    `scaling` "longrope" (Ding et al. 2024, arXiv:2402.13753, and the released models that have it): theta_m is divided
    by the m-th of R/2 factors that were searched for, `long_factors` where `target_length`, the longest that the model
    is to serve, is above the `trained_length` L0, else `short_factors`; () are ones. Turned queries and keys are
    multiplied by sqrt(1 + ln s / ln L0), s = target_length / L0 >= 1, each. The set goes by the target, never by the
    length at hand (the released code turns over at L0, and with it all keys): a cache stays right past L0. Left out:
    the paper's first tokens, which keep the trained theta_m.
    """

    reals = True

    def __init__(
        self,
        *,
        base: float = 10000.0,
        layout: str = "half",
        fraction: float = 1.0,
        scaling: str = "none",
        trained_length: int = 4096,
        target_length: int = 0,
        short_factors: tuple[float, ...] = (),
        long_factors: tuple[float, ...] = (),
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
        if scaling not in SCALINGS:
            raise ValueError(f"unknown rope.scaling {scaling!r}: known: {', '.join(SCALINGS)}")
        for name, factors in (("short_factors", short_factors), ("long_factors", long_factors)):
            self._check_factors(f"rope.{name}", factors)
        short, long = (tuple(map(float, chosen)) for chosen in (short_factors, long_factors))
        self.scaled = SCALINGS[scaling](trained_length, target_length, short, long)

    def _check_factors(self, key: str, factors: tuple[float, ...]) -> None:
        if len(factors) not in (0, self.turned // 2):
            raise ValueError(
                f"{key} must be {self.turned // 2} numbers, one for each pair that turns, or none; got {len(factors)}"
            )
        for factor in factors:
            if isinstance(factor, str | bool) or not 1e-3 <= factor <= 1e9:
                raise ValueError(f"{key} must be numbers from 0.001 to 1e9, got {factor!r}")

    def _rotate(self, x_TH, positions_T):
        R = self.turned
        waves = positions.waves(positions_T, self.base, R, self.scaled.slower)
        sin, cos = (wave * self.scaled.attention for wave in waves)
        turned = rotated(x_TH[:, :R], sin, cos, self.layout)
        return jnp.concatenate([turned, x_TH[:, R:]], -1)

    def query(self, q_TH, positions_T, features_T):
        """Turn the query."""
        return self._rotate(q_TH, positions_T)

    def key(self, k_SH, positions_S, features_S):
        """Turn the key."""
        return self._rotate(k_SH, positions_S)
