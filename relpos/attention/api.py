"""`attention`: one function for every position encoding, path and platform."""

import functools
import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos import positions
from relpos.attention import (
    by_heads,
    checks,
    choices,
    distances,
    dropout,
    outward,
    regions,
    transforms,
)
from relpos.attention.block_visibility import are_within
from relpos.attention.distances import Tables
from relpos.attention.heads import attend
from relpos.attention.per_head import repeated
from relpos.attention.plan import Known, Plan
from relpos.attention.prepared import Arrays, Location, position_of
from relpos.attention.reference import Rules
from relpos.attention.slot_use import SlotUse
from relpos.attention.slots import Slots, each_head
from relpos.positions import Consecutive
from relpos.sharding import left_to_the_compiler

_log = logging.getLogger(__name__)


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    *,
    encoding: Slots | None = None,
    causal: bool = False,
    q_positions: Num[Array, "B T *axes"] | Consecutive | None = None,
    k_positions: Num[Array, "B S *axes"] | Consecutive | None = None,
    q_segments: Int[Array, "B T"] | None = None,
    k_segments: Int[Array, "B S"] | None = None,
    q_order: Num[Array, "B T"] | None = None,
    k_order: Num[Array, "B S"] | None = None,
    window: int | tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    q_features: Any = None,
    k_features: Any = None,
    keys_ready: bool = False,
    tables: tuple[Any, ...] | None = None,
    implementation: choices.Implementation = "auto",
    block_sizes: tuple[int, int] | None = None,
) -> Float[Array, "B T N H"]:
    """Attend with relative positions.

        logit[i, j] = scale * (query(q_i) . key(k_j) + q_i . a_K[d] + k_j . a_Q[d]) + b[d] + ...
        out[i]      = sum_j softmax_j(logit[i, :]) (v_j + a_V[d]),   d = position of i - position of j

    The docstring of `relpos.attention.slots` has the whole equation.

    Memory is O(T + S), except for implementation="reference" and "pallas" (see below). Gradients to q, k, v and every
    parameter of the encoding are exact. A query that sees no key gets zeros.

    Args:
      q: queries; N is a multiple of K (grouped-query attention: query head n reads key head n // (N / K)).
      k: keys.
      v: values.
      encoding: from `relpos.encodings.create`; None: no positions.
      causal: whether a query sees only keys at positions up to its own.
      q_positions: any integers or real numbers (float32, float64), [B, T] or [T]; or, with axes, [B, T, axes] or [T,
        axes]. The encoding defines which of these it takes. None: each token's index in its row or, with segments, in
        its segment. Positions get no gradient. For positions that rise by one from token to token, pass
        `relpos.positions.consecutive(start)`: given for both sides, it is as fast as None.
      k_positions: likewise for the keys; give both or neither.
      q_segments: ids of the packed documents, [B, T] or [T]; tokens see only their own segment; 0 is padding. For
        self-attention pass the same array twice: attention then knows that positions are consecutive.
      k_segments: likewise for the keys; give both or neither.
      q_order: any numbers, [B, T] or [T], which define causality and windows. None: the positions or, if these have
        axes, each token's index in its row. Give it where positions repeat or restart, as digit indices do: a token
        would otherwise see tokens that come after it.
      k_order: likewise for the keys; give both or neither.
      window: a query sees only keys with |d| < window, d being the difference in the order. A pair (past, future) sets
        one limit for each side; None: no limit on that side (`relpos.positions.Window`).
      scale: the scale of the dot products; None: the encoding's `logit_scale` or, without one, 1 / sqrt(H).
      softcap: logits become softcap * tanh(logits / softcap).
      dropout_rate: the probability of dropping a weight; the others are scaled up. Needs dropout_key.
      dropout_key: a JAX random key; the mask depends only on it and the batch row, head, and indices of query and key.
      q_features: the features from `encodings.tokens`, if the encoding reads the layer's input, a tree of
        [B, T, N, ...]; features that heads share have K or 1 in place of N.
      k_features: likewise for the keys, a tree of [B, S, N, ...].
      keys_ready: whether k and v come from a cache, from `encodings.transform_keys` and `transform_values`; k_features
        are then needed only by encodings that read them together with q_features.
      tables: from `tabulate`, out of a cache; they must cover every distance.
      implementation: "reference" (dense), "blockwise", "pallas" (GPU kernels; interpreted on other platforms, for
        tests; O((T + S) constant_beyond) memory), or "auto": dense for few pairs without vectors; else the kernels, on
        one GPU of a tested compute capability, if they support the call; else blockwise.
      block_sizes: numbers of queries and keys in a block; None: chosen by platform and shape.

    Returns:
      [B, T, N, H], in the dtype of v.

    Raises:
      ValueError: shapes or options do not fit together; the message says what was given and what to do.
    """
    encoding = Slots() if encoding is None else encoding
    checks.check_arrays(q, k, v, keys_ready=keys_ready)
    key_heads = None if keys_ready else k.shape[2]  # a cache may have more
    checks.check_encoding(encoding, q.shape[2], key_heads, q.shape[3], causal)
    checks.check_options(implementation, softcap, dropout_rate, dropout_key)
    if tables is not None and not causal:
        raise ValueError("tables hold only distances from 0 up: call with causal=True")
    (B, T, N, H), S = q.shape, k.shape[1]
    scale = None if scale is None else checks.checked_scale(scale, H)
    block_sizes = checks.checked_blocks(block_sizes)
    sides = ((B, T), (B, S))
    segments = checks.checked_segments(q_segments, k_segments, *sides)
    at = checks.checked_numbers("positions", q_positions, k_positions, *sides, with_axes=True)
    order = checks.checked_numbers("order", q_order, k_order, *sides)
    checks.check_positions(encoding, at[0])
    at, order = _one_number(encoding, at, order)
    ordered = order[0] is not None
    if tables is not None and ordered:
        raise ValueError("tables hold no negative distances: leave out tables, or the orders")
    if 0 in (B, T, S):
        return jnp.zeros((B, T, N, v.shape[3]), v.dtype)
    seeds = None
    if dropout_rate and dropout_key is not None:
        seeds = dropout.seeds(dropout_key, (B, N))
    graphdef, state = nnx.split(encoding)
    rules = Rules(0.0, causal, positions.Window.of(window), softcap, dropout_rate, ordered)
    same = q_segments is k_segments
    call = _Call(graphdef, rules, scale, implementation, same, keys_ready, block_sizes)
    locations = tuple(map(Location, at, segments, order))
    arrays = Arrays(state, tables, q, k, v, q_features, k_features, locations, seeds)
    # A sharded sequence is gathered: every query may see every key.
    return left_to_the_compiler(_attention, (call,), q, 0, None, 2)(arrays)


