"""Values and sums by distance in GPU kernels: what `relpos.attention.reach` does for blocks in plain JAX.

A band has W columns, one for each distance; `index` holds the column of each pair of a block.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array


class Terms(NamedTuple):
    """Values by distance, for each row or column of a block.

    The two ends of the band, which all distances beyond it share, are kept; only pairs in between go to memory.
    """

    ref: Any
    at: Array  # rows of ref, [C, 1] or [1, K]
    ends: tuple[Array, Array]

    @classmethod
    def of(cls, ref, number, size: int, axis: int) -> Any:
        """Take a block of `size` rows of ref, or its only row; axis 1: they belong to rows, 0: to columns."""
        if ref is None:
            return None
        size, number = (1, 0) if ref.shape[0] == 1 else (size, number)
        rows = pl.ds(number * size, size)
        turn = functools.partial(jnp.expand_dims, axis=axis)
        at = turn(number * size + jnp.arange(size, dtype=jnp.int32))
        return cls(ref, at, (turn(ref[rows, 0]), turn(ref[rows, ref.shape[1] - 1])))

    def read(self, index_CK: Array) -> Array:
        """Return the value of each pair."""
        first, last = self.ends
        inside = _inside(index_CK, self.ref.shape[1])
        at_CK = jnp.broadcast_to(self.at, index_CK.shape)
        found_CK = triton.load(self.ref.at[at_CK, index_CK], mask=inside, other=0.0)
        return jnp.where(inside, found_CK, jnp.where(index_CK == 0, first, last))


class Sums(NamedTuple):
    """Sums by distance for each row (axis 1) or column (axis 0) of the blocks that a program visits."""

    ref: Any  # zeros [T, W], or [T, W or more] where positions are scattered
    number: Any
    size: int
    axis: int
    width: int  # W
    consecutive: bool

    def zeros(self, dtype) -> Any:
        """Return the sums before the first block."""
        if self.ref is None:
            return None
        end = jnp.zeros((self.size,), dtype)
        return (end, end) if self.consecutive else jnp.zeros((self.size, self.ref.shape[1]), dtype)

    def add(self, sums: Any, index_CK: Array, p_CK: Array) -> Any:
        """Add a block."""
        if self.ref is None:
            return None
        total = lambda w: jnp.where(index_CK == w, p_CK, 0).sum(self.axis)  # noqa: E731
        W = self.width
        if self.consecutive:
            # Between the ends of the band a row has one pair for each distance: it is stored, not added.
            at = self.number * self.size + jnp.arange(self.size, dtype=jnp.int32)
            at_CK = jnp.broadcast_to(jnp.expand_dims(at, self.axis), index_CK.shape)
            inside = _inside(index_CK, W)
            triton.store(self.ref.at[at_CK, index_CK], p_CK.astype(self.ref.dtype), mask=inside)
            return sums[0] + total(0), sums[1] + total(W - 1)
        # Any pairs may share a distance: a pass over the block for each one, slow.
        column = jnp.arange(self.ref.shape[1], dtype=jnp.int32)[None]
        add = lambda w, sums: sums + jnp.where(column == w, total(w)[:, None], 0)  # noqa: E731
        return lax.fori_loop(0, W, add, sums)

    def store(self, sums: Any) -> None:
        """Write what was not written block by block."""
        if self.ref is None:
            return
        rows = pl.ds(self.number * self.size, self.size)
        if self.consecutive:
            self.ref[rows, 0] = sums[0]
            self.ref[rows, self.width - 1] = sums[1]
        else:
            self.ref[rows, :] = sums


def _inside(index: Array, W: int) -> Array:
    return (index > 0) & (index < W - 1)
