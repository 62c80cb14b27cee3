"""One head's attention, mapped over all heads and rows as the platform wants it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jaxtyping import Array, Float

from relpos import positions
from relpos.attention import blockwise, checks, choices, distances, outward, reference
from relpos.attention.distances import Tables
from relpos.attention.mesh_axes import varying_like
from relpos.attention.parts import Part
from relpos.attention.plan import Plan
from relpos.attention.reference import Keys, Queries, Tokens
from relpos.attention.slots import Slots, split_heads


class Arrays(NamedTuple):
    """The arrays of one call; what was not given is None."""

    state: Any
    tables: tuple[Tables | None, ...] | None  # of each part of a sum
    q: Array
    k: Array
    v: Array
    q_features: Any
    k_features: Any
    places: tuple[Any, ...]  # positions, segments and order of queries and of keys, by turns
    seeds: Array | None


def attend(plan: Plan, arrays: Arrays) -> Float[Array, "B T N H"]:
    """Split into heads, run one head's function for each, and join."""
    _, T, N, _ = arrays.q.shape
    arrays = varying_like(arrays, arrays)
    if plan.in_blocks:
        out = blockwise.joined(_blockwise(plan, arrays), T)
    else:
        # The dense path saves memory on every platform; a GPU's kernels are given all heads.
        dense = plan.path == "reference"
        at_once = choices.heads_at_once(T, arrays.k.shape[1]) if dense else choices.ALL
        out = _heads(plan, at_once, arrays)
    return jnp.moveaxis(out.reshape(N, -1, *out.shape[-2:]), 0, 2).astype(arrays.v.dtype)


# The name of what rematerialisation (`jax.checkpoint`) should keep of the forward pass.
RESULT = "relpos.attention"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(plan: Plan, arrays: Arrays) -> blockwise.Result:
    """Run the blockwise path for all heads, so many of them together as the platform wants.

    The platform is the one that the program is lowered for, not this machine's, so both ways are traced. With a rule of
    its own for the backward pass JAX need not differentiate, and keep arrays for, the way that is not taken.
    """
    return _on_platform(_heads, plan, arrays)


def _on_platform(function, plan, arrays, *more):
    few = choices.heads_at_once(arrays.q.shape[1], arrays.k.shape[1])
    on_cpu, on_others = (
        functools.partial(function, plan, at_once) for at_once in (few, choices.ALL)
    )
    if few >= choices.ALL:
        return on_others(arrays, *more)
    return lax.platform_dependent(arrays, *more, cpu=on_cpu, default=on_others)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Kept:
    """What the backward pass needs; static is which leaves of the arrays are differentiated."""

    arrays: Arrays
    done: blockwise.Result
    perturbed: tuple[bool, ...] = dataclasses.field(metadata={"static": True})


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
        leaves = jax.tree.leaves(arrays)

        def results(*differentiated):
            merged = list(leaves)
            for i, x in zip(chosen, differentiated, strict=True):
                merged[i] = x
            result = _heads(plan, at_once, jax.tree.unflatten(tree, merged), done)
            return [result[i] for i in wanted]

        return jax.vjp(results, *(leaves[i] for i in chosen))[1](d_wanted)

    d_wanted = [d_done[i] for i in wanted]
    found = _on_platform(gradients, plan, kept.arrays, kept.done, d_wanted)
    d_leaves = [None] * len(leaves)
    for i, d in zip(chosen, found, strict=True):
        d_leaves[i] = d
    return (jax.tree.unflatten(tree, d_leaves),)


# Symbolic zeros: what is not differentiated, as ALiBi's slopes, costs no gradient.
_blockwise.defvjp(_blockwise_forward, _blockwise_backward, symbolic_zeros=True)


