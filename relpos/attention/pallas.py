"""One head's attention in GPU kernels (Pallas, lowered by Triton): O((T + S) W) memory, exact gradients to all inputs.

FlashAttention-2 (Dao 2023, arXiv:2307.08691) with the slots of position encodings. Plain JAX computes and
differentiates the terms of rows and columns; with c the index of a pair's distance d in a band of W distances,

    row_terms[i]    = scale * vector_query(q_i) . a_K  +  b                                  [T, W]
    column_terms[j] = scale * k_j . a_Q                                                      [S, W]
    logit[i, j]     = scale * q_i . k_j + row_terms[i, c] + column_terms[j, c] + the bias of the pair
    out[i]          = sum_j p_ij v_j  +  sum_w by_distance[i, w] a_V[w]

The kernels read the terms and write the sums by distance. On a CPU they are interpreted, for tests only.
"""

import functools
import logging

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from relpos.attention import choices, padding, pallas_kernels, reference
from relpos.attention.block_visibility import may_see
from relpos.attention.mesh_axes import shaped_like, varying_like
from relpos.attention.pallas_bands import LaidOut, collect, lay_out, sums_like
from relpos.attention.pallas_blocks import (
    Backward,
    Constants,
    Inputs,
    Launch,
    Visits,
    chunk,
    evaluate,
)
from relpos.attention.parts import Part, is_inexact
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.regions import Layout, near_span, regions
from relpos.attention.slots import Slots
from relpos.attention.terms import cast_like
from relpos.positions import Window

_log = logging.getLogger(__name__)


def _call(kernel, launch: Launch, programs: int, by_distance, outputs, inputs: Inputs, *more):
    """Run a kernel; its sums by distance, if it computes any, are the first output."""
    # All vary over the same axes.
    by_distance, outputs = shaped_like(inputs.q, (by_distance, outputs))
    # Kernels write only parts of the near sums, so these start as zeros.
    near = by_distance.near if isinstance(by_distance, LaidOut) else by_distance
    zeros = None if near is None else jnp.zeros(near.shape, near.dtype)

    def run(interpreted: bool):
        return pl.pallas_call(
            functools.partial(kernel, launch._replace(interpreted=interpreted)),
            grid=(programs,),
            out_shape=(by_distance, *outputs),
            input_output_aliases={} if zeros is None else {0: 0},
            interpret=interpreted,
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
            name=f"relpos_{kernel.__name__}",
        )

    arguments = (varying_like(inputs, zeros), inputs, *more)
    by_distance, *outputs = jax.lax.platform_dependent(
        *arguments, cpu=run(interpreted=True), default=run(interpreted=False)
    )
    if by_distance is not None and not isinstance(by_distance, LaidOut):
        by_distance = by_distance[:, : launch.width]
    return by_distance, *outputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(launch: Launch, with_values: bool, inputs: Inputs, constants: Constants):
    """Return the output [T, V], and the weights by distance, see `pallas_bands`."""
    return _attend_forward(launch, with_values, inputs, constants)[0]


def _attend_forward(launch, with_values, inputs, constants):
    (T, _), V, layout = inputs.q.shape, inputs.v.shape[1], launch.layout
    dtype = jnp.result_type(inputs.q, inputs.k, inputs.v, jnp.float32)
    by_distance = sums_like(layout, launch.width, T, dtype, axis=1) if with_values else None
    like = (jax.ShapeDtypeStruct((T, V), dtype), jax.ShapeDtypeStruct((T,), dtype))
    by_distance, out, log_total = _call(
        pallas_kernels.forward, launch, T // layout.rows, by_distance, like, inputs, constants
    )
    outputs = (out, by_distance)
    return outputs, (inputs, constants, outputs, log_total)


