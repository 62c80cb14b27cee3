"""Cached keys kept up to date: each as a query after the last token sees it, so that decoding needs no walk.

Yang et al. 2025, "PaTH Attention", arXiv:2505.16381, keep reflected keys in this way: each decoding step applies the
reflection of one more token to all keys, which costs no more than reading them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from relpos.attention import PerHead, Slots, split_heads
from relpos.attention.per_head import for_heads, repeated
from relpos.encodings import Encoding
from relpos.nn.cache import Cache

_BLOCK = 64  # tokens that keys are moved past at a time


def come_along(encoding: Encoding) -> bool:
    """Whether a cache keeps the keys of this encoding up to date."""
    return not encoding.of_heads and any("come_along" in p.overridden for p in encoding.parts)


def _walking(encoding: Encoding) -> tuple[int, Encoding]:
    """Return the number of the part that walks, and the part."""
    (found,) = ((number, part) for number, part in enumerate(encoding.parts) if part.walks)
    return found


def _replaced(encoding: Encoding, features: Any, of_part: Any) -> Any:
    """Return the features, with those of the part that walks replaced."""
    if len(encoding.parts) == 1:
        return of_part
    number, _ = _walking(encoding)
    each = encoding.features_of_parts(features)
    return (*each[:number], of_part, *each[number + 1 :])


def standing(encoding: Encoding, features: Any) -> tuple[Encoding, Any]:
    """Return the encoding and its features for queries of the last token, which need no walk."""
    one = nnx.merge(*nnx.split(encoding))
    for _, module in nnx.iter_graph(one):
        if isinstance(module, Slots):
            module.walks = False
    return one, _replaced(encoding, features, ())


def kept(encoding: Encoding, features: Any) -> Any:
    """Return the features that a cache keeps for later queries."""
    if come_along(encoding):
        encoding, features = standing(encoding, features)
    return features if encoding.keeps_key_features else None


def of_own_heads(
    encoding: Encoding, k: Float[Array, "B T K H"], num_heads: int
) -> Float[Array, "B T heads H"]:
    """Return keys as a cache holds them: one for each query head, if these move keys differently.

    They are at least float32, because errors add up.
    """
    if not come_along(encoding):
        return k
    _, part = _walking(encoding)
    k = k.astype(jnp.promote_types(k.dtype, jnp.float32))
    has_own = jax.tree.leaves(nnx.state(part, PerHead))
    return repeated(k, num_heads, axis=2) if has_own else k


def walked_past(encoding: Encoding, cache: Cache, features: Any) -> Cache:
    """Return the cache for a walk over it: its keys are up to date, so the features of the part that walks are 0."""
    B, C = cache.written.shape
    of_part = encoding.features_of_parts(features)[_walking(encoding)[0]]
    zeros = jax.tree.map(lambda f: jnp.zeros((B, C, *f.shape[2:]), f.dtype), of_part)
    return dataclasses.replace(cache, features=_replaced(encoding, cache.features, zeros))


def moved(
    encoding: Encoding,
    past: Float[Array, "B C heads H"],
    now: Float[Array, "B T heads H"],
    features: Any,
) -> tuple[Array, Array]:
    """Return the keys in a cache and new ones, from `of_own_heads`, as a query after the last new token sees them."""
    heads = now.shape[2]
    number, part = _walking(encoding)
    split, per_head, shared = split_heads(part)
    per_head = for_heads(per_head, heads)
    axis = 0 if jax.tree.leaves(per_head) else None
    features = repeated(encoding.features_of_parts(features)[number], heads, axis=2)

    def one_head(per_head, past, now, features):
        return _moved(nnx.merge(split, per_head, shared), past, now, features)

    each_head = jax.vmap(one_head, in_axes=(axis, 1, 1, 1), out_axes=1)
    return jax.vmap(each_head, in_axes=(None, 0, 0, 0))(per_head, past, now, features)


def _moved(one: Encoding, past_CH: Array, now_TH: Array, features_T: Any) -> tuple[Array, Array]:
    """Move the keys of one head and row, block by block from the last; one matrix moves past all later blocks."""
    T, H = now_TH.shape
    size = min(T, _BLOCK)

    def cut(x):
        x = jnp.pad(x, [(0, -T % size)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, size, *x.shape[1:])

    blocks = jax.vmap(one.key_block)(*jax.tree.map(cut, (now_TH, features_T)))
    if size == T:
        (block,) = jax.tree.map(lambda x: x[0], (blocks,))
        past, now = one.come_along(past_CH.astype(now_TH.dtype), block), one.at_end(block)
        return past.astype(past_CH.dtype), now.astype(now_TH.dtype)

    def visit(behind_HH, block):
        with jax.default_matmul_precision("highest"):
            now_KH = one.at_end(block) @ behind_HH
            return one.come_along(jnp.eye(H, dtype=behind_HH.dtype), block) @ behind_HH, now_KH

    all_HH, now = jax.lax.scan(visit, jnp.eye(H, dtype=now_TH.dtype), blocks, reverse=True)
    with jax.default_matmul_precision("highest"):
        past = past_CH @ all_HH
    return past.astype(past_CH.dtype), now.reshape(-1, H)[:T].astype(now_TH.dtype)
