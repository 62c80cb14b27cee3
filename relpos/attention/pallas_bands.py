"""Values and sums by distance in GPU kernels, the counterpart of `relpos.attention.reach` for plain JAX.

A band has W columns, one for each distance. For consecutive positions, plain JAX skews it (`lay_out`), so that a kernel
reads and writes a block's pairs as one tile; for scattered positions, kernels look up each pair's column.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from relpos.attention.regions import Layout


class Frame(NamedTuple):
    """The layout of near blocks' tiles in a skewed band.

    Entry m of row i of a block holds column first - i + m of the band. The tile for a block of the other side starts at
    `offset` plus the distance from the first token of this block to the first token of that block.
    """

    rows: int
    first: int
    offset: int
    width: int

    @classmethod
    def of(cls, layout: Layout, W: int, axis: int) -> "Frame":
        """Return the frame for terms of queries (axis 1) or keys (axis 0)."""
        assert layout.band is not None
        C, K, past, future = layout.rows, layout.columns, layout.band, W - 1 - layout.band
        # Block starts differ by multiples of `step`; for near blocks by -low to high.
        step = math.gcd(C, K)
        low, high = (max(0, most // step * step) for most in (past + K - 2, future + C - 1))
        if axis == 1:
            return cls(C, past - low, low, low + high + K)
        return cls(K, future - high, high, low + high + C)

    def column(self, W: int) -> Array:
        """Return the column of the band that each entry in a block's rows holds, [rows, width]."""
        i, m = jnp.arange(self.rows)[:, None], jnp.arange(self.width)
        return jnp.clip(self.first - i + m, 0, W - 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _skew(frame: Frame, x_TW: Float[Array, "T W"]) -> Float[Array, "T M"]:
    """Lay out the values of near blocks; the transpose is written by hand, since JAX would scatter."""
    W = x_TW.shape[1]
    blocks = x_TW.reshape(-1, frame.rows, W)
    return jnp.take_along_axis(blocks, frame.column(W)[None], 2).reshape(-1, frame.width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _unskew(frame: Frame, W: int, p_TM: Float[Array, "T M"]) -> Float[Array, "T W"]:
    """Sum values in the layout of `_skew` by distance, the transpose of `_skew`."""
    blocks = p_TM.reshape(-1, frame.rows, frame.width)
    # The index of each column of the band in a block's rows, [rows, W].
    at = jnp.arange(W) - frame.first + jnp.arange(frame.rows)[:, None]
    there = (at >= 0) & (at < frame.width)
    at = jnp.clip(at, 0, frame.width - 1)
    # Between the ends of the band, each row has one pair for each distance.
    sums = jnp.where(there, jnp.take_along_axis(blocks, at[None], 2), 0)
    column = frame.column(W)
    for end in {0, W - 1}:
        sums = sums.at[..., end].set(jnp.where(column == end, blocks, 0).sum(-1))
    return sums.reshape(-1, W)


_skew.defvjp(
    lambda frame, x: (_skew(frame, x), x.shape[1]),
    lambda frame, W, d_TM: (_unskew(frame, W, d_TM),),
)
_unskew.defvjp(
    lambda frame, W, p: (_unskew(frame, W, p), None),
    lambda frame, W, _, d_TW: (_skew(frame, d_TW),),
)


class LaidOut(NamedTuple):
    """A band in the layout that kernels read at consecutive positions; for keys, `near` is transposed."""

    near: Any  # [T, width of the frame]; for a band that all rows share, the rows of one block
    past: Any  # [T] or [1], for all distances beyond the band
    future: Any


def lay_out(layout: Layout, x_TW: Array | None, axis: int) -> Any:
    """Lay out a band for kernels, of queries (axis 1) or keys (axis 0); [1, W] if all of them share it."""
    if x_TW is None or not layout.consecutive:
        return x_TW
    frame = Frame.of(layout, x_TW.shape[1], axis)
    ends = x_TW[:, 0], x_TW[:, -1]
    if x_TW.shape[0] == 1:
        x_TW = jnp.repeat(x_TW, frame.rows, 0)
    # For keys distances increase.
    near = _skew(frame, x_TW) if axis == 1 else _skew(frame, x_TW[:, ::-1]).T
    return LaidOut(near, *ends)


def collect(layout: Layout, W: int, sums: Any) -> Any:
    """Return each query's sums by distance, [T, W], from a kernel's output."""
    if not isinstance(sums, LaidOut):
        return sums
    sums_TW = _unskew(Frame.of(layout, W, 1), W, sums.near)
    return sums_TW.at[:, 0].add(sums.past).at[:, -1].add(sums.future)


def sums_like(layout: Layout, W: int, length: int, dtype: Any, axis: int) -> Any:
    """Return the shapes of the sums by distance that a kernel writes; for scattered positions a power of two wide."""
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=dtype)
    if not layout.consecutive:
        return shape((length, pl.next_power_of_2(W)))
    near = length, Frame.of(layout, W, axis).width
    return LaidOut(shape(near[::-1] if axis == 0 else near), shape((length,)), shape((length,)))


class Block(NamedTuple):
    """A block of queries (axis 1) or keys (axis 0) in a band of W columns."""

    layout: Layout
    W: int
    axis: int
    number: Any

    @property
    def size(self) -> int:
        """The number of tokens in the block."""
        return self.layout.rows if self.axis == 1 else self.layout.columns

    @property
    def first(self) -> Any:
        """The index of the block's first token."""
        return self.number * self.size

    @property
    def tokens(self) -> Any:
        """The slice of the block's tokens."""
        return pl.ds(self.first, self.size)

    def tile(self, later: Array) -> tuple[Any, Any]:
        """Return the tile for a block of the other side; `later`: its first key minus its first query."""
        frame = Frame.of(self.layout, self.W, self.axis)
        if self.axis == 1:
            return self.tokens, pl.ds(frame.offset + later, self.layout.columns)
        return pl.ds(frame.offset - later, self.layout.rows), self.tokens

    def of_pairs(self, x: Array) -> Array:
        """Broadcast each token's value to all its pairs."""
        return jnp.expand_dims(x, self.axis)


def terms_of(block: Block, given: Any) -> Any:
    """Return a block of the result of `lay_out`; `read(index)` returns the value of each pair."""
    if given is None:
        return None
    if not isinstance(given, LaidOut):
        return _Lookup.of(block, given)
    if given.past.shape[0] == 1:
        block = block._replace(number=0)
        return _Tiles(block, given.near, *(ref[pl.ds(0, 1)][:, None] for ref in given[1:]))
    return _Tiles(block, given.near, *(block.of_pairs(ref[block.tokens]) for ref in given[1:]))


def sums_of(block: Block, written: Any) -> Any:
    """Return the accumulator of a block's sums by distance, for an output shaped as `sums_like` says.

    `zeros(dtype)` returns the sums before the first block of the other side, `add(sums, index, p_CK)` adds a block,
    `store(sums)` writes what `add` has not written.
    """
    if written is None:
        return _NoSums()
    if isinstance(written, LaidOut):
        return _TileSums(block, written)
    return _LookupSums(block, written)


class _Tiles(NamedTuple):
    """Values by distance at consecutive positions; `index` is "past", "future" or the tile's location."""

    block: Block
    near: Any
    past: Array
    future: Array

    def read(self, index: Any) -> Array:
        if isinstance(index, str):
            return self.past if index == "past" else self.future
        return self.near[self.block.tile(index)]


class _TileSums(NamedTuple):
    """Sums by distance at consecutive positions; near values are not summed, since each has its own entry."""

    block: Block
    written: LaidOut  # near: zeros

    def zeros(self, dtype) -> Any:
        return {end: jnp.zeros((self.block.size,), dtype) for end in ("past", "future")}

    def add(self, sums: Any, index: Any, p_CK: Array) -> Any:
        if isinstance(index, str):
            return sums | {index: sums[index] + p_CK.sum(self.block.axis)}
        self.written.near[self.block.tile(index)] = p_CK.astype(self.written.near.dtype)
        return sums

    def store(self, sums: Any) -> None:
        self.written.past[self.block.tokens] = sums["past"]
        self.written.future[self.block.tokens] = sums["future"]


class _Lookup(NamedTuple):
    """Values by distance at scattered positions; `index` holds the column of each pair.

    The two ends of the band, which all distances beyond it share, stay in registers; only pairs in between read memory.
    """

    ref: Any
    at: Array  # rows of ref, [C, 1] or [1, K]
    ends: tuple[Array, Array]

    @classmethod
    def of(cls, block: Block, ref: Any) -> "_Lookup":
        """Return the values of a block of rows, or of the only row."""
        if ref.shape[0] == 1:
            block = block._replace(number=0, layout=block.layout._replace(rows=1, columns=1))
        at = block.of_pairs(block.first + jnp.arange(block.size, dtype=jnp.int32))
        first, last = (block.of_pairs(ref[block.tokens, w]) for w in (0, ref.shape[1] - 1))
        return cls(ref, at, (first, last))

    def read(self, index_CK: Array) -> Array:
        first, last = self.ends
        inside = (index_CK > 0) & (index_CK < self.ref.shape[1] - 1)
        at_CK = jnp.broadcast_to(self.at, index_CK.shape)
        found_CK = triton.load(self.ref.at[at_CK, index_CK], mask=inside, other=0.0)
        return jnp.where(inside, found_CK, jnp.where(index_CK == 0, first, last))


class _LookupSums(NamedTuple):
    """Sums by distance at scattered positions; slow, since each distance takes a pass over the block."""

    block: Block
    ref: Any  # [T, W or more]

    def zeros(self, dtype) -> Any:
        return jnp.zeros((self.block.size, self.ref.shape[1]), dtype)

    def add(self, sums: Any, index_CK: Array, p_CK: Array) -> Any:
        column = jnp.arange(self.ref.shape[1], dtype=jnp.int32)[None]

        def add(w, sums):
            total = jnp.where(index_CK == w, p_CK, 0).sum(self.block.axis)
            return sums + jnp.where(column == w, total[:, None], 0)

        return lax.fori_loop(0, self.block.W, add, sums)

    def store(self, sums: Any) -> None:
        self.ref[self.block.tokens, :] = sums


class _NoSums:
    """An accumulator that does nothing, for encodings without values by distance."""

    def zeros(self, dtype) -> None: ...

    def add(self, sums: None, index: Any, p_CK: Array) -> None: ...

    def store(self, sums: None) -> None: ...
