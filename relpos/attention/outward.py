"""One head's attention where the encoding walks along the row, from each query's own key outward: O(T) memory.

The online softmax allows keys in any order: here the last block of keys comes first, and each query passes a carry on
from block to block (`Slots.walk`).

In the backward pass, a block of queries walks outward again and records its carry before each block of keys; then it
walks back, and JAX differentiates the step past one block at a time. Only one block of queries has such records.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array

from relpos.attention import beside_walk, padding, reference
from relpos.attention.block_visibility import may_see
from relpos.attention.blocks import Constants, Problem
from relpos.attention.mesh_axes import varying_like
from relpos.attention.parts import Part, is_inexact
from relpos.attention.reference import Keys, Queries, Rules, Tokens, dot, dot_rows
from relpos.attention.regions import Layout, offset_of, regions
from relpos.attention.softmax import Result, Softmax, hide
from relpos.attention.terms import cast_like, plus, zeros
from relpos.positions import PADDING


def in_order(rank_BS: Array, segments_BS: Array | None, tree: Any) -> Any:
    """Sort keys by segment and order, so that a query sees one contiguous run of them; padding comes last.

    `rank_BS` is the order, which defines causality, `tree` the arrays [B, S, ...] to sort. Nothing is moved if every
    row is sorted already, as in a cache.
    """
    behind = jnp.iinfo(jnp.int32).max
    if segments_BS is None:
        segments_BS = jnp.zeros_like(rank_BS)
    else:
        segments_BS = jnp.where(segments_BS == PADDING, behind, segments_BS)
    same, rises = (f(segments_BS[:, 1:], segments_BS[:, :-1]) for f in (jnp.equal, jnp.greater))
    follows = rank_BS[:, 1:] >= rank_BS[:, :-1]
    is_sorted = (rises | (same & (follows | (segments_BS[:, 1:] == behind)))).all()

    def sort(tree):
        order_BS = jnp.lexsort((rank_BS, segments_BS))
        return jax.tree.map(lambda x: jax.vmap(lambda x, order: x[order])(x, order_BS), tree)

    return lax.cond(is_sorted, lambda tree: tree, sort, tree)


class _Inputs(NamedTuple):
    """The differentiable arrays; queries and keys are cut into blocks, [blocks, C or K, ...]."""

    state: Any  # of the encoding
    first: Any  # the carry before the first block of keys
    q: Queries  # features: the results of `query_block`, and the tokens' features if block_bias reads them
    k: Keys  # likewise with `key_block`


class _Rows(NamedTuple):
    """One block of queries."""

    number: Array
    first: Any
    q: Queries
    tokens: Tokens


class _Run(NamedTuple):
    """A run of key blocks [begin, end) that are handled alike."""

    begin: Any
    end: Any
    all_seen: bool


def _runs(problem: Problem, constants: Constants, number: Array) -> list[_Run]:
    """Cut the blocks of keys that a block of queries may see into runs, the nearest first."""
    rules, layout, key_blocks = problem.rules, problem.layout, constants.k.row.shape[0]
    row = number * layout.rows + offset_of(layout, constants.q, constants.k)
    (region,) = regions((None,), rules, layout, row, key_blocks)
    blocks = may_see(rules, layout, jax.tree.map(lambda x: x[number], constants.q), constants.k)
    region = region if blocks is None else region.within(*blocks)
    begin, end = (jnp.asarray(x, jnp.int32) for x in (region.begin, region.end))
    if (
        not (layout.consecutive and rules.causal)
        or rules.window.past is not None
        or constants.k.segment is not None
    ):
        return [_Run(begin, end, False)]
    # The first query, and so every query, sees all keys of the blocks before `past`.
    past = jnp.clip((row + rules.itself) // layout.columns, begin, end)
    return [_Run(past, end, False), _Run(begin, past, True)]


def _at(tree, number):
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), tree)


def _step(problem, constants, rows, k_tokens, all_seen, state, carry, q, k):
    """Walk past one block of keys, without their values; return the unmasked logits and the carry."""
    encoding, rules = nnx.merge(problem.graphdef, state, constants.integers), problem.rules
    seen_CK = _mask(problem, rows, k_tokens, all_seen)
    (q_walking, q_features), (k_walking, k_features) = q.features, k.features
    dots_CK, bias_CK, after = encoding.walk(
        carry, q.content, k.key, rows.tokens.position, k_tokens.position,
        q_features=q_walking, k_features=k_walking, seen_CK=seen_CK, scale=rules.scale,
    )  # fmt: skip
    if dots_CK is None:
        dots_CK = dot_rows(q.content, k.key)
    more_CK, biases = beside_walk.logits(
        encoding, rules, problem.layout.consecutive,
        q._replace(features=q_features), k._replace(features=k_features), rows.tokens, k_tokens,
    )  # fmt: skip
    logits_CK = reference.finish_logits(rules, plus(dots_CK, more_CK), bias_CK, *biases)
    return logits_CK, cast_like(after, carry)


def _mask(problem, rows, k_tokens, all_seen):
    return None if all_seen else reference.mask(problem.rules, rows.tokens, k_tokens)


def _forward(problem: Problem, inputs: _Inputs, constants: Constants) -> Result:
    dtype = jnp.result_type(inputs.q.content, inputs.k.key, inputs.k.value, jnp.float32)

    def block_of_rows(rows: _Rows):
        def visit(run, n, carried):
            softmax, carry = carried
            k, k_tokens = _at((inputs.k, constants.k), run.end - 1 - n)
            step = functools.partial(_step, problem, constants, rows, k_tokens, run.all_seen)
            logits_CK, carry = step(inputs.state, carry, rows.q, k._replace(value=None))
            mask_CK = _mask(problem, rows, k_tokens, run.all_seen)
            softmax, weights_CK, _ = softmax.after(hide(mask_CK, logits_CK.astype(dtype)))
            kept_CK = reference.keep_weights(
                problem.rules, constants.seed, rows.tokens, k_tokens, weights_CK
            )
            new_CH = dot(kept_CK.astype(k.value.dtype), k.value)
            return softmax._replace(out=softmax.out + new_CH), carry

        softmax = Softmax.empty((problem.layout.rows,), inputs.k.value.shape[-1], dtype)
        carried = varying_like((inputs, constants), (softmax, rows.first))
        for run in _runs(problem, constants, rows.number):
            carried = lax.fori_loop(0, run.end - run.begin, functools.partial(visit, run), carried)
        return carried[0].result()

    return lax.map(block_of_rows, _rows(inputs, constants))


def _rows(inputs: _Inputs, constants: Constants) -> _Rows:
    index = jnp.arange(constants.q.row.shape[0], dtype=jnp.int32)
    return _Rows(index, inputs.first, inputs.q, constants.q)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_gradients(
    problem: Problem, inputs: _Inputs, constants: Constants, done: Result
) -> Result:
    """Return `done`, an earlier result; the gradient of this function is the backward pass."""
    return done


def _with_gradients_forward(problem, inputs, constants, done):
    return done, (inputs, constants, done)


def _backward(problem, residuals, d_result):
    inputs, constants, (out, log_total) = residuals
    d_out, d_log_total = d_result
    correction = (out * d_out).sum(-1) - d_log_total  # d log_total / d logits = weights

    def block_of_rows(sums, of_rows):
        rows, *of_result = of_rows
        runs = _runs(problem, constants, rows.number)
        notes = _walk_out(problem, inputs, constants, rows, runs)
        carried = varying_like((inputs, constants), (*zeros((rows.first, rows.q)), sums))
        for run in reversed(runs):
            back = functools.partial(_back, problem, inputs, constants, rows, of_result, notes, run)
            carried = lax.fori_loop(run.begin, run.end, back, carried)
        d_first, d_q, sums = carried
        return sums, (d_first, d_q)

    sums = varying_like((inputs, constants), zeros((inputs.state, inputs.k)))
    steps = (_rows(inputs, constants), d_out, log_total, correction)
    (d_state, d_k), (d_first, d_q) = lax.scan(block_of_rows, sums, steps)
    return cast_like(_Inputs(d_state, d_first, d_q, d_k), inputs), None, None


_with_gradients.defvjp(_with_gradients_forward, _backward)


def _walk_out(problem, inputs, constants, rows, runs):
    """Return the carry before each block of keys, [blocks, C, ...]; zeros for blocks that are not visited."""

    def note(run, n, carried):
        carry, notes = carried
        at = run.end - 1 - n
        notes = jax.tree.map(
            lambda all, x: lax.dynamic_update_index_in_dim(all, x, at, 0), notes, carry
        )
        k, k_tokens = _at((inputs.k, constants.k), at)
        step = functools.partial(_step, problem, constants, rows, k_tokens, run.all_seen)
        return step(inputs.state, carry, rows.q, k._replace(value=None))[1], notes

    blocks = constants.k.row.shape[0]
    notes = jax.tree.map(lambda x: jnp.zeros((blocks, *x.shape), x.dtype), rows.first)
    carried = varying_like((inputs, constants), (rows.first, notes))
    for run in runs:
        carried = lax.fori_loop(0, run.end - run.begin, functools.partial(note, run), carried)
    return carried[1]


def _back(problem, inputs, constants, rows, of_result, notes, run, at, carried):
    """Propagate the gradients back past one block of keys."""
    d_carry, d_q, (d_state, d_k) = carried
    d_out_CH, log_total_C, correction_C = of_result
    k, k_tokens = _at((inputs.k, constants.k), at)
    step = functools.partial(_step, problem, constants, rows, k_tokens, run.all_seen)
    (logits_CK, after), pull = jax.vjp(
        step, inputs.state, _at(notes, at), rows.q, k._replace(value=None)
    )
    mask_CK = _mask(problem, rows, k_tokens, run.all_seen)
    masked_CK = hide(mask_CK, logits_CK.astype(log_total_C.dtype))
    weights_CK = jnp.exp(masked_CK - log_total_C[:, None])
    keep = functools.partial(
        reference.keep_weights, problem.rules, constants.seed, rows.tokens, k_tokens
    )
    # In half precision products round their operands, not their sums.
    d_out_half = d_out_CH.astype(k.value.dtype)
    d_kept_CK = dot_rows(d_out_half, k.value)
    d_value = dot(keep(weights_CK).astype(d_out_half.dtype).T, d_out_half)
    d_logits_CK = weights_CK * (keep(d_kept_CK) - correction_C[:, None])
    d_results = d_logits_CK.astype(logits_CK.dtype), cast_like(d_carry, after)
    d_state_2, d_carry, d_q_2, d_k_2 = pull(d_results)
    d_k_2 = d_k_2._replace(value=d_value)
    d_k = jax.tree.map(lambda sums, d: sums.at[at].add(d), d_k, d_k_2)
    d_q, d_state = _plus(d_q, d_q_2), _plus(d_state, d_state_2)
    return cast_like(d_carry, carried[0]), d_q, (d_state, d_k)


def _plus(a, b):
    return jax.tree.map(lambda x, y: x + y.astype(x.dtype), a, b)


def head(
    part: Part,
    rules: Rules,
    layout: Layout,
    q: Queries,
    k: Keys,
    q_tokens: Tokens,
    k_tokens: Tokens,
    seed: Array | None,
    done: Result | None = None,
) -> Result:
    """Compute the attention of one head that walks; a query that sees no key gets zeros.

    The arguments are those of `blockwise.head`, except that there is one part, which has no value vectors (see
    `SlotUse`), and that keys are sorted by segment and order.
    """
    encoding = part.encoding
    q_tokens, k_tokens = padding.whole_blocks(rules, layout, q_tokens, k_tokens)
    first = encoding.begin(q.content, q.features)
    first, q, q_tokens = padding.cut((first, q, q_tokens), layout.rows)
    k, k_tokens = padding.cut((k, k_tokens), layout.columns)
    # Only block_bias reads the tokens' own features again.
    of_pairs = "block_bias" in encoding.overridden
    q_walking = jax.vmap(encoding.query_block)(q.content, q.features)
    k_walking = jax.vmap(encoding.key_block)(k.key, k.features)
    q = q._replace(features=(q_walking, q.features if of_pairs else None))
    k = k._replace(features=(k_walking, k.features if of_pairs else None))
    graphdef, state, integers = nnx.split(encoding, is_inexact, ...)  # type: ignore[misc]
    problem = Problem(rules, layout, (), graphdef)
    inputs = _Inputs(state, first, q, k)
    constants = Constants(q_tokens, k_tokens, seed, integers)
    inputs, constants = varying_like((inputs, constants), (inputs, constants))
    if done is None:
        return _forward(problem, inputs, constants)
    return _with_gradients(problem, inputs, constants, done)
