"""Heads of different kinds in one layer: each part attends separately, with its slice of the heads."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from relpos.attention.per_head import repeated
from relpos.attention.slots import Slots


class Slice(NamedTuple):
    """The part of an encoding for the heads [begin, end), and their key heads."""

    number: int
    encoding: Slots
    queries: slice
    keys: slice

    @property
    def heads(self) -> int:
        """The number of query heads."""
        return self.queries.stop - self.queries.start

    def own(self, of_parts: Any) -> Any:
        """Return the part's entry in a tuple of all parts'; None if there is no tuple."""
        return None if of_parts is None else of_parts[self.number]


def keys_shared_by(begin: int, end: int, group: int) -> slice:
    """Return the key heads of the query heads [begin, end); each key head serves `group` query heads."""
    return slice(begin // group, (end - 1) // group + 1)


def slices(encoding: Slots, num_heads: int, key_heads: int) -> Iterator[Slice]:
    """Yield the slices of heads.

    Raises:
      ValueError: a part has some, not all, query heads of one key head, and some of another.
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
    """Attend with each part, by `one`(part, its arrays), and join their heads.

    In `arrays`, the `relpos.attention.prepared.Arrays` of all heads, features and tables have one entry for each part.
    """

    def of_part(part: Slice) -> Array:
        mine = arrays._replace(
            q=arrays.q[:, :, part.queries],
            k=arrays.k[:, :, part.keys],
            v=arrays.v[:, :, part.keys],
            q_features=part.own(arrays.q_features),
            k_features=part.own(arrays.k_features),
            tables=part.own(arrays.tables),
            seeds=None if arrays.seeds is None else arrays.seeds[:, part.queries],
        )
        return one(part.encoding, mine)

    parts = slices(encoding, arrays.q.shape[2], arrays.k.shape[2])
    return jnp.concatenate([of_part(part) for part in parts], axis=2)


def of_keys(
    transform: Callable[[Slots, Array, Array, int, Any], Array],
    encoding: Slots,
    x_BSKH: Array,
    positions_S: Array,
    num_heads: int,
    features: Any,
) -> Array:
    """Transform keys or values with each part, by `transforms.keys` or `values`, as a cache keeps them.

    Returns:
      [B, S, K, W], or [B, S, N, W] if a key head serves heads of different kinds or its result differs by query head.
      Narrower results are padded with leading zeros.
    """
    found, group = [], num_heads // x_BSKH.shape[2]
    for part in slices(encoding, num_heads, x_BSKH.shape[2]):
        x = x_BSKH[:, :, part.keys]
        x = transform(part.encoding, x, positions_S, part.heads, part.own(features))
        found.append((x, part.heads))
    by_query_head = any(x.shape[2] * group != count for x, count in found)
    width = max(x.shape[-1] for x, _ in found)
    joined = []
    for x, count in found:
        x = jnp.pad(x, [(0, 0)] * 3 + [(width - x.shape[-1], 0)])
        joined.append(repeated(x, count, axis=2) if by_query_head else x)
    return jnp.concatenate(joined, axis=2)
