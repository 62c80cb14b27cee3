"""The kernels of `relpos.attention.pallas`: a program owns a block of queries, or of keys, and visits the other side.

Arrays come whole and are cut here. No two programs write to the same place, so there are no atomics, and sums are the
same in every run. The head dimension is worked on in chunks, for heads of any size.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

from relpos.attention import reference
from relpos.attention.blockwise import hidden_logit
from relpos.attention.pallas_bands import Sums, Terms
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.regions import Layout
from relpos.positions import distances


class Problem(NamedTuple):
    """The static side of one head's attention."""

    graphdef: Any  # of the encoding
    variables: Any  # the tree of its variables
    rules: Rules
    layout: Layout
    width: int  # W, of the band
    interpreted: bool = False  # on a CPU, for tests


class Inputs(NamedTuple):
    """The differentiable side, padded to whole blocks and chunks."""

    state: Any  # of the encoding, a list of arrays
    q: Array  # [T, H]
    k: Array  # [S, H]
    v: Array  # [S, V]
    row_terms: Any  # [T, W], or [1, W] for all rows, or None
    column_terms: Any  # [S, W] or None
    q_features: Any
    k_features: Any


class Places(NamedTuple):
    """The integers."""

    q: Tokens
    k: Tokens
    seed: Array | None
    state: Any  # of the encoding
    visits: "Visits"


class Visits(NamedTuple):
    """The runs of blocks that hold visible pairs."""

    first_key: Array  # for each block of queries
    end_key: Array
    first_query: Array  # for each block of keys
    end_query: Array


class Backward(NamedTuple):
    """What the backward pass knows of each query, beside the inputs."""

    log_total: Array  # [T]
    correction: Array  # [T]
    d_out: Array  # [T, V]
    d_by_distance: Any  # [T, W] or None


class _Queries(NamedTuple):
    """A block of queries; lists are chunks of the head dimension."""

    q: list[Array]
    tokens: Tokens
    features: Any
    terms: Any


class _Keys(NamedTuple):
    """A block of keys."""

    k: list[Array]
    v: list[Array]
    tokens: Tokens
    features: Any
    terms: Any


class _Slopes(NamedTuple):
    """A block of `Backward`."""

    log_total: Array  # [C]
    correction: Array  # [C]
    d_out: list[Array]
    d_by_distance: Any


def chunk(size: int) -> int:
    """Return in which pieces a head dimension is worked on: what a GPU's matrix units take, or 64."""
    return min(64, max(16, pl.next_power_of_2(size)))


def _chunks(ref, rows) -> list[Array]:
    size = chunk(ref.shape[1])
    return [ref[rows, pl.ds(h, size)] for h in range(0, ref.shape[1], size)]


def _take(tree, rows):
    return jax.tree.map(lambda ref: ref[rows], tree)


def _put(tree, rows, values) -> None:
    for ref, value in zip(jax.tree.leaves(tree), jax.tree.leaves(values), strict=True):
        ref[rows] = value.astype(ref.dtype)


def _put_chunks(ref, rows, values: list[Array]) -> None:
    for i, value in enumerate(values):
        size = value.shape[1]
        ref[rows, pl.ds(i * size, size)] = value.astype(ref.dtype)


def _queries(problem: Problem, inputs: Inputs, places: Places, number) -> _Queries:
    C = problem.layout.rows
    rows = pl.ds(number * C, C)
    tokens, features = _take((places.q, inputs.q_features), rows)
    terms = Terms.of(inputs.row_terms, number, C, axis=1)
    return _Queries(_chunks(inputs.q, rows), tokens, features, terms)


def _keys(problem: Problem, inputs: Inputs, places: Places, number) -> _Keys:
    K = problem.layout.columns
    columns = pl.ds(number * K, K)
    tokens, features = _take((places.k, inputs.k_features), columns)
    terms = Terms.of(inputs.column_terms, number, K, axis=0)
    k, v = _chunks(inputs.k, columns), _chunks(inputs.v, columns)
    return _Keys(k, v, tokens, features, terms)


