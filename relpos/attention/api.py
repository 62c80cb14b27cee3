"""`attention`: one function for every position encoding, path and platform."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from relpos import positions
from relpos.attention import checks, choices, distances, dropout, outward
from relpos.attention.distances import Tables
from relpos.attention.heads import Arrays, attend
from relpos.attention.plan import Filled, Plan
from relpos.attention.reference import Rules
from relpos.attention.slots import Slots, split_heads
from relpos.sharding import left_to_the_compiler


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    *,
    encoding: Slots | None = None,
    causal: bool = False,
    q_positions: Int[Array, "B T"] | None = None,
    k_positions: Int[Array, "B S"] | None = None,
    q_segments: Int[Array, "B T"] | None = None,
    k_segments: Int[Array, "B S"] | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    q_features: Any = None,
    k_features: Any = None,
    keys_ready: bool = False,
    tables: Tables | None = None,
    implementation: choices.Implementation = "auto",
    block_sizes: tuple[int, int] | None = None,
) -> Float[Array, "B T N H"]:
    """Attend with relative positions.

        logit[i, j] = scale * (query(q_i) . key(k_j) + q_i . a_K[d] + k_j . a_Q[d]) + b[d] + ...
        out[i]      = sum_j softmax_j(logit[i, :]) (v_j + a_V[d]),   d = position of i - position of j

    Memory is O(T + S) except for implementation="reference". Gradients are exact to q, k, v and every parameter of
    the encoding. A query that sees no key gets zeros.

    Args:
      q: queries; N is a multiple of K (grouped-query attention: query head n reads key head n // (N / K)).
      k: keys.
      v: values.
      encoding: from `relpos.encodings.create`; None: no positions.
      causal: a query sees keys at positions up to its own.
      q_positions: any integers, [B, T] or [T]. None: each token's place in its row, or, with segments, from the
        start of its segment.
      k_positions: likewise for the keys; give both or neither.
      q_segments: ids of the packed documents, [B, T] or [T]; tokens see only their own segment; 0 is padding. For
        self-attention pass the same array twice: distances are then known to be consecutive.
      k_segments: likewise for the keys; give both or neither.
      window: only keys with |d| < window.
      scale: of the dot products; None: 1 / sqrt(H).
      softcap: logits become softcap * tanh(logits / softcap).
      dropout_rate: the probability with which a weight is dropped, the others being scaled up; needs dropout_key.
      dropout_key: a JAX random key; the mask depends on it, batch row, head, row and column only.
      q_features: what `encodings.tokens` gives for content gates, a tree of [B, T, N, ...].
      k_features: likewise for the keys, a tree of [B, S, N, ...].
      keys_ready: k comes from `encodings.transform_keys`, out of a cache.
      tables: from `tabulate`, out of a cache; no distance may be longer than they are.
      implementation: "auto", "reference" (dense), "blockwise" or "pallas" (GPU kernels; interpreted elsewhere, for
        tests; O((T + S) constant_beyond) memory).
      block_sizes: queries and keys in a block; None: chosen by platform and shape.

    Returns:
      [B, T, N, H], the dtype of v.

    Raises:
      ValueError: shapes or options that do not fit, with what was given and what to do.
    """
    encoding = Slots() if encoding is None else encoding
    checks.check_arrays(q, k, v)
    checks.check_encoding(encoding, q.shape[2], q.shape[3], causal)
    checks.check_features(encoding, q, k, q_features, k_features)
    checks.check_options(implementation, softcap, dropout_rate, dropout_key)
    if tables is not None and not causal:
        raise ValueError("tables hold the distances of a causal cache: call with causal=True")
    B, T, N, H = q.shape
    S = k.shape[1]
    scale, window = checks.checked_scale(scale, H), checks.checked_window(window)
    block_sizes = checks.checked_blocks(block_sizes)
    q_segments, k_segments, same = checks.checked_pair(
        "segments", q_segments, k_segments, (B, T), (B, S)
    )
    q_positions, k_positions, _ = checks.checked_pair(
        "positions", q_positions, k_positions, (B, T), (B, S)
    )
    if 0 in (B, T, S):
        return jnp.zeros((B, T, N, v.shape[3]), v.dtype)
    consecutive = q_positions is None and (
        q_segments is None or (encoding.shift_invariant and same and not encoding.walks)
    )
    if consecutive and window is not None and choices.are_within(window, T, S):
        window = None  # every distance is nearer
    seeds = None
    if dropout_rate and dropout_key is not None:
        seeds = dropout.seeds(dropout_key, (B, N))
    graphdef, state = nnx.split(encoding)
    rules = Rules(scale, causal, window, softcap, dropout_rate)
    call = _Call(graphdef, rules, implementation, consecutive, keys_ready, block_sizes)
    places = (q_positions, k_positions, q_segments, k_segments)
    arrays = Arrays(state, tables, q, k, v, q_features, k_features, places, seeds)
    # A sharded sequence is gathered: every query may see every key.
    return left_to_the_compiler(_attention, (call,), q, 0, None, 2)(arrays)


class _Call(NamedTuple):
    """The static side of one call of `attention`."""

    graphdef: Any
    rules: Rules
    implementation: choices.Implementation
    consecutive: bool
    keys_ready: bool
    block_sizes: tuple[int, int] | None


@functools.partial(jax.jit, static_argnums=0)
def _attention(call: _Call, arrays: Arrays):
    """Plan, rotate queries and keys, and attend."""
    encoding = nnx.merge(call.graphdef, arrays.state)
    q, k, v = arrays.q, arrays.k, arrays.v
    q_positions, k_positions, q_segments, k_segments = arrays.places
    (_, T, N, H), S = q.shape, k.shape[1]
    plan = Plan.of(
        encoding, call.graphdef, call.rules, (T, S, H), q.dtype, arrays.tables,
        implementation=call.implementation, consecutive=call.consecutive,
        block_sizes=call.block_sizes,
    )  # fmt: skip
    if q_positions is None and not call.consecutive:
        q_positions = positions.within_segments(q_segments)
        k_positions = positions.within_segments(k_segments)
    if not plan.filled.own_vector_query:
        at_T = positions.contiguous(T) if q_positions is None else q_positions
        q = _transform(encoding, "query", q, at_T)
    if not call.keys_ready:
        at_S = positions.contiguous(S) if k_positions is None else k_positions
        k = _transform(encoding, "key", k, at_S, N)
    if v.shape[2] != k.shape[2]:
        v = jnp.repeat(v, k.shape[2] // v.shape[2], axis=2)
    k_features = arrays.k_features
    if encoding.walks and not call.consecutive:
        k, v, k_features, k_positions, k_segments = outward.in_order(
            k, v, k_features, k_positions, k_segments
        )
    places = (q_positions, k_positions, q_segments, k_segments)
    arrays = arrays._replace(q=q, k=k, v=v, k_features=k_features, places=places)
    return attend(plan, arrays)


def tabulate(encoding: Slots, length: int) -> Tables | None:
    """Evaluate the vectors of the distances 0 ... length - 1 for a cache; None where a step needs no table of them.

    A step of decoding would otherwise evaluate them anew, one for each key.
    """
    if encoding.constant_beyond is not None or not Filled.of(encoding).vectors:
        return None
    layout = distances.Layout(1, 1, consecutive=False, band=length - 1)
    split, per_head, shared = split_heads(encoding)

    def one_head(per_head):
        encoding = nnx.merge(split, per_head, shared)
        return distances.tabulate(encoding, None, Rules(1.0, causal=True), layout, 1, 1)

    return jax.vmap(one_head)(per_head)


def transform_keys(
    encoding: Slots, k: Float[Array, "B S K H"], positions_S: Int[Array, "*B S"], num_heads: int
) -> Float[Array, "B S K H"]:
    """Apply the encoding's `key` (a rotation) to keys, for a cache; [B, S, N, H] if it has parameters per head."""
    return _transform(encoding, "key", k, positions_S, num_heads)


def _transform(encoding, name: str, x_BTKH, positions_T, num_heads: int | None = None):
    """Vmap the encoding's `query` or `key` over heads and batch."""
    if name not in encoding.overridden:
        return x_BTKH
    split, per_head, shared = split_heads(encoding)
    by_head = bool(jax.tree.leaves(per_head))
    if by_head and num_heads is not None:
        x_BTKH = jnp.repeat(x_BTKH, num_heads // x_BTKH.shape[2], axis=2)

    def one_head(per_head, x_TH, positions_T):
        return getattr(nnx.merge(split, per_head, shared), name)(x_TH, positions_T)

    heads = jax.vmap(one_head, in_axes=(0 if by_head else None, 1, None), out_axes=1)
    rows = jax.vmap(heads, in_axes=(None, 0, 0 if positions_T.ndim == 2 else None))
    return rows(per_head, x_BTKH, positions_T).astype(x_BTKH.dtype)
