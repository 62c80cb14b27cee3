"""Apply an encoding's slots of tokens, outside the loop over blocks: to queries, keys, values and outputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from relpos.attention import by_heads
from relpos.attention.one_head import split_heads
from relpos.attention.per_head import for_heads, repeated, varies
from relpos.attention.slot_use import SlotUse
from relpos.attention.slots import Slots

Slot = Callable[
    [Slots, Array, Array, Any], Array
]  # (encoding of one head, x_TH, positions_T, features_T) -> [T, W]


def queries(
    encoding: Slots, q: Array, positions_T: Array, features: Any
) -> Float[Array, "B T N W"]:
    """Apply the encoding's `query` to the queries."""
    if "query" not in encoding.overridden:
        return q
    return _of_each_token(encoding, _slot("query"), q, positions_T, features)


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
        of_part = lambda part, k, heads, found: keys(part, k, positions_S, heads, found)  # noqa: E731
        return by_heads.of_keys(of_part, encoding, k, num_heads, features)
    return _keys_or_values(encoding, _key_and_vector(encoding), k, positions_S, num_heads, features)


def values(
    encoding: Slots,
    v: Float[Array, "B S K H"],
    positions_S: Num[Array, "B S *axes"],
    num_heads: int,
    features: Any = None,
) -> Float[Array, "B S K H"]:
    """Apply the encoding's `value` to values, for a cache; the result is [B, S, N, H] if it differs by query head."""
    if encoding.of_heads:
        of_part = lambda part, v, heads, found: values(part, v, positions_S, heads, found)  # noqa: E731
        return by_heads.of_keys(of_part, encoding, v, num_heads, features)
    slot = _slot("value") if "value" in encoding.overridden else None
    return _keys_or_values(encoding, slot, v, positions_S, num_heads, features)


def finish(
    encoding: Slots, out: Array, positions_T: Array, features: Any
) -> Float[Array, "B T N H"]:
    """Apply the encoding's `finish` to the outputs."""
    if "finish" not in encoding.overridden:
        return out
    return _of_each_token(encoding, _slot("finish"), out, positions_T, features)


def match_heads(k: Array, v: Array) -> tuple[Array, Array]:
    """Repeat keys or values if the encoding gave only the other side one entry for each query head."""
    K = max(k.shape[2], v.shape[2])
    return jnp.repeat(k, K // k.shape[2], axis=2), jnp.repeat(v, K // v.shape[2], axis=2)


def _slot(name: str) -> Slot:
    """Return a function that calls the slot of this name."""
    return lambda encoding, *arguments: getattr(encoding, name)(*arguments)


def _key_beside_vector(encoding, x_SH, positions_S, features_S):
    vector = encoding.vector_key(x_SH, positions_S, features_S)
    return jnp.concatenate([encoding.key(x_SH, positions_S, features_S), vector], -1)


def _key_and_vector(encoding: Slots) -> Slot | None:
    if "query_vectors" in encoding.overridden and SlotUse.of(encoding).own_vector_key:
        return _key_beside_vector
    return _slot("key") if "key" in encoding.overridden else None


def features_of_heads(features: Any, heads: int) -> Any:
    """Repeat features that heads share, so that each head has its own entry."""
    return repeated(features, heads, axis=2)


def _keys_or_values(encoding, slot, x_BSKH, positions_S, num_heads, features):
    if slot is None:
        return x_BSKH
    K = x_BSKH.shape[2]
    if not _differs_by_query_head(encoding, slot, x_BSKH, positions_S, num_heads, features):
        # Features of query heads are not read, so any will do.
        features = features_of_heads(jax.tree.map(lambda f: f[:, :, :K], features), K)
        return _of_each_token(encoding, slot, x_BSKH, positions_S, features)
    x_BSNH = jnp.repeat(x_BSKH, num_heads // x_BSKH.shape[2], axis=2)
    features = features_of_heads(features, num_heads)
    return _of_each_token(encoding, slot, x_BSNH, positions_S, features)


def _of_each_token(encoding, slot: Slot, x_BTNH, positions_T, features):
    """Vmap a slot over heads and rows; if x has key heads, the slot does not read parameters of query heads."""
    split, per_head, shared = split_heads(encoding)
    heads = x_BTNH.shape[2]
    of_fewer = lambda x: x[:heads] if x.shape[0] > heads else x  # noqa: E731
    per_head = for_heads(jax.tree.map(of_fewer, per_head), heads)
    of_heads = 0 if jax.tree.leaves(per_head) else None

    def one_head(per_head, x_TH, positions_T, features_T):
        return slot(nnx.merge(split, per_head, shared), x_TH, positions_T, features_T)

    heads = jax.vmap(one_head, in_axes=(of_heads, 1, None, 1), out_axes=1)
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
    parameters, of_parameters = jax.tree.flatten(per_head)
    leaves, of_features = jax.tree.flatten(features)
    own = [x if x.shape[0] == num_heads else None for x in parameters]
    own += [jnp.moveaxis(f[0], 1, 0) if f.shape[2] == num_heads else None for f in leaves]
    of_first = [*(x[0] for x in parameters), *(f[0, :, 0] for f in leaves)]
    x_SH = x_BSKH[0, :, 0]
    positions_S = positions[0] if positions.shape[:2] == x_BSKH.shape[:2] else positions

    def one_head(arrays):
        per_head = jax.tree.unflatten(of_parameters, arrays[: len(parameters)])
        features_S = jax.tree.unflatten(of_features, arrays[len(parameters) :])
        return slot(nnx.merge(split, per_head, shared), x_SH, positions_S, features_S)

    return varies(one_head, own, of_first)
