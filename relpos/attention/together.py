"""Attention of all heads of a row at once, for encodings that mix their logits (`Slots.mix`): O(T) memory.

Each head has its terms, as in `relpos.attention.blockwise`, and its softmax. Between the two, a block of all heads is
mixed, which JAX differentiates. The backward pass recomputes each block's products, biases and mix.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from relpos.attention import padding, reference
from relpos.attention.blocks import Block, Inputs, Places, Problem, Rows, Terms, over_blocks
from relpos.attention.blockwise import (
    Result,
    Rings,
    Softmax,
    Sums,
    hidden_logit,
    of_each,
    pull_back,
    total_of,
)
from relpos.attention.mesh_axes import varying_like
from relpos.attention.parts import is_inexact
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.slots import Slots
from relpos.attention.terms import Adds, Logits, cast_like, plus, turn, zeros


class Mixer(NamedTuple):
    """The encoding of all heads, split for mixing their logits."""

    graphdef: Any  # static
    state: Any  # trainable
    integers: Any

    @classmethod
    def of(cls, encoding: Slots) -> "Mixer":
        """Split an encoding of all heads."""
        return cls(*nnx.split(encoding, is_inexact, ...))


class _Problem(NamedTuple):
    """The static side; `heads` is the problem of each head."""

    graphdef: Any
    heads: Problem


class _Inputs(NamedTuple):
    """The differentiable arrays: the terms of all heads are [N, ...], queries and keys [blocks, N, C or K, ...]."""

    state: Any
    heads: Inputs


class _Places(NamedTuple):
    """The arrays that are not differentiated; each head has its own seed."""

    heads: Places
    seeds: Array | None
    integers: Any


def _of_heads(function, block: Block, *trees: Any) -> Any:
    """Map function(block of one head, *trees) over heads; in the block, queries and keys have an axis of heads."""
    rows = block.rows

    def of_head(of_rows: Rows, k: Keys, *trees):
        of_rows = of_rows._replace(number=rows.number, tokens=rows.tokens)
        return function(block._replace(rows=of_rows, k=k), *trees)

    return jax.vmap(of_head)(_arrays_of_heads(rows), block.k, *trees)


def _arrays_of_heads(rows: Rows) -> Rows:
    """Remove the fields that heads share."""
    nothing: Any = None
    return rows._replace(number=nothing, tokens=nothing)


def _logits(rules: Rules, block: Block, terms: Terms, rings) -> tuple[Logits, Any]:
    """Return one head's scaled products and its bias, and the rings."""
    found, rings = of_each(lambda term, ring: term.forward(block, ring), terms.logits, rings)
    dots_CK = rules.scale * total_of(x.dots for x in found)
    bias = total_of(x.bias for x in found)
    return Logits(dots_CK, None if bias is None else jnp.broadcast_to(bias, dots_CK.shape)), rings


def _mixed(problem: _Problem, integers: Any, dtype: Any, state: Any, heads: Logits) -> Array:
    """Return the logits of all heads, [N, C, K], before they are hidden."""
    encoding = nnx.merge(problem.graphdef, state, integers)
    rules, (dots_NCK, bias_NCK) = problem.heads.rules, heads
    return reference.mixed(encoding, rules, dots_NCK, bias_NCK).astype(dtype)


def _hidden(rules: Rules, block: Block, logits_NCK: Array) -> Array:
    mask_CK = reference.mask(rules, block.rows.tokens, block.k_tokens)
    return jnp.where(mask_CK, logits_NCK, hidden_logit(block.dtype)[0])


def _keep(rules: Rules, seeds: Array | None, block: Block, weights_NCK: Array) -> Array:
    """Apply each head's dropout."""
    if seeds is None:
        return weights_NCK
    keep = functools.partial(reference.keep_weights, rules)
    tokens = block.rows.tokens, block.k_tokens
    return jax.vmap(lambda seed, weights: keep(seed, *tokens, weights))(seeds, weights_NCK)


