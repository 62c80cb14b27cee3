"""How a block reads the encoding's values by distance from a table, and adds to such a table.

- `Diagonals`: the C + K - 1 consecutive distances of the block, cut out of a table of all distances;
- `Band`: the few distances up to `constant_beyond`; the values are constant on both sides;
- `Far`: one value for the whole block;
- `Gathered`: positions are not consecutive; each pair looks up its distance in the band. Without a band there is no
  table, and the encoding is evaluated for each pair.

All have the same operations: `read` spreads values by distance to the pairs of the block, `write` sums the pairs by
distance; `..._bias` do so for values that all rows share, `..._columns` for values that belong to keys.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relpos.attention import choices, spread
from relpos.attention.reference import dot_rows
from relpos.attention.regions import Layout, Span

Product = Callable[[Array], Array]


class Reach(abc.ABC):
    """How a block of C queries and K keys accesses a table of P distances."""

    @abc.abstractmethod
    def read_bias(self, bias_P: Array) -> Array:
        """Return the bias of each pair, of a shape that broadcasts to [C, K]."""

    @abc.abstractmethod
    def add_bias(self, sums_P: Array, p_CK: Array) -> Array:
        """Add the block's pairs to the sums by distance."""

    def first_products(self, product: Product, table_PH: Array) -> Any:
        """Return the ring of `read` before the first block."""
        return None

    def first_sums(self, dtype: Any) -> Any:
        """Return the ring of `write` before the first block."""
        return None

    @abc.abstractmethod
    def read(self, product: Product, table_PH: Array, ring: Any) -> tuple[Array, Any]:
        """Return each pair's product of the query with the distance's vector, and the ring for the next block.

        `product` is a function from vectors [n, H] to products [C, n]; the result broadcasts to [C, K].
        """

    @abc.abstractmethod
    def write(self, p_CK: Array, ring: Any) -> tuple[Array, Any]:
        """Return each query's sums by distance, [C, n], that are complete, and the ring for the next block."""

    def write_rest(self, ring: Any) -> Array:
        """Return the sums that are left in the ring after the last block, [C, n]."""
        raise TypeError("the ring is empty")

    @abc.abstractmethod
    def written(self, table_PH: Array, size: int) -> Array:
        """Return the vectors of the n distances that `write` or `write_rest` summed, [n, H]."""

    @abc.abstractmethod
    def add_written(self, sums_HP: Array, x_Hn: Array) -> Array:
        """Add the values of these distances to a table of sums."""

    @abc.abstractmethod
    def read_columns(self, key_KH: Array, table_PH: Array) -> Array:
        """Return each pair's product of the key with the distance's vector, of a shape that broadcasts to [C, K]."""

    @abc.abstractmethod
    def write_columns(self, p_CK: Array) -> Array:
        """Return each key's sums by distance, [K, n]."""

    @abc.abstractmethod
    def written_columns(self, table_PH: Array) -> Array:
        """Return the vectors of the n distances that `write_columns` summed."""


