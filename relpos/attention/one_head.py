"""Split an encoding of several heads into encodings of one head each, whose slots can be called."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from relpos.attention.per_head import SPLIT, for_heads
from relpos.attention.slots import Slots


def split_heads(encoding: Slots) -> tuple[Any, Any, Any]:
    """Return (graphdef, state that is split over heads, state that heads share).

    `nnx.merge` of the three, the second without its axis of heads, is the encoding of one head, whose slots can be
    called. The axis has N query heads, or K key heads for a `PerKeyHead`: see `relpos.attention.per_head.for_heads`.
    """
    one = nnx.merge(*nnx.split(encoding))
    for _, module in nnx.iter_graph(one):  # one encoding may hold another
        if isinstance(module, Slots):
            module.one_head = True
    graphdef, per_head, shared = nnx.split(one, SPLIT, ...)  # type: ignore[misc]
    return graphdef, per_head, shared


def each_head(function: Callable[[Any], Any], encoding: Slots) -> Any:
    """Return function(encoding of one head) for each head, [N, ...].

    The result is [K, ...] if only parameters per key head are split, and [1, ...] if all heads share everything.
    """
    split, per_head, shared = split_heads(encoding)

    def one_head(per_head):
        return function(nnx.merge(split, per_head, shared))

    if jax.tree.leaves(per_head):
        return jax.vmap(one_head)(for_heads(per_head))
    return jax.tree.map(lambda x: x[None], one_head(per_head))
