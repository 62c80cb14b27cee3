"""One head's attention in blocks: O(T) memory, exact gradients, plain JAX on every platform.

The online softmax of FlashAttention (Dao et al. 2022, arXiv:2205.14135) over the terms of position encodings; each
term is described beside its gradient, in `relpos.attention.logit_terms` and `relpos.attention.value_terms`. The
backward pass recomputes each block's logits. It is written out rather than left to JAX: on a CPU the product
p.T @ d_out copies the block p, while its transpose, d_out.T @ p, does not.

How gradients flow: `parts.terms_of` turns a distance slot into an array of a term, the loop here computes the gradient
of that array (`Term.gradient`), and the `jax.vjp` in `heads._blockwise_backward` propagates it through the slot to the
encoding's parameters. JAX differentiates inside the loop only what an encoding computes for each pair (`PairLogits`,
`PairValues`). Walks and mixes of heads have their own modules, `outward` and `together`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jaxtyping import Array, Float

from relpos.attention import padding, reference
from relpos.attention.blocks import Block, Extent, Inputs, Places, Problem, Rows, Terms, over_blocks
from relpos.attention.mesh_axes import varying_like
from relpos.attention.parts import Part, terms_of
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.regions import Layout, near_span
from relpos.attention.terms import Adds, Logits, cast_like, plus, turn, zeros


class Result(NamedTuple):
    """The result of the forward pass, with queries cut into blocks of C."""

    out: Array  # [blocks, C, H], in float32 or wider
    # [blocks, C], the logarithm of the softmax's denominator; lower than any logit if a row sees no key.
    log_total: Array


def hidden_logit(dtype) -> tuple[Any, Any]:
    """Return the logit of a hidden pair, and an initial peak so far above it that exp(logit - peak) is 0.

    The peak of a row that sees no key stays there; no computed logit is as low.
    """
    lowest = jnp.finfo(dtype).min
    return lowest, lowest / 2


def of_each(function, *sequences) -> tuple[tuple, ...]:
    """Map a function that returns a tuple; return tuples of all first results, all second results and so on."""
    return tuple(zip(*map(function, *sequences), strict=True))


def total_of(summands) -> Any:
    """Return the sum of trees; None adds nothing."""
    return functools.reduce(plus, summands)


def _logits(rules: Rules, block: Block, found: tuple[Logits, ...]) -> tuple[Array, Array]:
    """Return the logits [C, K] after the softcap, unmasked and masked, given what each term adds."""
    dots_CK = total_of(x.dots for x in found)
    logits_CK = reference.finish_logits(rules, dots_CK, *(x.bias for x in found))
    logits_CK = logits_CK.astype(block.dtype)
    mask_CK = reference.mask(rules, block.rows.tokens, block.k_tokens)
    return logits_CK, jnp.where(mask_CK, logits_CK, hidden_logit(block.dtype)[0])


class Softmax(NamedTuple):
    """The online softmax of the rows over the blocks visited so far."""

    peak: Array  # [C]
    total: Array  # [C], the sum of exp(logit - peak)
    out: Array  # [C, H], the terms' products with exp(logit - peak)


def _forward(problem: Problem, inputs: Inputs, places: Places) -> Result:
    rules, terms, dtype = problem.rules, inputs.terms, inputs.dtype
    C, H = problem.layout.rows, inputs.k.value.shape[-1]

    def begin(block: Block):
        return terms.map(lambda term: term.begin(block))

    def visit(block: Block, before: Softmax, rings: Terms):
        found, logit_rings = of_each(
            lambda term, ring: term.forward(block, ring), terms.logits, rings.logits
        )
        _, logits_CK = _logits(rules, block, found)
        # The result does not depend on the peak, so its gradient is stopped.
        peak_C = jnp.maximum(before.peak, lax.stop_gradient(logits_CK).max(-1))
        weights_CK = jnp.exp(logits_CK - peak_C[:, None])
        shrink_C = jnp.exp(before.peak - peak_C)
        total_C = before.total * shrink_C + weights_CK.sum(-1)
        kept_CK = reference.keep_weights(
            rules, places.seed, block.rows.tokens, block.k_tokens, weights_CK
        )
        products, value_rings = of_each(
            lambda term, ring: term.forward(block, kept_CK, shrink_C, ring),
            terms.values, rings.values,
        )  # fmt: skip
        out_CH = before.out * shrink_C[:, None] + total_of(products)
        return Softmax(peak_C, total_C, out_CH), Terms(logit_rings, value_rings)

    def end(block: Block, softmax: Softmax, rings: Terms):
        rest = map(lambda term, ring: term.end(block, ring), terms.values, rings.values)
        return softmax._replace(out=total_of([softmax.out, *rest]))

    def block_of_rows(rows: Rows):
        no_peak = hidden_logit(dtype)[1]
        nothing = jnp.full((C,), no_peak), jnp.zeros((C,), dtype), jnp.zeros((C, H), dtype)
        softmax = over_blocks(problem, inputs, places, rows, Softmax(*nothing), begin, visit, end)
        total_C = jnp.where(softmax.total == 0, 1, softmax.total)
        return Result(softmax.out / total_C[:, None], softmax.peak + jnp.log(total_C))

    index = jnp.arange(places.q.row.shape[0], dtype=jnp.int32)
    return lax.map(block_of_rows, Rows(index, inputs.q, places.q))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_gradients(problem: Problem, inputs: Inputs, places: Places, done: Result) -> Result:
    """Return `done`, the result of an earlier forward pass; the gradient of this function is the backward pass."""
    return done


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Residuals:
    """Residuals made and used inside the backward pass; what the forward pass keeps is `heads._Kept`.

    `trained` says which logit terms need a gradient.
    """

    inputs: Inputs
    places: Places
    done: Result
    trained: tuple[bool, ...] = dataclasses.field(metadata={"static": True})


def _with_gradients_forward(problem, inputs, places, done):
    trained = tuple(
        term.reads_tokens or any(x.perturbed for x in jax.tree.leaves(term))
        for term in inputs.terms.logits
    )
    inputs, places, done = custom_vjp_primal_tree_values((inputs, places, done))
    return done, _Residuals(inputs, places, done, trained)


class Sums(NamedTuple):
    """The gradients that the backward pass sums over all blocks; keys and tables are transposed, [..., H, n]."""

    terms: Terms
    key: Array  # [blocks, H, K], like those below
    vector: tuple[Any, ...]  # one entry for each part
    value: Array
    k_features: tuple[Any, ...]  # one entry for each part

    def plus(self, number: Array, terms: Terms, d: Adds) -> "Sums":
        """Add the gradients of a block of keys, and replace the sums of the terms."""
        at_block = lambda sums, d: sums.at[number].add(d)  # noqa: E731

        def of_parts(sums, d):
            pairs = zip(sums, d or (None,) * len(sums), strict=True)
            return tuple(own if x is None else jax.tree.map(at_block, own, x) for own, x in pairs)

        vector, features = (
            of_parts(self.vector, d.k_vector), of_parts(self.k_features, d.k_features)
        )  # fmt: skip
        key, value = at_block(self.key, d.key), at_block(self.value, d.value)
        return Sums(terms, key, vector, value, features)


class Rings(NamedTuple):
    """The rings of the terms in the backward pass."""

    logits: tuple[Any, ...]  # for the logits, computed again
    back: Terms  # for their gradients


def pull_back(pulls, d_summand, rings, sums, d: Adds):
    """Run each term's backward pass on the same gradient; return what the terms and `d` add, the rings and the sums."""
    adds, rings, sums = of_each(
        lambda pull, ring, own: pull(d_summand, ring, own), pulls, rings, sums
    )
    return functools.reduce(Adds.plus, adds, d), rings, sums


