"""One head's attention in blocks: O(T) memory, exact gradients, plain JAX on every platform.

The online softmax of FlashAttention (Dao et al. 2022, arXiv:2205.14135) over the terms of position encodings; each
term is described beside its gradient, in `relpos.attention.logit_terms` and `relpos.attention.value_terms`. The
backward pass recomputes each block's logits. It is written out rather than left to JAX: on a CPU the product
p.T @ d_out copies the block p, while its transpose, d_out.T @ p, does not.

How gradients flow: `parts.terms_of` turns a distance slot into an array of a term, the loop here computes the gradient
of that array (`Term.gradient`), and the `jax.vjp` in `heads._blockwise_backward` propagates it through the slot to the
encoding's parameters. JAX differentiates inside the loop only what an encoding computes for each pair (`PairLogits`,
`PairValues`). A walk has a loop of its own, `outward`; `together` mixes heads inside the loop here.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jaxtyping import Array, Float

from relpos.attention import padding, reference
from relpos.attention.blocks import Block, Blocks, Constants, Extent, Inputs, Problem, Rows, Terms
from relpos.attention.mesh_axes import varying_like
from relpos.attention.parts import Part, terms_of
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.regions import Layout, near_span
from relpos.attention.softmax import Result, Softmax, hide
from relpos.attention.terms import Adds, Logits, cast_like, plus, turn, zeros


def of_each(function, *sequences) -> tuple[tuple, ...]:
    """Map a function that returns a tuple; return tuples of all first results, all second results and so on."""
    return tuple(zip(*map(function, *sequences), strict=True))


def total_of(summands) -> Any:
    """Return the sum of trees; None adds nothing."""
    return functools.reduce(plus, summands)


class Sums(NamedTuple):
    """The gradients that the backward pass sums over all blocks; keys and tables are transposed, [..., H, n]."""

    terms: Terms
    key: Array  # [blocks, H, K], like those below
    vector: tuple[Any, ...]  # one entry for each part
    value: Array
    k_features: tuple[Any, ...]  # one entry for each part
    state: Any  # of an encoding that mixes heads

    def plus(self, number: Array, terms: Terms, d: Adds, d_state: Any) -> "Sums":
        """Add the gradients of a block of keys, and replace the sums of the terms."""
        at_block = lambda sums, d: sums.at[number].add(d)  # noqa: E731

        def of_parts(sums, d):
            pairs = zip(sums, d or (None,) * len(sums), strict=True)
            return tuple(own if x is None else jax.tree.map(at_block, own, x) for own, x in pairs)

        key, value = at_block(self.key, d.key), at_block(self.value, d.value)
        vector = of_parts(self.vector, d.k_vector)
        features = of_parts(self.k_features, d.k_features)
        return Sums(terms, key, vector, value, features, plus(self.state, d_state))


class Rings(NamedTuple):
    """The rings of the terms in the backward pass."""

    logits: tuple[Any, ...]  # for the logits, computed again
    back: Terms  # for their gradients


@dataclasses.dataclass(frozen=True)
class Heads(Blocks, abc.ABC):
    """What the loops below compute at once: `OneHead`, or all heads of a row (`relpos.attention.together.AllHeads`)."""

    logits: ClassVar[Callable]  # these two are described in `OneHead`
    vjp: ClassVar[Callable]
    trained: tuple[bool, ...] = ()  # which logit terms need a gradient; for `vjp`

    @abc.abstractmethod
    def map(self, function, block: Block, *trees: Any) -> Any:
        """Call function(block of one head, *trees) for each head."""

    @abc.abstractmethod
    def map_terms(self, function, *more: Terms) -> Terms:
        """Map a function of a term of one head, and of its entries in `more`."""

    def keep(self, block: Block, weights_CK: Array) -> Array:
        """Apply dropout, which is linear and its own transpose."""

        def of_head(block, seed, weights_CK):
            q, k = block.tokens
            return reference.keep_weights(self.problem.rules, seed, q, k, weights_CK)

        return self.map(of_head, block, self.constants.seed, weights_CK)


class OneHead(Heads):
    """The blocks of one head: queries and keys are [blocks, C or K, ...]."""

    def map(self, function, block: Block, *trees: Any) -> Any:
        """Call the function."""
        return function(block, *trees)

    def map_terms(self, function, *more: Terms) -> Terms:
        """Map the function over terms."""
        return self.inputs.terms.map(function, *more)

    def logits(self, block: Block, rings):
        """Return the masked logits, and the rings."""
        terms = self.inputs.terms.logits
        found, rings = of_each(lambda term, ring: term.forward(block, ring), terms, rings)
        return self._finished(block, found)[1], rings

    def vjp(self, block: Block, rings):
        """Return the results of `logits`, and the backward pass.

        It is a function of (d_logits_CK, rings, sums, d), and returns what the terms and `d` add, the rings, the sums
        and the gradient of `Inputs.state`.
        """
        rules, terms = self.problem.rules, self.inputs.terms.logits
        found, rings, pulls = of_each(lambda term, ring: term.vjp(block, ring), terms, rings)
        logits_CK, masked_CK = self._finished(block, found)
        each = zip(pulls, self.trained, strict=True)
        chosen = [pull if trained else _untrained for pull, trained in each]

        def backward(d_logits_CK, *more):
            if rules.softcap is not None:
                d_logits_CK *= 1 - (logits_CK / rules.softcap) ** 2
            # logits = scale * (the sum of the terms' dots) + the sum of their biases
            d = Logits(rules.scale * d_logits_CK, d_logits_CK)
            return *pull_back(chosen, d, *more), None

        return masked_CK, rings, backward

    def _finished(self, block: Block, found: tuple[Logits, ...]) -> tuple[Array, Array]:
        """Return the logits after the softcap, unmasked and masked, given what each term adds."""
        rules, dots_CK = self.problem.rules, total_of(x.dots for x in found)
        logits_CK = reference.finish_logits(rules, dots_CK, *(x.bias for x in found))
        logits_CK = logits_CK.astype(block.dtype)
        return logits_CK, hide(reference.mask(rules, *block.tokens), logits_CK)


def _forward(heads: Heads) -> Result:
    inputs, terms = heads.inputs, heads.inputs.terms

    def begin(block: Block):
        first = lambda block, terms: terms.map(lambda term: term.begin(block))  # noqa: E731
        return heads.map(first, block, terms)

    def products(block: Block, terms, kept_CK, shrink_C, rings):
        found, rings = of_each(
            lambda term, ring: term.forward(block, kept_CK, shrink_C, ring), terms, rings
        )
        return total_of(found), rings

    def visit(block: Block, before: Softmax, rings: Terms):
        logits_CK, logit_rings = heads.logits(block, rings.logits)
        softmax, weights_CK, shrink_C = before.after(logits_CK)
        kept_CK = heads.keep(block, weights_CK)
        new_CH, value_rings = heads.map(
            products, block, terms.values, kept_CK, shrink_C, rings.values
        )
        return softmax._replace(out=softmax.out + new_CH), Terms(logit_rings, value_rings)

    def end(block: Block, softmax: Softmax, rings: Terms):
        def rest(block, terms, rings, out_CH):
            return total_of([out_CH, *map(lambda term, ring: term.end(block, ring), terms, rings)])

        out_CH = heads.map(rest, block, terms.values, rings.values, softmax.out)
        return softmax._replace(out=out_CH)

    def block_of_rows(rows: Rows):
        *shape, _ = rows.q.content.shape
        softmax = Softmax.empty(tuple(shape), inputs.k.value.shape[-1], inputs.dtype)
        return heads.over_keys(rows, softmax, begin, visit, end).result()

    return lax.map(block_of_rows, heads.rows())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_gradients(kind, problem, inputs: Inputs, constants: Constants, done: Result) -> Result:
    """Return `done`, the result of an earlier forward pass; the gradient of this function is the backward pass."""
    return done


class _Residuals(struct.PyTreeNode):
    """Residuals made and used inside the backward pass; what the forward pass keeps is `heads._Kept`."""

    inputs: Inputs
    constants: Constants
    done: Result
    trained: tuple[bool, ...] = struct.field(pytree_node=False)


def _with_gradients_forward(kind, problem, inputs, constants, done):
    trained = tuple(
        term.reads_tokens or any(x.perturbed for x in jax.tree.leaves(term))
        for term in inputs.terms.logits
    )
    inputs, constants, done = custom_vjp_primal_tree_values((inputs, constants, done))
    return done, _Residuals(inputs, constants, done, trained)


def pull_back(pulls, d_summand, rings, sums, d: Adds):
    """Run each term's backward pass on the same gradient; return what the terms and `d` add, the rings and the sums."""
    adds, rings, sums = of_each(
        lambda pull, ring, own: pull(d_summand, ring, own), pulls, rings, sums
    )
    return functools.reduce(Adds.plus, adds, d), rings, sums


