"""Find the blocks of keys that a block of queries may see, from bounds on each block's order and segments.

A mask of pairs would be exact, but cost as much as a block of attention. The bounds are exact for packed documents
whose ids rise along the row; otherwise they may include blocks without visible pairs, but never exclude others.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from relpos.attention.reference import Rules, Tokens
from relpos.attention.regions import Layout
from relpos.positions import PADDING

_Bounds = tuple[Array, Array]


def _bounds(tokens: Tokens) -> tuple[_Bounds, _Bounds | None]:
    """Return the bounds of ranks and of segments along the last axis, ignoring padding."""
    if tokens.segment is None:
        return (tokens.rank.min(-1), tokens.rank.max(-1)), None
    padding = tokens.segment == PADDING

    def of(x):
        limits = (jnp.iinfo if jnp.issubdtype(x.dtype, jnp.integer) else jnp.finfo)(x.dtype)
        low, high = jnp.where(padding, limits.max, x), jnp.where(padding, limits.min, x)
        return low.min(-1), high.max(-1)

    return of(tokens.rank), of(tokens.segment)


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

    The numbers are equal if there is no such block; None if every block may hold one. `q` is one block of queries, [C],
    `k` all blocks of keys, [blocks, K]. At consecutive positions `regions.regions` handles causality and windows.
    """
    ((q_low, q_high), q_segments), ((k_low, k_high), k_segments) = _bounds(q), _bounds(k)
    checks = []
    if q_segments is not None and k_segments is not None:
        checks += [q_segments[0] <= k_segments[1], k_segments[0] <= q_segments[1]]
    if not layout.consecutive:
        if rules.causal:
            checks.append(q_high >= k_low)
        past, future = rules.window
        if past is not None:
            checks.append(_is_within(past, q_low, k_high))
        if future is not None and not rules.causal:
            checks.append(_is_within(future, k_low, q_high))
    if not checks:
        return None
    seen = functools.reduce(jnp.logical_and, checks)
    begin = jnp.argmax(seen)
    end = jnp.where(seen.any(), seen.shape[0] - jnp.argmax(seen[::-1]), begin)
    return begin.astype(jnp.int32), end.astype(jnp.int32)


def are_within(longest: int, rules: Rules, locations: tuple[Any, ...]) -> Bool[Array, ""]:
    """Return whether bounds show all tokens that may see each other to be within the distance `longest`.

    `locations` are those of queries and keys, with positions [B, T] and [B, S], see `relpos.attention.prepared.Arrays`.
    """
    (q_low, q_high), (k_low, k_high) = (
        _bounds(Tokens(x.position, x.position, x.segment))[0] for x in locations
    )

    def within(high, low):
        d = high - low  # an int32 that overflows has the wrong sign
        return (d <= longest) & ((d >= 0) == (high >= low))

    near = within(q_high, k_low)
    if not rules.past_only:
        near &= within(k_high, q_low)
    return (near | (q_high < q_low) | (k_high < k_low)).all()  # or only padding
