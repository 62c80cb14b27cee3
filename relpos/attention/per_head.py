"""Parameters per head, and functions for arrays with an axis of heads."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class PerHead(nnx.Param):
    """A trained parameter whose first axis is heads; slots see it without that axis."""


class PerKeyHead(nnx.Param):
    """A trained parameter whose first axis is key heads: query heads that share a key head share the parameter.

    If `tokens` and `key` read no other parameters per head, a cache keeps their results once for each key head.
    """


class PerHeadConstant(nnx.Variable):
    """A fixed number per head (ALiBi's slopes): split like `PerHead`, never trained."""


class PerKeyHeadConstant(PerHeadConstant):
    """A fixed number per key head: split like `PerKeyHead`, never trained."""


OF_KEY_HEADS = (PerKeyHead, PerKeyHeadConstant)
SPLIT = (PerHead, PerKeyHead, PerHeadConstant)


def repeated(tree: Any, heads: int, *, axis: int) -> Any:
    """Repeat the entries of an axis of heads, each for its group, up to this number of heads."""

    def of_leaf(x):
        return x if x.shape[axis] == heads else jnp.repeat(x, heads // x.shape[axis], axis)

    return jax.tree.map(of_leaf, tree)


def for_heads(per_head: Any, heads: int | None = None) -> Any:
    """Repeat what is split over fewer heads, so that each head has its own entry.

    Args:
      per_head: state from `split_heads`, with leading axes N or K.
      heads: N; None: the largest leading axis.
    """
    sizes = [x.shape[0] for x in jax.tree.leaves(per_head)]
    return repeated(per_head, max(sizes, default=1) if heads is None else heads, axis=0)


def varies(function: Callable[[Any], Any], mapped: Any, fixed: Any) -> bool:
    """Whether a function's result depends on arrays that differ by head; nothing is computed.

    Args:
      function: a function of a list of arrays, for one head.
      mapped: the arrays of all heads, [N, ...]; None where heads share an array.
      fixed: the shared arrays; they replace each None.
    """
    if all(x is None for x in mapped):
        return False

    def of_head(mapped):
        return function([b if a is None else a for a, b in zip(mapped, fixed, strict=True)])

    try:
        jax.eval_shape(jax.vmap(of_head, out_axes=None), mapped)
    except ValueError:  # the result is mapped, or the function raised: then it raises again
        jax.eval_shape(jax.vmap(of_head), mapped)
        return True
    return False