def backward_of(block: Block, terms, *more):
    """Call `pull_back` with the terms' own backward passes."""
    return pull_back([functools.partial(term.backward, block) for term in terms], *more)


def _untrained(d_summand, ring, sums):
    """Skip a term whose arrays need no gradient."""
    return Adds(), ring, sums


def _backward_rows(heads: Heads, sums: Sums, rows: Rows):
    """Run the backward pass of one block of queries; return the sums and the gradient of the queries."""
    terms = heads.inputs.terms

    def begin(block: Block):
        def first(block, terms):
            again = tuple(term.begin(block) for term in terms.logits)
            return Rings(again, terms.map(lambda term: term.begin_backward(block)))

        return heads.map(first, block, terms)

    def visit(block: Block, carry, rings: Rings):
        d_q, sums = carry
        logits_CK, again, backward = heads.vjp(block, rings.logits)
        weights_CK = jnp.exp(logits_CK - rows.log_total[..., None])

        # out = the sum of the terms' products with the kept weights
        d, value_rings, value_sums = heads.map(
            backward_of, block, terms.values, heads.keep(block, weights_CK),
            rings.back.values, sums.terms.values, Adds(*d_q),
        )  # fmt: skip

        # weights = softmax(logits)
        d_logits_CK = weights_CK * (heads.keep(block, d.weights) - rows.correction[..., None])
        d, logit_rings, logit_sums, d_state = backward(
            d_logits_CK, rings.back.logits, sums.terms.logits, d
        )
        sums = sums.plus(block.number, Terms(logit_sums, value_sums), d, d_state)
        return (d.of_queries(), sums), Rings(again, Terms(logit_rings, value_rings))

    def end(block: Block, carry, rings: Rings):
        def rest(block, terms, rings, sums, d):
            ends = terms.map(lambda term, *x: term.end_backward(block, *x), rings, sums)
            adds = (adds for of_kind in ends for adds, _ in of_kind)
            return functools.reduce(Adds.plus, adds, d), ends.map(lambda end: end[1])

        d_q, sums = carry
        d, of_terms = heads.map(rest, block, terms, rings.back, sums.terms, Adds(*d_q))
        return d.of_queries(), sums._replace(terms=of_terms)

    d_q, sums = heads.over_keys(rows, (zeros(rows.q), sums), begin, visit, end)
    return sums, d_q


