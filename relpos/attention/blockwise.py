"""One head's attention in blocks: O(T) memory, exact gradients to everything, plain JAX on every platform.

The online softmax of FlashAttention (Dao et al. 2022, arXiv:2205.14135) with the slots of position encodings; how a
block gets at them is told in `relpos.attention.distances`. The backward pass recomputes each block's logits. It is
written out, not left to JAX: a product with a transposed block, p.T @ d_out, is a copy of the block on the CPU, while
d_out.T @ p, its transpose, is none. Only what an encoding computes for each pair is differentiated by JAX.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jaxtyping import Array, Float

from relpos.attention import choices, reference
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
from relpos.attention.mesh_axes import varying_like
from relpos.attention.reference import Keys, Queries, Rules, Tokens, dot, dot_rows
from relpos.attention.seen import may_see
from relpos.attention.slots import Slots
from relpos.positions import distances


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


class _Rows(NamedTuple):
    """One block of queries."""

    number: Array
    q: Queries
    tokens: Tokens


class _Block(NamedTuple):
    """One block of keys before one block of queries."""

    q: Queries
    k: Keys
    q_tokens: Tokens
    k_tokens: Tokens
    table: Table
    reach: Any


def _block(problem, inputs, places, region: Region, rows: _Rows, number) -> _Block:
    def part(x):  # of a single block: no copy of all keys
        return x[0] if x.shape[0] == 1 else lax.dynamic_index_in_dim(x, number, keepdims=False)

    k, k_tokens = jax.tree.map(part, (inputs.k, places.k))

    def d_CK():
        d_CK = distances(rows.tokens.position, k_tokens.position)
        return jnp.maximum(d_CK, 0) if problem.rules.causal else d_CK

    row = rows.number * problem.layout.rows
    reach = reach_of(problem.span, problem.layout, region, row, number, d_CK)
    table = getattr(inputs.tables, region.table)
    return _Block(rows.q, k, rows.tokens, k_tokens, table, reach)


def _evaluated(
    problem, block: _Block, places_state, state, q_vector, k_vector, q_features, k_features
):
    """What the encoding computes for each pair of the block, beside its tables."""
    encoding = nnx.merge(problem.graphdef, state, places_state)
    q, k = Queries(None, q_vector, q_features), Keys(None, None, k_features, k_vector)
    # Of positions alone, XLA would compute all that it can before the loop over heads, and keep arrays of [C, K].
    q_tokens, k_tokens, _ = lax.optimization_barrier((block.q_tokens, block.k_tokens, block.k.key))
    dots_CK = bias_CK = None
    if not problem.layout.has_table:
        dots_CK, bias_CK = reference.distance_logits(
            encoding, problem.rules, q, k, q_tokens, k_tokens
        )
    block_CK = reference.block_bias(encoding, q, k, q_tokens, k_tokens)
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


def _with_vectors(q: Queries):
    """Return the product of the queries with vectors of distances."""
    return lambda a_K: dot_rows(q.for_vectors, a_K.astype(q.for_vectors.dtype))


def _logits(rules: Rules, block: _Block, ring, more_dots, more_bias):
    """Return the logits [C, K], and the ring of products with key vectors for the next block."""
    q, k, table, reach = block.q, block.k, block.table, block.reach
    dots_CK = dot_rows(q.content, k.key)
    if table.key_vectors is not None:
        from_keys, ring = reach.read(_with_vectors(q), table.key_vectors, ring)
        dots_CK += from_keys
    if table.query_vectors is not None:
        with_keys = lambda a_Q: dot_rows(k.for_vectors, a_Q.astype(k.for_vectors.dtype))  # noqa: E731
        dots_CK += reach.read_columns(with_keys, table.query_vectors)
    if more_dots is not None:
        dots_CK += more_dots
    bias_CK = None if table.bias is None else reach.read_bias(table.bias)
    return reference.finish_logits(rules, dots_CK, bias_CK, more_bias), ring


def _regions(problem: _Problem, places: _Places, number) -> list[Region]:
    """Cut the key blocks that a block of queries may see."""
    rules, layout, key_blocks = problem.rules, problem.layout, places.k.row.shape[0]
    found = regions(problem.beyond, rules, layout, number * layout.rows, key_blocks)
    if key_blocks == 1:  # nothing to skip, and no loop is left of it: decoding
        return found
    blocks = may_see(rules, layout, jax.tree.map(lambda x: x[number], places.q), places.k)
    return found if blocks is None else [region.within(*blocks) for region in found]


class _Rings(NamedTuple):
    """What a block hands on to the next one: products with key and value vectors, and sums by distance."""

    key: Any = None
    key_sums: Any = None
    value: Any = None
    value_sums: Any = None


def hidden_logit(dtype) -> tuple[Any, Any]:
    """Return the logit of a hidden pair, and a peak so far above it that exp(logit - peak) is 0.

    The peak of a row that sees nothing stays there; no logit that anyone computes lies so low.
    """
    lowest = jnp.finfo(dtype).min
    return lowest, lowest / 2


def _forward(problem: _Problem, inputs: _Inputs, places: _Places) -> "Result":
    rules, C = problem.rules, problem.layout.rows
    dtype = jnp.result_type(inputs.q.content, inputs.k.key, inputs.k.value, jnp.float32)
    hidden, no_peak = hidden_logit(dtype)

    H = inputs.k.value.shape[-1]

    def block_of_rows(rows: _Rows):
        q = rows.q

        def visit(region, number, carry):
            (peak_C, total_C, out_CH), rings = carry
            block = _block(problem, inputs, places, region, rows, number)
            more = _evaluated(
                problem, block, places.state, inputs.state,
                q.for_vectors, block.k.for_vectors, q.features, block.k.features,
            )  # fmt: skip
            mask_CK = reference.mask(rules, rows.tokens, block.k_tokens)
            logits_CK, key_ring = _logits(rules, block, rings.key, *more)
            logits_CK = jnp.where(mask_CK, logits_CK.astype(dtype), hidden)
            # Nothing depends on the peak; where it is looked for again among logits that the compiler has rounded
            # otherwise, its derivative would be 0 / 0.
            new_peak_C = jnp.maximum(peak_C, lax.stop_gradient(logits_CK).max(-1))
            weights_CK = jnp.exp(logits_CK - new_peak_C[:, None])
            shrink_C = jnp.exp(peak_C - new_peak_C)
            total_C = total_C * shrink_C + weights_CK.sum(-1)
            kept_CK = reference.keep_weights(
                rules, places.seed, rows.tokens, block.k_tokens, weights_CK
            )
            rings = rings._replace(key=key_ring)
            value = block.k.value
            new_CH = dot(kept_CK.astype(value.dtype), value)
            if (a_V := block.table.value_vectors) is not None:
                before = jax.tree.map(lambda x: x * shrink_C[:, None], rings.value_sums)
                sums, value_sums = block.reach.write(kept_CK, before)
                rings = rings._replace(value_sums=value_sums)
                new_CH += dot(sums, block.reach.written(a_V, sums.shape[1]).astype(dtype))
            values_CH = _evaluated_values(problem, block, places.state, inputs.state, kept_CK)
            if values_CH is not None:
                new_CH += values_CH
            return (new_peak_C, total_C, out_CH * shrink_C[:, None] + new_CH), rings

        carry = (jnp.full((C,), no_peak), jnp.zeros((C,), dtype), jnp.zeros((C, H), dtype))
        for region in _regions(problem, places, rows.number):
            block = _block(problem, inputs, places, region, rows, region.begin)
            table, reach = block.table, block.reach
            rings = _Rings()
            if table.key_vectors is not None:
                products = reach.first_products(_with_vectors(q), table.key_vectors)
                rings = rings._replace(key=products)
            if table.value_vectors is not None:
                rings = rings._replace(value_sums=reach.first_sums(dtype))
            carry = varying_like((inputs, places), (carry, rings))
            carry, rings = lax.fori_loop(
                region.begin, region.end, functools.partial(visit, region), carry
            )
            reach = _block(problem, inputs, places, region, rows, region.end).reach
            if rings.value_sums is not None:
                last = dot(
                    reach.write_rest(rings.value_sums),
                    reach.written(table.value_vectors, C).astype(dtype),
                )
                carry = (*carry[:2], carry[2] + last)
        peak_C, total_C, out_CH = carry
        safe_C = jnp.where(total_C == 0, 1, total_C)
        return Result(out_CH / safe_C[:, None], peak_C + jnp.log(safe_C))

    index = jnp.arange(places.q.row.shape[0], dtype=jnp.int32)
    return lax.map(block_of_rows, _Rows(index, inputs.q, places.q))


class Result(NamedTuple):
    """What the forward pass leaves, queries cut into blocks of C."""

    out: Array  # [blocks, C, H], at least float32
    log_total: Array  # [blocks, C], the logarithm of the softmax's denominator; nothing is differentiated through it


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _done(problem: _Problem, inputs: _Inputs, places: _Places, done: Result) -> Result:
    """Return what an earlier forward pass gave, with its gradients."""
    return done


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Residuals:
    """What the backward pass needs of the forward pass; static is whether the biases are differentiated."""

    inputs: _Inputs
    places: _Places
    done: Result
    trained_bias: bool = dataclasses.field(metadata={"static": True})


def _done_forward(problem, inputs, places, done):
    biases = [table.bias for table in inputs.tables]
    trained_bias = any(x.perturbed for x in jax.tree.leaves(biases))
    inputs, places, done = custom_vjp_primal_tree_values((inputs, places, done))
    return done, _Residuals(inputs, places, done, trained_bias)


class _Sums(NamedTuple):
    """What the backward pass adds up over all blocks; of keys and tables the transposes, [..., H, n]."""

    state: Any
    tables: Tables
    key: Array
    vector: Any
    value: Array
    k_features: Any


def _backward(problem, residuals, d_result):
    inputs, places, rules = residuals.inputs, residuals.places, problem.rules
    (out, log_total), (d_out, _) = residuals.done, d_result
    if isinstance(d_out, SymbolicZero):
        d_out = jnp.zeros(d_out.shape, d_out.dtype)
    hidden, _ = hidden_logit(log_total.dtype)
    # sum_j weights[i, j] * d weights[i, j], the softmax's correction, is this for value vectors and dropout too.
    correction = (out * d_out).sum(-1)

    def block_of_rows(sums, of_rows):
        rows, d_out_CH, log_total_C, correction_C = of_rows
        q = rows.q
        # In half precision products round their operands, not their sums; d_out is in half precision already.
        d_out_half = d_out_CH.astype(inputs.k.value.dtype)
        content_HC, d_out_HC = q.content.T, d_out_half.T
        vector_HC = q.for_vectors.T
        with_d_out = lambda a_V: dot_rows(d_out_CH, a_V.astype(d_out_CH.dtype))  # noqa: E731

        def add_vectors(by_distance, table, reach, d_q, d_table):
            """Add the gradients of q . a_K, given those of the products by distance."""
            by_distance = by_distance.astype(q.for_vectors.dtype)
            a_K = reach.written(table.key_vectors, by_distance.shape[1])
            d_q = d_q.add_for_vectors(dot(by_distance, a_K.astype(by_distance.dtype)))
            d_a_K = dot(vector_HC, by_distance)
            d_a_K = reach.add_written(d_table.key_vectors, d_a_K)
            return d_q, d_table._replace(key_vectors=d_a_K)

        def add_values(by_distance, reach, d_table):
            """Add the gradients of the value vectors, given the weights by distance."""
            d_a_V = reach.add_written(d_table.value_vectors, dot(d_out_CH.T, by_distance))
            return d_table._replace(value_vectors=d_a_V)

        def visit(region, number, carry):
            (d_q, sums), rings = carry
            block = _block(problem, inputs, places, region, rows, number)
            k, table, reach = block.k, block.table, block.reach
            d_table = getattr(sums.tables, region.table)
            more, pull_more = jax.vjp(
                functools.partial(_evaluated, problem, block, places.state),
                inputs.state, q.for_vectors, k.for_vectors, q.features, k.features,
            )  # fmt: skip
            mask_CK = reference.mask(rules, rows.tokens, block.k_tokens)
            logits_CK, key_ring = _logits(rules, block, rings.key, *more)
            logits_CK = logits_CK.astype(log_total_C.dtype)
            masked_CK = jnp.where(mask_CK, logits_CK, hidden)
            weights_CK = jnp.exp(masked_CK - log_total_C[:, None])
            keep = functools.partial(
                reference.keep_weights, rules, places.seed, rows.tokens, block.k_tokens
            )
            kept_CK = keep(weights_CK)
            rings = rings._replace(key=key_ring)

            # out = kept (v + a_V)
            d_kept_CK = dot_rows(d_out_half, k.value)
            d_value = dot(d_out_HC, kept_CK.astype(d_out_HC.dtype))
            if table.value_vectors is not None:
                from_values, value_ring = reach.read(with_d_out, table.value_vectors, rings.value)
                by_distance, value_sums = reach.write(kept_CK, rings.value_sums)
                rings = rings._replace(value=value_ring, value_sums=value_sums)
                d_kept_CK += from_values
                d_table = add_values(by_distance, reach, d_table)
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
            d_key, d_k_vector = dot(content_HC, half_CK), None
            if table.key_vectors is not None:
                by_distance, key_sums = reach.write(d_dots_CK, rings.key_sums)
                rings = rings._replace(key_sums=key_sums)
                d_q, d_table = add_vectors(by_distance, table, reach, d_q, d_table)
            if table.query_vectors is not None:
                by_distance = reach.write_columns(d_dots_CK).astype(k.for_vectors.dtype)
                a_Q = reach.written_columns(table.query_vectors).astype(by_distance.dtype)
                d_k_vector = dot_rows(a_Q.T, by_distance)
                d_a_Q = dot(k.for_vectors.T, by_distance)
                d_a_Q = reach.add_written(d_table.query_vectors, d_a_Q)
                d_table = d_table._replace(query_vectors=d_a_Q)
            if table.bias is not None and residuals.trained_bias:
                d_table = d_table._replace(bias=reach.add_bias(d_table.bias, d_logits_CK))
            k_features = None
            if any(x is not None for x in more):
                wanted = tuple(
                    None if x is None else d.astype(x.dtype)
                    for x, d in zip(more, (d_dots_CK, d_logits_CK), strict=True)
                )
                d_state_2, d_vector, d_key_2, q_features, k_features = pull_more(wanted)
                d_k_vector = d_key_2.T if d_k_vector is None else d_k_vector + d_key_2.T
                d_q = d_q.add_for_vectors(d_vector)
                d_q = d_q._replace(features=_plus(d_q.features, q_features))
                d_state = d_state_2 if d_state is None else _plus(d_state, d_state_2)

            if k.vector is None and d_k_vector is not None:
                d_key, d_k_vector = d_key + d_k_vector, None
            at_block = lambda sums, d: sums.at[number].add(d)  # noqa: E731
            sums = _Sums(
                sums.state if d_state is None else _plus(sums.state, d_state),
                sums.tables._replace(**{region.table: d_table}),
                at_block(sums.key, d_key),
                sums.vector if d_k_vector is None else at_block(sums.vector, d_k_vector),
                at_block(sums.value, d_value),
                sums.k_features
                if k_features is None
                else jax.tree.map(at_block, sums.k_features, k_features),
            )
            return (d_q, sums), rings

        carry = (_zeros(q), sums)
        for region in _regions(problem, places, rows.number):
            block = _block(problem, inputs, places, region, rows, region.begin)
            table, reach = block.table, block.reach
            rings = _Rings()
            if table.key_vectors is not None:
                rings = rings._replace(
                    key=reach.first_products(_with_vectors(q), table.key_vectors),
                    key_sums=reach.first_sums(log_total.dtype),
                )
            if table.value_vectors is not None:
                rings = rings._replace(
                    value=reach.first_products(with_d_out, table.value_vectors),
                    value_sums=reach.first_sums(log_total.dtype),
                )
            carry = varying_like((inputs, places), (carry, rings))
            (d_q, sums), rings = lax.fori_loop(
                region.begin, region.end, functools.partial(visit, region), carry
            )
            reach = _block(problem, inputs, places, region, rows, region.end).reach
            d_table = getattr(sums.tables, region.table)
            if rings.key_sums is not None:
                rest = reach.write_rest(rings.key_sums)
                d_q, d_table = add_vectors(rest, table, reach, d_q, d_table)
            if rings.value_sums is not None:
                d_table = add_values(reach.write_rest(rings.value_sums), reach, d_table)
            carry = (d_q, sums._replace(tables=sums.tables._replace(**{region.table: d_table})))
        return carry[::-1]

    turn = lambda tree: jax.tree.map(lambda x: jnp.swapaxes(x, -1, -2) if x.ndim > 1 else x, tree)  # noqa: E731
    sums = _Sums(
        *_zeros((
            inputs.state, turn(inputs.tables), turn(inputs.k.key), turn(inputs.k.vector),
            turn(inputs.k.value),
            inputs.k.features,
        ))
    )  # fmt: skip
    sums = varying_like((inputs, places), sums)
    index = jnp.arange(places.q.row.shape[0], dtype=jnp.int32)
    steps = (_Rows(index, inputs.q, places.q), d_out, log_total, correction)
    sums, d_q = lax.scan(block_of_rows, sums, steps)
    d_k = Keys(turn(sums.key), turn(sums.value), sums.k_features, turn(sums.vector))
    d_inputs = _Inputs(sums.state, turn(sums.tables), d_q, d_k)
    return jax.tree.map(lambda x, dx: dx.astype(x.dtype), inputs, d_inputs), None, None


# Symbolic zeros: a bias that is not trained, as ALiBi's, costs no sums by distance.
_done.defvjp(_done_forward, _backward, symbolic_zeros=True)


def _plus(a, b):
    """Add trees; None adds nothing."""
    return jax.tree.map(lambda x, y: x if y is None else x + y, a, b, is_leaf=lambda x: x is None)


def _zeros(tree):
    """Zero accumulators, at least float32."""
    zeros = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))  # noqa: E731
    return varying_like(tree, jax.tree.map(zeros, tree))


def is_inexact(path, variable):
    """Tell trained numbers from integers, for `nnx.split`."""
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
    done: Result | None = None,
) -> Result:
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
      done: the result, where only its gradients are wanted.
    """
    T, S = q.content.shape[0], k.key.shape[0]
    padded_T, padded_S = round_up(T, layout.rows), round_up(S, layout.columns)
    # Padding keys must be hidden; where causality does it there is nothing to compare.
    hidden = rules.causal and layout.consecutive and (T == S or choices.are_within(S, T))
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
    graphdef, state, integers = nnx.split(encoding, is_inexact, ...)  # type: ignore[misc]
    span = near_span(beyond, rules, layout, T, S)
    problem = _Problem(graphdef, beyond, rules, layout, span)
    inputs = _Inputs(state, tables, q, k)
    places = _Places(q_tokens, k_tokens, seed, integers)
    inputs, places = varying_like((inputs, places), (inputs, places))
    if done is None:
        return _forward(problem, inputs, places)
    return _done(problem, inputs, places, done)


def joined(result: Result, T: int) -> Float[Array, "... T H"]:
    """Return the output of all blocks as one, padding left out."""
    *leading, blocks, C, H = result.out.shape
    return result.out.reshape(*leading, blocks * C, H)[..., :T, :]
