"""Attention with an encoding that mixes its heads' logits: each head's share of the work, and the mix of all heads."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.attention import blockwise, prepared, reference, together
from relpos.attention.blocks import Problem
from relpos.attention.parts import Part, terms_of
from relpos.attention.per_head import for_heads, repeated
from relpos.attention.plan import Plan
from relpos.attention.prepared import Arrays
from relpos.attention.regions import offset_of
from relpos.attention.slots import Slots, split_heads


def mixed_heads(plan: Plan, over_rows: Callable, arrays: Arrays, done: Any = None):
    """Run all heads of a batch row together; `over_rows` maps a function over the axis B of all its arguments.

    Given `done`, an earlier result of the blockwise path, compute only its gradients. The results have the leading axes
    N and B.
    """
    rules, cut, (planned,) = plan.rules, plan.layout, plan.parts
    (_, T, N, _), S = arrays.q.shape, arrays.k.shape[1]
    encoding = nnx.merge(plan.graphdef, arrays.state)
    split, per_head, shared = split_heads(encoding)
    per_head = for_heads(per_head, N)
    locations, shared_locations = prepared.of_all_rows(arrays.locations)

    def one_row(q, k, v, q_features, k_features, seeds, done, locations):
        tokens = prepared.tokens_of(T, S, locations, shared_locations)

        def of_one(per_head, tables, *of_head):
            one = nnx.merge(split, per_head, shared)
            return one, tables, *prepared.queries_and_keys(plan, one, tokens, *of_head)

        def of_blocks(*of_head):
            one, tables, queries, keys = of_one(*of_head)
            tables = prepared.tables_of(plan, one, tables, T, S, offset_of(cut, *tokens))
            return terms_of(prepared.parts_of(plan, one, tables), rules, cut), queries, keys

        def summands(*of_head):
            one, _, *sides = of_one(*of_head)
            queries, keys = prepared.of_one_part(*sides)
            dots_TS, biases = reference.summands(one, rules, queries, keys, *tokens)
            given = [bias for bias in biases if bias is not None]
            bias_TS = jnp.broadcast_to(sum(given), dots_TS.shape) if given else None
            return rules.scale * dots_TS, bias_TS, keys

        def values(per_head, logits_TS, keys, seed):
            one = nnx.merge(split, per_head, shared)
            return reference.weighted(one, rules, logits_TS, keys, *tokens, seed)

        of_heads = per_head, arrays.tables, q, k, v, q_features, k_features
        if plan.path == "reference":
            dots_NTS, bias_NTS, keys = jax.vmap(summands)(*of_heads)
            logits_NTS = reference.mixed(encoding, rules, dots_NTS, bias_NTS)
            return jax.vmap(values)(per_head, logits_NTS, keys, seeds)
        extent = blockwise.extent_of(Part(Slots(), planned.beyond, planned.band), rules, cut, T, S)
        terms, queries, keys = jax.vmap(of_blocks)(*of_heads)
        return together.heads(
            encoding, Problem(rules, cut, (extent,)),
            terms, queries, keys, *tokens, seeds, done,
        )  # fmt: skip

    k_features = repeated(arrays.k_features, N, axis=2)
    of_heads = arrays.q, arrays.k, arrays.v, arrays.q_features, k_features
    q, k, v, *features = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 1), of_heads)  # [B, N, T, ...]
    k, v = repeated((k, v), N, axis=1)
    swap = functools.partial(jax.tree.map, lambda x: jnp.swapaxes(x, 0, 1))
    return swap(over_rows(one_row)(q, k, v, *features, arrays.seeds, swap(done), locations))