def _untrained(d_summand, ring, sums):
    """Skip a term whose arrays need no gradient."""
    return Adds(), ring, sums


def _backward_rows(problem: Problem, residuals: _Residuals, sums: Sums, rows: Rows):
    """Run the backward pass of one block of queries; return the sums and the gradient of the queries."""
    inputs, places, rules = residuals.inputs, residuals.places, problem.rules
    terms = inputs.terms

    def begin(block: Block):
        again = tuple(term.begin(block) for term in terms.logits)
        return Rings(again, terms.map(lambda term: term.begin_backward(block)))

    def visit(block: Block, carry, rings: Rings):
        d_q, sums = carry
        found, again, pulls = of_each(
            lambda term, ring: term.vjp(block, ring), terms.logits, rings.logits
        )
        logits_CK, masked_CK = _logits(rules, block, found)
        weights_CK = jnp.exp(masked_CK - rows.log_total[:, None])
        keep = functools.partial(
            reference.keep_weights, rules, places.seed, rows.tokens, block.k_tokens
        )

        # out = the sum of the terms' products with the kept weights
        d, value_rings, value_sums = pull_back(
            [functools.partial(term.backward, block) for term in terms.values],
            keep(weights_CK), rings.back.values, sums.terms.values, Adds(*d_q),
        )  # fmt: skip

        # weights = softmax(logits); dropout is linear and its own transpose
        d_logits_CK = weights_CK * (keep(d.weights) - rows.correction[:, None])
        if rules.softcap is not None:
            d_logits_CK *= 1 - (logits_CK / rules.softcap) ** 2

        # logits = scale * (the sum of the terms' dots) + the sum of their biases
        d, logit_rings, logit_sums = pull_back(
            [pull if yes else _untrained for pull, yes in zip(pulls, residuals.trained, strict=True)],
            Logits(rules.scale * d_logits_CK, d_logits_CK),
            rings.back.logits, sums.terms.logits, d,
        )  # fmt: skip
        sums = sums.plus(block.number, Terms(logit_sums, value_sums), d)
        return (d.of_queries(), sums), Rings(again, Terms(logit_rings, value_rings))

    def end(block: Block, carry, rings: Rings):
        d_q, sums = carry
        d, of_terms = Adds(*d_q), []
        for each in zip(terms, rings.back, sums.terms, strict=True):
            adds, own = of_each(lambda term, *x: term.end_backward(block, *x), *each)
            d = functools.reduce(Adds.plus, adds, d)
            of_terms.append(own)
        return d.of_queries(), sums._replace(terms=Terms(*of_terms))

    d_q, sums = over_blocks(problem, inputs, places, rows, (zeros(rows.q), sums), begin, visit, end)
    return sums, d_q