def _backward(kind, problem, residuals: _Residuals, d_result):
    inputs, constants = residuals.inputs, residuals.constants
    heads, k = kind(problem, inputs, constants, residuals.trained), inputs.k
    (out, log_total), (d_out, d_log_total) = residuals.done, d_result
    if isinstance(d_out, SymbolicZero):
        d_out = jnp.zeros(d_out.shape, d_out.dtype)
    # The softmax's correction, sum_j weights[i, j] * d weights[i, j], even with value vectors and dropout.
    correction = (out * d_out).sum(-1)
    if not isinstance(d_log_total, SymbolicZero):
        correction -= d_log_total  # d log_total / d logits = weights

    def block_of_rows(sums, rows):
        return _backward_rows(heads, sums, rows.turned(k.value.dtype))

    of_keys = turn(k.key), turn(k.vector), turn(k.value), k.features
    sums = Sums(heads.map_terms(lambda term: term.zero_sums()), *zeros((*of_keys, inputs.state)))
    sums = varying_like((inputs, constants), sums)
    sums, d_q = lax.scan(block_of_rows, sums, heads.rows(d_out, log_total, correction))
    d_terms = heads.map_terms(lambda term, own: term.gradient(own), sums.terms)
    d_k = Keys(turn(sums.key), turn(sums.value), sums.k_features, turn(sums.vector))
    of_arrays = cast_like((d_q, d_k, sums.state), (inputs.q, k, inputs.state))
    return Inputs(d_terms, *of_arrays), None, None


# Symbolic zeros: no sums by distance are computed for a bias that is not trained, such as ALiBi's.
_with_gradients.defvjp(_with_gradients_forward, _backward, symbolic_zeros=True)


def attend(
    kind: type[Heads], problem: Problem, inputs: Inputs, constants: Constants, done: Any
) -> Result:
    """Compute the forward pass, or only the gradients of `done`, an earlier one."""
    inputs, constants = varying_like((inputs, constants), (inputs, constants))
    if done is None:
        return _forward(kind(problem, inputs, constants))
    return _with_gradients(kind, problem, inputs, constants, done)


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
    """Compute one head's attention in blocks; a query that sees no key gets zeros.

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
    return attend(OneHead, problem, inputs, Constants(q_tokens, k_tokens, seed), done)


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
