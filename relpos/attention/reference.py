"""The dense reference: the attention equation, in O(T S) memory, against which all other paths are tested."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from relpos import positions
from relpos.attention import dropout
from relpos.attention.slots import Slots
from relpos.positions import Window


class Queries(NamedTuple):
    """One head's queries: the inputs of the rows of the attention matrix."""

    content: Any  # Float[Array, "T H"], or None if only vectors and features are read
    vector: Any  # Float[Array, "T H"], the query for the key vectors; None: the content
    features: Any

    @property
    def for_vectors(self) -> Any:
        """The query that is multiplied with the key vectors."""
        return self.content if self.vector is None else self.vector


class Keys(NamedTuple):
    """One head's keys and values: the inputs of the columns of the attention matrix."""

    key: Any  # Float[Array, "S H"]
    value: Any  # Float[Array, "S H"], or None if only logits are computed
    features: Any
    vector: Any = None  # Float[Array, "S W"], the key for the query vectors; None: the key

    @property
    def for_vectors(self) -> Any:
        """The key that is multiplied with the query vectors."""
        return self.key if self.vector is None else self.vector


class Tokens(NamedTuple):
    """Positions, segments and order of the rows (or columns), none of which are differentiated."""

    row: Int[Array, "T"]
    position: Num[Array, "T *axes"]
    segment: Int[Array, "T"] | None
    order: Any = None  # Num[Array, "T"]; None: the position

    @property
    def rank(self) -> Num[Array, "T"]:
        """The numbers that define causality and windows."""
        return self.position if self.order is None else self.order


class Rules(NamedTuple):
    """The static choices of one call."""

    scale: float
    causal: bool = False
    window: Window = Window()
    softcap: float | None = None
    dropout_rate: float = 0.0
    ordered: bool = False  # causality and windows use a separate order, not positions
    itself: bool = True  # whether a query may see keys at its own place in the order

    @property
    def widest(self) -> int | None:
        """The wider side of the window; None: no limit."""
        past, future = self.window
        if past is None or self.causal:
            return past
        return None if future is None else max(past, future)

    @property
    def past_only(self) -> bool:
        """Whether no visible pair has a negative distance."""
        return self.causal and not self.ordered


def mask(rules: Rules, q: Tokens, k: Tokens) -> Bool[Array, "T S"]:
    """Return which keys each query may see."""
    return positions.visible(
        q.rank, k.rank, q.segment, k.segment,
        causal=rules.causal, window=rules.window, itself=rules.itself,
    )  # fmt: skip


def keep_weights(
    rules: Rules, seed: Array | None, q: Tokens, k: Tokens, weights_TS: Array
) -> Float[Array, "T S"]:
    """Apply dropout to attention weights."""
    if seed is None or not rules.dropout_rate:
        return weights_TS
    kept_TS = dropout.keep(seed, q.row, k.row, rules.dropout_rate)
    return jnp.where(kept_TS, weights_TS / (1 - rules.dropout_rate), 0)


def dot(a: Array, b: Array) -> Array:
    """Return the matrix product, accumulated in float32 (float64 for float64 inputs)."""
    return _contract(a, b, b.ndim - 2)


def dot_rows(a: Array, b: Array) -> Array:
    """Return dot(a, b.T), as one product for the compiler: a separate transpose would be a copy."""
    return _contract(a, b, b.ndim - 1)


def _contract(a: Array, b: Array, axis: int) -> Array:
    """Contract the last axis of `a` with an axis of `b`."""
    dimensions = (((a.ndim - 1,), (axis,)), ((), ()))
    dtype, wide = jnp.result_type(a, b), _wide(a, b)
    a, b = a.astype(dtype), b.astype(dtype)
    product = functools.partial(
        jax.lax.dot_general, dimension_numbers=dimensions, preferred_element_type=wide
    )
    if dtype == wide:
        return product(a, b)
    # A CPU has no product of half-precision numbers that sums in float32.
    widened = lambda a, b: product(a.astype(wide), b.astype(wide))  # noqa: E731
    return jax.lax.platform_dependent(a, b, cpu=widened, default=product)


def _wide(*arrays: Array):
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def finish_logits(rules: Rules, dots_TS: Array, *biases: Array | None) -> Float[Array, "T S"]:
    """Scale the dot products, add the biases, cap: softcap * tanh(logit / softcap)."""
    logits_TS = rules.scale * dots_TS
    for bias in biases:
        if bias is not None:
            logits_TS = logits_TS + bias
    if rules.softcap is not None:
        logits_TS = rules.softcap * jnp.tanh(logits_TS / rules.softcap)
    return logits_TS


def _distances(rules: Rules, q: Tokens, k: Tokens) -> Num[Array, "TS"]:
    d = positions.distances(q.position, k.position).ravel()
    return jnp.maximum(d, 0) if rules.past_only else d


def distance_logits(
    encoding: Slots, rules: Rules, q: Queries, k: Keys, q_tokens: Tokens, k_tokens: Tokens
) -> tuple[Float[Array, "T S"] | None, Float[Array, "T S"] | None]:
    """Evaluate the distance slots for every pair; return a summand of the dot products, and a bias; None: nothing."""
    d = _distances(rules, q_tokens, k_tokens)
    shape = (q_tokens.position.shape[0], k_tokens.position.shape[0])
    dots_TS = bias_TS = None
    if (a_K := encoding.key_vectors(d)) is not None:
        a_K = a_K.reshape(*shape, -1).astype(q.for_vectors.dtype)
        dots_TS = jnp.einsum("th,tsh->ts", q.for_vectors, a_K, preferred_element_type=_wide(a_K))
    if (a_Q := encoding.query_vectors(d)) is not None:
        a_Q = a_Q.reshape(*shape, -1).astype(k.for_vectors.dtype)
        more_TS = jnp.einsum("sh,tsh->ts", k.for_vectors, a_Q, preferred_element_type=_wide(a_Q))
        dots_TS = more_TS if dots_TS is None else dots_TS + more_TS
    if (b_d := encoding.bias(d)) is not None:
        bias_TS = b_d.reshape(shape)
    return dots_TS, bias_TS


