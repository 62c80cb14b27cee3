"""Positions, segments and visibility: the rules that all attention paths share.

Positions and segment ids are data. A position is an int32, a real number, or one number per axis (row and column of an
image); the distance from key j to query i is

    d = position of i - position of j        (d > 0: the key is in the past)

Tokens are ordered by position if positions are single numbers, otherwise by index in the row.

A segment id names the document that a token belongs to: tokens see only tokens of their own segment, and id 0 is
padding, which sees nothing and is seen by nothing. The tokens of a segment must be contiguous: padding or another
segment between them would count in their distances, except in a cache, which counts only tokens.
"""

import dataclasses
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from relpos.sharding import left_to_the_compiler

PADDING = 0
_STRIDE = 4096  # of positions, in `angles`


class Window(NamedTuple):
    """The keys that a query sees: those with d < past and -d < future; None: no limit on that side.

    Both limits count the token itself. Functions that take a window also accept an integer w for (w, w), |d| < w, and
    None for no limit on either side.
    """

    past: int | None = None
    future: int | None = None

    @classmethod
    def of(cls, given: Any) -> "Window":
        """Return the window for an integer, a pair (past, future) or None; drop limits that no int32 distance reaches.

        Raises:
          ValueError: a side is not an integer, or hides the token itself.
        """
        sides = tuple(given) if isinstance(given, tuple | list) else (given, given)
        if len(sides) != 2:
            raise ValueError(f"window must be an integer or a pair (past, future), got {given!r}")
        return cls(*(cls._side(side, given) for side in sides))

    @staticmethod
    def _side(side: Any, given: Any) -> int | None:
        if side is None:
            return None
        if isinstance(side, jax.core.Tracer):
            raise ValueError(
                "window must be a Python integer or a pair of them, not a traced array"
            )
        try:
            side = operator.index(side)
        except TypeError as error:
            raise ValueError(
                f"window must be an integer or a pair of them (past, future), got {given!r}"
            ) from error
        if side < 1:
            raise ValueError(
                f"window must be at least 1 (the token itself) on each side, got {given!r}"
            )
        return side if side < 2**31 else None