def _one_number(encoding: Slots, at: tuple, order: tuple) -> tuple[tuple, tuple]:
    """If positions have axes, order tokens by one number: their index in the row."""
    if at[0] is None or isinstance(at[0], Consecutive) or at[0].ndim == 2:
        return at, order
    if not encoding.reads_positions:
        return (None, None), order
    if order[0] is None:
        order = tuple(jnp.broadcast_to(positions.contiguous(x.shape[1]), x.shape[:2]) for x in at)
    return at, order


class _Call(NamedTuple):
    """The static side of one call of `attention`."""

    graphdef: Any
    rules: Rules  # without the scale, which the encoding may define
    scale: float | None
    implementation: choices.Implementation
    same_segments: bool  # queries and keys have the same segments
    keys_ready: bool
    block_sizes: tuple[int, int] | None
    padded: bool = False  # ready keys may have leading zeros

    def known(self, encoding: Slots, arrays: Arrays) -> Known:
        """Return what is known about the positions."""
        q = arrays.locations[0]
        if isinstance(q.position, Consecutive):
            # Kernels count both sides from 0; for a walk, keys of several segments must be sorted.
            unsorted = encoding.walks and q.segment is not None
            in_row = q.order is None and not unsorted and self.implementation != "pallas"
            return Known(in_row, offset=in_row)
        if q.position is not None:
            return Known(False, whole=jnp.issubdtype(q.position.dtype, jnp.integer))
        starts_anew = encoding.shift_invariant and self.same_segments and not encoding.walks
        in_row = q.order is None and (q.segment is None or starts_anew)
        T, S = arrays.q.shape[1], arrays.k.shape[1]
        return Known(in_row, longest=max(T, S) - 1 if choices.are_known(T, S) else None)

    def rules_for(self, encoding: Slots, sizes: tuple[Any, Any, int], known: Known) -> Rules:
        """Return the rules with the scale, and without window limits that no distance reaches."""
        T, S, H = sizes
        asked = encoding.logit_scale if self.scale is None else self.scale
        scale = checks.checked_scale(asked, H)
        checks.check_rules(encoding, scale, self.rules.softcap)
        # A query has at most T - 1 keys before it and S - 1 after it.
        in_row = known.consecutive and not known.offset
        past, future = (
            None if in_row and most is not None and choices.are_at_most(most, size) else most
            for most, size in zip(self.rules.window, (T, S), strict=True)
        )
        window = positions.Window(past, future)
        return self.rules._replace(scale=scale, window=window, itself=encoding.sees_itself)


@functools.partial(jax.jit, static_argnums=0)
def _attention(call: _Call, arrays: Arrays):
    return _of_kinds(call, nnx.merge(call.graphdef, arrays.state), arrays)