def block_bias(encoding: Slots, q: Queries, k: Keys, q_tokens: Tokens, k_tokens: Tokens):
    """Return the bias that is not a function of the distance alone; None without one."""
    return encoding.block_bias(q_tokens.position, k_tokens.position, q.features, k.features)


def position_values(
    encoding: Slots, rules: Rules, weights_TS: Array, q_tokens: Tokens, k_tokens: Tokens
) -> Float[Array, "T H"] | None:
    """Return sum_j weights[i, j] a_V[d]; None without value vectors."""
    a_V = encoding.value_vectors(_distances(rules, q_tokens, k_tokens))
    if a_V is None:
        return None
    a_V = a_V.reshape(*weights_TS.shape, -1).astype(weights_TS.dtype)
    return jnp.einsum("ts,tsh->th", weights_TS, a_V)


def mixed(
    encoding: Slots, rules: Rules, dots_NTS: Any, bias_NTS: Array | None
) -> Float[Array, "N T S"]:
    """Return the logits of all heads, given their scaled products and their biases."""
    return finish_logits(rules._replace(scale=1.0), encoding.mix(dots_NTS, bias_NTS))


def summands(
    encoding: Slots, rules: Rules, q: Queries, k: Keys, q_tokens: Tokens, k_tokens: Tokens
) -> tuple[Float[Array, "T S"], list[Array | None]]:
    """Return the summands of one head's logits: the dot products before scaling, and the biases."""
    dots_TS = walked_TS = None
    if encoding.walks:  # past all keys at once
        dots_TS, walked_TS, _ = encoding.walk(
            encoding.begin(q.content, q.features),
            q.content, k.key, q_tokens.position, k_tokens.position,
            q_features=encoding.query_block(q.content, q.features),
            k_features=encoding.key_block(k.key, k.features),
            seen_CK=mask(rules, q_tokens, k_tokens), scale=rules.scale,
        )  # fmt: skip
    if dots_TS is None:
        dots_TS = dot_rows(q.content, k.key)
    more_TS, bias_TS = distance_logits(encoding, rules, q, k, q_tokens, k_tokens)
    if more_TS is not None:
        dots_TS += more_TS
    block_TS = block_bias(encoding, q, k, q_tokens, k_tokens)
    return dots_TS, [bias_TS, block_TS, walked_TS]


def head(
    part: Any,
    rules: Rules,
    layout: Any,
    q: Queries,
    k: Keys,
    q_tokens: Tokens,
    k_tokens: Tokens,
    seed: Array | None,
    done: None = None,
) -> Float[Array, "T H"]:
    """Compute the attention of one head; a query that sees no key gets zeros.

    The arguments are those of `blockwise.head`, for one part. Nothing is cut, so `layout` is not used; JAX
    differentiates this path, so `done` is always None.
    """
    encoding = part.encoding
    dots_TS, biases = summands(encoding, rules, q, k, q_tokens, k_tokens)
    logits_TS = finish_logits(rules, dots_TS, *biases)
    return weighted(encoding, rules, logits_TS, k, q_tokens, k_tokens, seed)


def weighted(
    encoding: Slots,
    rules: Rules,
    logits_TS: Array,
    k: Keys,
    q_tokens: Tokens,
    k_tokens: Tokens,
    seed: Array | None,
) -> Float[Array, "T H"]:
    """Return the weighted sum of the values, given the logits."""
    mask_TS = mask(rules, q_tokens, k_tokens)
    # Masked before exp, not after: a hidden logit may be huge, and inf * 0 is NaN in the gradient.
    logits_TS = jnp.where(mask_TS, logits_TS, jnp.finfo(logits_TS.dtype).min)
    if encoding.normalized:
        weights_TS = _softmax(logits_TS, mask_TS, encoding.sink())
    else:
        weights_TS = jnp.where(mask_TS, jnp.exp(logits_TS), 0)
    weights_TS = keep_weights(rules, seed, q_tokens, k_tokens, weights_TS)
    out_TH = dot(weights_TS.astype(k.value.dtype), k.value)
    from_positions_TH = position_values(encoding, rules, weights_TS, q_tokens, k_tokens)
    if from_positions_TH is not None:
        out_TH += from_positions_TH
    return out_TH.astype(k.value.dtype)


def _softmax(logits_TS: Array, mask_TS: Array, sink: Array | None) -> Float[Array, "T S"]:
    """Return the softmax over visible keys and the sink, if there is one; zeros where no key is visible."""
    peak_T1 = jax.lax.stop_gradient(logits_TS.max(-1, keepdims=True, initial=-jnp.inf))
    if sink is not None:
        sink = sink.astype(logits_TS.dtype)
        peak_T1 = jnp.maximum(peak_T1, jax.lax.stop_gradient(sink))
    weights_TS = jnp.where(mask_TS, jnp.exp(logits_TS - peak_T1), 0)
    total_T1 = weights_TS.sum(-1, keepdims=True)
    if sink is not None:
        total_T1 += jnp.exp(sink - peak_T1)
    return weights_TS / jnp.where(total_T1 == 0, 1, total_T1)
