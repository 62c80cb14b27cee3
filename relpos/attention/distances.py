"""How the attention matrix is cut into blocks, and how a block gets at the encoding's values for each distance.

A run of key blocks lies in one of these regions, for one block of queries:

- near: values differ from distance to distance. `Window`: the C + K - 1 consecutive distances of the block, cut out of
  a table of all; or `Band`: the few distances up to `constant_beyond`, both sides constant;
- far (past or future): beyond `constant_beyond` there is one value for the whole block;
- scattered: positions are not consecutive. `Looked`: each pair looks its distance up in the band; without a band
  there is no table, and the encoding is evaluated for each pair.

Each has the same operations: `spread` takes values by distance to the block, `collect` sums the block by distance;
`..._columns` do it for values that belong to keys, `..._vector` for values that all rows share.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relpos.attention import spread
from relpos.attention.reference import Rules
from relpos.attention.slots import Slots


class Layout(NamedTuple):
    """How the attention matrix is cut.

    Attributes:
      rows: queries in a block.
      columns: keys in a block.
      consecutive: row i and column j have distance i - j, so that distances can be spread.
      band: c such that the encoding's values are constant for |d| >= c and the distances between are few: they are
        one small table; None: a table of all distances.
    """

    rows: int
    columns: int
    consecutive: bool
    band: int | None = None

    @property
    def has_table(self) -> bool:
        """Whether blocks read the distance slots from a table; if not, they are evaluated for each pair."""
        return self.consecutive or self.band is not None


class Table(NamedTuple):
    """The distance slots at falling distances; None where the encoding leaves a slot empty."""

    bias: Any = None  # [P]
    key_vectors: Any = None  # [P, H]
    query_vectors: Any = None  # [P, H]
    value_vectors: Any = None  # [P, H]


class Tables(NamedTuple):
    """Everything of the encoding that is evaluated once, outside of the loop over blocks."""

    near: Table
    past: Table
    future: Table


class Span(NamedTuple):
    """The falling distances `first`, `first` - 1, ... of the near table, static."""

    first: int
    size: int


def near_span(beyond: int | None, rules: Rules, layout: Layout, T: int, S: int) -> Span:
    """Return the distances that the table of the near region holds.

    Every window a block takes lies inside: the first and last distances of a whole number of blocks are counted,
    and one reach more than the last distance that makes a block near. A band holds what differs, no more.
    """
    if layout.band is not None:
        return Span(layout.band, layout.band + 1 if rules.causal else 2 * layout.band + 1)
    T, S = round_up(T, layout.rows), round_up(S, layout.columns)
    reach = layout.rows + layout.columns - 1  # distances in one block
    first, last = T - 1, -(S - 1)
    if beyond is not None:
        # A block is near if it holds one distance short of the constant part.
        first, last = min(first, beyond + reach), max(last, -beyond - reach)
    if rules.window is not None:
        first, last = min(first, rules.window + reach), max(last, -rules.window - reach)
    if rules.causal:
        last = max(last, -reach)
    return Span(first, first - last + 1)


def tabulate(
    encoding: Slots, beyond: int | None, rules: Rules, layout: Layout, T: int, S: int
) -> Tables:
    """Evaluate the distance slots where blocks will read them."""

    def table(d: Array) -> Table:
        d = jnp.maximum(d, 0) if rules.causal else d
        return Table(
            encoding.bias(d),
            encoding.key_vectors(d),
            encoding.query_vectors(d),
            encoding.value_vectors(d),
        )

    if not layout.has_table:
        return Tables(Table(), Table(), Table())
    span = near_span(beyond, rules, layout, T, S)
    near = table(span.first - jnp.arange(span.size, dtype=jnp.int32))
    if beyond is None or not layout.consecutive:
        return Tables(near, Table(), Table())
    far = jnp.full((1,), beyond, jnp.int32)
    return Tables(near, table(far), Table() if rules.causal else table(-far))


class Window(NamedTuple):
    """All distances of a block, from column `start` of the table on."""

    rows: int
    columns: int
    start: Array

    def take(self, x, axis: int):
        """Return the block's part of a table."""
        return lax.dynamic_slice_in_dim(x, self.start, self.rows + self.columns - 1, axis)

    def add(self, sums, x):
        """Add the block's part to the last axis of a table of sums."""
        old = lax.dynamic_slice_in_dim(sums, self.start, x.shape[-1], -1)
        return lax.dynamic_update_slice_in_dim(sums, old + x, self.start, -1)

    def spread(self, x_Cn):
        return spread.spread(x_Cn)

    def spread_vector(self, x_n):
        return spread.spread_vector(x_n, self.rows)

    def spread_columns(self, x_Kn):
        return spread.spread_columns(x_Kn)

    def collect(self, p_CK):
        return spread.collect(p_CK)

    def collect_vector(self, p_CK):
        return spread.collect(p_CK).sum(0)

    def collect_columns(self, p_CK):
        return spread.collect_columns(p_CK)


