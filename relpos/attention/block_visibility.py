"""Which blocks of keys a block of queries may see, told by the least and greatest place and segment of each block.

A mask of pairs would tell exactly, at the cost of a block of attention. Bounds tell it exactly for documents side by
side whose ids rise along the row, and too much, never too little, for all others.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from relpos.attention.reference import Rules, Tokens
from relpos.attention.regions import Layout
from relpos.positions import PADDING


class _Bounds(NamedTuple):
    ranks: tuple[Array, Array]
    segments: tuple[Array, Array] | None


def _bounds(tokens: Tokens) -> _Bounds:
    """Return the bounds along the last axis; padding counts in neither."""
    if tokens.segment is None:
        return _Bounds((tokens.rank.min(-1), tokens.rank.max(-1)), None)
    padding = tokens.segment == PADDING

    def of(x):
        limits = (jnp.iinfo if jnp.issubdtype(x.dtype, jnp.integer) else jnp.finfo)(x.dtype)
        low, high = jnp.where(padding, limits.max, x), jnp.where(padding, limits.min, x)
        return low.min(-1), high.max(-1)

    return _Bounds(of(tokens.rank), of(tokens.segment))


def _is_within(most: int, later: Array, earlier: Array) -> Array:
    """Whether later - earlier may be less than `most`.

    Compared in floats, with room for their rounding: differences need not fit an int32.
    """
    later, earlier = later.astype(jnp.float32), earlier.astype(jnp.float32)
    return later - earlier < most + 1 + 1e-6 * (jnp.abs(later) + jnp.abs(earlier))


def may_see(
    rules: Rules, layout: Layout, q: Tokens, k: Tokens
) -> tuple[Int[Array, ""], Int[Array, ""]] | None:
    """Return the first block of keys that may hold a visible pair, and the one behind the last.

    Args:
      rules: of the call.
      layout: where positions are consecutive, causality and windows are left to `regions.regions`.
      q: one block of queries, [C].
      k: all blocks of keys, [blocks, K].

    Returns:
      The two block numbers, equal if there is none; None where nothing can be told.
    """
    queries, keys = _bounds(q), _bounds(k)
    checks = []
    if queries.segments is not None and keys.segments is not None:
        checks += [queries.segments[0] <= keys.segments[1], keys.segments[0] <= queries.segments[1]]
    if not layout.consecutive:
        if rules.causal:
            checks.append(queries.ranks[1] >= keys.ranks[0])
        past, future = rules.window
        if past is not None:
            checks.append(_is_within(past, queries.ranks[0], keys.ranks[1]))
        if future is not None and not rules.causal:
            checks.append(_is_within(future, keys.ranks[0], queries.ranks[1]))
    if not checks:
        return None
    seen = functools.reduce(jnp.logical_and, checks)
    begin = jnp.argmax(seen)
    end = jnp.where(seen.any(), seen.shape[0] - jnp.argmax(seen[::-1]), begin)
    return begin.astype(jnp.int32), end.astype(jnp.int32)


def are_within(longest: int, rules: Rules, places: tuple[Any, ...]) -> Bool[Array, ""]:
    """Say whether no two tokens that may see each other are further apart than this.

    Args:
      longest: a distance.
      rules: of the call.
      places: positions [B, T] and [B, S], segments and order, as `relpos.attention.prepared.Arrays` has them.
    """
    q, k, q_segments, k_segments, *_ = places
    (q_low, q_high), (k_low, k_high) = (
        _bounds(Tokens(x, x, segment)).ranks for x, segment in ((q, q_segments), (k, k_segments))
    )

    def within(high, low):
        d = high - low  # an int32 that turns over has the wrong sign
        return (d <= longest) & ((d >= 0) == (high >= low))

    near = within(q_high, k_low)
    if not rules.past_only:
        near &= within(k_high, q_low)
    return (near | (q_high < q_low) | (k_high < k_low)).all()  # or nothing but padding
