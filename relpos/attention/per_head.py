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


SPLIT = (PerHead, PerKeyHead, PerHeadConstant)


def repeated(tree: Any, heads: int, *, axis: int) -> Any:
    """Repeat the entries of an axis of heads, each for its group, up to this number of heads."""

    def of_leaf(x):
        return x if x.shape[axis] == heads else jnp.repeat(x, heads // x.shape[axis], axis)

    return jax.tree.map(of_leaf, tree)


def for_heads(per_head: Any, heads: int | None = None) -> Any:
    """Repeat state from `split_heads` along its leading axes, N or K, up to `heads`; None: up to the largest."""
    sizes = [x.shape[0] for x in jax.tree.leaves(per_head)]
    return repeated(per_head, max(sizes, default=1) if heads is None else heads, axis=0)


def varies(function: Callable[[Any], Any], of_heads: Any, heads: int) -> bool:
    """Whether a function of one head's tree of arrays depends on those that differ by head; nothing is computed.

    In `of_heads`, each array has a leading axis: of `heads` entries if it differs by head, of fewer if heads share it.
    """
    leaves, tree = jax.tree.flatten(of_heads)
    own = [x if x.shape[0] == heads else None for x in leaves]
    if all(x is None for x in own):
        return False

    def of_head(own):
        one = [x[0] if mine is None else mine for x, mine in zip(leaves, own, strict=True)]
        return function(jax.tree.unflatten(tree, one))

    try:
        jax.eval_shape(jax.vmap(of_head, out_axes=None), own)
    except ValueError:  # the result is mapped, or the function raised: then it raises again
        jax.eval_shape(jax.vmap(of_head), own)
        return True
    return False