def _attend_backward(launch, with_values, residuals, d_outputs):
    inputs, constants, outputs, log_total_T = residuals
    (T, _), S = inputs.q.shape, inputs.k.shape[0]
    layout, W, dtype = launch.layout, launch.width, log_total_T.dtype
    # The softmax's correction, sum_j weights[i, j] * d weights[i, j].
    of_rows = lambda x, d: (x * d).reshape(T, -1).sum(1)  # noqa: E731
    correction_T = jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(of_rows, outputs, d_outputs))), 0)
    backward = Backward(log_total_T, correction_T, *d_outputs)
    programs = T // layout.rows

    def like(tree, *leading):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), dtype), tree)

    d_rows, d_q, d_q_features, d_state = _call(
        pallas_kernels.query_gradients, launch, programs,
        None if inputs.row_terms is None else sums_like(layout, W, T, dtype, axis=1),
        (like(inputs.q), like(inputs.q_features), like(inputs.state, programs)),
        inputs, constants, backward,
    )  # fmt: skip
    d_columns, d_k, d_v, d_k_features = _call(
        pallas_kernels.key_gradients, launch, S // layout.columns,
        None if inputs.column_terms is None else sums_like(layout, W, S, dtype, axis=0),
        (like(inputs.k), like(inputs.v), like(inputs.k_features)),
        inputs, constants, backward,
    )  # fmt: skip
    d_rows, d_columns = jax.tree.map(
        lambda x, d: d.reshape(-1, *x.shape).sum(0),  # rows may share a band
        (inputs.row_terms, inputs.column_terms), (d_rows, d_columns),
    )  # fmt: skip
    d_state = jax.tree.map(lambda x: x.sum(0), d_state)
    d_inputs = Inputs(d_state, d_q, d_k, d_v, d_rows, d_columns, d_q_features, d_k_features)
    return cast_like(d_inputs, inputs), None


_attend.defvjp(_attend_forward, _attend_backward)


def _visits(
    rules: Rules, layout: Layout, q: Tokens, k: Tokens
) -> tuple[tuple[str, ...], bool, Visits]:
    """Find the runs of blocks to visit, from both sides, and whether far runs may contain hidden pairs.

    In a far run all pairs share one column of the band, so that nothing needs to be looked up.
    """
    hides_far = q.segment is not None or rules.window != Window()
    all_near = not layout.consecutive or (layout.band is None and hides_far)
    beyonds = () if all_near else (layout.band or 0,)
    q, k = padding.cut(q, layout.rows), padding.cut(k, layout.columns)
    query_blocks, key_blocks = q.row.shape[0], k.row.shape[0]
    number, block = (jnp.arange(n, dtype=jnp.int32) for n in (query_blocks, key_blocks))
    found = regions(beyonds, rules, layout, number * layout.rows, key_blocks)
    bounds = [found[0].begin, *(region.end for region in found)]
    keys = jnp.stack([jnp.broadcast_to(bound, number.shape) for bound in bounds], 1)
    queries = _seen_from_keys(keys, block)
    seen = jax.vmap(lambda tokens: may_see(rules, layout, tokens, k))(q)
    if seen is not None:
        first, last = _seen_from_keys(jnp.stack(seen, 1), block).T
        keys = jnp.clip(keys, seen[0][:, None], seen[1][:, None])
        queries = jnp.clip(queries, first[:, None], last[:, None])
    runs = tuple(region.tables[0] if beyonds else "near" for region in found)
    return runs, hides_far, Visits(keys.astype(jnp.int32), queries.astype(jnp.int32))


def _seen_from_keys(bounds: Int[Array, "blocks runs1"], block: Array) -> Int[Array, "keys runs1"]:
    """Return the bounds of queries for each block of keys, given the bounds of keys for each block of queries.

    The runs are in reverse order, since later queries have longer distances.
    """
    inside = ((bounds[:, :-1, None] <= block) & (block < bounds[:, 1:, None]))[:, ::-1]
    first = inside.any(1).argmax(0)
    ends = jnp.where(inside.any(0), bounds.shape[0] - inside[::-1].argmax(0), first)
    return jax.lax.cummax(jnp.concatenate([first[None], ends])).T


@functools.cache
def _log_interpreted() -> None:
    _log.warning(
        'attention with implementation="pallas" is interpreted on this platform, which is slow and meant for tests: '
        'use "auto" or "blockwise"'
    )


def _check_lowers(encoding: Slots, launch: Launch, with_values: bool, inputs, constants) -> None:
    """Refuse what Triton cannot compile, as JAX's own error would name only primitives."""
    sizes = launch.layout.rows, launch.layout.columns
    if any(size < 16 or size & (size - 1) for size in sizes):
        raise choices.NoKernelError(
            f"on a GPU block_sizes must be powers of two from 16 on, got {sizes}"
        )
    if type(encoding) is Slots:
        return  # nothing of an encoding is evaluated in the kernels

    def both(inputs, constants):
        outputs, pull = jax.vjp(lambda x: _attend(launch, with_values, x, constants), inputs)
        return pull(outputs)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (inputs, constants))
    try:
        jax.jit(both).trace(*shapes).lower(lowering_platforms=("cuda",))
    except Exception as error:
        raise choices.NoKernelError(
            f"{type(encoding).__name__} evaluates for each pair of tokens, or differentiates, an operation that Triton "
            f'kernels do not support: use implementation="auto" or "blockwise". JAX says: {error}'
        ) from error


