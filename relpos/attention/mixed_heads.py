"""Attention with an encoding that mixes its heads' logits: each head's share of the work, and the mix of all heads."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.attention import blockwise, reference, together
from relpos.attention.blocks import Problem
from relpos.attention.one_head import split_heads
from relpos.attention.parts import Part, terms_of
from relpos.attention.per_head import for_heads
from relpos.attention.plan import Plan
from relpos.attention.prepared import (
    Arrays,
    of_all_rows,
    of_one_part,
    parts_of,
    queries_and_keys,
    tables_of,
    tokens_of,
)
from relpos.attention.regions import offset_of
from relpos.attention.slots import Slots
from relpos.attention.transforms import features_of_heads


def mixed_heads(plan: Plan, over_rows: Callable, arrays: Arrays, done: Any = None):
    """Run all heads of a batch row together, for each row.

    Args:
      plan: the plan of the call.
      over_rows: a transformation that maps a function over the axis B of all its arguments.
      arrays: the arrays of the call.
      done: an earlier result of the blockwise path, if only its gradients are needed.

    Returns:
      The output [N, B, T, H], or the result of the blockwise path with the leading axes N and B.
    """
    rules, cut, (planned,) = plan.rules, plan.layout, plan.parts
    (_, T, N, _), (S, K) = arrays.q.shape, arrays.k.shape[1:3]
    encoding = nnx.merge(plan.graphdef, arrays.state)
    split, per_head, shared = split_heads(encoding)
    per_head = for_heads(per_head, N)
    places, shared_places = of_all_rows(arrays.places)

    def one_row(q, k, v, q_features, k_features, seeds, done, places):
        q_tokens, k_tokens = tokens_of(T, S, places, shared_places)
        offset = offset_of(cut, q_tokens, k_tokens)

        def prepared(per_head, tables, *of_head):
            one = nnx.merge(split, per_head, shared)
            return one, tables, *queries_and_keys(plan, one, (q_tokens, k_tokens), *of_head)

        def of_blocks(*of_head):
            one, tables, queries, keys = prepared(*of_head)
            parts = parts_of(plan, one, tables_of(plan, one, tables, T, S, offset))
            return terms_of(parts, rules, cut), queries, keys

        def summands(*of_head):
            one, _, *sides = prepared(*of_head)
            queries, keys = of_one_part(*sides)
            dots_TS, biases = reference.summands(one, rules, queries, keys, q_tokens, k_tokens)
            given = [bias for bias in biases if bias is not None]
            bias_TS = jnp.broadcast_to(sum(given), dots_TS.shape) if given else None
            return rules.scale * dots_TS, bias_TS, keys

        def values(per_head, logits_TS, keys, seed):
            one = nnx.merge(split, per_head, shared)
            return reference.weighted(one, rules, logits_TS, keys, q_tokens, k_tokens, seed)

        of_heads = per_head, arrays.tables, q, k, v, q_features, k_features
        if plan.path == "reference":
            dots_NTS, bias_NTS, keys = jax.vmap(summands)(*of_heads)
            logits_NTS = reference.mixed(encoding, rules, dots_NTS, bias_NTS)
            return jax.vmap(values)(per_head, logits_NTS, keys, seeds)
        extent = blockwise.extent_of(Part(Slots(), planned.beyond, planned.band), rules, cut, T, S)
        terms, queries, keys = jax.vmap(of_blocks)(*of_heads)
        return together.heads(
            encoding, Problem(rules, cut, (extent,)),
            terms, queries, keys, q_tokens, k_tokens, seeds, done,
        )  # fmt: skip

    def heads_second(tree):  # [B, T, N, ...] -> [B, N, T, ...]
        return jax.tree.map(lambda x: jnp.moveaxis(x, 2, 1), tree)

    k_features = features_of_heads(arrays.k_features, N)
    of_heads = heads_second((arrays.q, arrays.k, arrays.v, arrays.q_features, k_features))
    q, k, v, *features = of_heads
    k, v = (jnp.repeat(x, N // K, 1) for x in (k, v))
    swap = functools.partial(jax.tree.map, lambda x: jnp.swapaxes(x, 0, 1))
    return swap(over_rows(one_row)(q, k, v, *features, arrays.seeds, swap(done), places))
