"""A block of the attention matrix, and the loop over all blocks that must be visited."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from relpos.attention.block_visibility import may_see
from relpos.attention.mesh_axes import varying_like
from relpos.attention.reach import Reach, reach_of
from relpos.attention.reference import Keys, Queries, Rules, Tokens, dot_rows
from relpos.attention.regions import Layout, Region, Span, offset_of, regions
from relpos.positions import distances


class Extent(NamedTuple):
    """The distances that a part of the encoding tells apart; static."""

    beyond: int | None  # the part's constant_beyond
    layout: Layout  # with the part's band
    span: Span  # of its near table


class Problem(NamedTuple):
    """The static side of one head's attention."""

    rules: Rules
    layout: Layout  # its band is unused: each part has its own
    parts: tuple[Extent, ...]
    graphdef: Any = None  # of an encoding that walks, or mixes heads


class Terms(NamedTuple):
    """The terms of the logits and those of the output; or one value for each of them."""

    logits: tuple[Any, ...]
    values: tuple[Any, ...]

    def map(self, function, *more: "Terms") -> "Terms":
        """Apply a function to each term and its entries in `more`."""
        return Terms(*(tuple(map(function, *each)) for each in zip(self, *more, strict=True)))


class Inputs(NamedTuple):
    """The differentiable arrays; queries and keys are cut into blocks, [blocks, C or K, ...].

    Vectors and features are tuples with one entry for each part.
    """

    terms: Terms
    q: Queries
    k: Keys
    state: Any = None  # of an encoding that mixes heads

    @property
    def dtype(self) -> Any:
        """The dtype of sums, float32 or wider."""
        return jnp.result_type(self.q.content, self.k.key, self.k.value, jnp.float32)


class Constants(NamedTuple):
    """The arrays that are not differentiated; tokens are cut into blocks."""

    q: Tokens
    k: Tokens
    seed: Array | None
    integers: Any = None  # of an encoding that walks, or mixes heads


class Rows(NamedTuple):
    """One block of queries; the fields after `tokens` are set in the backward pass only."""

    number: Array
    q: Queries
    tokens: Tokens
    d_out: Any = None  # [C, H]
    log_total: Any = None  # [C], the logarithm of the softmax's denominator
    correction: Any = None  # [C], the softmax's
    d_out_half: Any = None  # [C, H], in the dtype of the values
    d_out_turned: Any = None  # [H, C], likewise
    q_turned: Any = None  # Queries [H, C], without features

    def turned(self, dtype: Any) -> "Rows":
        """Transpose queries and d_out once for all blocks of keys, and cast d_out to the values' dtype.

        In half precision, products round their operands, not their sums; d_out's values are in half precision already.
        """
        turn = functools.partial(jnp.swapaxes, axis1=-1, axis2=-2)
        half = self.d_out.astype(dtype)
        of_features = (None,) * len(self.q.features)
        q_turned = jax.tree.map(turn, self.q._replace(features=of_features))
        return self._replace(d_out_half=half, d_out_turned=turn(half), q_turned=q_turned)


class Block(NamedTuple):
    """One block of keys and one block of queries."""

    rows: Rows
    number: Array
    k: Keys
    k_tokens: Tokens
    tables: tuple[str, ...]  # for each part "near", "past" or "future"
    reaches: tuple[Reach, ...]  # one for each part
    dtype: Any  # of sums, float32 or wider

    @property
    def tokens(self) -> tuple[Tokens, Tokens]:
        """The tokens of the queries and of the keys."""
        return self.rows.tokens, self.k_tokens

    def q_of(self, part: int) -> Queries:
        """Return the queries with the vector and features of one part."""
        return of_part(self.rows.q, part)

    def k_of(self, part: int) -> Keys:
        """Return the keys with the vector and features of one part."""
        return of_part(self.k, part)

    def q_turned_of(self, part: int) -> Queries:
        """Return the transposed queries [H, C] of one part, without features."""
        return of_part(self.rows.q_turned, part)

    def for_vectors(self, part: int, a_K: Array) -> Array:
        """Return the products of the queries with a part's key vectors, [C, n]."""
        q = self.q_of(part).for_vectors
        return dot_rows(q, a_K.astype(q.dtype))

    def with_d_out(self, a_V: Array) -> Array:
        """Return the products of the output's gradient with value vectors, [C, n]."""
        return dot_rows(self.rows.d_out, a_V.astype(self.rows.d_out.dtype))


def of_part(side: Any, part: int) -> Any:
    """Return queries or keys with the vector and features of one part."""
    return side._replace(vector=side.vector[part], features=side.features[part])


@dataclasses.dataclass(frozen=True)
class Blocks:
    """All blocks of the attention matrix."""

    problem: Problem
    inputs: Inputs
    constants: Constants

    def rows(self, *of_result: Array) -> Rows:
        """Return the blocks of queries, in the backward pass with d_out, log_total and correction."""
        index = jnp.arange(self.constants.q.row.shape[0], dtype=jnp.int32)
        return Rows(index, self.inputs.q, self.constants.q, *of_result)

    def over_keys(self, rows: Rows, carry, begin, visit, end):
        """Visit the blocks of keys, region by region; within a region each block passes its rings on to the next."""

        def step(region, number, carry):
            return visit(self._at(rows, region, number), *carry)

        for region in self._regions(rows.number):
            rings = begin(self._at(rows, region, region.begin))
            carry = varying_like((self.inputs, self.constants), (carry, rings))
            carry, rings = lax.fori_loop(
                region.begin, region.end, functools.partial(step, region), carry
            )
            carry = end(self._at(rows, region, region.end), carry, rings)
        return carry

    def _regions(self, number) -> list[Region]:
        """Cut the key blocks that a block of queries may see into regions."""
        (rules, layout, parts, _), constants = self.problem, self.constants
        key_blocks = constants.k.row.shape[0]
        row = number * layout.rows + offset_of(layout, constants.q, constants.k)
        found = regions(tuple(part.beyond for part in parts), rules, layout, row, key_blocks)
        if key_blocks == 1:  # decoding: there is nothing to skip, and XLA removes the loop
            return found
        blocks = may_see(rules, layout, jax.tree.map(lambda x: x[number], constants.q), constants.k)
        return found if blocks is None else [region.within(*blocks) for region in found]

    def _at(self, rows: Rows, region: Region, number) -> Block:
        """Return a block of a region."""

        def part(x):  # a single block is not sliced: that would copy all keys
            return x[0] if x.shape[0] == 1 else lax.dynamic_index_in_dim(x, number, keepdims=False)

        def distances_of(q, k):
            d = distances(q, k)
            return jnp.maximum(d, 0) if self.problem.rules.past_only else d

        def d_CK():
            q, k = rows.tokens.position, k_tokens.position
            ends = (
                distances_of(a[None], b[None])[0, 0]
                for a, b in ((q.min(), k.max()), (q.max(), k.min()))
            )
            return distances_of(q, k), *ends

        k, k_tokens = jax.tree.map(part, (self.inputs.k, self.constants.k))
        row = rows.number * self.problem.layout.rows
        offset = offset_of(self.problem.layout, self.constants.q, self.constants.k)
        reaches = tuple(
            reach_of(part.span, part.layout, table, row, offset, number, d_CK)
            for part, table in zip(self.problem.parts, region.tables, strict=True)
        )
        return Block(rows, number, k, k_tokens, region.tables, reaches, self.inputs.dtype)
