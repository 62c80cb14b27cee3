"""The kernels of `relpos.attention.pallas`: a program owns a block of queries or keys, and visits the other side.

No two programs write to the same memory, so there are no atomics, and every run gives the same sums.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from relpos.attention import reference
from relpos.attention.blockwise import hidden_logit
from relpos.attention.pallas_bands import sums_of
from relpos.attention.pallas_blocks import (
    Backward,
    BlockOfSlopes,
    Inputs,
    Places,
    Problem,
    band_block,
    block_of_keys,
    block_of_queries,
    block_of_slopes,
    chunk,
    dot,
    dot_chunks,
    evaluate,
    hide,
    index_of,
    loaded,
    logits_of,
    over_runs,
    put,
    put_chunks,
)

_LOG2_E = math.log2(math.e)


def forward(problem: Problem, _, inputs: Inputs, places: Places, by_distance, out_TV, log_total_T):
    """Compute the attention of a block of queries and, if there are value vectors, its weights summed by distance."""
    number, C = pl.program_id(0), problem.layout.rows
    rows = pl.ds(number * C, C)
    places, state = loaded(places, inputs.state)
    queries = block_of_queries(problem, inputs, places, number)
    dtype = out_TV.dtype
    _, no_peak = hidden_logit(dtype)
    over_keys = functools.partial(over_runs, problem.runs, places.visits.keys, number)

    def masked_logits(run, keys, index):
        bias_CK = evaluate(problem, places, queries, keys, state, queries.features, keys.features)
        logits_CK, mask_CK = logits_of(problem, run, queries, keys, index, bias_CK)
        return hide(mask_CK, logits_CK)

    def keep(keys, weights_CK):
        return reference.keep_weights(
            problem.rules, places.seed, queries.tokens, keys.tokens, weights_CK
        )

    def visit(run, block, carry):
        peak_C, total_C, out = carry  # of the logits times log2(e), see `_weights`
        keys = block_of_keys(problem, inputs, places, block)
        logits_CK = masked_logits(run, keys, index_of(problem, run, queries, keys))
        new_peak_C = jnp.maximum(peak_C, _LOG2_E * logits_CK.max(1))
        weights_CK = _weights(logits_CK, new_peak_C)
        shrink_C = jnp.exp2(peak_C - new_peak_C)
        total_C = total_C * shrink_C + weights_CK.sum(1)
        kept_CK = keep(keys, weights_CK)
        out = [
            x * shrink_C[:, None] + dot(problem, kept_CK.astype(v.dtype), v)
            for x, v in zip(out, keys.v, strict=True)
        ]
        return new_peak_C, total_C, out

    V = out_TV.shape[1]
    out = [jnp.zeros((C, chunk(V)), dtype) for _ in range(0, V, chunk(V))]
    carry = (jnp.full((C,), no_peak, dtype), jnp.zeros((C,), dtype), out)
    peak_C, total_C, out = over_keys(visit, carry)
    safe_C = jnp.where(total_C == 0, 1, total_C)
    log_total_C = peak_C + jnp.log2(safe_C)
    put_chunks(out_TV, rows, [x / safe_C[:, None] for x in out])
    log_total_T[rows] = log_total_C

    if by_distance is None:
        return
    sums = sums_of(band_block(problem, number, axis=1), by_distance)

    def visit_again(run, block, carry):
        keys = block_of_keys(problem, inputs, places, block)
        index = index_of(problem, run, queries, keys)
        weights_CK = _weights(masked_logits(run, keys, index), log_total_C)
        return sums.add(carry, index, keep(keys, weights_CK))

    sums.store(over_keys(visit_again, sums.zeros(dtype)))


def _weights(logits_CK, log_total_C):
    """Return exp(logits - total), given log2(e) * total: one fused multiply-add and the GPU's native exp2."""
    return jnp.exp2(_LOG2_E * logits_CK - log_total_C[:, None])


def _pair_gradients(
    problem: Problem, run: str, places: Places, queries, keys, slopes: BlockOfSlopes, bias_CK
):
    """Return the weights after dropout, the gradient of the logits, and the index."""
    index = index_of(problem, run, queries, keys)
    logits_CK, mask_CK = logits_of(problem, run, queries, keys, index, bias_CK)
    weights_CK = _weights(hide(mask_CK, logits_CK), slopes.log_total)
    keep = functools.partial(
        reference.keep_weights, problem.rules, places.seed, queries.tokens, keys.tokens
    )
    # In half precision products round their operands; d_out is in half precision already.
    d_out = [d.astype(v.dtype) for d, v in zip(slopes.d_out, keys.v, strict=True)]
    d_kept_CK = dot_chunks(problem, d_out, keys.v)
    if slopes.d_by_distance is not None:
        d_kept_CK += slopes.d_by_distance.read(index)
    # Dropout is linear and its own transpose.
    d_logits_CK = weights_CK * (keep(d_kept_CK) - slopes.correction[:, None])
    if problem.rules.softcap is not None:
        d_logits_CK *= 1 - (logits_CK / problem.rules.softcap) ** 2
    return keep(weights_CK), d_logits_CK, index