def contiguous(length: int) -> Int[Array, "T"]:
    """Return the positions 0, 1, ..., length - 1."""
    return jnp.arange(length, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Consecutive:
    """Positions that rise by one from token to token; see `consecutive`.

    Attributes:
      start: the position of the first token, int32, one number or [B].
    """

    start: Int[Array, "*B"]

    def of(self, length: int) -> Int[Array, "*B T"]:
        """Return the positions of `length` tokens."""
        start, index = jnp.asarray(self.start, jnp.int32), contiguous(length)
        return start[..., None] + index.reshape(*start.ndim * [1], -1)


def consecutive(start: Int[Array, "*B"] | int) -> Consecutive:
    """Return the positions start, start + 1, ..., for example of a chunk after a cache or a shard of a row.

    If both queries and keys have such positions, `relpos.attention` knows every distance from the index in the row, and
    is as fast as without positions.

    Args:
      start: an integer or integer scalar, traced or not; or one for each row, [B].

    Raises:
      ValueError: start is neither.
    """
    start = jnp.asarray(start)
    if start.ndim > 1 or not jnp.issubdtype(start.dtype, jnp.integer):
        raise ValueError(
            f"start must be an integer, or one for each row [B], got {start.dtype}{list(start.shape)}"
        )
    return Consecutive(start.astype(jnp.int32))


def axes(positions: Any, shape: tuple[int, ...]) -> int | None:
    """Return the number of axes of positions [B, T, axes] or [T, axes]; None without axes. `shape` is [B, T].

    Where both readings are possible, positions have no axes.
    """
    if isinstance(positions, Consecutive):
        return None
    given = jnp.shape(positions)
    return None if given in (shape, shape[1:]) else given[-1]


def within_segments(segments_T: Int[Array, "*B T"]) -> Int[Array, "*B T"]:
    """Return each token's position, counted from the first token of its segment.

    [1, 1, 1, 2, 2, 0] gives [0, 1, 2, 0, 1, 0]. Tokens of other segments in between count: [1, 0, 1] gives [0, 0, 2].
    """
    axes = range(segments_T.ndim - 1)
    return left_to_the_compiler(_within_segments, (), segments_T, *axes)(segments_T)


def _within_segments(segments_T):
    index_T = jnp.broadcast_to(contiguous(segments_T.shape[-1]), segments_T.shape)
    order_T = jnp.argsort(segments_T, axis=-1, stable=True)
    sorted_T = jnp.take_along_axis(segments_T, order_T, -1)
    begins_T = jnp.diff(sorted_T, axis=-1, prepend=sorted_T[..., :1]) != 0
    place_T = jax.lax.cummax(jnp.where(begins_T, index_T, 0), axis=segments_T.ndim - 1)
    firsts_T = jnp.take_along_axis(order_T.astype(jnp.int32), place_T, -1)
    return index_T - jnp.take_along_axis(firsts_T, jnp.argsort(order_T, axis=-1), -1)


def distances(q_positions_T: Num[Array, "T"], k_positions_S: Num[Array, "S"]) -> Num[Array, "T S"]:
    """Return d[i, j] = q_positions[i] - k_positions[j]."""
    return q_positions_T[:, None] - k_positions_S[None, :]


def angles(
    positions_T: Num[Array, "T"], base: float, width: int, slower: tuple[float, ...] = ()
) -> Float[Array, "T M"]:
    """Return position * theta_m up to whole turns,  theta_m = base^(-2m/width),  m = 0 ... width/2 - 1.

    The m-th number in `slower` divides theta_m.

    A product in float32 would be off by up to 0.06 at position 10^6. Here whole strides of positions turn by an angle
    that was reduced below one turn in float64, so that the error stays below 0.003 up to 10^7.
    """
    theta_M = base ** (-np.arange(0, width, 2) / width)
    theta_M = theta_M / np.array(slower) if slower else theta_M
    stride_M = np.remainder(_STRIDE * theta_M, 2 * np.pi)
    stride_T = jnp.full_like(positions_T, _STRIDE)
    # The remainder is exact, even for reals, and has the position's sign: small negative positions have no stride.
    rest_T = jax.lax.rem(positions_T, stride_T)
    strides_T1 = jax.lax.div(positions_T - rest_T, stride_T)[:, None].astype(float)
    rest_T1 = rest_T[:, None].astype(float)
    return strides_T1 * stride_M[None].astype(float) + rest_T1 * theta_M[None].astype(float)


def waves(
    positions_T: Num[Array, "T"], base: float, width: int, slower: tuple[float, ...] = ()
) -> tuple[Float[Array, "T M"], Float[Array, "T M"]]:
    """Return the sines and the cosines of `angles`."""
    angles_TM = angles(positions_T, base, width, slower)
    if angles_TM.dtype != jnp.float32:
        return jnp.sin(angles_TM), jnp.cos(angles_TM)
    return _sines_and_cosines(angles_TM)


def _sines_and_cosines(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return sin x and cos x in float32, with an error of at most 3e-7 for |x| < 20,000.

    XLA's own functions take five times as long on CPUs, as they use no vector instructions. The nearest multiple of
    pi/2 is subtracted from x in three parts, without rounding; the polynomials of Cephes' single precision library,
    which are close to Taylor's, approximate both for the remainder, at most pi/4.
    """
    quarters = jnp.round(x * (2 / np.pi))
    for part in (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8):
        x = x - quarters * part
    y = x * x
    sin = x + x * y * (-1.6666654611e-1 + y * (8.3321608736e-3 - y * 1.9515295891e-4))
    cos = 4.166664568298827e-2 + y * (-1.388731625493765e-3 + y * 2.443315711809948e-5)
    cos = 1 - y / 2 + y * y * cos
    quadrant = quarters.astype(jnp.int32)
    sin, cos = jnp.where(quadrant & 1, cos, sin), jnp.where(quadrant & 1, sin, cos)
    return jnp.where(quadrant & 2, -sin, sin), jnp.where((quadrant + 1) & 2, -cos, cos)


def visible(
    q_positions_T: Num[Array, "T"],
    k_positions_S: Num[Array, "S"],
    q_segments_T: Int[Array, "T"] | None = None,
    k_segments_S: Int[Array, "S"] | None = None,
    *,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    itself: bool = True,
) -> Bool[Array, "T S"]:
    """Return which keys each query may see.

    Args:
      q_positions_T: query positions.
      k_positions_S: key positions.
      q_segments_T: query segment ids, 0 is padding; None: all tokens are in one segment.
      k_segments_S: key segment ids, likewise.
      causal: whether only keys with d >= 0 are visible.
      window: only keys with |d| < window are visible: only the token itself if 1; or a pair, see `Window`.
      itself: whether keys with d = 0 are visible.
    """
    d_TS = distances(q_positions_T, k_positions_S)
    mask_TS = jnp.ones(d_TS.shape, bool) if itself else d_TS != 0
    if causal:
        mask_TS &= d_TS >= 0
    past, future = Window.of(window)
    if past is not None:
        mask_TS &= d_TS < past
    if future is not None and not causal:
        mask_TS &= d_TS > -future
    if q_segments_T is not None and k_segments_S is not None:
        mask_TS &= q_segments_T[:, None] == k_segments_S[None, :]
        mask_TS &= (k_segments_S != PADDING)[None, :]
    return mask_TS
