"""The kernels of `relpos.attention.pallas`: a program owns a block of queries or keys, and visits the other side.

No two programs write to the same memory, so there are no atomics, and sums are reproducible.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from relpos.attention import reference
from relpos.attention.pallas_bands import sums_of
from relpos.attention.pallas_blocks import (
    Backward,
    Constants,
    Inputs,
    Launch,
    block_of_keys,
    block_of_queries,
    block_of_slopes,
    chunk,
    dot,
    dot_chunks,
    evaluate,
    index_of,
    loaded,
    logits_of,
    over_runs,
    put,
    put_chunks,
)
from relpos.attention.softmax import hidden_logit, hide

_LOG2_E = math.log2(math.e)


def forward(
    launch: Launch, _, inputs: Inputs, constants: Constants, by_distance, out_TV, log_total_T
):
    """Compute the attention of a block of queries and, if there are value vectors, its weights summed by distance."""
    number, C = pl.program_id(0), launch.layout.rows
    constants, state = loaded(constants, inputs.state)
    queries = block_of_queries(launch, inputs, constants, number)
    rows, dtype = queries.band.tokens, out_TV.dtype
    _, no_peak = hidden_logit(dtype)
    over_keys = functools.partial(over_runs, launch.runs, constants.visits.keys, number)

    def masked_logits(run, keys, index):
        tokens = queries.tokens, keys.tokens
        bias_CK = evaluate(launch, constants.state, tokens, state, queries.features, keys.features)
        logits_CK, mask_CK = logits_of(launch, run, queries, keys, index, bias_CK)
        return hide(mask_CK, logits_CK)

    def keep(keys, weights_CK):
        return reference.keep_weights(
            launch.rules, constants.seed, queries.tokens, keys.tokens, weights_CK
        )

    def visit(run, block, carry):
        peak_C, total_C, out = carry  # of the logits times log2(e), see `_weights`
        keys = block_of_keys(launch, inputs, constants, block)
        logits_CK = masked_logits(run, keys, index_of(launch, run, queries, keys))
        new_peak_C = jnp.maximum(peak_C, _LOG2_E * logits_CK.max(1))
        weights_CK = _weights(logits_CK, new_peak_C)
        shrink_C = jnp.exp2(peak_C - new_peak_C)
        total_C = total_C * shrink_C + weights_CK.sum(1)
        kept_CK = keep(keys, weights_CK)
        out = [
            x * shrink_C[:, None] + dot(launch, kept_CK.astype(v.dtype), v)
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
    sums = sums_of(queries.band, by_distance)

    def visit_again(run, block, carry):
        keys = block_of_keys(launch, inputs, constants, block)
        index = index_of(launch, run, queries, keys)
        weights_CK = _weights(masked_logits(run, keys, index), log_total_C)
        return sums.add(carry, index, keep(keys, weights_CK))

    sums.store(over_keys(visit_again, sums.zeros(dtype)))


def _weights(logits_CK, log_total_C):
    """Return exp(logits - total), given log2(e) * total: one fused multiply-add and the GPU's native exp2."""
    return jnp.exp2(_LOG2_E * logits_CK - log_total_C[:, None])


def _pair_gradients(
    launch: Launch,
    run: str,
    constants: Constants,
    queries,
    keys,
    slopes: Backward,
    bias_of,
    *arguments,
):
    """Return the weights after dropout, the gradients of the logits and of the products, the index, and `pulled`.

    The bias that the encoding evaluates is bias_of(tokens, *arguments); `pulled` adds the arguments' gradients to sums.
    """
    bias_CK, pull = jax.vjp(functools.partial(bias_of, (queries.tokens, keys.tokens)), *arguments)
    index = index_of(launch, run, queries, keys)
    logits_CK, mask_CK = logits_of(launch, run, queries, keys, index, bias_CK)
    weights_CK = _weights(hide(mask_CK, logits_CK), slopes.log_total)
    keep = functools.partial(
        reference.keep_weights, launch.rules, constants.seed, queries.tokens, keys.tokens
    )
    # In half precision products round their operands; d_out is in half precision already.
    d_out = [d.astype(v.dtype) for d, v in zip(slopes.d_out, keys.v, strict=True)]
    d_kept_CK = dot_chunks(launch, d_out, keys.v)
    if slopes.d_by_distance is not None:
        d_kept_CK += slopes.d_by_distance.read(index)
    # Dropout is linear and its own transpose.
    d_logits_CK = weights_CK * (keep(d_kept_CK) - slopes.correction[:, None])
    if launch.rules.softcap is not None:
        d_logits_CK *= 1 - (logits_CK / launch.rules.softcap) ** 2

    def pulled(sums):
        if bias_CK is None:
            return sums
        return jax.tree.map(jnp.add, sums, pull(d_logits_CK.astype(bias_CK.dtype)))

    kept_CK = keep(weights_CK)
    d_dots_CK = (launch.rules.scale * d_logits_CK).astype(keys.k[0].dtype)
    return kept_CK, d_logits_CK, d_dots_CK, index, pulled


