"""One head's attention in blocks: O(T) memory, exact gradients to everything, plain JAX on every platform.

The online softmax of FlashAttention (Dao et al. 2022, arXiv:2205.14135) with the slots of position encodings; how a
block gets at them is told in `relpos.attention.distances`. The backward pass recomputes each block's logits. It is
written out, not left to JAX: a product with a transposed block, p.T @ d_out, is a copy of the block on the CPU, while
d_out.T @ p, its transpose, is none. Only what an encoding computes for each pair is differentiated by JAX.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from relpos.attention import reference
from relpos.attention.distances import (
    Layout,
    Region,
    Span,
    Table,
    Tables,
    near_span,
    reach_of,
    regions,
    round_up,
)
from relpos.attention.reference import Keys, Queries, Rules, Tokens, dot
from relpos.attention.slots import Slots
from relpos.positions import PADDING, distances


class _Problem(NamedTuple):
    """The static side of one head's attention."""

    graphdef: Any
    beyond: int | None
    rules: Rules
    layout: Layout
    span: Span


class _Inputs(NamedTuple):
    """The differentiable side; queries and keys are cut into blocks, [blocks, C or K, ...]."""

    state: Any  # of the encoding
    tables: Tables
    q: Queries
    k: Keys


class _Places(NamedTuple):
    """The integers; tokens are cut into blocks."""

    q: Tokens
    k: Tokens
    seed: Array | None
    state: Any  # of the encoding


class _Block(NamedTuple):
    """One block of keys before one block of queries."""

    q: Queries
    k: Keys
    q_tokens: Tokens
    k_tokens: Tokens
    table: Table
    reach: Any


def _block(problem, inputs, places, region: Region, q, q_tokens, row, block) -> _Block:
    at = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: lax.dynamic_index_in_dim(x, block, keepdims=False), tree
    )
    k, k_tokens = at((inputs.k, places.k))

    def d_CK():
        d_CK = distances(q_tokens.position, k_tokens.position)
        return jnp.maximum(d_CK, 0) if problem.rules.causal else d_CK

    column = block * problem.layout.columns
    reach = reach_of(problem.span, problem.layout, region, row, column, d_CK)
    table = jax.tree.map(lambda x: reach.take(x, 0), getattr(inputs.tables, region.table))
    return _Block(q, k, q_tokens, k_tokens, table, reach)


def _evaluated(problem, block: _Block, places_state, state, q_vector, key, q_features, k_features):
    """What the encoding computes for each pair of the block, beside its tables."""
    encoding = nnx.merge(problem.graphdef, state, places_state)
    q, k = Queries(None, q_vector, q_features), Keys(key, None, k_features)
    dots_CK = bias_CK = None
    if not problem.layout.has_table:
        dots_CK, bias_CK = reference.distance_logits(
            encoding, problem.rules, q, k, block.q_tokens, block.k_tokens
        )
    block_CK = reference.block_bias(encoding, q, k, block.q_tokens, block.k_tokens)
    if block_CK is not None:
        bias_CK = block_CK if bias_CK is None else bias_CK + block_CK
    return dots_CK, bias_CK


def _evaluated_values(problem, block: _Block, places_state, state, weights_CK):
    if problem.layout.has_table:
        return None
    encoding = nnx.merge(problem.graphdef, state, places_state)
    return reference.position_values(
        encoding, problem.rules, weights_CK, block.q_tokens, block.k_tokens
    )


def _logits(rules: Rules, block: _Block, more_dots, more_bias) -> Float[Array, "C K"]:
    q, k, table, reach = block.q, block.k, block.table, block.reach
    dots_CK = dot(q.content, k.key.T)
    if table.key_vectors is not None:
        dots_CK += reach.spread(dot(q.vector, table.key_vectors.T.astype(q.vector.dtype)))
    if table.query_vectors is not None:
        dots_CK += reach.spread_columns(dot(k.key, table.query_vectors.T.astype(k.key.dtype)))
    if more_dots is not None:
        dots_CK += more_dots
    bias_CK = None if table.bias is None else reach.spread_vector(table.bias)
    return reference.finish_logits(rules, dots_CK, bias_CK, more_bias)


# Blocks that no query sees, told by the least and greatest position and segment of a block.


class _Bounds(NamedTuple):
    positions: tuple[Array, Array]
    segments: tuple[Array, Array] | None