def _check_constants(encoding: Slots, launch: Launch, inputs: Inputs, constants: Constants) -> None:
    """Refuse constant arrays in the encoding, since a kernel can only read arrays that it is given."""
    if type(encoding) is Slots:
        return
    C, K = launch.layout.rows, launch.layout.columns

    def first_block(inputs, constants):
        q_tokens, q_features = jax.tree.map(lambda x: x[:C], (constants.q, inputs.q_features))
        k_tokens, k_features = jax.tree.map(lambda x: x[:K], (constants.k, inputs.k_features))
        tokens = q_tokens, k_tokens
        return evaluate(launch, constants.state, tokens, inputs.state, q_features, k_features)

    found = [x for x in jax.make_jaxpr(first_block)(inputs, constants).consts if jnp.ndim(x)]
    if found:
        raise choices.NoKernelError(
            f"{type(encoding).__name__} computes with a constant {found[0].dtype}{list(found[0].shape)} for each pair "
            'of tokens, which a kernel cannot hold: keep it in an nnx.Variable, or use implementation="auto" or '
            '"blockwise"'
        )


def head(
    part: Part,
    rules: Rules,
    layout: Layout,
    q: Queries,
    k: Keys,
    q_tokens: Tokens,
    k_tokens: Tokens,
    seed: Array | None,
    done: None = None,
) -> Float[Array, "T H"]:
    """Compute the attention of one head by GPU kernels; a query that sees no key gets zeros.

    The arguments are those of `blockwise.head`, except that there is one part (no band means empty tables) and that
    `done` is always None: the kernels have their own backward pass.
    """
    encoding, band = part.encoding, part.tables.near
    (T, H), (S, V) = q.content.shape, k.value.shape
    C, K = layout.rows, layout.columns
    q_tokens, k_tokens = padding.whole_blocks(rules, layout, q_tokens, k_tokens)
    row_terms = column_terms = None
    if band.key_vectors is not None:
        a_K = band.key_vectors.astype(q.for_vectors.dtype)
        row_terms = padding.pad(rules.scale * reference.dot_rows(q.for_vectors, a_K), C)
    if band.bias is not None:
        row_terms = band.bias[None] if row_terms is None else row_terms + band.bias[None]
    if band.query_vectors is not None:
        a_Q = band.query_vectors.astype(k.for_vectors.dtype)
        column_terms = padding.pad(rules.scale * reference.dot_rows(k.for_vectors, a_Q), K)

    graphdef, *variables = nnx.split(encoding, is_inexact, ...)
    state, integers = map(jax.tree.leaves, variables)
    inputs = Inputs(
        state, padding.pad(q.content, C, chunk(H)), padding.pad(k.key, K, chunk(H)),
        padding.pad(k.value, K, chunk(V)), lay_out(layout, row_terms, 1), lay_out(layout, column_terms, 0),
        padding.pad(q.features, C), padding.pad(k.features, K),
    )  # fmt: skip
    runs, hides_far, visits = _visits(rules, layout, q_tokens, k_tokens)
    constants = Constants(q_tokens, k_tokens, seed, integers, visits)
    width = 0 if layout.band is None else near_span(None, rules, layout, T, S).size
    launch = Launch(
        graphdef, jax.tree.structure(tuple(variables)), rules, layout, width, runs, hides_far
    )
    with_values = band.value_vectors is not None
    _check_constants(encoding, launch, inputs, constants)
    if choices.interpreted():
        _log_interpreted()
    else:
        _check_lowers(encoding, launch, with_values, inputs, constants)
    inputs, constants = varying_like((inputs, constants), (inputs, constants))
    out_TV, by_distance = _attend(launch, with_values, inputs, constants)
    out_TV = out_TV[:T, :V]
    if with_values:
        by_distance_TW = collect(layout, width, by_distance)[:T]
        out_TV += reference.dot(by_distance_TW, band.value_vectors.astype(by_distance_TW.dtype))
    return out_TV.astype(k.value.dtype)
