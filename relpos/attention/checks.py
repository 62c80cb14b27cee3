"""Checks of the arguments of `attention`; each error says what was given and what to do."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.attention import by_heads, choices
from relpos.attention.per_head import PerKeyHead, PerKeyHeadConstant
from relpos.attention.slot_use import SlotUse
from relpos.attention.slots import Slots, split_heads
from relpos.positions import Consecutive


def check_arrays(q, k, v, *, keys_ready: bool = False) -> None:
    """Check the shapes of queries, keys and values; keys that are ready may have any width."""
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if not (q.ndim == k.ndim == v.ndim == 4):
        raise ValueError(f"q must be [B, T, N, H], k and v [B, S, K, H]; got {shapes}")
    same_width = keys_ready or q.shape[3] == k.shape[3]
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or not same_width:
        raise ValueError(
            f"batch, key length, key heads or head size disagree: {shapes}; "
            "expected q [B, T, N, H], k and v [B, S, K, H]"
        )
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"{q.shape[2]} query heads cannot share {k.shape[2]} key heads evenly: "
            f"the number of query heads must be a multiple of the number of key heads ({shapes})"
        )


def check_encoding(
    encoding: Any,
    num_heads: int,
    key_heads: int | None,
    head_dim: int,
    causal: bool,
    *,
    may_be_unbound: bool = False,
) -> None:
    """Check that this is an encoding, made for these heads; key_heads None: any number."""
    if not isinstance(encoding, Slots):
        raise ValueError(
            f"encoding must come from relpos.encodings.create(name, num_heads=..., head_dim=..., rngs=...), "
            f"got {encoding!r}"
        )
    name = type(encoding).__name__
    if encoding.of_heads:
        counts = [count for _, count in encoding.of_heads]
        if sum(counts) != num_heads:
            raise ValueError(
                f"{name} was made for {' + '.join(map(str, counts))} heads, but the queries have {num_heads}"
            )
        for part in by_heads.slices(encoding, num_heads, key_heads or num_heads):
            K = key_heads and part.keys.stop - part.keys.start
            check_encoding(
                part.encoding, part.heads, K, head_dim, causal, may_be_unbound=may_be_unbound
            )
        return
    if encoding.adds_to_input():
        raise ValueError(
            f"{name} adds positions to the model's input, which attention does not see: call its `embed` on the input, "
            "and call attention without an encoding"
        )
    if not may_be_unbound and any(part.unbound for part in encoding.parts):
        raise ValueError(
            f"{name} reads the layer's projections: pass the encoding that "
            "relpos.encodings.bind(encoding, query_DNH, key_DKH) returns, or use relpos.RelativeAttention"
        )
    _, per_head, _ = split_heads(encoding)
    for path, leaf in nnx.to_flat_state(per_head):
        told, heads = ".".join(map(str, path)), leaf[...].shape[0]
        of_keys = isinstance(leaf, PerKeyHead | PerKeyHeadConstant)
        if not of_keys and heads != num_heads:
            raise ValueError(
                f"{name} was made for {heads} heads ({told}), but the queries have {num_heads}"
            )
        if of_keys and (num_heads % heads if key_heads is None else heads != key_heads):
            raise ValueError(
                f"{name} was made for {heads} key heads ({told}), but the keys have {key_heads or num_heads}: create "
                "it with relpos.encodings.create(..., num_kv_heads=...)"
            )
    if encoding.head_dim is not None and encoding.head_dim != head_dim:
        raise ValueError(
            f"{name} was made for head_dim={encoding.head_dim}, but the queries have head size {head_dim}"
        )
    if encoding.causal_only and not causal:
        raise ValueError(
            f"{name} is defined for keys in the past only: call with causal=True, set its option "
            f"bidirectional=True if it has one, or choose another scheme"
        )


def check_features(encoding: Slots, arrays: Any, *, keys_ready: bool) -> None:
    """Check that an encoding that reads the layer's input is given the features of these tokens."""
    if not encoding.needs_tokens or encoding.of_heads:  # each part is checked separately
        return
    of_keys = encoding.keeps_key_features or not keys_ready
    if arrays.q_features is None or (arrays.k_features is None and of_keys):
        raise ValueError(
            f"{type(encoding).__name__} computes features from the layer's input: pass q_features and "
            "k_features as relpos.encodings.tokens gives them, or use relpos.RelativeAttention"
        )
    N, K = arrays.q.shape[2], arrays.k.shape[2]
    sides = ("q", arrays.q_features, arrays.q), ("k", arrays.k_features, arrays.k)
    for name, features, x in sides:
        for leaf in jax.tree.leaves(features):
            expected, heads = (*x.shape[:2], N), leaf.shape[2]
            # A cache may hold one key for each query head.
            shared = N % heads == 0 if keys_ready else heads in (1, K, N)
            if leaf.shape[:2] != expected[:2] or not shared:
                raise ValueError(
                    f"{name}_features must have the tokens and heads of {name}: "
                    f"[{', '.join(map(str, expected))}, ...], got {list(leaf.shape)}; heads may share features"
                )