def query_gradients(
    launch: Launch, _, inputs: Inputs, constants: Constants, backward: Backward,
    d_terms, d_q_TH, d_features, d_state,
):  # fmt: skip
    """Compute the gradients of a block of queries, and its contribution to those of the encoding's variables."""
    number = pl.program_id(0)
    constants, state = loaded(constants, inputs.state)
    queries = block_of_queries(launch, inputs, constants, number)
    slopes = block_of_slopes(backward, queries.band)
    sums, dtype = sums_of(queries.band, d_terms), d_q_TH.dtype

    def visit(run, block, carry):
        d_q, d_sums, d_evaluated = carry
        keys = block_of_keys(launch, inputs, constants, block)
        bias_of = lambda tokens, state, x: evaluate(  # noqa: E731
            launch, constants.state, tokens, state, x, keys.features
        )
        _, d_logits_CK, d_dots_CK, index, pulled = _pair_gradients(
            launch, run, constants, queries, keys, slopes, bias_of, state, queries.features
        )
        d_q = [d + dot(launch, d_dots_CK, k) for d, k in zip(d_q, keys.k, strict=True)]
        return d_q, sums.add(d_sums, index, d_logits_CK), pulled(d_evaluated)

    carry = (_zeros(dtype, queries.q), sums.zeros(dtype), _zeros(dtype, (state, queries.features)))
    d_q, d_sums, (d_state_sums, d_features_C) = over_runs(
        launch.runs, constants.visits.keys, number, visit, carry
    )
    put_chunks(d_q_TH, queries.band.tokens, d_q)
    sums.store(d_sums)
    put(d_state, number, d_state_sums)
    put(d_features, queries.band.tokens, d_features_C)


def key_gradients(
    launch: Launch, _, inputs: Inputs, constants: Constants, backward: Backward,
    d_terms, d_k_SH, d_v_SV, d_features,
):  # fmt: skip
    """Compute the gradients of a block of keys."""
    number = pl.program_id(0)
    constants, state = loaded(constants, inputs.state)
    keys = block_of_keys(launch, inputs, constants, number)
    columns, sums, dtype = keys.band.tokens, sums_of(keys.band, d_terms), d_k_SH.dtype

    def visit(run, block, carry):
        d_k, d_v, d_sums, d_evaluated = carry
        queries = block_of_queries(launch, inputs, constants, block)
        slopes = block_of_slopes(backward, queries.band)
        bias_of = lambda tokens, x: evaluate(  # noqa: E731
            launch, constants.state, tokens, state, queries.features, x
        )
        kept_CK, d_logits_CK, d_dots_CK, index, pulled = _pair_gradients(
            launch, run, constants, queries, keys, slopes, bias_of, keys.features
        )
        kept_CK = kept_CK.astype(keys.v[0].dtype)
        over_rows = functools.partial(dot, launch, over=(0, 0))
        d_k = [d + over_rows(d_dots_CK, q) for d, q in zip(d_k, queries.q, strict=True)]
        d_v = [
            d + over_rows(kept_CK, d_out.astype(kept_CK.dtype))
            for d, d_out in zip(d_v, slopes.d_out, strict=True)
        ]
        return d_k, d_v, sums.add(d_sums, index, d_logits_CK), pulled(d_evaluated)

    carry = (
        _zeros(dtype, keys.k), _zeros(dtype, keys.v), sums.zeros(dtype), _zeros(dtype, (keys.features,))
    )  # fmt: skip
    d_k, d_v, d_sums, d_evaluated = over_runs(
        launch.runs[::-1], constants.visits.queries, number, visit, carry
    )
    put_chunks(d_k_SH, columns, d_k)
    put_chunks(d_v_SV, columns, d_v)
    sums.store(d_sums)
    put(d_features, columns, d_evaluated)


def _zeros(dtype, tree):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, dtype)), tree)
