"""A block of the attention matrix, and the loop over all blocks that must be visited."""

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
    """The distances that a part of the encoding tells apart; static.

    Attributes:
      beyond: the part's constant_beyond, or None.
      layout: how the matrix is cut, with the part's band.
      span: the span of its near table.
    """

    beyond: int | None
    layout: Layout
    span: Span


class Problem(NamedTuple):
    """The static side of one head's attention."""

    rules: Rules
    layout: Layout  # its band is unused: each part has its own
    parts: tuple[Extent, ...]


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

    @property
    def dtype(self) -> Any:
        """The dtype of sums, float32 or wider."""
        return jnp.result_type(self.q.content, self.k.key, self.k.value, jnp.float32)


class Places(NamedTuple):
    """The arrays that are not differentiated; tokens are cut into blocks."""

    q: Tokens
    k: Tokens
    seed: Array | None


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
        """Transpose the queries and d_out once for all blocks of keys.

        Args:
          dtype: the values' dtype. In half precision, products round their operands, not their sums; the values of
            d_out are in half precision already.
        """
        half = self.d_out.astype(dtype)
        of_features = (None,) * len(self.q.features)
        q_turned = jax.tree.map(jnp.transpose, self.q._replace(features=of_features))
        return self._replace(d_out_half=half, d_out_turned=half.T, q_turned=q_turned)


class Block(NamedTuple):
    """One block of keys and one block of queries."""

    rows: Rows
    number: Array
    k: Keys
    k_tokens: Tokens
    tables: tuple[str, ...]  # for each part "near", "past" or "future"
    reaches: tuple[Reach, ...]  # one for each part
    dtype: Any  # of sums, float32 or wider

    def q_of(self, part: int) -> Queries:
        """Return the queries with the vector and features of one part."""
        return of_part(self.rows.q, part)

    def k_of(self, part: int) -> Keys:
        """Return the keys with the vector and features of one part."""
        vector = self.k.vector[part]
        return self.k._replace(vector=vector, features=self.k.features[part])

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


def of_part(q: Queries, part: int) -> Queries:
    """Return queries with the vector and features of one part."""
    return Queries(q.content, q.vector[part], q.features[part])


def _block(problem: Problem, inputs: Inputs, places: Places, rows: Rows, region, number):
    def part(x):  # a single block is not sliced: that would copy all keys
        return x[0] if x.shape[0] == 1 else lax.dynamic_index_in_dim(x, number, keepdims=False)

    k, k_tokens = jax.tree.map(part, (inputs.k, places.k))

    def distances_of(q, k):
        d = distances(q, k)
        return jnp.maximum(d, 0) if problem.rules.past_only else d

    def d_CK():
        q, k = rows.tokens.position, k_tokens.position
        ends = (
            distances_of(a[None], b[None])[0, 0]
            for a, b in ((q.min(), k.max()), (q.max(), k.min()))
        )
        return distances_of(q, k), *ends

    row = rows.number * problem.layout.rows
    offset = offset_of(problem.layout, places.q, places.k)
    reaches = tuple(
        reach_of(part.span, part.layout, table, row, offset, number, d_CK)
        for part, table in zip(problem.parts, region.tables, strict=True)
    )
    return Block(rows, number, k, k_tokens, region.tables, reaches, inputs.dtype)


def _regions(problem: Problem, places: Places, number) -> list[Region]:
    """Cut the key blocks that a block of queries may see into regions."""
    rules, layout, key_blocks = problem.rules, problem.layout, places.k.row.shape[0]
    beyonds = tuple(part.beyond for part in problem.parts)
    row = number * layout.rows + offset_of(layout, places.q, places.k)
    found = regions(beyonds, rules, layout, row, key_blocks)
    if key_blocks == 1:  # decoding: there is nothing to skip, and XLA removes the loop
        return found
    blocks = may_see(rules, layout, jax.tree.map(lambda x: x[number], places.q), places.k)
    return found if blocks is None else [region.within(*blocks) for region in found]


def over_blocks(problem, inputs: Inputs, places: Places, rows: Rows, carry, begin, visit, end):
    """Visit the blocks of keys, region by region; within a region each block passes its rings on to the next."""
    at = functools.partial(_block, problem, inputs, places, rows)

    def step(region, number, carry):
        return visit(at(region, number), *carry)

    for region in _regions(problem, places, rows.number):
        rings = begin(at(region, region.begin))
        carry = varying_like((inputs, places), (carry, rings))
        carry, rings = lax.fori_loop(
            region.begin, region.end, functools.partial(step, region), carry
        )
        carry = end(at(region, region.end), carry, rings)
    return carry
