"""Map one head's attention over all heads and batch rows, in a way that suits the platform."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jaxtyping import Array, Float

from relpos.attention import blockwise, choices, outward, prepared, reference
from relpos.attention.mesh_axes import varying_like
from relpos.attention.mixed_heads import mixed_heads
from relpos.attention.per_head import for_heads, repeated
from relpos.attention.plan import Plan
from relpos.attention.prepared import Arrays
from relpos.attention.regions import offset_of
from relpos.attention.slots import each_head, split_heads


def attend(plan: Plan, arrays: Arrays) -> Float[Array, "B T N H"]:
    """Split the arrays into heads, run one head's function for each, and join the results."""
    _, T, N, _ = arrays.q.shape
    arrays = varying_like(arrays, arrays)
    if plan.path in ("blockwise", "outward"):
        done = _blockwise(plan, arrays)
        out = blockwise.joined(done, T)
        if plan.filled.sink:
            out *= _left_by_sinks(plan, arrays, blockwise.joined_log_total(done, T))
        if not plan.filled.normalized:
            out *= jnp.exp(blockwise.joined_log_total(done, T))[..., None]
    else:
        # The dense path saves memory on every platform; GPU kernels get all heads at once.
        dense = plan.path == "reference"
        at_once = choices.heads_at_once(T, arrays.k.shape[1]) if dense else choices.ALL
        out = _heads(plan, at_once, arrays)
    return jnp.moveaxis(out.reshape(N, -1, *out.shape[-2:]), 0, 2).astype(arrays.v.dtype)


def _left_by_sinks(plan: Plan, arrays: Arrays, log_total: Float[Array, "... B T"]) -> Array:
    """Return the fraction of the weight that attention sinks leave to the keys, [..., B, T, 1]."""
    sinks = each_head(lambda one: one.sink(), nnx.merge(plan.graphdef, arrays.state))
    heads = log_total.shape[:-2]
    sinks = repeated(sinks, math.prod(heads), axis=0).reshape(*heads, 1, 1)
    return jax.nn.sigmoid(log_total - sinks)[..., None]


# The checkpoint name of the results that rematerialisation (`jax.checkpoint`) should save.
RESULT = "relpos.attention"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(plan: Plan, arrays: Arrays) -> blockwise.Result:
    """Run the blockwise path for all heads, as many of them together as suits the platform.

    The platform is the one that the program is lowered for, not this machine's, so both variants are traced. A custom
    backward pass spares JAX from differentiating, and keeping arrays for, the variant that is not used.
    """
    return _on_platform(_heads, plan, arrays)


def _on_platform(function, plan, arrays, *more):
    few = choices.heads_at_once(arrays.q.shape[1], arrays.k.shape[1])
    on_cpu = functools.partial(function, plan, few)
    on_others = functools.partial(function, plan, choices.ALL)
    if few >= choices.ALL:
        return on_others(arrays, *more)
    return lax.platform_dependent(arrays, *more, cpu=on_cpu, default=on_others)


class _Kept(struct.PyTreeNode):
    """What the backward pass needs; `perturbed` says which leaves of the arrays are differentiated."""

    arrays: Arrays
    done: blockwise.Result
    perturbed: tuple[bool, ...] = struct.field(pytree_node=False)


def _blockwise_forward(plan, arrays):
    perturbed = tuple(x.perturbed for x in jax.tree.leaves(arrays))
    arrays = custom_vjp_primal_tree_values(arrays)
    done = checkpoint_name(_on_platform(_heads, plan, arrays), RESULT)
    return done, _Kept(arrays, done, perturbed)


def _blockwise_backward(plan, kept: _Kept, d_done):
    wanted = [i for i, d in enumerate(d_done) if not isinstance(d, SymbolicZero)]
    leaves, tree = jax.tree.flatten(kept.arrays)
    chosen = [i for i, perturbed in enumerate(kept.perturbed) if perturbed]

    def gradients(plan, at_once, arrays, done, d_wanted):
        given = jax.tree.leaves(arrays)

        def results(*differentiated):
            new = dict(zip(chosen, differentiated, strict=True))
            merged = [new.get(i, x) for i, x in enumerate(given)]
            result = _heads(plan, at_once, jax.tree.unflatten(tree, merged), done)
            return [result[i] for i in wanted]

        return jax.vjp(results, *(given[i] for i in chosen))[1](d_wanted)

    d_wanted = [d_done[i] for i in wanted]
    found = _on_platform(gradients, plan, kept.arrays, kept.done, d_wanted)
    d = dict(zip(chosen, found, strict=True))
    return (jax.tree.unflatten(tree, [d.get(i) for i in range(len(leaves))]),)


# Symbolic zeros: no gradient is computed for what is not differentiated, such as ALiBi's slopes.
_blockwise.defvjp(_blockwise_forward, _blockwise_backward, symbolic_zeros=True)