def _backward(problem, residuals, d_result):
    inputs, places = residuals.inputs, residuals.places
    (out, log_total), (d_out, d_log_total) = residuals.done, d_result
    if isinstance(d_out, SymbolicZero):
        d_out = jnp.zeros(d_out.shape, d_out.dtype)
    # The softmax's correction, sum_j weights[i, j] * d weights[i, j], also with value vectors and dropout.
    correction = (out * d_out).sum(-1)
    if not isinstance(d_log_total, SymbolicZero):
        correction -= d_log_total  # d log_total / d logits = weights

    def block_of_rows(sums, rows):
        rows = rows.turned(inputs.k.value.dtype)
        return _backward_rows(problem, residuals, sums, rows)

    k = inputs.k
    of_keys = turn(k.key), turn(k.vector), turn(k.value), k.features
    sums = Sums(inputs.terms.map(lambda term: term.zero_sums()), *zeros(of_keys))
    sums = varying_like((inputs, places), sums)
    index = jnp.arange(places.q.row.shape[0], dtype=jnp.int32)
    steps = Rows(index, inputs.q, places.q, d_out, log_total, correction)
    sums, d_q = lax.scan(block_of_rows, sums, steps)
    d_terms = inputs.terms.map(lambda term, own: term.gradient(own), sums.terms)
    d_k = Keys(turn(sums.key), turn(sums.value), sums.k_features, turn(sums.vector))
    d_q, d_k = cast_like((d_q, d_k), (inputs.q, inputs.k))
    return Inputs(d_terms, d_q, d_k), None, None


# Symbolic zeros: no sums by distance are computed for a bias that is not trained, such as ALiBi's.
_with_gradients.defvjp(_with_gradients_forward, _backward, symbolic_zeros=True)


def extent_of(part: Part, rules: Rules, layout: Layout, T: int, S: int) -> Extent:
    """Return a part's constant_beyond, its layout and the span of its near table."""
    layout = part.layout(layout)
    return Extent(part.beyond, layout, near_span(part.beyond, rules, layout, T, S))


def head(
    parts: Sequence[Part],
    rules: Rules,
    layout: Layout,
    q: Queries,
    k: Keys,
    q_tokens: Tokens,
    k_tokens: Tokens,
    seed: Array | None,
    done: Result | None = None,
) -> Result:
    """Compute one head's attention in blocks; a row that sees no key gives zeros.

    Args:
      parts: the parts of this head's encoding.
      rules: the static choices.
      layout: how to cut the matrix; each part has its own band.
      q: queries; `vector` and `features` are tuples with one entry for each part.
      k: keys and values; `vector` and `features` are such tuples.
      q_tokens: positions, segments and order of the queries.
      k_tokens: positions, segments and order of the keys.
      seed: the seed of dropout, or None.
      done: an earlier result, if only its gradients are needed.
    """
    T, S = q.content.shape[0], k.key.shape[0]
    q_tokens, k_tokens = padding.whole_blocks(rules, layout, q_tokens, k_tokens)
    q, q_tokens = padding.cut((q, q_tokens), layout.rows)
    k, k_tokens = padding.cut((k, k_tokens), layout.columns)
    problem = Problem(rules, layout, tuple(extent_of(part, rules, layout, T, S) for part in parts))
    inputs = Inputs(terms_of(parts, rules, layout), q, k)
    places = Places(q_tokens, k_tokens, seed)
    inputs, places = varying_like((inputs, places), (inputs, places))
    if done is None:
        return _forward(problem, inputs, places)
    return _with_gradients(problem, inputs, places, done)


def joined(result: Result, T: int) -> Float[Array, "... T H"]:
    """Return the output of all blocks joined, without padding."""
    *leading, blocks, C, H = result.out.shape
    return result.out.reshape(*leading, blocks * C, H)[..., :T, :]


def joined_log_total(result: Result, T: int) -> Float[Array, "... T"]:
    """Return the logarithms of the softmax's denominators of all blocks joined, without padding.

    With an attention sink of logit s, the output is out * sigmoid(log_total - s).
    """
    *leading, blocks, C = result.log_total.shape
    return result.log_total.reshape(*leading, blocks * C)[..., :T]
