"""What belongs to heads: kinds of parameters, and what an axis of heads is made of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class PerHead(nnx.Param):
    """A trained parameter whose first axis is heads; inside a slot that axis is gone."""


class PerKeyHead(nnx.Param):
    """A trained parameter whose first axis is key heads: the query heads that share a key head share it.

    What `tokens` and `key` make of such parameters alone is each key head's too, and a cache keeps it once.
    """


class PerHeadConstant(nnx.Variable):
    """A fixed number per head (ALiBi's slopes): split like `PerHead`, never trained."""


class PerKeyHeadConstant(PerHeadConstant):
    """A fixed number per key head: to `PerKeyHead` what `PerHeadConstant` is to `PerHead`."""


OF_KEY_HEADS = (PerKeyHead, PerKeyHeadConstant)
SPLIT = (PerHead, PerKeyHead, PerHeadConstant)


def repeated(tree: Any, heads: int, *, axis: int) -> Any:
    """Repeat along an axis of heads, each for its group, until there are so many."""

    def of_leaf(x):
        return x if x.shape[axis] == heads else jnp.repeat(x, heads // x.shape[axis], axis)

    return jax.tree.map(of_leaf, tree)


def for_heads(per_head: Any, heads: int | None = None) -> Any:
    """Give each head what it shares with its group.

    Args:
      per_head: from `split_heads`, of N heads and of K.
      heads: N; None: as many as anything is split over.
    """
    sizes = [x.shape[0] for x in jax.tree.leaves(per_head)]
    return repeated(per_head, max(sizes, default=1) if heads is None else heads, axis=0)


def varies(function: Callable[[Any], Any], mapped: Any, fixed: Any) -> bool:
    """Whether what a function gives depends on what differs by head; nothing is computed.

    Args:
      function: of a list of arrays, for one head.
      mapped: the arrays of all heads, [N, ...], None where heads have none of their own.
      fixed: an array in the place of each None.
    """
    if all(x is None for x in mapped):
        return False

    def of_head(mapped):
        return function([b if a is None else a for a, b in zip(mapped, fixed, strict=True)])

    try:
        jax.eval_shape(jax.vmap(of_head, out_axes=None), mapped)
    except ValueError:  # a mapped result where none was to be, or the function's own error
        jax.eval_shape(jax.vmap(of_head), mapped)
        return True
    return False