def check_kernels(encoding: Slots, filled: SlotUse, *, vector_per_distance: bool) -> None:
    """Check that the GPU kernels support an encoding."""
    endless = ", give it constant_beyond (a clamp), or fill factored_query and factored_key"
    refused = [
        (filled.walks, "it walks along the row, from block to block of keys", ""),
        (filled.mixes, "it mixes the logits of all heads, and a kernel sees only one", ""),
        (filled.sink, "it has an attention sink", ""),
        (not filled.normalized, "its weights are not divided by their sum", ""),
        (vector_per_distance, "it has a vector for every distance", endless),
    ]
    for found, why, more in refused:
        if found:
            raise choices.NoKernelError(
                f'implementation="pallas" does not support {type(encoding).__name__}: {why}; use '
                f'implementation="auto" or "blockwise"{more}'
            )


def check_options(implementation, softcap, dropout_rate, dropout_key) -> None:
    """Check the options of a call."""
    if implementation not in choices.IMPLEMENTATIONS:
        known = ", ".join(choices.IMPLEMENTATIONS)
        raise ValueError(f"unknown implementation {implementation!r}; known: {known}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive, got {softcap}; use None for no cap")
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"dropout_rate must be in [0, 1), got {dropout_rate}")
    if dropout_rate and dropout_key is None:
        raise ValueError("dropout_rate > 0 needs a dropout_key (a JAX random key)")


def checked_scale(scale: Any, head_dim: int) -> float:
    """Return the scale as a finite float."""
    if scale is None:
        return 1 / math.sqrt(head_dim)
    if isinstance(scale, jax.core.Tracer):
        raise ValueError(
            "scale must be a Python number, not a traced array: multiply the queries by a trained scale instead"
        )
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return float(scale)


def check_rules(encoding: Slots, scale: float, softcap: float | None) -> None:
    """Check that the scale may divide unscaled products, and that a softmax follows the softcap."""
    name = type(encoding).__name__
    if not encoding.scaled_vectors and scale == 0:
        raise ValueError(f"{name} adds products that are not scaled, so scale must not be 0")
    if softcap is not None and not encoding.normalized:  # exp of a capped logit is no weight
        raise ValueError(
            f"softcap={softcap} caps the logits of a softmax, but {name} has no softmax: leave softcap out"
        )


def check_ready_keys(q_width: int, k_width: int) -> None:
    """Check that keys out of a cache are as wide as the queries."""
    if q_width != k_width:
        raise ValueError(
            f"keys_ready=True: the keys are {k_width} wide, but the encoding makes the queries {q_width} wide: "
            "pass keys that relpos.encodings.transform_keys returned for this encoding"
        )


def checked_blocks(block_sizes: Any) -> tuple[int, int] | None:
    """Return the block sizes as a pair of ints."""
    if block_sizes is None:
        return None
    given = tuple(block_sizes) if isinstance(block_sizes, tuple | list) else (block_sizes,)
    try:
        sizes = tuple(map(operator.index, given))
    except TypeError as error:  # a traced array raises it, too
        raise ValueError(
            f"block_sizes must be two positive Python integers, not traced arrays, got {block_sizes!r}"
        ) from error
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"block_sizes must be two positive integers, got {block_sizes}")
    return sizes[0], sizes[1]


def checked_segments(q, k, q_shape, k_shape):
    """Return both segments, broadcast to [B, T] and [B, S]."""
    if _neither("segments", q, k):
        return None, None
    arrays = []
    for name, x, shape in (("q", q, q_shape), ("k", k, k_shape)):
        x = jnp.asarray(x)
        is_whole = x.dtype == bool or jnp.issubdtype(x.dtype, jnp.integer)  # False: padding
        if x.shape not in (shape, shape[1:]) or not is_whole:
            raise ValueError(
                f"{name}_segments must be integers of shape {list(shape)} or {list(shape[1:])}, "
                f"got {x.dtype}{list(x.shape)}"
            )
        arrays.append(jnp.broadcast_to(x.astype(jnp.int32), shape))
    return tuple(arrays)