def _bounds(tokens: Tokens) -> _Bounds:
    """Return the bounds of each block; padding counts in neither."""
    segments = None
    position = (tokens.position, tokens.position)
    if tokens.segment is not None:
        least, greatest = jnp.iinfo(jnp.int32).min, jnp.iinfo(jnp.int32).max
        padding = tokens.segment == PADDING
        hide = lambda x: (jnp.where(padding, greatest, x), jnp.where(padding, least, x))  # noqa: E731
        low, high = hide(tokens.segment)
        segments = low.min(-1), high.max(-1)
        position = hide(tokens.position)
    return _Bounds((position[0].min(-1), position[1].max(-1)), segments)


def _may_see(rules: Rules, layout: Layout, q: _Bounds, k: _Bounds) -> Array | None:
    """Say whether any pair of two blocks may be visible; None: as far as positions and segments go, yes."""
    checks = []
    if q.segments is not None and k.segments is not None:
        checks += [q.segments[0] <= k.segments[1], k.segments[0] <= q.segments[1]]
    if not layout.consecutive:
        # Compared in floats: differences of positions need not fit an int32.
        (q_low, q_high), (k_low, k_high) = jax.tree.map(
            lambda x: x.astype(jnp.float32), (q.positions, k.positions)
        )
        slack = 1e-6 * jnp.maximum(jnp.abs(q_low), jnp.abs(k_high)) + 1
        if rules.causal:
            checks.append(q.positions[1] >= k.positions[0])
        if rules.window is not None:
            checks.append(q_low - k_high - slack < rules.window)
            if not rules.causal:
                slack = 1e-6 * jnp.maximum(jnp.abs(q_high), jnp.abs(k_low)) + 1
                checks.append(k_low - q_high - slack < rules.window)
    return functools.reduce(jnp.logical_and, checks) if checks else None


def _visit(problem, places, row, index, visit, carry):
    """Fold `visit(region, block, carry)` over the blocks of keys that the block of queries may see."""
    rules, layout = problem.rules, problem.layout
    q_bounds, k_bounds = _bounds(places.q), _bounds(places.k)
    at = lambda tree, i: jax.tree.map(lambda x: x[i], tree)  # noqa: E731

    def step(region, block, carry):
        seen = _may_see(rules, layout, at(q_bounds, index), at(k_bounds, block))
        attend = functools.partial(visit, region, block)
        return attend(carry) if seen is None else lax.cond(seen, attend, lambda x: x, carry)

    key_blocks = places.k.row.shape[0]
    for region in regions(problem.beyond, rules, layout, row, key_blocks):
        carry = lax.fori_loop(region.begin, region.end, functools.partial(step, region), carry)
    return carry


def _forward(problem: _Problem, inputs: _Inputs, places: _Places):
    """Return (out [blocks, C, H] in float32, log of the softmax's denominator [blocks, C])."""
    rules, C = problem.rules, problem.layout.rows
    dtype = jnp.result_type(inputs.q.content, inputs.k.key, inputs.k.value, jnp.float32)
    lowest = jnp.finfo(dtype).min

    def block_of_rows(of_rows):
        index, q, q_tokens = of_rows
        row = index * C

        def visit(region, number, carry):
            peak_C, total_C, out_CH = carry
            block = _block(problem, inputs, places, region, q, q_tokens, row, number)
            more = _evaluated(
                problem, block, places.state, inputs.state,
                q.vector, block.k.key, q.features, block.k.features,
            )  # fmt: skip
            mask_CK = reference.mask(rules, q_tokens, block.k_tokens)
            logits_CK = _logits(rules, block, *more).astype(dtype)
            logits_CK = jnp.where(mask_CK, logits_CK, lowest)
            new_peak_C = jnp.maximum(peak_C, logits_CK.max(-1))
            weights_CK = jnp.where(mask_CK, jnp.exp(logits_CK - new_peak_C[:, None]), 0)
            shrink_C = jnp.exp(peak_C - new_peak_C)
            total_C = total_C * shrink_C + weights_CK.sum(-1)
            kept_CK = reference.keep_weights(
                rules, places.seed, q_tokens, block.k_tokens, weights_CK
            )
            value = block.k.value
            new_CH = dot(kept_CK.astype(value.dtype), value)
            if (a_V := block.table.value_vectors) is not None:
                new_CH += dot(block.reach.collect(kept_CK), a_V.astype(kept_CK.dtype))
            values_CH = _evaluated_values(problem, block, places.state, inputs.state, kept_CK)
            if values_CH is not None:
                new_CH += values_CH
            return new_peak_C, total_C, out_CH * shrink_C[:, None] + new_CH

        H = inputs.k.value.shape[-1]
        carry = (jnp.full((C,), lowest), jnp.zeros((C,), dtype), jnp.zeros((C, H), dtype))
        carry = _varying_like((inputs, places), carry)
        peak_C, total_C, out_CH = _visit(problem, places, row, index, visit, carry)
        safe_C = jnp.where(total_C == 0, 1, total_C)
        return out_CH / safe_C[:, None], peak_C + jnp.log(safe_C)

    return lax.map(block_of_rows, (jnp.arange(places.q.row.shape[0]), inputs.q, places.q))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(problem: _Problem, inputs: _Inputs, places: _Places):
    return _forward(problem, inputs, places)[0]