def _heads(plan: Plan, at_once: int, arrays: Arrays, done: Any = None):
    """Run one head's function for each head and row, about `at_once` of them together.

    Returns:
      What the function gives, with leading axes K, N / K and B. With `done`, an earlier result of the blockwise path,
      nothing but gradients is computed.
    """
    rules, cut = plan.rules, plan.layout
    tables, k, v, q, seeds, places = (
        arrays.tables, arrays.k, arrays.v, arrays.q, arrays.seeds, arrays.places,
    )  # fmt: skip
    encoding = nnx.merge(plan.graphdef, arrays.state)
    (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
    index_T, index_S = positions.contiguous(T), positions.contiguous(S)
    map_over = functools.partial(_map, differentiated=done is not None)
    over_groups, over_heads = map_over(K, at_once), map_over(N // K, at_once // K)
    over_rows = map_over(B, at_once // N)
    split, per_head, shared = split_heads(encoding)

    def one_head(per_head, tables, k, v, q, q_features, k_features, seeds, done):
        encoding = nnx.merge(split, per_head, shared)
        tables = _tables(plan, encoding, tables, T, S)

        def one_sequence(k, v, q, q_features, k_features, seed, done, places):
            q_position, k_position, q_segment, k_segment, *orders = places
            q_position = index_T if q_position is None else q_position
            k_position = index_S if k_position is None else k_position
            q_tokens = Tokens(index_T, q_position, q_segment, orders[0])
            k_tokens = Tokens(index_S, k_position, k_segment, orders[1])
            queries = _queries(plan, encoding, q, q_position, q_features)
            keys = _keys(plan, encoding, k, v, k_features)
            if plan.padded:  # keys of heads of another kind are wider
                keys = keys._replace(key=keys.key[..., -queries.content.shape[-1] :])
            checks.check_ready_keys(queries.content.shape[-1], keys.key.shape[-1])
            queries, keys = _factored(plan, encoding, queries, keys, q_position, k_position)
            parts = tuple(
                Part(part if planned.evaluated else Slots(), planned.beyond, planned.band, table)
                for planned, part, table in zip(
                    plan.parts, plan.parts_of(encoding), tables, strict=True
                )
            )
            head = _path(plan.path)
            return head(parts, rules, cut, queries, keys, q_tokens, k_tokens, seed, done)

        return over_rows(one_sequence)(k, v, q, q_features, k_features, seeds, done, places)

    def one_group(k, v, *of_queries):
        return over_heads(lambda per_head, tables, *x: one_head(per_head, tables, k, v, *x))(
            *of_queries
        )

    def grouped(tree):  # leading N -> [K, N / K]
        return jax.tree.map(lambda x: x.reshape(K, N // K, *x.shape[1:]), tree)

    def heads_first(tree):  # [B, T, N, ...] -> [N, B, T, ...]
        return jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), tree)

    k, v, *of_queries = heads_first((k, v, q, arrays.q_features, arrays.k_features))
    seeds = None if seeds is None else jnp.moveaxis(seeds, 1, 0)
    return over_groups(one_group)(k, v, *grouped((per_head, tables, *of_queries, seeds)), done)


def _path(name: str) -> Callable[..., Any]:
    """Return one head's function: every path has the same signature."""
    if name == "pallas":
        return _of_one_part(choices.kernels().head)
    paths: dict[str, Callable[..., Any]] = {
        "reference": _of_one_part(reference.head),
        "outward": _of_one_part(outward.head),
        "blockwise": blockwise.head,
    }
    return paths[name]


def _of_one_part(head: Callable[..., Any]) -> Callable[..., Any]:
    """Call a path that sees a sum as one encoding."""

    def of_parts(parts, rules, layout, queries, keys, *more):
        (part,) = parts
        queries, keys = (
            side._replace(vector=side.vector[0], features=side.features[0])
            for side in (queries, keys)
        )
        return head(part, rules, layout, queries, keys, *more)

    return of_parts


def _tables(plan: Plan, encoding: Slots, given: Any, T: int, S: int) -> tuple[Tables, ...]:
    """Return each part's distances as a table, where blocks read one."""
    found = []
    for number, (planned, part) in enumerate(zip(plan.parts, plan.parts_of(encoding), strict=True)):
        table = None if given is None or len(given) != len(plan.parts) else given[number]
        if table is None and planned.tabulated:
            layout = plan.layout._replace(band=planned.band)
            table = distances.tabulate(part, planned.beyond, plan.rules, layout, T, S)
        found.append(table or Tables())
    return tuple(found)


def _queries(plan: Plan, encoding: Slots, q: Array, position: Array, features: Any) -> Queries:
    """Return what meets the keys, and for each part what meets its key vectors where that is something else."""
    of_parts = plan.features_of_parts(encoding, features)
    if not plan.filled.own_vector_query:
        return Queries(q, (None,) * len(plan.parts), of_parts)
    vectors: list[Array | None] = []
    for planned, part, of_part in zip(plan.parts, plan.parts_of(encoding), of_parts, strict=True):
        vector = None
        if planned.filled.key_vectors:
            vector = part.vector_query(q, position, of_part)
            # The logits are scaled as a whole.
            vector = vector if part.scaled_vectors else vector / plan.rules.scale
            vector = vector.astype(q.dtype)
        vectors.append(vector)
    content = encoding.query(q, position, features).astype(q.dtype)
    return Queries(content, tuple(vectors), of_parts)


def _keys(plan: Plan, encoding: Slots, k: Array, v: Array, features: Any) -> Keys:
    """Take apart what `transforms.keys` put side by side."""
    widths = [planned.filled.own_vector_key for planned in plan.parts]
    vectors: list[Array | None] = []
    for width in reversed(widths):
        k, vector = jnp.split(k, [k.shape[-1] - width], -1) if width else (k, None)
        vectors.insert(0, vector)
    return Keys(k, v, plan.features_of_parts(encoding, features), tuple(vectors))


def _factored(
    plan: Plan, encoding: Slots, q: Queries, k: Keys, q_position: Array, k_position: Array
) -> tuple[Queries, Keys]:
    """Put factors beside queries and keys, for the parts that have them."""
    for number, (planned, part) in enumerate(zip(plan.parts, plan.parts_of(encoding), strict=True)):
        if planned.factored:
            vector = q.content if q.vector[number] is None else q.vector[number]
            content = _beside(q.content, part.factored_query(vector, q_position))
            vectors = (*q.vector[:number], None, *q.vector[number + 1 :])
            q = q._replace(content=content, vector=vectors)
            k = k._replace(key=_beside(k.key, part.factored_key(k_position)))
    return q, k


def _beside(x_TH: Array, more_TF: Array | None) -> Array:
    assert more_TF is not None
    return jnp.concatenate([x_TH, more_TF.astype(x_TH.dtype)], -1)


def _map(size: int, at_once: int, *, differentiated: bool):
    """Map over a leading axis of this size, about `at_once` entries together, the others one after another.

    Differentiated, a loop would keep copies of queries, keys, values and vectors of every turn, but for the checkpoint.

    Where there are several devices the axis may be cut among them, as the compiler decides: entries that lie on
    different devices are then together, so that each device takes its own one after another.
    """
    if not choices.are_known(size):
        return jax.vmap
    if size == 1:
        # Not vmap: an axis of one would keep the compiler from seeing plain matrix products.
        first, back = (lambda x: x[0]), (lambda x: x[None])
        return lambda f: lambda *args: jax.tree.map(back, f(*jax.tree.map(first, args)))
    parts = math.gcd(size, choices.devices())
    each = size // parts  # of which `together` at once
    together = max(
        n for n in range(1, each + 1) if each % n == 0 and n * parts <= max(at_once, parts)
    )
    if together == each:
        return jax.vmap
    lean = jax.checkpoint if differentiated else (lambda f: f)
    if parts == 1 and together == 1:
        return lambda f: lambda *args: lax.map(lambda x: lean(f)(*x), args)

    def in_turn(f):
        def cut(x):  # [size, ...] -> [turns, parts * together, ...]
            x = x.reshape(parts, each // together, together, *x.shape[1:])
            return jnp.moveaxis(x, 1, 0).reshape(each // together, parts * together, *x.shape[3:])

        def join(x):
            x = x.reshape(each // together, parts, together, *x.shape[2:])
            return jnp.moveaxis(x, 0, 1).reshape(size, *x.shape[3:])

        def mapped(*args):
            out = lax.map(lambda x: lean(jax.vmap(f))(*x), jax.tree.map(cut, args))
            return jax.tree.map(join, out)

        return mapped

    return in_turn