def _forward(problem: _Problem, inputs: _Inputs, places: _Places) -> Result:
    rules, terms, dtype = problem.heads.rules, inputs.heads.terms, inputs.heads.dtype
    _, N, C, _ = inputs.heads.q.content.shape
    H = inputs.heads.k.value.shape[-1]

    def begin(block: Block):
        first = lambda block, terms: terms.map(lambda term: term.begin(block))  # noqa: E731
        return _of_heads(first, block, terms)

    def products(block: Block, terms: Terms, kept_CK, shrink_C, rings):
        found, rings = of_each(
            lambda term, ring: term.forward(block, kept_CK, shrink_C, ring), terms.values, rings
        )
        return total_of(found), rings

    def visit(block: Block, before: Softmax, rings: Terms):
        of_head = functools.partial(_logits, rules)
        found, logit_rings = _of_heads(of_head, block, terms, rings.logits)
        logits_NCK = _mixed(problem, places.integers, dtype, inputs.state, found)
        logits_NCK = _hidden(rules, block, logits_NCK)
        peak_NC = jnp.maximum(before.peak, lax.stop_gradient(logits_NCK).max(-1))
        weights_NCK = jnp.exp(logits_NCK - peak_NC[..., None])
        shrink_NC = jnp.exp(before.peak - peak_NC)
        total_NC = before.total * shrink_NC + weights_NCK.sum(-1)
        kept_NCK = _keep(rules, places.seeds, block, weights_NCK)
        new_NCH, value_rings = _of_heads(products, block, terms, kept_NCK, shrink_NC, rings.values)
        out_NCH = before.out * shrink_NC[..., None] + new_NCH
        return Softmax(peak_NC, total_NC, out_NCH), Terms(logit_rings, value_rings)

    def end(block: Block, softmax: Softmax, rings: Terms):
        def rest(block, terms, rings, out_CH):
            ends = map(lambda term, ring: term.end(block, ring), terms.values, rings)
            return total_of([out_CH, *ends])

        return softmax._replace(out=_of_heads(rest, block, terms, rings.values, softmax.out))

    def block_of_rows(rows: Rows):
        no_peak = hidden_logit(dtype)[1]
        nothing = (
            jnp.full((N, C), no_peak), jnp.zeros((N, C), dtype), jnp.zeros((N, C, H), dtype),
        )  # fmt: skip
        softmax = over_blocks(
            problem.heads, inputs.heads, places.heads, rows, Softmax(*nothing), begin, visit, end
        )
        total_NC = jnp.where(softmax.total == 0, 1, softmax.total)
        return Result(softmax.out / total_NC[..., None], softmax.peak + jnp.log(total_NC))

    return lax.map(block_of_rows, _rows(inputs, places))


def _rows(inputs: _Inputs, places: _Places, *of_result: Array) -> Rows:
    index = jnp.arange(places.heads.q.row.shape[0], dtype=jnp.int32)
    return Rows(index, inputs.heads.q, places.heads.q, *of_result)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_gradients(problem: _Problem, inputs: _Inputs, places: _Places, done: Result) -> Result:
    """Return `done`, the result of an earlier forward pass; the gradient of this function is the backward pass."""
    return done


def _with_gradients_forward(problem, inputs, places, done):
    return done, (inputs, places, done)


class _Back(NamedTuple):
    """The gradients that blocks of keys pass on in the backward pass."""

    q: Queries
    state: Any  # of the mixer
    sums: Sums


def _backward_rows(problem: _Problem, inputs: _Inputs, places: _Places, sums, rows: Rows):
    """Run the backward pass of one block of queries; return the sums and the gradient of the queries."""
    rules, terms, dtype = problem.heads.rules, inputs.heads.terms, inputs.heads.dtype

    def begin(block: Block):
        def first(block, terms):
            again = tuple(term.begin(block) for term in terms.logits)
            return Rings(again, terms.map(lambda term: term.begin_backward(block)))

        return _of_heads(first, block, terms)

    def back(kind, block: Block, terms: Terms, d, rings, sums, adds: Adds):
        pulls = [functools.partial(term.backward, block) for term in getattr(terms, kind)]
        return pull_back(pulls, d, rings, sums, adds)

    def visit(block: Block, carry: _Back, rings: Rings):
        of_head = functools.partial(_logits, rules)
        found, again = _of_heads(of_head, block, terms, rings.logits)
        mixed = functools.partial(_mixed, problem, places.integers, dtype)
        logits_NCK, pull = jax.vjp(mixed, inputs.state, found)
        log_total_NC1 = block.rows.log_total[..., None]
        weights_NCK = jnp.exp(_hidden(rules, block, logits_NCK) - log_total_NC1)
        keep = functools.partial(_keep, rules, places.seeds, block)

        # out = the sum of the terms' products with the kept weights
        d, value_rings, value_sums = _of_heads(
            functools.partial(back, "values"), block, terms, keep(weights_NCK),
            rings.back.values, carry.sums.terms.values, Adds(*carry.q),
        )  # fmt: skip

        # weights = softmax(logits); dropout is linear and its own transpose
        d_logits_NCK = weights_NCK * (keep(d.weights) - block.rows.correction[..., None])
        d_state, d_found = pull(d_logits_NCK)

        # logits = a mix of scale * (the sum of the terms' dots) and the sum of their biases
        d_dots_NCK = rules.scale * d_found.dots
        d, logit_rings, logit_sums = _of_heads(
            functools.partial(back, "logits"), block, terms, d_found._replace(dots=d_dots_NCK),
            rings.back.logits, carry.sums.terms.logits, d,
        )  # fmt: skip
        sums = carry.sums.plus(block.number, Terms(logit_sums, value_sums), d)
        carry = _Back(d.of_queries(), plus(carry.state, d_state), sums)
        return carry, Rings(again, Terms(logit_rings, value_rings))

    def end(block: Block, carry: _Back, rings: Rings):
        def rest(block, terms, rings, sums, adds):
            of_terms = []
            for kinds in zip(terms, rings, sums, strict=True):
                more, own = of_each(lambda term, *x: term.end_backward(block, *x), *kinds)
                adds = functools.reduce(Adds.plus, more, adds)
                of_terms.append(own)
            return adds, Terms(*of_terms)

        d, of_terms = _of_heads(rest, block, terms, rings.back, carry.sums.terms, Adds(*carry.q))
        return carry._replace(q=d.of_queries(), sums=carry.sums._replace(terms=of_terms))

    d_state, sums = sums
    carry = _Back(zeros(rows.q), d_state, sums)
    carry = over_blocks(problem.heads, inputs.heads, places.heads, rows, carry, begin, visit, end)
    return (carry.state, carry.sums), carry.q


