"""Pairs of dimensions that turn together."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LAYOUTS = ("half", "interleaved")


def check_layout(key: str, layout: str) -> None:
    """Check the layout of pairs; the error names the option `key`."""
    if layout not in LAYOUTS:
        raise ValueError(f"unknown {key} {layout!r}: known: {', '.join(LAYOUTS)}")


def check_head_dim(name: str, head_dim: int) -> None:
    """Check that the number of a head's dimensions is even; the error names the scheme."""
    if head_dim % 2:
        raise ValueError(f"{name} turns pairs of dimensions: head_dim must be even, got {head_dim}")


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
    if length < 7:
        raise ValueError(f"{key} must be at least 7, a turn of the fastest pair, got {length}")
    theta_M = base ** (-np.arange(0, width, 2) / width)
    return int((theta_M >= 2 * np.pi / length).sum())