def query_gradients(
    problem: Problem, _, inputs: Inputs, places: Places, backward: Backward,
    d_terms, d_q_TH, d_features, d_state,
):  # fmt: skip
    """Compute the gradients of a block of queries, and its contribution to those of the encoding's variables."""
    number, C = pl.program_id(0), problem.layout.rows
    rows = pl.ds(number * C, C)
    places, state = loaded(places, inputs.state)
    queries = block_of_queries(problem, inputs, places, number)
    slopes = block_of_slopes(problem, backward, number)
    sums = sums_of(band_block(problem, number, axis=1), d_terms)
    dtype = d_q_TH.dtype

    def visit(run, block, carry):
        d_q, d_sums, d_evaluated = carry
        keys = block_of_keys(problem, inputs, places, block)
        bias_CK, pull = jax.vjp(
            lambda state, features: evaluate(
                problem, places, queries, keys, state, features, keys.features
            ),
            state, queries.features,
        )  # fmt: skip
        _, d_logits_CK, index = _pair_gradients(
            problem, run, places, queries, keys, slopes, bias_CK
        )
        d_dots_CK = (problem.rules.scale * d_logits_CK).astype(keys.k[0].dtype)
        d_q = [d + dot(problem, d_dots_CK, k) for d, k in zip(d_q, keys.k, strict=True)]
        d_sums = sums.add(d_sums, index, d_logits_CK)
        if bias_CK is not None:
            pulled = pull(d_logits_CK.astype(bias_CK.dtype))
            d_evaluated = jax.tree.map(jnp.add, d_evaluated, pulled)
        return d_q, d_sums, d_evaluated

    carry = (_zeros(dtype, queries.q), sums.zeros(dtype), _zeros(dtype, (state, queries.features)))
    bounds = places.visits.keys
    d_q, d_sums, (d_state_sums, d_features_C) = over_runs(
        problem.runs, bounds, number, visit, carry
    )
    put_chunks(d_q_TH, rows, d_q)
    sums.store(d_sums)
    put(d_state, number, d_state_sums)
    put(d_features, rows, d_features_C)


def key_gradients(
    problem: Problem, _, inputs: Inputs, places: Places, backward: Backward,
    d_terms, d_k_SH, d_v_SV, d_features,
):  # fmt: skip
    """Compute the gradients of a block of keys."""
    number, K = pl.program_id(0), problem.layout.columns
    columns = pl.ds(number * K, K)
    places, state = loaded(places, inputs.state)
    keys = block_of_keys(problem, inputs, places, number)
    sums = sums_of(band_block(problem, number, axis=0), d_terms)
    dtype = d_k_SH.dtype

    def visit(run, block, carry):
        d_k, d_v, d_sums, d_features = carry
        queries = block_of_queries(problem, inputs, places, block)
        slopes = block_of_slopes(problem, backward, block)
        bias_CK, pull = jax.vjp(
            lambda features: evaluate(
                problem, places, queries, keys, state, queries.features, features
            ),
            keys.features,
        )
        kept_CK, d_logits_CK, index = _pair_gradients(
            problem, run, places, queries, keys, slopes, bias_CK
        )
        d_dots_CK = (problem.rules.scale * d_logits_CK).astype(keys.k[0].dtype)
        kept_CK = kept_CK.astype(keys.v[0].dtype)
        over_rows = functools.partial(dot, problem, over=(0, 0))
        d_k = [d + over_rows(d_dots_CK, q) for d, q in zip(d_k, queries.q, strict=True)]
        d_v = [
            d + over_rows(kept_CK, d_out.astype(kept_CK.dtype))
            for d, d_out in zip(d_v, slopes.d_out, strict=True)
        ]
        d_sums = sums.add(d_sums, index, d_logits_CK)
        if bias_CK is not None:
            (pulled,) = pull(d_logits_CK.astype(bias_CK.dtype))
            d_features = jax.tree.map(jnp.add, d_features, pulled)
        return d_k, d_v, d_sums, d_features

    carry = (
        _zeros(dtype, keys.k), _zeros(dtype, keys.v), sums.zeros(dtype), _zeros(dtype, keys.features)
    )  # fmt: skip
    bounds = places.visits.queries
    d_k, d_v, d_sums, d_features_K = over_runs(problem.runs[::-1], bounds, number, visit, carry)
    put_chunks(d_k_SH, columns, d_k)
    put_chunks(d_v_SV, columns, d_v)
    sums.store(d_sums)
    put(d_features, columns, d_features_K)


def _zeros(dtype, tree):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, dtype)), tree)