class _WholeTable:
    """What reads the whole of a small table in every block."""

    def take(self, x, axis: int):
        return x

    def add(self, sums, x):
        return sums + x


class _Band(NamedTuple):
    rows: int
    columns: int
    width: int
    offset: Array  # of row 0 and column 0 in the table


class Band(_WholeTable, _Band):
    """A few distances, and what lies beyond them on both sides."""

    def spread(self, x_CW):
        return spread.spread_band(x_CW, self.offset, self.columns)

    def spread_vector(self, x_W):
        return spread.spread_band_vector(x_W, self.offset, self.rows, self.columns)

    def spread_columns(self, x_KW):
        return spread.spread_band(x_KW[:, ::-1], self.width - 1 - self.offset, self.rows).T

    def collect(self, p_CK):
        return spread.collect_band(p_CK, self.offset, self.width)

    def collect_vector(self, p_CK):
        return self.collect(p_CK).sum(0)

    def collect_columns(self, p_CK):
        return spread.collect_band(p_CK.T, self.width - 1 - self.offset, self.width)[:, ::-1]


class Far(_WholeTable):
    """One distance for the whole block: the results of spreading are broadcast."""

    def spread(self, x_C1):
        return x_C1

    def spread_vector(self, x_1):
        return x_1[None]

    def spread_columns(self, x_K1):
        return x_K1.T

    def collect(self, p_CK):
        return p_CK.sum(-1, keepdims=True)

    def collect_vector(self, p_CK):
        return p_CK.sum()[None]

    def collect_columns(self, p_CK):
        return p_CK.sum(0)[:, None]


class _Looked(NamedTuple):
    width: int
    index_CK: Array


class Looked(_WholeTable, _Looked):
    """Any positions, distances looked up in a table of few."""

    def spread(self, x_CW):
        return jnp.take_along_axis(x_CW, self.index_CK, 1)

    def spread_vector(self, x_W):
        return x_W[self.index_CK]

    def spread_columns(self, x_KW):
        return jnp.take_along_axis(x_KW, self.index_CK.T, 1).T

    def collect(self, p_CK):
        one = jax.vmap(lambda p, index: jnp.zeros((self.width,), p.dtype).at[index].add(p))
        return one(p_CK, self.index_CK)

    def collect_vector(self, p_CK):
        return jnp.zeros((self.width,), p_CK.dtype).at[self.index_CK].add(p_CK)

    def collect_columns(self, p_CK):
        return Looked(self.width, self.index_CK.T).collect(p_CK.T)


class Region(NamedTuple):
    """A run of key blocks [begin, end) which are handled alike."""

    begin: Any
    end: Any
    table: str


def regions(
    beyond: int | None, rules: Rules, layout: Layout, row: Array, key_blocks: int
) -> list[Region]:
    """Cut the key blocks that a block of queries may see; `row` is the index of its first query."""
    C, K = layout.rows, layout.columns
    if not layout.consecutive:
        return [Region(0, key_blocks, "near")]

    def clip(block):
        return jnp.clip(block, 0, key_blocks)

    # Block c holds the distances row - cK - (K - 1) ... row - cK + (C - 1).
    def first_with_least_below(d):  # the first block that holds a distance < d
        return clip((row - K + 1 - d) // K + 1)

    def first_with_most_below(d):  # the first block that holds only distances < d
        return clip((row + C - 1 - d) // K + 1)

    begin, end = jnp.zeros_like(row), jnp.full_like(row, key_blocks)
    if rules.window is not None:
        begin = first_with_least_below(rules.window)
        end = first_with_most_below(-rules.window + 1)
    if rules.causal:
        end = first_with_most_below(0)
    if beyond is None:
        return [Region(begin, end, "near")]
    near = jnp.clip(first_with_least_below(beyond), begin, end)
    found = [Region(begin, near, "past"), Region(near, end, "near")]
    if not rules.causal:
        future = jnp.clip(first_with_most_below(-beyond + 1), near, end)
        found[1] = found[1]._replace(end=future)
        found.append(Region(future, end, "future"))
    return found


def reach_of(span: Span, layout: Layout, region: Region, row, column, d_CK):
    """Return how the block at (row, column) gets at the table of its region.

    Args:
      span: of the near table.
      layout: how the matrix is cut.
      region: where the block lies.
      row: the index of its first query.
      column: the index of its first key.
      d_CK: a function that gives the distances of its pairs, for scattered positions.
    """
    C, K = layout.rows, layout.columns
    if not layout.consecutive:
        if not layout.has_table:
            return Far()  # of an empty table
        return Looked(span.size, jnp.clip(span.first - d_CK(), 0, span.size - 1))
    if region.table != "near":
        return Far()
    if layout.band is not None:
        return Band(C, K, span.size, span.first - row + column)
    return Window(C, K, span.first - (row - column + C - 1))


def round_up(n: int, multiple: int) -> int:
    """Return the least multiple that is not below n."""
    return -(-n // multiple) * multiple