def _heads(plan: Plan, at_once: int, arrays: Arrays, done: Any = None):
    """Run one head's function for each head and row, about `at_once` of them together.

    Given `done`, an earlier result of the blockwise path, compute only its gradients. The results have the leading
    axes K, N / K and B.
    """
    tables, k, v, q, seeds = arrays.tables, arrays.k, arrays.v, arrays.q, arrays.seeds
    (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
    map_over = functools.partial(_map, differentiated=done is not None)
    over_rows = map_over(B, at_once // N)
    if plan.filled.mixes:
        return mixed_heads(plan, over_rows, arrays, done)
    over_groups, over_heads = map_over(K, at_once), map_over(N // K, at_once // K)
    locations, shared_locations = prepared.of_all_rows(arrays.locations)
    offset = prepared.offset_of_all_rows(plan.layout, T, S, locations, shared_locations)
    encoding = nnx.merge(plan.graphdef, arrays.state)
    split, per_head, shared = split_heads(encoding)
    per_head = for_heads(per_head, N)

    def one_head(per_head, tables, k, v, q, q_features, k_features, seeds, done):
        encoding = nnx.merge(split, per_head, shared)
        tables_at = functools.partial(prepared.tables_of, plan, encoding, tables, T, S)
        of_all = None if offset is None else tables_at(offset)

        def one_sequence(seed, done, locations, *of_row):
            tokens = prepared.tokens_of(T, S, locations, shared_locations)
            tables = of_all or tables_at(offset_of(plan.layout, *tokens))
            sides = prepared.queries_and_keys(plan, encoding, tokens, *of_row)
            parts = prepared.parts_of(plan, encoding, tables)
            if plan.path == "blockwise":
                return blockwise.head(parts, plan.rules, plan.layout, *sides, *tokens, seed, done)
            # The other paths treat a sum as one encoding.
            (part,), sides = parts, prepared.of_one_part(*sides)
            others = {"reference": reference, "outward": outward}
            path = choices.kernels() if plan.path == "pallas" else others[plan.path]
            return path.head(part, plan.rules, plan.layout, *sides, *tokens, seed, done)

        return over_rows(one_sequence)(seeds, done, locations, q, k, v, q_features, k_features)

    # Features of keys that a group of heads shares, and those that each head has for itself.
    leaves, tree = jax.tree.flatten(arrays.k_features)
    of_group = {i: repeated(f, K, axis=2) for i, f in enumerate(leaves) if K % f.shape[2] == 0}
    of_own = {i: repeated(f, N, axis=2) for i, f in enumerate(leaves) if i not in of_group}

    def one_group(k, v, of_group, *of_queries):
        def of_head(per_head, tables, q, q_features, of_own, *x):
            features = of_group | of_own
            k_features = jax.tree.unflatten(tree, [features[i] for i in range(len(leaves))])
            return one_head(per_head, tables, k, v, q, q_features, k_features, *x)

        return over_heads(of_head)(*of_queries)

    of_tokens = (k, v, of_group), (q, arrays.q_features, of_own)
    of_keys, of_queries = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), of_tokens)
    seeds = None if seeds is None else jnp.moveaxis(seeds, 1, 0)
    of_heads = per_head, tables, *of_queries, seeds
    grouped = jax.tree.map(lambda x: x.reshape(K, N // K, *x.shape[1:]), of_heads)
    return over_groups(one_group)(*of_keys, *grouped, done)


def _map(size: int, at_once: int, *, differentiated: bool):
    """Return a transformation that maps a function over a leading axis, about `at_once` entries at a time.

    A differentiated loop is checkpointed, as it would otherwise keep each step's queries, keys, values and vectors. The
    compiler may split the axis among several devices: each step then takes entries from every device, so that each
    device processes only its own.
    """
    if not choices.are_known(size):
        return jax.vmap
    if size == 1:
        # Not vmap: an axis of size one would hide plain matrix products from the compiler.
        first, back = (lambda x: x[0]), (lambda x: x[None])
        return lambda f: lambda *args: jax.tree.map(back, f(*jax.tree.map(first, args)))
    parts = math.gcd(size, choices.devices())
    each = size // parts  # of each device, `together` at a time
    together = max(
        n for n in range(1, each + 1) if each % n == 0 and n * parts <= max(at_once, parts)
    )
    if together == each:
        return jax.vmap
    lean = jax.checkpoint if differentiated else (lambda f: f)
    if parts == 1 and together == 1:
        return lambda f: lambda *args: lax.map(lambda x: lean(f)(*x), args)

    turns = each // together

    def cut(x):  # [size, ...] -> [turns, parts * together, ...]
        x = x.reshape(parts, turns, together, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0).reshape(turns, parts * together, *x.shape[3:])

    def join(x):
        x = x.reshape(turns, parts, together, *x.shape[2:])
        return jnp.moveaxis(x, 0, 1).reshape(size, *x.shape[3:])

    def in_turn(f, *args):
        out = lax.map(lambda x: lean(jax.vmap(f))(*x), jax.tree.map(cut, args))
        return jax.tree.map(join, out)

    return lambda f: functools.partial(in_turn, f)