def checked_numbers(what: str, q, k, q_shape, k_shape, *, with_axes: bool = False):
    """Return positions or orders, broadcast to [B, T] and [B, S], or [B, T, axes] and [B, S, axes].

    If both are `Consecutive`, they are returned as they are. No gradient flows through them.
    """
    if _neither(what, q, k):
        return None, None
    if with_axes and isinstance(q, Consecutive) and isinstance(k, Consecutive):
        _check_start(f"q_{what}", q, q_shape[0])
        _check_start(f"k_{what}", k, k_shape[0])
        return q, k
    q = checked_number(f"q_{what}", q, q_shape, with_axes=with_axes)
    k = checked_number(f"k_{what}", k, k_shape, with_axes=with_axes)
    if q.shape[2:] != k.shape[2:]:
        raise ValueError(
            f"q_{what} and k_{what} must have the same axes, got {list(q.shape)} and {list(k.shape)}"
        )
    dtype = jnp.result_type(q, k)
    return q.astype(dtype), k.astype(dtype)


def checked_number(name: str, x: Any, shape: tuple[int, ...], *, with_axes: bool) -> jax.Array:
    """Return positions or orders, broadcast to [B, T] or [B, T, axes], as int32 or real numbers."""
    if isinstance(x, Consecutive):
        _check_start(name, x, shape[0])
        return jnp.broadcast_to(x.of(shape[1]), shape)
    x = jnp.asarray(x)
    axes = x.shape[-1:] if with_axes and x.shape not in (shape, shape[1:]) else ()
    is_real = x.dtype in (jnp.float32, jnp.float64)
    if x.shape not in ((*shape, *axes), (*shape[1:], *axes)) or not (
        is_real or jnp.issubdtype(x.dtype, jnp.integer)
    ):
        more = f", or with axes {[*shape, 'axes']} or {[*shape[1:], 'axes']}" if with_axes else ""
        raise ValueError(
            f"{name} must be integers, float32 or float64 of shape {list(shape)} or {list(shape[1:])}{more}; "
            f"got {x.dtype}{list(x.shape)}"
        )
    x = jax.lax.stop_gradient(x) if is_real else x.astype(jnp.int32)
    return jnp.broadcast_to(x, (*shape, *axes))


def _check_start(name: str, x: Consecutive, rows: int) -> None:
    """Check that consecutive positions have one start, or one for each row."""
    if jnp.shape(x.start) not in ((), (rows,)):
        raise ValueError(
            f"{name} must have one start, or one for each row [{rows}], got starts {list(jnp.shape(x.start))}"
        )


def check_positions(encoding: Slots, positions: Any) -> None:
    """Check that an encoding supports these positions, [B, T] or [B, T, axes]."""
    if positions is None or not encoding.reads_positions or isinstance(positions, Consecutive):
        return
    inner = [part for part, _ in encoding.of_heads] or encoding.parts
    if encoding not in inner:
        for part in inner:
            check_positions(part, positions)
        return
    name, axes = type(encoding).__name__, positions.shape[2:]
    if axes and axes[0] != encoding.axes:
        wanted = "one number" if encoding.axes == 1 else f"{encoding.axes} numbers"
        raise ValueError(
            f"{name} takes {wanted} for each token's position, but positions {list(positions.shape)} have {axes[0]}: "
            "choose a scheme for that many axes, such as rope_2d for two or mrope for any, or give each token's "
            "position as one number"
        )
    if jnp.issubdtype(positions.dtype, jnp.floating) and not encoding.reals:
        raise ValueError(
            f"{name} is defined for integer positions only, but these are {positions.dtype}: round them to "
            "integers, or choose a scheme that is a formula of the distance, such as rope, alibi or fire"
        )


def _neither(what: str, q: Any, k: Any) -> bool:
    """Whether neither is given; refuse one without the other."""
    if (q is None) != (k is None):
        given, missing = ("q", "k") if k is None else ("k", "q")
        raise ValueError(
            f"{given}_{what} without {missing}_{what}: give both (for self-attention the same array twice) or neither"
        )
    return q is None