@dataclasses.dataclass(frozen=True)
class Diagonals(Reach):
    """All distances of a block: C + K entries of the table, from column `start` on.

    The next block of keys shares C of them. A `Ring` passes on what was computed for these, so that each block computes
    only K new ones: `read` reuses the results of the previous block, `write` completes its sums.
    """

    rows: int
    columns: int
    start: Array
    block: Array  # its number

    def _slice(self, x, start: int, size: int):
        return lax.dynamic_slice_in_dim(x, self.start + start, size)

    def read_bias(self, bias_P):
        return spread.spread_vector(self._slice(bias_P, 0, self.rows + self.columns), self.rows)

    def add_bias(self, sums_P, p_CK):
        return _add(sums_P, spread.collect_sum(p_CK), self.start)

    def first_products(self, product, table_PH):
        return spread.Ring.of(product(self._slice(table_PH, 0, self.rows)), self.columns)

    def first_sums(self, dtype):
        return spread.Ring.of(jnp.zeros((self.rows, 0), dtype), self.columns)

    def read(self, product, table_PH, ring):
        ring = ring.push(self.block, product(self._slice(table_PH, self.rows, self.columns)))
        return ring.spread(self.block), ring

    def write(self, p_CK, ring):
        ring = ring.push(self.block, p_CK)
        return ring.collect(self.block, self.columns), ring

    def write_rest(self, ring):
        nothing = jnp.zeros((self.rows, self.columns), ring.parts.dtype)
        return ring.push(self.block, nothing).collect(self.block, self.rows)

    def written(self, table_PH, size):
        return self._slice(table_PH, 0, size)

    def add_written(self, sums_HP, x_Hn):
        return _add(sums_HP, x_Hn, self.start)

    def read_columns(self, key_KH, table_PH):
        near_PH, C, K = self.written_columns(table_PH), self.rows, self.columns
        if C < choices.FEW_QUERIES:
            vectors = lambda i: lax.dynamic_slice_in_dim(near_PH, C - i, K)  # noqa: E731
            return _of_pairs(key_KH, vectors, C)
        return spread.spread_columns(_products(key_KH, near_PH))

    def write_columns(self, p_CK):
        return spread.collect_columns(p_CK)

    def written_columns(self, table_PH):
        return self._slice(table_PH, 0, self.rows + self.columns)


def _products(key_KH: Array, vectors_nH: Array) -> Array:
    """Return each key's product with each vector, [K, n]."""
    return dot_rows(key_KH, vectors_nH.astype(key_KH.dtype))


def _of_pairs(key_KH: Array, vectors: Callable[[Array], Array], C: int) -> Array:
    """Return each key's products with its own C vectors, [C, K]; vectors(i): [K, H].

    In a decoding step each key needs one product; the products of all keys with all vectors would be K times as many.
    """
    wide = jnp.promote_types(key_KH.dtype, jnp.float32)

    def products(i):
        return (key_KH.astype(wide) * vectors(i).astype(key_KH.dtype).astype(wide)).sum(-1)

    return jax.vmap(products)(jnp.arange(C))


def _add(sums, x, start):
    """Add x to a table of sums along its last axis, from `start` on."""
    old = lax.dynamic_slice_in_dim(sums, start, x.shape[-1], -1)
    return lax.dynamic_update_slice_in_dim(sums, old + x, start, -1)


class Whole(Reach):
    """A small table that every block reads whole, so that no ring is needed."""

    @abc.abstractmethod
    def spread(self, x_CW: Array) -> Array:
        """Spread each row's values by distance to its keys."""

    @abc.abstractmethod
    def collect(self, p_CK: Array) -> Array:
        """Sum each row by distance."""

    @abc.abstractmethod
    def spread_columns(self, x_KW: Array) -> Array:
        """Spread each column's values by distance to its queries."""

    @abc.abstractmethod
    def collect_columns(self, p_CK: Array) -> Array:
        """Sum each column by distance."""

    def add_bias(self, sums_W, p_CK):
        return sums_W + self.collect(p_CK).sum(0)

    def read(self, product, table_WH, ring):
        return self.spread(product(table_WH)), None

    def write(self, p_CK, ring):
        return self.collect(p_CK), None

    def written(self, table_WH, size):
        return table_WH

    def add_written(self, sums_HW, x_HW):
        return sums_HW + x_HW

    def read_columns(self, key_KH, table_WH):
        return self.spread_columns(_products(key_KH, table_WH))

    def write_columns(self, p_CK):
        return self.collect_columns(p_CK)

    def written_columns(self, table_WH):
        return table_WH


@dataclasses.dataclass(frozen=True)
class Band(Whole):
    """A table of a few distances, whose first and last entries hold for all distances beyond."""

    rows: int
    columns: int
    width: int
    offset: Array  # of row 0 and column 0 in the table

    def read_bias(self, bias_W):
        return spread.spread_band_vector(bias_W, self.offset, self.rows, self.columns)

    def spread(self, x_CW):
        return spread.spread_band(x_CW, self.offset, self.columns)

    def spread_columns(self, x_KW):
        return spread.spread_band(x_KW[:, ::-1], self.width - 1 - self.offset, self.rows).T

    def collect(self, p_CK):
        return spread.collect_band(p_CK, self.offset, self.width)

    def collect_columns(self, p_CK):
        return spread.collect_band(p_CK.T, self.width - 1 - self.offset, self.width)[:, ::-1]