def _slopes(problem: Problem, backward: Backward, number) -> _Slopes:
    C = problem.layout.rows
    rows = pl.ds(number * C, C)
    d_by_distance = Terms.of(backward.d_by_distance, number, C, axis=1)
    return _Slopes(
        backward.log_total[rows],
        backward.correction[rows],
        _chunks(backward.d_out, rows),
        d_by_distance,
    )


def _dot(problem: Problem, a: Array, b: Array, over: tuple[int, int] = (1, 0)) -> Array:
    """Sum over these axes, in float32 or wider."""
    wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    if problem.interpreted:  # a CPU has no product of half-precision numbers with wider sums
        a, b = a.astype(wide), b.astype(wide)
    contract = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a, b, contract, preferred_element_type=wide)


def _dot_chunks(problem: Problem, a: list[Array], b: list[Array]) -> Array:
    """Return a @ b.T."""
    return sum(_dot(problem, x, y, (1, 1)) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _distances(problem: Problem, queries: _Queries, keys: _Keys) -> Array:
    d_CK = distances(queries.tokens.position, keys.tokens.position)
    return jnp.maximum(d_CK, 0) if problem.rules.past_only else d_CK


def _index(problem: Problem, queries: _Queries, keys: _Keys) -> Any:
    """Return the column of each pair's distance in the band; None without one."""
    band = problem.layout.band
    if band is None:
        return None
    return jnp.clip(band - _distances(problem, queries, keys), 0, problem.width - 1)


def _sums(problem: Problem, ref, number, size: int, axis: int) -> Sums:
    return Sums(ref, number, size, axis, problem.width, problem.layout.consecutive)


def evaluate(problem: Problem, places: Places, queries, keys, state, q_features, k_features) -> Any:
    """What the encoding computes for each pair; None: nothing."""
    variables = jax.tree.unflatten(problem.variables, [*state, *places.state])
    encoding = nnx.merge(problem.graphdef, *variables)
    bias_CK = None
    if problem.layout.band is None:
        bias_CK = jax.vmap(encoding.bias)(_distances(problem, queries, keys))
    q, k = Queries(None, None, q_features), Keys(None, None, k_features)
    block_CK = reference.block_bias(encoding, q, k, queries.tokens, keys.tokens)
    if bias_CK is None or block_CK is None:
        return block_CK if bias_CK is None else bias_CK
    return bias_CK + block_CK


def _logits(problem: Problem, queries: _Queries, keys: _Keys, index, bias_CK) -> tuple:
    """Return the logits and who is seen."""
    dots_CK = _dot_chunks(problem, queries.q, keys.k)
    terms = [side.terms.read(index) for side in (queries, keys) if side.terms is not None]
    logits_CK = reference.finish_logits(problem.rules, dots_CK, *terms, bias_CK)
    mask_CK = reference.mask(problem.rules, queries.tokens, keys.tokens)
    return logits_CK.astype(dots_CK.dtype), mask_CK


def _loaded(places: Places, state) -> tuple[Places, Any]:
    """Load what every block reads."""
    load = lambda tree: jax.tree.map(lambda ref: ref[...], tree)  # noqa: E731
    seed = None if places.seed is None else (places.seed[0], places.seed[1])
    return places._replace(seed=seed, state=load(places.state)), load(state)  # type: ignore[arg-type]


def forward(
    problem: Problem, _, inputs: Inputs, places: Places, by_distance_TW, out_TV, log_total_T
):
    """Attention of a block of queries, and its weights summed by distance where there are value vectors."""
    number, C = pl.program_id(0), problem.layout.rows
    rows = pl.ds(number * C, C)
    places, state = _loaded(places, inputs.state)
    queries = _queries(problem, inputs, places, number)
    dtype = out_TV.dtype
    hidden, no_peak = hidden_logit(dtype)
    begin, end = places.visits.first_key[number], places.visits.end_key[number]

    def masked_logits(keys, index):
        bias_CK = evaluate(problem, places, queries, keys, state, queries.features, keys.features)
        logits_CK, mask_CK = _logits(problem, queries, keys, index, bias_CK)
        return jnp.where(mask_CK, logits_CK, hidden)

    def keep(keys, weights_CK):
        return reference.keep_weights(
            problem.rules, places.seed, queries.tokens, keys.tokens, weights_CK
        )

    def visit(block, carry):
        peak_C, total_C, out = carry
        keys = _keys(problem, inputs, places, block)
        logits_CK = masked_logits(keys, _index(problem, queries, keys))
        new_peak_C = jnp.maximum(peak_C, logits_CK.max(1))
        weights_CK = jnp.exp(logits_CK - new_peak_C[:, None])
        shrink_C = jnp.exp(peak_C - new_peak_C)
        total_C = total_C * shrink_C + weights_CK.sum(1)
        kept_CK = keep(keys, weights_CK)
        out = [
            x * shrink_C[:, None] + _dot(problem, kept_CK.astype(v.dtype), v)
            for x, v in zip(out, keys.v, strict=True)
        ]
        return new_peak_C, total_C, out

    V = out_TV.shape[1]
    out = [jnp.zeros((C, chunk(V)), dtype) for _ in range(0, V, chunk(V))]
    carry = (jnp.full((C,), no_peak, dtype), jnp.zeros((C,), dtype), out)
    peak_C, total_C, out = lax.fori_loop(begin, end, visit, carry)
    safe_C = jnp.where(total_C == 0, 1, total_C)
    log_total_C = peak_C + jnp.log(safe_C)
    _put_chunks(out_TV, rows, [x / safe_C[:, None] for x in out])
    log_total_T[rows] = log_total_C

    if by_distance_TW is None:
        return
    sums = _sums(problem, by_distance_TW, number, C, axis=1)

    def visit_again(block, carry):
        keys = _keys(problem, inputs, places, block)
        index = _index(problem, queries, keys)
        weights_CK = jnp.exp(masked_logits(keys, index) - log_total_C[:, None])
        return sums.add(carry, index, keep(keys, weights_CK))

    sums.store(lax.fori_loop(begin, end, visit_again, sums.zeros(dtype)))


def _pair_gradients(problem: Problem, places: Places, queries, keys, slopes: _Slopes, bias_CK):
    """Return the weights that were kept, the gradient of the logits, and the index."""
    hidden, _ = hidden_logit(slopes.log_total.dtype)
    index = _index(problem, queries, keys)
    logits_CK, mask_CK = _logits(problem, queries, keys, index, bias_CK)
    weights_CK = jnp.exp(jnp.where(mask_CK, logits_CK, hidden) - slopes.log_total[:, None])
    keep = functools.partial(
        reference.keep_weights, problem.rules, places.seed, queries.tokens, keys.tokens
    )
    # In half precision products round their operands; d_out is in half precision already.
    d_out = [d.astype(v.dtype) for d, v in zip(slopes.d_out, keys.v, strict=True)]
    d_kept_CK = _dot_chunks(problem, d_out, keys.v)
    if slopes.d_by_distance is not None:
        d_kept_CK += slopes.d_by_distance.read(index)
    # Keeping is linear, its transpose is itself.
    d_logits_CK = weights_CK * (keep(d_kept_CK) - slopes.correction[:, None])
    if problem.rules.softcap is not None:
        d_logits_CK *= 1 - (logits_CK / problem.rules.softcap) ** 2
    return keep(weights_CK), d_logits_CK, index


def query_gradients(
    problem: Problem, _, inputs: Inputs, places: Places, backward: Backward,
    d_terms_TW, d_q_TH, d_features, d_state,
):  # fmt: skip
    """Gradients of a block of queries, and the block's part of those of the encoding's variables."""
    number, C = pl.program_id(0), problem.layout.rows
    rows = pl.ds(number * C, C)
    places, state = _loaded(places, inputs.state)
    queries = _queries(problem, inputs, places, number)
    slopes = _slopes(problem, backward, number)
    sums = _sums(problem, d_terms_TW, number, C, axis=1)
    dtype = d_q_TH.dtype

    def visit(block, carry):
        d_q, d_terms, d_evaluated = carry
        keys = _keys(problem, inputs, places, block)
        bias_CK, pull = jax.vjp(
            lambda state, features: evaluate(
                problem, places, queries, keys, state, features, keys.features
            ),
            state, queries.features,
        )  # fmt: skip
        _, d_logits_CK, index = _pair_gradients(problem, places, queries, keys, slopes, bias_CK)
        d_dots_CK = (problem.rules.scale * d_logits_CK).astype(keys.k[0].dtype)
        d_q = [d + _dot(problem, d_dots_CK, k) for d, k in zip(d_q, keys.k, strict=True)]
        d_terms = sums.add(d_terms, index, d_logits_CK)
        if bias_CK is not None:
            pulled = pull(d_logits_CK.astype(bias_CK.dtype))
            d_evaluated = jax.tree.map(jnp.add, d_evaluated, pulled)
        return d_q, d_terms, d_evaluated

    carry = (_zeros(dtype, queries.q), sums.zeros(dtype), _zeros(dtype, (state, queries.features)))
    begin, end = places.visits.first_key[number], places.visits.end_key[number]
    d_q, d_terms, (d_state_sums, d_features_C) = lax.fori_loop(begin, end, visit, carry)
    _put_chunks(d_q_TH, rows, d_q)
    sums.store(d_terms)
    _put(d_state, number, d_state_sums)
    _put(d_features, rows, d_features_C)


def key_gradients(
    problem: Problem, _, inputs: Inputs, places: Places, backward: Backward,
    d_terms_SW, d_k_SH, d_v_SV, d_features,
):  # fmt: skip
    """Gradients of a block of keys."""
    number, K = pl.program_id(0), problem.layout.columns
    columns = pl.ds(number * K, K)
    places, state = _loaded(places, inputs.state)
    keys = _keys(problem, inputs, places, number)
    sums = _sums(problem, d_terms_SW, number, K, axis=0)
    dtype = d_k_SH.dtype

    def visit(block, carry):
        d_k, d_v, d_terms, d_features = carry
        queries = _queries(problem, inputs, places, block)
        slopes = _slopes(problem, backward, block)
        bias_CK, pull = jax.vjp(
            lambda features: evaluate(
                problem, places, queries, keys, state, queries.features, features
            ),
            keys.features,
        )
        kept_CK, d_logits_CK, index = _pair_gradients(
            problem, places, queries, keys, slopes, bias_CK
        )
        d_dots_CK = (problem.rules.scale * d_logits_CK).astype(keys.k[0].dtype)
        kept_CK = kept_CK.astype(keys.v[0].dtype)
        over_rows = functools.partial(_dot, problem, over=(0, 0))
        d_k = [d + over_rows(d_dots_CK, q) for d, q in zip(d_k, queries.q, strict=True)]
        d_v = [
            d + over_rows(kept_CK, d_out.astype(kept_CK.dtype))
            for d, d_out in zip(d_v, slopes.d_out, strict=True)
        ]
        d_terms = sums.add(d_terms, index, d_logits_CK)
        if bias_CK is not None:
            (pulled,) = pull(d_logits_CK.astype(bias_CK.dtype))
            d_features = jax.tree.map(jnp.add, d_features, pulled)
        return d_k, d_v, d_terms, d_features

    carry = (
        _zeros(dtype, keys.k), _zeros(dtype, keys.v), sums.zeros(dtype), _zeros(dtype, keys.features)
    )  # fmt: skip
    begin, end = places.visits.first_query[number], places.visits.end_query[number]
    d_k, d_v, d_terms, d_features_K = lax.fori_loop(begin, end, visit, carry)
    _put_chunks(d_k_SH, columns, d_k)
    _put_chunks(d_v_SV, columns, d_v)
    sums.store(d_terms)
    _put(d_features, columns, d_features_K)


def _zeros(dtype, tree):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, dtype)), tree)