def _attend_forward(problem, inputs, places):
    out, log_total = _forward(problem, inputs, places)
    return out, (inputs, places, out, log_total)


class _Sums(NamedTuple):
    """What the backward pass adds up over all blocks; of keys and tables the transposes, [..., H, n]."""

    state: Any
    tables: Tables
    key: Array
    value: Array
    k_features: Any


def _attend_backward(problem, residuals, d_out):
    inputs, places, out, log_total = residuals
    rules, C = problem.rules, problem.layout.rows
    # sum_j weights[i, j] * d weights[i, j], the softmax's correction, is this for value vectors and dropout too.
    correction = (out * d_out).sum(-1)

    def block_of_rows(sums, of_rows):
        index, q, q_tokens, d_out_CH, log_total_C, correction_C = of_rows
        row = index * C
        # In half precision products round their operands, not their sums; d_out is in half precision already.
        d_out_half = d_out_CH.astype(inputs.k.value.dtype)
        content_HC, d_out_HC = q.content.T, d_out_half.T
        vector_HC = None if q.vector is None else q.vector.T

        def visit(region, number, carry):
            d_q, sums = carry
            block = _block(problem, inputs, places, region, q, q_tokens, row, number)
            k, table, reach = block.k, block.table, block.reach
            more, pull_more = jax.vjp(
                functools.partial(_evaluated, problem, block, places.state),
                inputs.state, q.vector, k.key, q.features, k.features,
            )  # fmt: skip
            mask_CK = reference.mask(rules, q_tokens, block.k_tokens)
            logits_CK = _logits(rules, block, *more).astype(log_total_C.dtype)
            masked_CK = jnp.where(mask_CK, logits_CK, jnp.finfo(logits_CK.dtype).min)
            weights_CK = jnp.where(mask_CK, jnp.exp(masked_CK - log_total_C[:, None]), 0)
            keep = functools.partial(
                reference.keep_weights, rules, places.seed, q_tokens, block.k_tokens
            )
            kept_CK = keep(weights_CK)

            # out = kept (v + a_V)
            d_kept_CK = dot(d_out_half, k.value.T)
            d_value = dot(d_out_HC, kept_CK.astype(d_out_HC.dtype))
            d_table = Table()
            if (a_V := table.value_vectors) is not None:
                d_kept_CK += reach.spread(dot(d_out_CH, a_V.T.astype(d_out_CH.dtype)))
                d_a_V = dot(d_out_CH.T, reach.collect(kept_CK))
                d_table = d_table._replace(value_vectors=d_a_V)
            values, pull_values = jax.vjp(
                functools.partial(_evaluated_values, problem, block, places.state),
                inputs.state, kept_CK,
            )  # fmt: skip
            d_state = None
            if values is not None:
                d_state, d_kept_2 = pull_values(d_out_CH.astype(values.dtype))
                d_kept_CK += d_kept_2

            # weights = softmax(logits); keeping is linear, its transpose is itself
            d_logits_CK = weights_CK * (keep(d_kept_CK) - correction_C[:, None])
            if rules.softcap is not None:
                d_logits_CK *= 1 - (logits_CK / rules.softcap) ** 2

            # logits = scale * (content . key + vector . a_K + key . a_Q) + bias
            d_dots_CK = rules.scale * d_logits_CK
            half_CK = d_dots_CK.astype(k.key.dtype)
            d_q = d_q._replace(content=d_q.content + dot(half_CK, k.key))
            d_key = dot(content_HC, half_CK)
            if (a_K := table.key_vectors) is not None:
                by_distance = reach.collect(d_dots_CK).astype(q.vector.dtype)
                d_vector = dot(by_distance, a_K.astype(q.vector.dtype))
                d_q = d_q._replace(vector=d_q.vector + d_vector)
                d_table = d_table._replace(key_vectors=dot(vector_HC, by_distance))
            if (a_Q := table.query_vectors) is not None:
                by_distance = reach.collect_columns(d_dots_CK).astype(k.key.dtype)
                d_key += dot(a_Q.T.astype(k.key.dtype), by_distance.T)
                d_table = d_table._replace(query_vectors=dot(k.key.T, by_distance))
            if table.bias is not None:
                d_table = d_table._replace(bias=reach.collect_vector(d_logits_CK))
            k_features = None
            if any(x is not None for x in more):
                wanted = tuple(
                    None if x is None else d.astype(x.dtype)
                    for x, d in zip(more, (d_dots_CK, d_logits_CK), strict=True)
                )
                d_state_2, d_vector, d_key_2, q_features, k_features = pull_more(wanted)
                d_q = _plus(d_q, Queries(None, d_vector, q_features))
                d_key += d_key_2.T
                d_state = d_state_2 if d_state is None else _plus(d_state, d_state_2)

            region_sums = jax.tree.map(reach.add, getattr(sums.tables, region.table), d_table)
            return d_q, _Sums(
                sums.state if d_state is None else _plus(sums.state, d_state),
                sums.tables._replace(**{region.table: region_sums}),
                sums.key.at[number].add(d_key),
                sums.value.at[number].add(d_value),
                sums.k_features
                if k_features is None
                else jax.tree.map(lambda s, d: s.at[number].add(d), sums.k_features, k_features),
            )

        return _visit(problem, places, row, index, visit, (_zeros(q), sums))[::-1]

    turn = lambda tree: jax.tree.map(lambda x: jnp.swapaxes(x, -1, -2) if x.ndim > 1 else x, tree)  # noqa: E731
    sums = _Sums(
        *_zeros((
            inputs.state, turn(inputs.tables), turn(inputs.k.key), turn(inputs.k.value),
            inputs.k.features,
        ))
    )  # fmt: skip
    sums = _varying_like((inputs, places), sums)
    steps = (jnp.arange(places.q.row.shape[0]), inputs.q, places.q, d_out, log_total, correction)
    sums, d_q = lax.scan(block_of_rows, sums, steps)
    d_k = Keys(turn(sums.key), turn(sums.value), sums.k_features)
    d_inputs = _Inputs(sums.state, turn(sums.tables), d_q, d_k)
    return jax.tree.map(lambda x, dx: dx.astype(x.dtype), inputs, d_inputs), None