def _each_heads_terms(function, terms: Terms, N: int, *more: Terms) -> Terms:
    """Map a function of a term, and of its entries in `more`, over all heads."""
    of_head = lambda _, terms, *more: terms.map(function, *more)  # noqa: E731
    return jax.vmap(of_head)(jnp.arange(N), terms, *more)  # the terms may hold no arrays


def _backward(problem: _Problem, residuals, d_result: Result):
    inputs, places, (out, log_total) = residuals
    correction = (out * d_result.out).sum(-1) - d_result.log_total
    heads, N = inputs.heads, out.shape[1]

    def block_of_rows(sums, rows):
        turned = jax.vmap(lambda rows: rows.turned(heads.k.value.dtype))(_arrays_of_heads(rows))
        rows = turned._replace(number=rows.number, tokens=rows.tokens)
        return _backward_rows(problem, inputs, places, sums, rows)

    k = heads.k
    of_keys = turn(k.key), turn(k.vector), turn(k.value), k.features
    of_terms = _each_heads_terms(lambda term: term.zero_sums(), heads.terms, N)
    sums = (zeros(inputs.state), Sums(of_terms, *zeros(of_keys)))
    sums = varying_like((inputs, places), sums)
    steps = _rows(inputs, places, d_result.out, log_total, correction)
    (d_state, sums), d_q = lax.scan(block_of_rows, sums, steps)
    d_terms = _each_heads_terms(lambda term, own: term.gradient(own), heads.terms, N, sums.terms)
    d_k = Keys(turn(sums.key), turn(sums.value), sums.k_features, turn(sums.vector))
    d_q, d_k = cast_like((d_q, d_k), (heads.q, heads.k))
    return _Inputs(cast_like(d_state, inputs.state), Inputs(d_terms, d_q, d_k)), None, None


_with_gradients.defvjp(_with_gradients_forward, _backward)


def heads(
    mixer: Mixer,
    problem: Problem,
    terms: Terms,
    q: Queries,
    k: Keys,
    q_tokens: Tokens,
    k_tokens: Tokens,
    seeds: Float[Array, "N"] | None,
    done: Result | None = None,
) -> Result:
    """Compute the attention of all heads of one batch row in blocks; a query that sees no key gives zeros.

    Args:
      mixer: the encoding of all heads.
      problem: the static choices, the same for each head.
      terms: the terms of all heads, with a leading axis N.
      q: queries [N, T, ...], for each head as in `blockwise.head`.
      k: keys and values [N, S, ...], likewise.
      q_tokens: positions, segments and order of the queries.
      k_tokens: positions, segments and order of the keys.
      seeds: the seed of dropout for each head, or None.
      done: an earlier result, if only its gradients are needed.

    Returns:
      The result, whose arrays have a leading axis N.
    """
    rules, layout = problem.rules, problem.layout
    q_tokens, k_tokens = padding.whole_blocks(rules, layout, q_tokens, k_tokens)
    q_tokens = padding.cut(q_tokens, layout.rows)
    k_tokens = padding.cut(k_tokens, layout.columns)

    def cut(tree, size):  # [N, T, ...] -> [blocks, N, size, ...]
        return jax.vmap(lambda x: padding.cut(x, size), out_axes=1)(tree)

    inputs = _Inputs(mixer.state, Inputs(terms, cut(q, layout.rows), cut(k, layout.columns)))
    places = _Places(Places(q_tokens, k_tokens, None), seeds, mixer.integers)
    inputs, places = varying_like((inputs, places), (inputs, places))
    of_all = _Problem(mixer.graphdef, problem)
    swap = functools.partial(jax.tree.map, lambda x: jnp.swapaxes(x, 0, 1))
    if done is None:
        return swap(_forward(of_all, inputs, places))
    return swap(_with_gradients(of_all, inputs, places, swap(done)))
