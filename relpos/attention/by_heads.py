"""Heads of different kinds in one layer: each part attends separately, with its slice of the heads."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from relpos.attention.slots import Slots


class Slice(NamedTuple):
    """The part of an encoding for the heads [begin, end), and their key heads."""

    number: int
    encoding: Slots
    queries: slice
    keys: slice


def keys_shared_by(begin: int, end: int, group: int) -> slice:
    """Return the key heads of the query heads [begin, end); each key head serves `group` query heads."""
    return slice(begin // group, (end - 1) // group + 1)


def slices(encoding: Slots, num_heads: int, key_heads: int) -> Iterator[Slice]:
    """Yield the slices of heads.

    Raises:
      ValueError: a part has some, but not all query heads of one key head, and query heads of others.
    """
    group, begin = num_heads // key_heads, 0
    for number, (part, count) in enumerate(encoding.of_heads):
        end = begin + count
        keys = keys_shared_by(begin, end, group)
        if keys.stop - keys.start > 1 and (begin % group or end % group):
            raise ValueError(
                f"{count} heads of {type(part).__name__} from head {begin} share key heads with others: each key head "
                f"serves {group} query heads, so give each part a multiple of {group} heads, or one group's alone"
            )
        yield Slice(number, part, slice(begin, end), keys)
        begin = end


def attend(
    one: Callable[[Slots, Any], Array], encoding: Slots, arrays: Any
) -> Float[Array, "B T N H"]:
    """Attend with each part, and join their heads.

    Args:
      one: a function that attends with one part, given the part and its arrays.
      encoding: an encoding with heads of several kinds.
      arrays: the `relpos.attention.prepared.Arrays` of all heads; features and tables have one entry for each part.
    """
    N, K = arrays.q.shape[2], arrays.k.shape[2]

    def of_part(tree, number):
        return None if tree is None else tree[number]

    out = []
    for part in slices(encoding, N, K):
        out.append(
            one(
                part.encoding,
                arrays._replace(
                    q=arrays.q[:, :, part.queries],
                    k=arrays.k[:, :, part.keys],
                    v=arrays.v[:, :, part.keys],
                    q_features=of_part(arrays.q_features, part.number),
                    k_features=of_part(arrays.k_features, part.number),
                    tables=of_part(arrays.tables, part.number),
                    seeds=None if arrays.seeds is None else arrays.seeds[:, part.queries],
                ),
            )
        )
    return jnp.concatenate(out, axis=2)


def of_keys(
    transform: Callable[[Slots, Array, int, Any], Array],
    encoding: Slots,
    x_BSKH: Array,
    num_heads: int,
    features: Any,
) -> Array:
    """Transform keys or values with each part, as a cache keeps them.

    Args:
      transform: a function of a part, its key heads, the number of its query heads and its features.
      encoding: an encoding with heads of several kinds.
      x_BSKH: keys or values.
      num_heads: N.
      features: a tuple of the parts' features, or None.

    Returns:
      [B, S, K, W], or [B, S, N, W] if a key head serves heads of different kinds or its result differs by query head.
      Narrower results are padded with leading zeros.
    """
    K = x_BSKH.shape[2]
    found, by_query_head = [], False
    for part in slices(encoding, num_heads, K):
        count = part.queries.stop - part.queries.start
        of_part = None if features is None else features[part.number]
        x = transform(part.encoding, x_BSKH[:, :, part.keys], count, of_part)
        by_query_head |= x.shape[2] * (num_heads // K) != count
        found.append((x, count))
    width = max(x.shape[-1] for x, _ in found)
    joined = []
    for x, count in found:
        x = jnp.pad(x, [(0, 0)] * 3 + [(width - x.shape[-1], 0)])
        joined.append(jnp.repeat(x, count // x.shape[2], axis=2) if by_query_head else x)
    return jnp.concatenate(joined, axis=2)


def tree_of_parts(function: Callable[[Slots], Any], encoding: Slots) -> tuple[Any, ...] | None:
    """Return a function's result for each part; None if it returns nothing for any part."""
    found = tuple(function(part) for part, _ in encoding.of_heads)
    return found if jax.tree.leaves(found) else None
