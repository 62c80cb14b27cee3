"""Find the blocks of keys that a block of queries may see, from bounds on each block's order and segments.

A mask of pairs would be exact, but cost as much as a block of attention. The bounds are exact for packed documents
whose ids rise along the row; otherwise they may include blocks without visible pairs, but never exclude others.
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
    """Return the bounds along the last axis, ignoring padding."""
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

    The comparison is in floats, with a margin for rounding, since differences may not fit an int32.
    """
    later, earlier = later.astype(jnp.float32), earlier.astype(jnp.float32)
    return later - earlier < most + 1 + 1e-6 * (jnp.abs(later) + jnp.abs(earlier))


def may_see(
    rules: Rules, layout: Layout, q: Tokens, k: Tokens
) -> tuple[Int[Array, ""], Int[Array, ""]] | None:
    """Return the first block of keys that may hold a visible pair, and the one after the last.

    Args:
      rules: the rules of the call.
      layout: how the matrix is cut; `regions.regions` handles causality and windows if positions are consecutive.
      q: one block of queries, [C].
      k: all blocks of keys, [blocks, K].

    Returns:
      The two block numbers, which are equal if there is no such block; None if every block may hold one.
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
    """Return whether all tokens that may see each other are within a distance.

    Args:
      longest: the distance.
      rules: the rules of the call.
      places: those of queries and keys, with positions [B, T] and [B, S], as in `relpos.attention.prepared.Arrays`.
    """
    (q_low, q_high), (k_low, k_high) = (
        _bounds(Tokens(x.position, x.position, x.segment)).ranks for x in places
    )

    def within(high, low):
        d = high - low  # an int32 that overflows has the wrong sign
        return (d <= longest) & ((d >= 0) == (high >= low))

    near = within(q_high, k_low)
    if not rules.past_only:
        near &= within(k_high, q_low)
    return (near | (q_high < q_low) | (k_high < k_low)).all()  # or only padding