_attend.defvjp(_attend_forward, _attend_backward)


def _plus(a, b):
    """Add trees; None adds nothing."""
    return jax.tree.map(lambda x, y: x if y is None else x + y, a, b, is_leaf=lambda x: x is None)


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


def _cut(tree, length: int, size: int):
    """Append zero rows up to `length` and cut into blocks, [length / size, size, ...]."""

    def cut(x):
        x = jnp.pad(x, [(0, length - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(length // size, size, *x.shape[1:])

    return jax.tree.map(cut, tree)


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
    padded_T, padded_S = round_up(T, layout.rows), round_up(S, layout.columns)
    # Padding keys must be hidden; where causality does it there is nothing to compare.
    hidden = rules.causal and layout.consecutive and T <= S
    if padded_S != S and k_tokens.segment is None and not hidden:
        q_tokens = q_tokens._replace(segment=jnp.ones_like(q_tokens.row))
        k_tokens = k_tokens._replace(segment=jnp.ones_like(k_tokens.row))
    q, q_tokens = _cut((q, q_tokens), padded_T, layout.rows)
    k, k_tokens = _cut((k, k_tokens), padded_S, layout.columns)
    if layout.consecutive:
        # Padding rows count on, so that they stay causally behind; nobody reads their output.
        count = lambda x: jnp.arange(x.size, dtype=jnp.int32).reshape(x.shape)  # noqa: E731
        q_tokens = q_tokens._replace(position=count(q_tokens.row))
        k_tokens = k_tokens._replace(position=count(k_tokens.row))
    graphdef, state, integers = nnx.split(encoding, _is_inexact, ...)  # type: ignore[misc]
    span = near_span(beyond, rules, layout, T, S)
    problem = _Problem(graphdef, beyond, rules, layout, span)
    inputs = _Inputs(state, tables, q, k)
    places = _Places(q_tokens, k_tokens, seed, integers)
    out = _attend(problem, *_varying_like((inputs, places), (inputs, places)))
    return out.reshape(padded_T, -1)[:T].astype(k.value.dtype)
