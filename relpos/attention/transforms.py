"""Apply an encoding's slots of tokens, outside the loop over blocks: to queries, keys, values and outputs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from relpos.attention import by_heads
from relpos.attention.per_head import for_heads, repeated, varies
from relpos.attention.slot_use import SlotUse
from relpos.attention.slots import Slots, split_heads

# (encoding of one head, x_TH, positions_T, features_T) -> [T, W]
Slot = Callable[[Slots, Array, Array, Any], Array]


def _of_queries(
    name: str, encoding: Slots, x: Float[Array, "B T N H"], positions_T: Array, features: Any
) -> Float[Array, "B T N W"]:
    slot = _slot(encoding, name)
    return x if slot is None else _of_each_token(encoding, slot, x, positions_T, features)


queries = functools.partial(_of_queries, "query")
finish = functools.partial(_of_queries, "finish")


def keys(
    encoding: Slots,
    k: Float[Array, "B S K H"],
    positions_S: Num[Array, "B S *axes"],
    num_heads: int,
    features: Any = None,
) -> Float[Array, "B S K W"]:
    """Apply the encoding's `key` (such as a rotation) to keys, for a cache.

    Args:
      encoding: an encoding of N heads.
      k: keys.
      positions_S: their positions, [B, S] or [S], which may have axes.
      num_heads: N.
      features: from `encodings.tokens`, if the encoding computes features.

    Returns:
      The keys for the queries, followed by the keys for the query vectors, if these differ. [B, S, N, W] if they
      differ by query head.
    """
    if encoding.of_heads:
        return by_heads.of_keys(keys, encoding, k, positions_S, num_heads, features)
    slot = _slot(encoding, "key")
    if "query_vectors" in encoding.overridden and SlotUse.of(encoding).own_vector_key:
        slot = _key_beside_vector
    return _keys_or_values(encoding, slot, k, positions_S, num_heads, features)


def values(
    encoding: Slots,
    v: Float[Array, "B S K H"],
    positions_S: Num[Array, "B S *axes"],
    num_heads: int,
    features: Any = None,
) -> Float[Array, "B S K H"]:
    """Apply the encoding's `value` to values, for a cache; the result is [B, S, N, H] if it differs by query head."""
    if encoding.of_heads:
        return by_heads.of_keys(values, encoding, v, positions_S, num_heads, features)
    return _keys_or_values(encoding, _slot(encoding, "value"), v, positions_S, num_heads, features)


def match_heads(k: Array, v: Array) -> tuple[Array, Array]:
    """Repeat keys or values if the encoding gave only the other side one entry for each query head."""
    K = max(k.shape[2], v.shape[2])
    return repeated(k, K, axis=2), repeated(v, K, axis=2)


def _slot(encoding: Slots, name: str) -> Slot | None:
    """Return a function that calls the slot of this name; None if it is empty."""
    if name not in encoding.overridden:
        return None
    return lambda one, *arguments: getattr(one, name)(*arguments)


def _key_beside_vector(one: Slots, *arguments: Any) -> Array:
    return jnp.concatenate([one.key(*arguments), one.vector_key(*arguments)], -1)


def _keys_or_values(encoding, slot: Slot | None, x_BSKH, positions_S, num_heads, features):
    if slot is None:
        return x_BSKH
    if _differs_by_query_head(encoding, slot, x_BSKH, positions_S, num_heads, features):
        x_BSKH = repeated(x_BSKH, num_heads, axis=2)
    else:  # features of query heads are not read, so any will do
        features = jax.tree.map(lambda f: f[:, :, : x_BSKH.shape[2]], features)
    return _of_each_token(encoding, slot, x_BSKH, positions_S, features)


def _of_each_token(encoding, slot: Slot, x_BTNH, positions_T, features):
    """Vmap a slot over heads and rows; if x has key heads, the slot does not read parameters of query heads."""
    split, per_head, shared = split_heads(encoding)
    N = x_BTNH.shape[2]
    per_head = for_heads(jax.tree.map(lambda x: x[:N], per_head), N)
    features = repeated(features, N, axis=2)

    def one_head(per_head, x_TH, positions_T, features_T):
        return slot(nnx.merge(split, per_head, shared), x_TH, positions_T, features_T)

    heads = jax.vmap(one_head, in_axes=(0, 1, None, 1), out_axes=1)
    by_row = 0 if positions_T.shape[:2] == x_BTNH.shape[:2] else None
    rows = jax.vmap(heads, in_axes=(None, 0, by_row, 0))
    return rows(per_head, x_BTNH, positions_T, features).astype(x_BTNH.dtype)


def _differs_by_query_head(
    encoding, slot: Slot, x_BSKH, positions, num_heads: int, features
) -> bool:
    """Whether a slot's result depends on a parameter or feature of the query head; nothing is computed."""
    if num_heads == x_BSKH.shape[2]:
        return False
    split, per_head, shared = split_heads(encoding)
    x_SH = x_BSKH[0, :, 0]
    positions_S = positions[0] if positions.shape[:2] == x_BSKH.shape[:2] else positions

    def one_head(of_head):
        per_head, features_S = of_head
        return slot(nnx.merge(split, per_head, shared), x_SH, positions_S, features_S)

    of_first_row = jax.tree.map(lambda f: jnp.moveaxis(f[0], 1, 0), features)
    return varies(one_head, (per_head, of_first_row), num_heads)
