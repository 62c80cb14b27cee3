"""An encoding of several heads as encodings of one head each, whose slots may be called."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from relpos.attention.per_head import SPLIT, for_heads
from relpos.attention.slots import Slots


def split_heads(encoding: Slots) -> tuple[Any, Any, Any]:
    """Return (graphdef, what is split over the heads, what they share).

    `nnx.merge` of the three, the second without its axis of heads, is the encoding of one head, whose slots may be
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

    [K, ...] where nothing is split but for key heads, [1, ...] where heads have nothing of their own.
    """
    split, per_head, shared = split_heads(encoding)

    def one_head(per_head):
        return function(nnx.merge(split, per_head, shared))

    if jax.tree.leaves(per_head):
        return jax.vmap(one_head)(for_heads(per_head))
    return jax.tree.map(lambda x: x[None], one_head(per_head))