class Far(Whole):
    """One distance for the whole block; its value is broadcast."""

    def read_bias(self, bias_1):
        return bias_1[None]

    def spread(self, x_C1):
        return x_C1

    def spread_columns(self, x_K1):
        return x_K1.T

    def collect(self, p_CK):
        return p_CK.sum(-1, keepdims=True)

    def collect_columns(self, p_CK):
        return p_CK.sum(0)[:, None]


@dataclasses.dataclass(frozen=True)
class Gathered(Whole):
    """Any positions, with distances looked up in a small table.

    If positions rise, most blocks lie beyond one end of a short table, and all their pairs have the same index.
    """

    width: int
    index: Array  # [C, K]
    first: Array  # the least index in the block
    is_one: Array | None  # whether all pairs have that index; None: unlikely, so not checked

    def _turned(self) -> "Gathered":
        return dataclasses.replace(self, index=self.index.T)

    def _chosen(self, one: Callable, each: Callable, *arrays: Array) -> Array:
        if self.is_one is None:
            return each(*arrays)
        return lax.cond(self.is_one, one, each, *arrays)

    def _everywhere(self, x: Array) -> Array:
        """Read the least index for all pairs."""
        return jnp.broadcast_to(lax.dynamic_slice_in_dim(x, self.first, 1, -1), self.index.shape)

    def read_bias(self, bias_W):
        return self._chosen(self._everywhere, lambda x: x[self.index], bias_W)

    def add_bias(self, sums_W, p_CK):
        one = lambda sums, p: sums.at[self.first].add(p.sum())  # noqa: E731
        each = lambda sums, p: sums.at[self.index].add(p)  # noqa: E731
        return self._chosen(one, each, sums_W, p_CK)

    def spread(self, x_CW):
        return self._chosen(self._everywhere, lambda x: jnp.take_along_axis(x, self.index, 1), x_CW)

    def read_columns(self, key_KH, table_WH):
        C = self.index.shape[0]
        if C < choices.FEW_QUERIES:
            return _of_pairs(key_KH, lambda i: table_WH[self.index[i]], C)
        return super().read_columns(key_KH, table_WH)

    def spread_columns(self, x_KW):
        return self._turned().spread(x_KW).T

    def collect(self, p_CK):
        nothing_CW = jnp.zeros((p_CK.shape[0], self.width), p_CK.dtype)
        one = lambda p: nothing_CW.at[:, self.first].set(p.sum(-1))  # noqa: E731
        each = jax.vmap(lambda sums, p, index: sums.at[index].add(p))
        return self._chosen(one, lambda p: each(nothing_CW, p, self.index), p_CK)

    def collect_columns(self, p_CK):
        return self._turned().collect(p_CK.T)


def reach_of(span: Span, layout: Layout, table: str, row, offset, number, d_CK) -> Reach:
    """Return how a block accesses a table, "near", "past" or "future"; `span` is that of the near table.

    `row` is the index of the block's first query, `offset` the distance of row 0 and column 0, `number` the number of
    the block of keys. For scattered positions, `d_CK` returns the pairs' distances, the least and the greatest one.
    """
    C, K = layout.rows, layout.columns
    column = number * K
    if not layout.consecutive:
        if not layout.has_table:
            return Far()  # the table is empty
        d, least, most = (jnp.clip(span.first - d, 0, span.size - 1) for d in d_CK())
        return Gathered(span.size, d, most, least == most if span.size < C + K else None)
    if table != "near":
        return Far()
    if layout.band is not None:
        return Band(C, K, span.size, span.first - row - offset + column)
    row = row if span.relative else row + offset
    return Diagonals(C, K, span.first - (row - column + C), number)
