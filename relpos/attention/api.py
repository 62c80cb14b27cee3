"""`attention`: one function for every position encoding, path and platform."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jaxtyping import Array, Float, Int

from relpos import positions
from relpos.attention import blockwise, checks, choices, distances, dropout, pallas, reference
from relpos.attention.distances import Tables
from relpos.attention.reference import Keys, Queries, Rules, Tokens
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
        q_segments is None or (encoding.shift_invariant and same)
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
    arrays = _Arrays(state, tables, q, k, v, q_features, k_features, places, seeds)
    # A sharded sequence is gathered: every query may see every key.
    return left_to_the_compiler(functools.partial(_attention, call), q, 0, None, 2)(arrays)


class _Call(NamedTuple):
    """The static side of one call of `attention`."""

    graphdef: Any
    rules: Rules
    implementation: choices.Implementation
    consecutive: bool
    keys_ready: bool
    block_sizes: tuple[int, int] | None


class _Arrays(NamedTuple):
    """The arrays of one call; what was not given is None."""

    state: Any
    tables: Tables | None
    q: Array
    k: Array
    v: Array
    q_features: Any
    k_features: Any
    places: tuple[Any, Any, Any, Any]
    seeds: Array | None


@functools.partial(jax.jit, static_argnums=0)
def _attention(call: _Call, arrays: _Arrays):
    """Split into heads, run one head's function for each, and join."""
    rules, consecutive = call.rules, call.consecutive
    encoding = nnx.merge(call.graphdef, arrays.state)
    q, k, v = arrays.q, arrays.k, arrays.v
    q_positions, k_positions, q_segments, k_segments = arrays.places
    (_, T, N, H), S = q.shape, k.shape[1]
    filled = _Filled.of(encoding)
    path = choices.implementation(call.implementation, T, S, has_vectors=filled.vectors)
    if q_positions is None and not consecutive:
        q_positions = positions.within_segments(q_segments)
        k_positions = positions.within_segments(k_segments)
    if not filled.own_vector_query:
        at_T = positions.contiguous(T) if q_positions is None else q_positions
        q = _transform(encoding, "query", q, at_T)
    if not call.keys_ready:
        at_S = positions.contiguous(S) if k_positions is None else k_positions
        k = _transform(encoding, "key", k, at_S, N)
    if v.shape[2] != k.shape[2]:
        v = jnp.repeat(v, k.shape[2] // v.shape[2], axis=2)
    way = _Way.of(call, encoding, filled, arrays.tables, path, (T, S, H), q.dtype)
    places = (q_positions, k_positions, q_segments, k_segments)
    arrays = arrays._replace(q=q, k=k, v=v, places=places)

    arrays = blockwise.varying_like(arrays, arrays)
    if path == "blockwise":
        result = _blockwise(rules, way, filled, arrays)
        out = blockwise.joined(result, T)
    else:
        # The dense path saves memory on every platform; a GPU's kernels are given all heads.
        at_once = choices.heads_at_once(T, S) if path == "reference" else choices.ALL
        out = _heads(rules, way, filled, at_once, arrays)
    return jnp.moveaxis(out.reshape(N, -1, *out.shape[-2:]), 0, 2).astype(v.dtype)


# The name of what rematerialisation (`jax.checkpoint`) should keep of the forward pass.
RESULT = "relpos.attention"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _blockwise(rules: Rules, way: "_Way", filled: "_Filled", arrays: _Arrays) -> blockwise.Result:
    """Run the blockwise path for all heads, so many of them together as the platform wants.

    The platform is the one that the program is lowered for, not this machine's, so both ways are traced. With a rule of
    its own for the backward pass JAX need not differentiate, and keep arrays for, the way that is not taken.
    """
    return _on_platform(_heads, rules, way, filled, arrays)


def _on_platform(function, rules, way, filled, arrays, *more):
    few = choices.heads_at_once(arrays.q.shape[1], arrays.k.shape[1])
    on_cpu, on_others = (
        functools.partial(function, rules, way, filled, at_once) for at_once in (few, choices.ALL)
    )
    if few >= choices.ALL:
        return on_others(arrays, *more)
    return lax.platform_dependent(arrays, *more, cpu=on_cpu, default=on_others)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Kept:
    """What the backward pass needs; static is which leaves of the arrays are differentiated."""

    arrays: _Arrays
    done: blockwise.Result
    perturbed: tuple[bool, ...] = dataclasses.field(metadata={"static": True})


def _blockwise_forward(rules, way, filled, arrays):
    perturbed = tuple(x.perturbed for x in jax.tree.leaves(arrays))
    arrays = custom_vjp_primal_tree_values(arrays)
    done = checkpoint_name(_on_platform(_heads, rules, way, filled, arrays), RESULT)
    return done, _Kept(arrays, done, perturbed)


def _blockwise_backward(rules, way, filled, kept: _Kept, d_done):
    d_out, _ = d_done
    if isinstance(d_out, SymbolicZero):
        d_out = jnp.zeros(d_out.shape, d_out.dtype)
    leaves, tree = jax.tree.flatten(kept.arrays)
    chosen = [i for i, perturbed in enumerate(kept.perturbed) if perturbed]

    def gradients(rules, way, filled, at_once, arrays, done, d_out):
        leaves = jax.tree.leaves(arrays)

        def out(*differentiated):
            merged = list(leaves)
            for i, x in zip(chosen, differentiated, strict=True):
                merged[i] = x
            return _heads(rules, way, filled, at_once, jax.tree.unflatten(tree, merged), done).out

        return jax.vjp(out, *(leaves[i] for i in chosen))[1](d_out)

    found = _on_platform(gradients, rules, way, filled, kept.arrays, kept.done, d_out)
    d_leaves = [None] * len(leaves)
    for i, d in zip(chosen, found, strict=True):
        d_leaves[i] = d
    return (jax.tree.unflatten(tree, d_leaves),)


# Symbolic zeros: what is not differentiated, as ALiBi's slopes, costs no gradient.
_blockwise.defvjp(_blockwise_forward, _blockwise_backward, symbolic_zeros=True)


def _heads(
    rules: Rules, way: "_Way", filled: "_Filled", at_once: int, arrays: _Arrays, done: Any = None
):
    """Run one head's function for each head and row, about `at_once` of them together.

    Returns:
      What the function gives, with leading axes K, N / K and B. With `done`, an earlier result of the blockwise path,
      nothing but gradients is computed.
    """
    path, beyond, cut, factored = way.path, way.beyond, way.layout, way.factored
    tables, k, v, q, seeds, places = (
        arrays.tables, arrays.k, arrays.v, arrays.q, arrays.seeds, arrays.places,
    )  # fmt: skip
    encoding = nnx.merge(way.graphdef, arrays.state)
    (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
    index_T, index_S = positions.contiguous(T), positions.contiguous(S)
    # A table says all that an encoding has to say of distances; only what it does not is evaluated in blocks.
    evaluated = filled.block_bias or (filled.distances and not way.tabulated and not factored)
    over_groups, over_heads = _map(K, at_once), _map(N // K, at_once // K)
    over_rows = _map(B, at_once // N)
    split, per_head, shared = split_heads(encoding)
    # Differentiated, a loop would else keep copies of queries, keys, values and vectors of every turn.
    lean = jax.checkpoint if done is not None else (lambda function: function)
    rows_in_turn = choices.are_known(B) and at_once // N < B

    def one_head(per_head, tables, k, v, q, q_features, k_features, seeds, done):
        encoding = nnx.merge(split, per_head, shared)
        in_blocks = encoding if evaluated else Slots()
        if tables is None and way.tabulated:
            tables = distances.tabulate(encoding, beyond, rules, cut, T, S)

        def one_sequence(k, v, q, q_features, k_features, seed, done, places):
            q_position, k_position, q_segment, k_segment = places
            q_tokens = Tokens(index_T, index_T if q_position is None else q_position, q_segment)
            k_tokens = Tokens(index_S, index_S if k_position is None else k_position, k_segment)
            content, vector = q, None
            if filled.own_vector_query:
                content = encoding.query(q, q_tokens.position).astype(q.dtype)
                vector = encoding.vector_query(q)
            if factored:
                of_query = encoding.factored_query(
                    content if vector is None else vector, q_tokens.position
                )
                content, vector = _beside(content, of_query), None
                k = _beside(k, encoding.factored_key(k_tokens.position))
            queries, keys = Queries(content, vector, q_features), Keys(k, v, k_features)
            if path == "reference":
                return reference.head(in_blocks, rules, queries, keys, q_tokens, k_tokens, seed)
            if path == "pallas":
                return pallas.head(
                    in_blocks, rules, cut, tables or Tables(),
                    queries, keys, q_tokens, k_tokens, seed,
                )  # fmt: skip
            return blockwise.head(
                in_blocks, beyond, rules, cut, tables or Tables(),
                queries, keys, q_tokens, k_tokens, seed, done,
            )  # fmt: skip

        of_row = lean(one_sequence) if rows_in_turn else one_sequence
        return over_rows(of_row)(k, v, q, q_features, k_features, seeds, done, places)

    def one_group(k, v, *of_queries):
        of_head = one_head if rows_in_turn else lean(one_head)
        return over_heads(lambda per_head, tables, *x: of_head(per_head, tables, k, v, *x))(
            *of_queries
        )

    def grouped(tree):  # leading N -> [K, N / K]
        return jax.tree.map(lambda x: x.reshape(K, N // K, *x.shape[1:]), tree)

    def heads_first(tree):  # [B, T, N, ...] -> [N, B, T, ...]
        return jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), tree)

    k, v, *of_queries = heads_first((k, v, q, arrays.q_features, arrays.k_features))
    seeds = None if seeds is None else jnp.moveaxis(seeds, 1, 0)
    return over_groups(one_group)(k, v, *grouped((per_head, tables, *of_queries, seeds)), done)


class _Way(NamedTuple):
    """How a call gets at what the encoding says of distances."""

    path: str
    graphdef: Any  # of the encoding
    beyond: int | None  # its constant_beyond, where a distance is that far
    layout: distances.Layout
    tabulated: bool  # as a table, from which blocks read
    factored: bool  # as factors, beside the queries and keys; neither: evaluated for each pair

    @classmethod
    def of(
        cls, call: _Call, encoding: Slots, filled: "_Filled", tables, path, sizes, dtype
    ) -> "_Way":
        """Choose by path, positions and slots."""
        (T, S, H), consecutive = sizes, call.consecutive
        beyond = encoding.constant_beyond
        band = None if tables is None else jax.tree.leaves(tables)[0].shape[1] - 1
        if path == "pallas":
            if band is None and beyond is not None:
                band = min(beyond, max(T, S) - 1) if consecutive else beyond
            factored = band is None and bool(filled.factors)
            if filled.vectors and band is None and not factored:
                raise ValueError(checks.no_kernel(encoding))
            width = H + (filled.factors if factored else 0)
            cut = choices.kernel_layout(
                T, S, width * dtype.itemsize,
                consecutive=consecutive, band=band, block_sizes=call.block_sizes,
            )  # fmt: skip
            return cls(path, call.graphdef, None, cut, band is not None, factored)
        if consecutive and beyond is not None and choices.are_within(beyond, T, S):
            beyond = None  # no distance is that far
        by_pair = path == "blockwise" and not consecutive and beyond is None and tables is None
        factored = by_pair and bool(filled.factors)
        cut = choices.layout(
            T, S, H, consecutive=consecutive, beyond=beyond, has_vectors=filled.vectors and not factored,
            window=call.rules.window, block_sizes=call.block_sizes,
        )  # fmt: skip
        if band is not None:
            cut = cut._replace(band=band)
        tabulated = path == "blockwise" and cut.has_table
        return cls(path, call.graphdef, beyond, cut, tabulated, factored)


def tabulate(encoding: Slots, length: int) -> Tables | None:
    """Evaluate the vectors of the distances 0 ... length - 1 for a cache; None where a step needs no table of them.

    A step of decoding would otherwise evaluate them anew, one for each key.
    """
    if encoding.constant_beyond is not None or not _Filled.of(encoding).vectors:
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


def _beside(x_TH: Array, more_TF: Array) -> Array:
    return jnp.concatenate([x_TH, more_TF.astype(x_TH.dtype)], -1)


def _map(size: int, at_once: int):
    """Map over a leading axis of this size, about `at_once` entries together, the others one after another.

    Where there are several devices the axis may be cut among them, as the compiler decides: entries that lie on
    different devices are then together, so that each device takes its own one after another.
    """
    if not choices.are_known(size):
        return jax.vmap
    if size == 1:
        # Not vmap: an axis of one would keep the compiler from seeing plain matrix products.
        first, back = (lambda x: x[0]), (lambda x: x[None])
        return lambda f: lambda *args: jax.tree.map(back, f(*jax.tree.map(first, args)))
    parts = math.gcd(size, choices.devices())
    each = size // parts  # of which `together` at once
    together = max(
        n for n in range(1, each + 1) if each % n == 0 and n * parts <= max(at_once, parts)
    )
    if together == each:
        return jax.vmap
    if parts == 1 and together == 1:
        return lambda f: lambda *args: lax.map(lambda x: f(*x), args)

    def in_turn(f):
        def cut(x):  # [size, ...] -> [turns, parts * together, ...]
            x = x.reshape(parts, each // together, together, *x.shape[1:])
            return jnp.moveaxis(x, 1, 0).reshape(each // together, parts * together, *x.shape[3:])

        def join(x):
            x = x.reshape(each // together, parts, together, *x.shape[2:])
            return jnp.moveaxis(x, 0, 1).reshape(size, *x.shape[3:])

        def mapped(*args):
            out = lax.map(lambda x: jax.vmap(f)(*x), jax.tree.map(cut, args))
            return jax.tree.map(join, out)

        return mapped

    return in_turn


class _Filled(NamedTuple):
    """Which slots an encoding fills."""

    bias: bool
    key_vectors: bool
    query_vectors: bool
    value_vectors: bool
    block_bias: bool
    own_vector_query: bool  # what meets the key vectors is not what meets the keys
    factors: int  # F, 0 without them

    @classmethod
    def of(cls, encoding: Slots) -> "_Filled":
        """Ask each slot once, without computing anything."""
        split, per_head, shared = split_heads(encoding)

        def ask(per_head, shared):
            one = nnx.merge(split, jax.tree.map(lambda x: x[0], per_head), shared)
            d = jnp.zeros((1,), jnp.int32)
            factor = one.factored_key(d)
            return (
                one.bias(d),
                one.key_vectors(d),
                one.query_vectors(d),
                one.value_vectors(d),
                factor,
            )

        slots = jax.eval_shape(ask, per_head, shared)
        has_block_bias = "block_bias" in encoding.overridden
        factors = 0 if slots[-1] is None else slots[-1].shape[-1]
        bias, key_vectors, query_vectors, value_vectors = (slot is not None for slot in slots[:-1])
        if factors and (bias or query_vectors or value_vectors or not key_vectors):
            raise ValueError(
                f"{type(encoding).__name__} fills factored_key: of the slots of distances it may then fill "
                "key_vectors alone"
            )
        changes_query = bool({"query", "vector_query"} & encoding.overridden)
        return cls(
            bias, key_vectors, query_vectors, value_vectors, has_block_bias,
            own_vector_query=key_vectors and changes_query,
            factors=factors,
        )  # fmt: skip

    @property
    def vectors(self) -> bool:
        return self.key_vectors or self.query_vectors or self.value_vectors

    @property
    def distances(self) -> bool:
        return self.bias or self.vectors
