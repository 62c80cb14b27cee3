"""Attention of all heads at once, for encodings that mix their logits (`Slots.mix`): O(T) memory.

Each head has its terms and its softmax, as in `relpos.attention.blockwise`. Between the two, a block of all heads is
mixed, which JAX differentiates. The backward pass recomputes each block's products, biases and mix.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, UInt

from relpos.attention import padding, reference
from relpos.attention.blocks import Block, Constants, Inputs, Problem, Rows, Terms
from relpos.attention.blockwise import Heads, attend, backward_of, of_each, total_of
from relpos.attention.parts import is_inexact
from relpos.attention.reference import Keys, Queries, Tokens
from relpos.attention.slots import Slots
from relpos.attention.softmax import Result, hide
from relpos.attention.terms import Logits


class AllHeads(Heads):
    """The blocks of all heads: the terms are [N, ...], queries and keys [blocks, N, C or K, ...]."""

    def map(self, function, block: Block, *trees: Any) -> Any:
        """Map function(block of one head, *trees) over heads."""
        rows = block.rows
        nothing: Any = None

        def of_head(of_rows: Rows, k: Keys, *trees):
            of_rows = of_rows._replace(number=rows.number, tokens=rows.tokens)
            return function(block._replace(rows=of_rows, k=k), *trees)

        of_rows = rows._replace(number=nothing, tokens=nothing)  # heads share these
        return jax.vmap(of_head)(of_rows, block.k, *trees)

    def map_terms(self, function, *more: Terms) -> Terms:
        """Map a function of a term of one head, and of its entries in `more`, over heads."""
        of_head = lambda _, terms, *more: terms.map(function, *more)  # noqa: E731
        heads = jnp.arange(self.inputs.q.content.shape[1])  # the terms may hold no arrays
        return jax.vmap(of_head)(heads, self.inputs.terms, *more)

    def logits(self, block: Block, rings):
        """Return the masked logits, and the rings."""
        found, rings = self.map(self._of_head, block, self.inputs.terms.logits, rings)
        return self._masked(block, self._mixed(self.inputs.state, found)), rings

    def vjp(self, block: Block, rings):
        """Return the results of `logits`, and the backward pass."""
        terms = self.inputs.terms.logits
        found, rings = self.map(self._of_head, block, terms, rings)
        logits_NCK, pull = jax.vjp(self._mixed, self.inputs.state, found)

        def backward(d_logits_NCK, *more):
            d_state, d = pull(d_logits_NCK)
            # logits = a mix of scale * (the sum of the terms' dots) and the sum of their biases
            d = d._replace(dots=self.problem.rules.scale * d.dots)
            return *self.map(backward_of, block, terms, d, *more), d_state

        return self._masked(block, logits_NCK), rings, backward

    def _of_head(self, block: Block, terms, rings) -> tuple[Logits, Any]:
        """Return one head's scaled products and its bias, and the rings."""
        found, rings = of_each(lambda term, ring: term.forward(block, ring), terms, rings)
        dots_CK = self.problem.rules.scale * total_of(x.dots for x in found)
        bias = total_of(x.bias for x in found)
        bias_CK = None if bias is None else jnp.broadcast_to(bias, dots_CK.shape)
        return Logits(dots_CK, bias_CK), rings

    def _mixed(self, state: Any, heads: Logits) -> Array:
        """Return the logits of all heads, [N, C, K], before they are masked."""
        encoding = nnx.merge(self.problem.graphdef, state, self.constants.integers)
        return reference.mixed(encoding, self.problem.rules, *heads).astype(self.inputs.dtype)

    def _masked(self, block: Block, logits_NCK: Array) -> Array:
        return hide(reference.mask(self.problem.rules, *block.tokens), logits_NCK)


def heads(
    encoding: Slots,
    problem: Problem,
    terms: Terms,
    q: Queries,
    k: Keys,
    q_tokens: Tokens,
    k_tokens: Tokens,
    seeds: UInt[Array, "N 2"] | None,
    done: Result | None = None,
) -> Result:
    """Compute the attention of all heads of one batch row in blocks; a query that sees no key gets zeros.

    `encoding` is that of all heads, and `problem` the static choices of each; `terms`, `q`, `k`, `seeds`, `done` and
    the result have a leading axis N. The rest is as in `blockwise.head`.
    """
    rules, layout = problem.rules, problem.layout
    q_tokens, k_tokens = padding.whole_blocks(rules, layout, q_tokens, k_tokens)
    q_tokens = padding.cut(q_tokens, layout.rows)
    k_tokens = padding.cut(k_tokens, layout.columns)

    def cut(tree, size):  # [N, T, ...] -> [blocks, N, size, ...]
        return jax.vmap(lambda x: padding.cut(x, size), out_axes=1)(tree)

    graphdef, state, integers = nnx.split(encoding, is_inexact, ...)  # type: ignore[misc]
    inputs = Inputs(terms, cut(q, layout.rows), cut(k, layout.columns), state)
    constants = Constants(q_tokens, k_tokens, seeds, integers)
    problem = problem._replace(graphdef=graphdef)
    swap = functools.partial(jax.tree.map, lambda x: jnp.swapaxes(x, 0, 1))
    return swap(attend(AllHeads, problem, inputs, constants, swap(done)))
