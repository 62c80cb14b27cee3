"""One head's attention in blocks: O(T) memory, exact gradients to everything, plain JAX on every platform.

The online softmax of FlashAttention (Dao et al. 2022, arXiv:2205.14135) with the slots of position encodings. A
pair of blocks lies in one of three regions:

- near: the per-distance slots are tables over consecutive distances, carried to the block by `spread` and back by
  `collect`;
- far (past, future): beyond `constant_beyond` a slot is one number, or one vector, for the whole block;
- scattered: positions that are not consecutive; every slot is evaluated for every pair, as in the reference.

The backward pass recomputes each block's logits and lets JAX differentiate that one block; what belongs to rows,
columns, tables and encoding parameters is added up in place.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from relpos.attention import reference
from relpos.attention.reference import Keys, Queries, Rules, Tokens, dot
from relpos.attention.slots import Slots
from relpos.attention.spread import collect, spread, spread_columns, spread_vector


class Layout(NamedTuple):
    """How the attention matrix is cut.

    Attributes:
      rows: queries in a block.
      columns: keys in a block.
      consecutive: row i and column j have distance i - j, so that distances can be spread.
    """

    rows: int
    columns: int
    consecutive: bool


class Table(NamedTuple):
    """The distance slots at falling distances; None where the encoding leaves a slot empty."""

    bias: Array | None
    key_vectors: Array | None
    query_vectors: Array | None
    value_vectors: Array | None


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
    """Return the distances that blocks of the near region can hold.

    Every slice a block takes lies inside: the first and last distances of a whole number of blocks are counted,
    and one reach more than the last distance that makes a block near.
    """
    T, S = _round_up(T, layout.rows), _round_up(S, layout.columns)
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
    span = near_span(beyond, rules, layout, T, S)

    def table(d: Array) -> Table:
        d = jnp.maximum(d, 0) if rules.causal else d
        return Table(
            encoding.bias(d),
            encoding.key_vectors(d),
            encoding.query_vectors(d),
            encoding.value_vectors(d),
        )

    empty = Table(None, None, None, None)
    if not layout.consecutive:
        return Tables(empty, empty, empty)
    near = table(span.first - jnp.arange(span.size, dtype=jnp.int32))
    if beyond is None:
        return Tables(near, empty, empty)
    far = jnp.full((1,), beyond, jnp.int32)
    return Tables(near, table(far), empty if rules.causal else table(-far))


# One block, forward. Each region has its own way from slots to logits and from weights to outputs.


def _near_logits(encoding, rules, q, k, q_tokens, k_tokens, table):
    dots_CK, block_CK = reference.content_logits(encoding, rules, q, k, q_tokens, k_tokens)
    if table.key_vectors is not None:
        dots_CK += spread(dot(q.vector, table.key_vectors.T.astype(q.vector.dtype)))
    if table.query_vectors is not None:
        dots_CK += spread_columns(dot(k.key, table.query_vectors.T.astype(k.key.dtype)))
    b_CK = None if table.bias is None else spread_vector(table.bias, q.content.shape[0])
    return reference.finish_logits(rules, dots_CK, b_CK, block_CK)


def _near_mix(encoding, rules, weights_CK, k, q_tokens, k_tokens, table):
    out_CH = dot(weights_CK.astype(k.value.dtype), k.value)
    if table.value_vectors is not None:
        out_CH += dot(collect(weights_CK), table.value_vectors.astype(weights_CK.dtype))
    return out_CH


def _far_logits(encoding, rules, q, k, q_tokens, k_tokens, table):
    dots_CK, block_CK = reference.content_logits(encoding, rules, q, k, q_tokens, k_tokens)
    if table.key_vectors is not None:
        dots_CK += dot(q.vector, table.key_vectors.T.astype(q.vector.dtype))
    if table.query_vectors is not None:
        dots_CK += dot(k.key, table.query_vectors.T.astype(k.key.dtype)).T
    return reference.finish_logits(rules, dots_CK, table.bias, block_CK)


def _far_mix(encoding, rules, weights_CK, k, q_tokens, k_tokens, table):
    out_CH = dot(weights_CK.astype(k.value.dtype), k.value)
    if table.value_vectors is not None:
        out_CH += weights_CK.sum(-1, keepdims=True) * table.value_vectors.astype(weights_CK.dtype)
    return out_CH


def _scattered_logits(encoding, rules, q, k, q_tokens, k_tokens, table):
    return reference.logits(encoding, rules, q, k, q_tokens, k_tokens)


def _scattered_mix(encoding, rules, weights_CK, k, q_tokens, k_tokens, table):
    return reference.mix(encoding, rules, weights_CK, k, q_tokens, k_tokens)


class Region(NamedTuple):
    """A run of key blocks [begin, end) which are handled alike."""

    begin: Any
    end: Any
    logits: Any
    mix: Any
    table: str


def regions(
    beyond: int | None, rules: Rules, layout: Layout, row: Array, key_blocks: int
) -> list[Region]:
    """Cut the key blocks that a block of queries may see; `row` is the index of its first query."""
    C, K = layout.rows, layout.columns
    if not layout.consecutive:
        return [Region(0, key_blocks, _scattered_logits, _scattered_mix, "near")]

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
        return [Region(begin, end, _near_logits, _near_mix, "near")]
    near = jnp.clip(first_with_least_below(beyond), begin, end)
    found = [
        Region(begin, near, _far_logits, _far_mix, "past"),
        Region(near, end, _near_logits, _near_mix, "near"),
    ]
    if not rules.causal:
        future = jnp.clip(first_with_most_below(-beyond + 1), near, end)
        found[1] = found[1]._replace(end=future)
        found.append(Region(future, end, _far_logits, _far_mix, "future"))
    return found


# Views: a block's part of each array, and the way back.


def _slice(tree, start, size):
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), tree)


def _add(tree, part, start):
    """Add `part` to the rows of `tree` from `start` on."""

    def add(x, dx):
        old = lax.dynamic_slice_in_dim(x, start, dx.shape[0])
        return lax.dynamic_update_slice_in_dim(x, old + dx.astype(x.dtype), start, 0)

    return jax.tree.map(add, tree, part)


def _zeros(tree):
    """Zero accumulators, at least float32."""
    zeros = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))  # noqa: E731
    return _varying_like(tree, jax.tree.map(zeros, tree))


def _varying_like(like, tree):
    """Mark `tree` as varying over the mesh axes that `like` varies over: inside shard_map loops ask for it."""
    axes = frozenset().union(
        *(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(like))
    )

    def vary(x):
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, tree)


def _is_inexact(path, variable):
    return jnp.issubdtype(variable[...].dtype, jnp.inexact)


class _Problem(NamedTuple):
    """The static side of one head's attention."""

    graphdef: Any
    beyond: int | None
    rules: Rules
    layout: Layout
    span: Span