def _of_kinds(call: _Call, encoding: Slots, arrays: Arrays):
    """Attend with each kind of heads."""
    if encoding.of_heads:
        of_part = call._replace(padded=call.keys_ready)
        return by_heads.attend(functools.partial(_of_kinds, of_part), encoding, arrays)
    checks.check_features(encoding, arrays, keys_ready=call.keys_ready)
    tries_kernels = choices.tries_kernels(call.implementation, arrays.q, arrays.k)
    if tries_kernels and SlotUse.of(encoding).factors <= choices.FEW_FACTORS:
        try:
            return _of_one_kind(call._replace(implementation="pallas"), encoding, arrays)
        except choices.NoKernelError as error:  # the other paths support every call
            _log.info("no GPU kernels here: %s", error)
    return _of_one_kind(call, encoding, arrays)


def _of_one_kind(call: _Call, encoding: Slots, arrays: Arrays):
    """Plan the call, apply the slots of tokens, and attend."""
    q, k, v = arrays.q, arrays.k, arrays.v
    q_location, k_location = arrays.locations
    (B, T, N, H), S = q.shape, k.shape[1]
    known = call.known(encoding, arrays)
    graphdef, state = nnx.split(encoding)
    rules = call.rules_for(encoding, (T, S, H), known)

    def plan_of(known: Known) -> Plan:
        return Plan.of(
            encoding, graphdef, rules, (T, S, N, H), q.dtype, arrays.tables,
            implementation=call.implementation, known=known, block_sizes=call.block_sizes,
        )._replace(padded=call.padded)  # fmt: skip

    plan = plan_of(known)
    if q_location.position is None and not known.consecutive and q_location.segment is not None:
        q_location, k_location = (
            x._replace(position=positions.within_segments(x.segment))
            for x in (q_location, k_location)
        )
    at_T, at_S = position_of(q_location.position, T), position_of(k_location.position, S)
    if isinstance(q_location.position, Consecutive) and not known.consecutive:
        q_location, k_location = (
            x._replace(position=jnp.broadcast_to(x.position.of(length), (B, length)))
            for x, length in ((q_location, T), (k_location, S))
        )
    q_features = repeated(arrays.q_features, N, axis=2)
    k_features = arrays.k_features
    if not plan.filled.own_vector_query:
        q = transforms.queries(encoding, q, at_T, q_features)
    if not call.keys_ready:
        k = transforms.keys(encoding, k, at_S, N, k_features)
        v = transforms.values(encoding, v, at_S, N, k_features)
    k, v = transforms.match_heads(k, v)
    k_features = k_features if encoding.keeps_key_features else None
    if encoding.walks and not known.consecutive:
        if k_location.position is None:  # about to be reordered
            k_location = k_location._replace(position=jnp.broadcast_to(at_S, (B, S)))
        rank = k_location.position if k_location.order is None else k_location.order
        of_keys = (k, v, k_features, k_location)
        k, v, k_features, k_location = outward.in_order(rank, k_location.segment, of_keys)
    locations = (q_location, k_location)
    tables = repeated(arrays.tables, N, axis=0)  # heads may share a table
    arrays = Arrays(state, tables, q, k, v, q_features, k_features, locations, arrays.seeds)
    longest = choices.longest_in_a_table(T, S)
    if_near = plan if known.longest is not None else plan_of(known._replace(longest=longest))
    if longest is None or if_near.parts == plan.parts:
        out = attend(plan, arrays)
    else:
        near = are_within(longest, rules, locations)
        out = jax.lax.cond(
            near, *(functools.partial(attend, each) for each in (if_near, plan)), arrays
        )
    return transforms.finish(encoding, out, at_T, q_features)


def tabulate(encoding: Slots, length: int) -> tuple[Any, ...] | None:
    """Evaluate the vectors of the distances 0 ... length - 1 for a cache.

    Each decoding step would otherwise evaluate them again, one for each key.

    Returns:
      For each part of a sum, its tables [N, length, ...], or [K, ...] or [1, ...] if heads share them; None for a part
      that needs none. An encoding that is not a sum has one part. None if no part needs tables. For heads of several
      kinds, a tuple of such results.
    """
    layout = regions.Layout(1, 1, consecutive=False, band=length - 1)
    rules = Rules(1.0, causal=True)

    def of_part(part: Slots) -> Tables | None:
        if part.constant_beyond is not None or not SlotUse.of(part).vectors:
            return None
        return each_head(lambda one: distances.tabulate(one, None, rules, layout, 1, 1), part)

    of_kinds = [tabulate(kind, length) for kind, _ in encoding.of_heads]
    found: tuple[Any, ...] = tuple(of_kinds or map(of_part, encoding.parts))
    return found if jax.tree.leaves(found) else None
