"""Keys of a cache that come along: each as it is met from behind the last token, so that one query need not walk.

Yang et al. 2025, "PaTH Attention", arXiv:2505.16381, keep reflected keys like this: a step of decoding turns all keys
by one more token, which costs no more than reading them.
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

_BLOCK = 64  # tokens that keys are moved past at once


def come_along(encoding: Encoding) -> bool:
    """Whether a cache holds keys of this encoding as they are by now."""
    return not encoding.of_heads and any("come_along" in p.overridden for p in encoding.parts)


def _walking(encoding: Encoding) -> tuple[int, Encoding]:
    """Return the part that walks, and which it is."""
    (found,) = ((number, part) for number, part in enumerate(encoding.parts) if part.walks)
    return found


def _of_part(encoding: Encoding, features: Any) -> Any:
    return encoding.features_of_parts(features)[_walking(encoding)[0]]


def _replaced(encoding: Encoding, features: Any, of_part: Any) -> Any:
    """Return the features with others of the part that walks."""
    if len(encoding.parts) == 1:
        return of_part
    number, _ = _walking(encoding)
    each = encoding.features_of_parts(features)
    return (*each[:number], of_part, *each[number + 1 :])


def standing(encoding: Encoding, features: Any) -> tuple[Encoding, Any]:
    """Return the encoding and its features for queries of the last token: the walk has been walked."""
    one = nnx.merge(*nnx.split(encoding))
    for _, module in nnx.iter_graph(one):
        if isinstance(module, Slots):
            module.walks = False
    return one, _replaced(encoding, features, ())


def kept(encoding: Encoding, features: Any) -> Any:
    """Return what a cache keeps of features: what queries to come will meet."""
    if come_along(encoding):
        encoding, features = standing(encoding, features)
    return features if encoding.keeps_key_features else None


def of_own_heads(
    encoding: Encoding, k: Float[Array, "B T K H"], num_heads: int
) -> Float[Array, "B T heads H"]:
    """Return keys as a cache holds them: of query heads where each of these moves them in its own way.

    They are at least float32, for errors add up on the way.
    """
    if not come_along(encoding):
        return k
    _, part = _walking(encoding)
    k = k.astype(jnp.promote_types(k.dtype, jnp.float32))
    has_own = jax.tree.leaves(nnx.state(part, PerHead))
    return repeated(k, num_heads, axis=2) if has_own else k


def walked_past(encoding: Encoding, cache: Cache, features: Any) -> Cache:
    """Return the cache as a walk may go past it: of features that change nothing, for its keys have come along."""
    B, C = cache.written.shape
    zeros = jax.tree.map(
        lambda f: jnp.zeros((B, C, *f.shape[2:]), f.dtype), _of_part(encoding, features)
    )
    return dataclasses.replace(cache, features=_replaced(encoding, cache.features, zeros))


def moved(
    encoding: Encoding,
    past: Float[Array, "B C heads H"],
    now: Float[Array, "B T heads H"],
    features: Any,
) -> tuple[Array, Array]:
    """Return the keys of the past, and those of now, as they are met from behind the last token of now.

    Args:
      encoding: whose keys come along.
      past: the keys in the cache.
      now: keys behind them, as `of_own_heads` gives them.
      features: of the tokens of now.
    """
    heads = now.shape[2]
    split, per_head, shared = split_heads(_walking(encoding)[1])
    per_head = for_heads(per_head, heads)
    of_heads = 0 if jax.tree.leaves(per_head) else None
    features = repeated(_of_part(encoding, features), heads, axis=2)

    def one_head(per_head, past, now, features):
        return _moved(nnx.merge(split, per_head, shared), past, now, features)

    each_head = jax.vmap(one_head, in_axes=(of_heads, 1, 1, 1), out_axes=1)
    return jax.vmap(each_head, in_axes=(None, 0, 0, 0))(per_head, past, now, features)


def _moved(one: Encoding, past_CH: Array, now_TH: Array, features_T: Any) -> tuple[Array, Array]:
    """Move keys of one head and row: from the last block of tokens to the first, all behind it as one matrix."""
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
