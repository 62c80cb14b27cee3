"""How the attention matrix is cut: into blocks, and, for one block of queries, into runs of blocks handled alike.

For each part of an encoding (a sum of encodings has several), a run of key blocks is

- near: values differ from distance to distance, and are read from a table of all distances that occur;
- far, in the past or the future: beyond `constant_beyond`, the whole block has one value.

A region ends where any part changes from one to the other. If positions are not consecutive, nothing is known about a
block's distances, and all blocks are near.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relpos.attention.reference import Rules, Tokens

_LEAST, _MOST = -(2**31), 2**31 - 1  # of int32


class Layout(NamedTuple):
    """How the attention matrix is cut.

    Attributes:
      rows: the number of queries in a block.
      columns: the number of keys in a block.
      consecutive: whether row i and column j have distance i - j (plus one constant if there is an offset), so that
        values by distance can be spread.
      band: c such that the encoding's values are constant for |d| >= c, or no distance is longer than c: the values up
        to c are one table, which blocks read whole. None: blocks read slices of a table of all distances.
      offset: whether queries and keys may start at different positions, known only at run time.
    """

    rows: int
    columns: int
    consecutive: bool
    band: int | None = None
    offset: bool = False

    @property
    def has_table(self) -> bool:
        """Whether blocks read the distance slots from a table; otherwise the slots are evaluated for each pair."""
        return self.consecutive or self.band is not None


def offset_of(layout: Layout, q: Tokens, k: Tokens) -> Any:
    """Return the distance of row 0 and column 0 of one sequence, cut into blocks or not."""
    if not layout.offset:
        return 0
    return q.position.ravel()[0] - k.position.ravel()[0]


class Span(NamedTuple):
    """The distances `first`, `first` - 1, ... of the near table; static.

    If the span is relative, they are relative to the distance of row 0 and column 0.
    """

    first: int
    size: int
    relative: bool = False


def near_span(beyond: int | None, rules: Rules, layout: Layout, T: int, S: int) -> Span:
    """Return the distances that the table of the near region holds.

    The table covers the slice of every near block: T and S are rounded up to whole blocks, and the table extends
    rows + columns beyond the last distance that makes a block near. A band holds only distances whose values differ.
    """
    if layout.band is not None:
        return Span(layout.band, layout.band + 1 if rules.past_only else 2 * layout.band + 1)
    T, S = round_up(T, layout.rows), round_up(S, layout.columns)
    reach = layout.rows + layout.columns  # the distances in one block, plus one
    least, most = jax.core.min_dim, jax.core.max_dim  # for sizes that may be symbols
    if layout.offset:
        return _anywhere(beyond, rules, reach, T, S)
    first, last = T, -(S - 1)
    if beyond is not None:
        # A block is near if it holds one distance short of the constant part.
        first, last = least(first, beyond + reach), most(last, -beyond - reach)
    past, future = rules.window
    if past is not None:
        first = least(first, past + reach)
    if future is not None:
        last = most(last, -future - reach)
    if rules.causal:
        last = most(last, -reach)
    return Span(first, first - last + 1)


def _anywhere(beyond: int | None, rules: Rules, reach: int, T: int, S: int) -> Span:
    """Return the span for an arbitrary offset: all distances that can be near, or all that occur if these are fewer."""
    past, future = rules.window
    firsts, lasts = (
        [limit for limit in (beyond, side) if limit is not None] for side in (past, future)
    )
    if firsts and (lasts or rules.causal):
        first, last = min(firsts) + reach, -reach if rules.causal else -min(lasts) - reach
        size = first - last + 1
        if not isinstance(T + S, int) or size <= T + S:
            return Span(first, size)
    return Span(T, T + S, relative=True)


class Region(NamedTuple):
    """A run of key blocks [begin, end) that are handled alike."""

    begin: Any
    end: Any
    tables: tuple[str, ...]  # for each part "near", "past" or "future"

    def within(self, first: Array, last: Array) -> "Region":
        """Return the part of the region that lies in [first, last)."""
        begin, end = jnp.clip(self.begin, first, last), jnp.clip(self.end, first, last)
        return self._replace(begin=begin, end=end)


def regions(
    beyonds: tuple[int | None, ...], rules: Rules, layout: Layout, row: Array, key_blocks: int
) -> list[Region]:
    """Cut the key blocks that a block of queries may see into regions.

    `beyonds` holds the constant_beyond of each part; `row` is the index of the first query, plus the offset.
    """
    C, K = layout.rows, layout.columns
    if not layout.consecutive:
        return [Region(0, key_blocks, ("near",) * len(beyonds))]

    def clip(block):
        return jnp.clip(block, 0, key_blocks)

    def row_less(d):
        """Return row - d without overflow of int32; rows far outside the columns are clipped."""
        if not layout.offset:
            return row - d
        low, high = -(C + K), (key_blocks + 2) * K
        bounds = jax.core.max_dim(low + d, _LEAST), jax.core.min_dim(high + d, _MOST)
        return jnp.clip(row, *bounds) - d

    # Block c holds the distances row - cK - (K - 1) ... row - cK + (C - 1).
    def first_with_least_below(d):  # the first block that holds a distance < d
        return clip((row_less(d) - K + 1) // K + 1)

    def first_with_most_below(d):  # the first block that holds only distances < d
        return clip((row_less(d) + C - 1) // K + 1)

    begin, end = jnp.zeros_like(row), jnp.full_like(row, key_blocks)
    past, future = rules.window
    if past is not None:
        begin = first_with_least_below(past)
    if future is not None:
        end = first_with_most_below(-future + 1)
    if rules.causal:
        end = first_with_most_below(0)

    def region(begin, end, side, c):
        """Return a region on one side: parts that are constant from distance c on are far, the others near."""
        far = [beyond is not None and beyond <= c for beyond in beyonds]
        return Region(begin, end, tuple(side if yes else "near" for yes in far))

    rising = sorted({beyond for beyond in beyonds if beyond is not None})
    found = []
    for c in reversed(rising):
        until = jnp.clip(first_with_least_below(c), begin, end)
        found.append(region(begin, until, "past", c))
        begin = until
    behind = []
    for c in [] if rules.causal else reversed(rising):
        since = jnp.clip(first_with_most_below(-c + 1), begin, end)
        behind.append(region(since, end, "future", c))
        end = since
    near = Region(begin, end, ("near",) * len(beyonds))
    return [*found, near, *reversed(behind)]


def round_up(n: int, multiple: int) -> int:
    """Return the least multiple of `multiple` that is not below n."""
    return -(-n // multiple) * multiple