class _Inputs(NamedTuple):
    """The differentiable side; T and S are whole numbers of blocks."""

    state: Any  # of the encoding
    tables: Tables
    q: Queries
    k: Keys


class _Places(NamedTuple):
    """The integers."""

    q: Tokens
    k: Tokens
    seed: Array | None
    state: Any  # of the encoding


def _table_slice(problem: _Problem, table: Table, name: str, row, column) -> tuple[Table, Any]:
    """Return a block's part of a table, and where it starts (None: the whole)."""
    if name != "near" or not problem.layout.consecutive:
        return table, None
    C, K = problem.layout.rows, problem.layout.columns
    start = problem.span.first - (row - column + C - 1)
    return _slice(table, start, C + K - 1), start


def _forward(problem: _Problem, inputs: _Inputs, places: _Places):
    """Return (out [T, H] in float32, log of the softmax's denominator [T])."""
    rules, layout = problem.rules, problem.layout
    encoding = nnx.merge(problem.graphdef, inputs.state, places.state)
    C, K = layout.rows, layout.columns
    key_blocks = inputs.k.key.shape[0] // K
    dtype = jnp.result_type(inputs.q.content, inputs.k.key, inputs.k.value, jnp.float32)
    lowest = jnp.finfo(dtype).min

    def block_of_rows(index):
        row = index * C
        q, q_tokens = _slice((inputs.q, places.q), row, C)

        def visit(region: Region, block, carry):
            column = block * K
            k, k_tokens = _slice((inputs.k, places.k), column, K)
            mask_CK = reference.mask(rules, q_tokens, k_tokens)

            def attend(carry):
                peak_C, total_C, out_CH = carry
                whole = getattr(inputs.tables, region.table)
                table, _ = _table_slice(problem, whole, region.table, row, column)
                at = (q_tokens, k_tokens, table)
                logits_CK = region.logits(encoding, rules, q, k, *at).astype(dtype)
                logits_CK = jnp.where(mask_CK, logits_CK, lowest)
                new_peak_C = jnp.maximum(peak_C, logits_CK.max(-1))
                weights_CK = jnp.where(mask_CK, jnp.exp(logits_CK - new_peak_C[:, None]), 0)
                shrink_C = jnp.exp(peak_C - new_peak_C)
                total_C = total_C * shrink_C + weights_CK.sum(-1)
                weights_CK = reference.keep_weights(
                    rules, places.seed, q_tokens, k_tokens, weights_CK
                )
                out_CH = out_CH * shrink_C[:, None] + region.mix(
                    encoding, rules, weights_CK, k, *at
                )
                return new_peak_C, total_C, out_CH

            return _where_visible(layout, places, mask_CK, attend, carry)

        H = inputs.k.value.shape[-1]
        carry = (jnp.full((C,), lowest), jnp.zeros((C,), dtype), jnp.zeros((C, H), dtype))
        carry = _varying_like((inputs, places), carry)
        for region in regions(problem.beyond, rules, layout, row, key_blocks):
            carry = lax.fori_loop(region.begin, region.end, functools.partial(visit, region), carry)
        peak_C, total_C, out_CH = carry
        safe_C = jnp.where(total_C == 0, 1, total_C)
        return out_CH / safe_C[:, None], peak_C + jnp.log(safe_C)

    out, log_total = lax.map(block_of_rows, jnp.arange(places.q.row.shape[0] // C))
    return out.reshape(-1, out.shape[-1]), log_total.reshape(-1)


def _where_visible(layout, places, mask_CK, attend, carry):
    """Skip a block without a visible pair, where positions or segments can make one."""
    if layout.consecutive and places.k.segment is None:
        return attend(carry)
    return lax.cond(mask_CK.any(), attend, lambda carry: carry, carry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(problem: _Problem, inputs: _Inputs, places: _Places):
    return _forward(problem, inputs, places)[0]


def _attend_forward(problem, inputs, places):
    out, log_total = _forward(problem, inputs, places)
    return out, (inputs, places, out, log_total)


def _attend_backward(problem, residuals, d_out):
    inputs, places, out, log_total = residuals
    rules, layout = problem.rules, problem.layout
    C, K = layout.rows, layout.columns
    key_blocks = inputs.k.key.shape[0] // K
    # sum_j weights[i, j] * d weights[i, j], the softmax's correction, is this for value vectors and dropout too.
    correction = (out * d_out).sum(-1)

    def block_of_rows(sums, index):
        row = index * C
        at_rows = (inputs.q, places.q, d_out, log_total, correction)
        q, q_tokens, d_out_CH, log_total_C, correction_C = _slice(at_rows, row, C)

        def visit(region: Region, block, carry):
            column = block * K
            k, k_tokens = _slice((inputs.k, places.k), column, K)
            mask_CK = reference.mask(rules, q_tokens, k_tokens)
            whole = getattr(inputs.tables, region.table)
            table, start = _table_slice(problem, whole, region.table, row, column)

            def attend(carry):
                d_q, (d_state, d_tables, d_k) = carry

                def logits(state, table, q, key, features):
                    encoding = nnx.merge(problem.graphdef, state, places.state)
                    k = Keys(key, None, features)
                    found = region.logits(encoding, rules, q, k, q_tokens, k_tokens, table)
                    return found.astype(log_total_C.dtype)

                def mix(state, table, weights_CK, value):
                    encoding = nnx.merge(problem.graphdef, state, places.state)
                    weights_CK = reference.keep_weights(
                        rules, places.seed, q_tokens, k_tokens, weights_CK
                    )
                    k = Keys(None, value, None)
                    return region.mix(encoding, rules, weights_CK, k, q_tokens, k_tokens, table)

                of_logits = (inputs.state, table, q, k.key, k.features)
                logits_CK, pull_logits = jax.vjp(logits, *of_logits)
                logits_CK = jnp.where(mask_CK, logits_CK, jnp.finfo(logits_CK.dtype).min)
                weights_CK = jnp.where(mask_CK, jnp.exp(logits_CK - log_total_C[:, None]), 0)
                # In half precision d_weights must not be rounded: correction_C, of which it is a sum, is not.
                value = k.value.astype(weights_CK.dtype)
                out_CH, pull_mix = jax.vjp(mix, inputs.state, table, weights_CK, value)
                state_1, table_1, d_weights_CK, d_value = pull_mix(d_out_CH.astype(out_CH.dtype))
                d_logits_CK = weights_CK * (d_weights_CK - correction_C[:, None])
                state_2, table_2, d_q_2, d_key, d_features = pull_logits(d_logits_CK)

                d_q = jax.tree.map(jnp.add, d_q, d_q_2)
                d_k = _add(d_k, Keys(d_key, d_value, d_features), column)
                d_state = jax.tree.map(lambda *x: sum(x), d_state, state_1, state_2)
                d_table = getattr(d_tables, region.table)
                d_table = _add(
                    d_table, jax.tree.map(jnp.add, table_1, table_2), 0 if start is None else start
                )
                d_tables = d_tables._replace(**{region.table: d_table})
                return d_q, (d_state, d_tables, d_k)

            return _where_visible(layout, places, mask_CK, attend, carry)

        carry = (_zeros(q), sums)
        for region in regions(problem.beyond, rules, layout, row, key_blocks):
            carry = lax.fori_loop(region.begin, region.end, functools.partial(visit, region), carry)
        d_q, sums = carry
        return sums, d_q

    sums = _zeros((inputs.state, inputs.tables, inputs.k))
    steps = jnp.arange(places.q.row.shape[0] // C)
    (d_state, d_tables, d_k), d_q = lax.scan(block_of_rows, sums, steps)
    d_q = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), d_q)
    d_inputs = _Inputs(d_state, d_tables, d_q, d_k)
    return jax.tree.map(lambda x, dx: dx.astype(x.dtype), inputs, d_inputs), None


_attend.defvjp(_attend_forward, _attend_backward)


def _pad(tree, length: int):
    """Append zero rows up to `length`."""

    def pad(x):
        return jnp.pad(x, [(0, length - x.shape[0])] + [(0, 0)] * (x.ndim - 1))

    return jax.tree.map(pad, tree)


def head(
    encoding: Slots,
    beyond: int | None,
    rules: Rules,
    layout: Layout,
    tables: Tables,
    q: Queries,
    k: Keys,
    q_tokens: Tokens,
    k_tokens: Tokens,
    seed: Array | None,
) -> Float[Array, "T H"]:
    """Attention of one head in blocks; a row that sees no key gives zeros.

    Args:
      encoding: this head's encoding, or empty `Slots` where the tables say all.
      beyond: the encoding's constant_beyond.
      rules: the static choices.
      layout: how to cut.
      tables: from `tabulate`, with the same rules and layout.
      q: queries.
      k: keys and values.
      q_tokens: where the queries stand.
      k_tokens: where the keys stand.
      seed: dropout's, or None.
    """
    T, S = q.content.shape[0], k.key.shape[0]
    padded_T, padded_S = _round_up(T, layout.rows), _round_up(S, layout.columns)
    # Padding keys must be hidden; where causality does it there is nothing to compare.
    hidden = rules.causal and layout.consecutive and T <= S
    if padded_S != S and k_tokens.segment is None and not hidden:
        q_tokens = q_tokens._replace(segment=jnp.ones_like(q_tokens.row))
        k_tokens = k_tokens._replace(segment=jnp.ones_like(k_tokens.row))
    q, q_tokens = _pad((q, q_tokens), padded_T)
    k, k_tokens = _pad((k, k_tokens), padded_S)
    if layout.consecutive:
        # Padding rows count on, so that they stay causally behind; nobody reads their output.
        q_tokens = q_tokens._replace(position=jnp.arange(padded_T, dtype=jnp.int32))
        k_tokens = k_tokens._replace(position=jnp.arange(padded_S, dtype=jnp.int32))
    graphdef, state, integers = nnx.split(encoding, _is_inexact, ...)  # type: ignore[misc]
    span = near_span(beyond, rules, layout, T, S)
    problem = _Problem(graphdef, beyond, rules, layout, span)
    inputs = _Inputs(state, tables, q, k)
    places = _Places(q_tokens, k_tokens, seed, integers)
    out = _attend(problem, *_varying_like((inputs, places), (inputs, places)))
    return out[:T].astype(k.value.dtype)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
