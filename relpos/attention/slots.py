"""The slots of the attention equation that a position encoding may fill, for one head.

    logit[i, j] = scale * ( query(q_i) . key(k_j)  +  vector_query(q_i) . a_K[d]  +  vector_key(k_j) . a_Q[d] )
                  +  b[d]  +  block_bias[i, j],        or what `mix` returns for all heads' products and biases
    out[i]      = finish( sum_j p_ij * ( value(v_j) + a_V[d] ) ),   d = position of i - position of j
    p_ij        = exp(logit[i, j]) / ( exp(sink) + sum_k exp(logit[i, k]) );   without a sink, the softmax;
                  if `normalized` is False, exp(logit[i, j]) alone

An encoding overrides the slots that its paper fills and leaves the others empty. It sees no batch axis and, except in
`mix`, no head axis: attention vmaps it over heads (parameters of type `PerHead` and `PerKeyHead` are split along their
first axis, all others are shared by the heads) and evaluates it at the distances that a block needs. Slots of tokens
(query, key, value, finish and so on) may read the token's features, which `tokens` (of
`relpos.encodings.base.Encoding`) computes from the layer's input.

Every path gives exact gradients to the encoding's parameters, to queries, keys, values and features, and none to
positions. An encoding never defines a backward pass. It fills `bias` with a function of the distance, and `block_bias`
with any other function of a pair; to multiply the logits of a pair by a factor, `block_bias` returns the factor and
`mix` applies it. In blocks, logits and outputs are sums of terms (`terms.py`), differentiated as follows:

- distance slots (bias, key_vectors, query_vectors, value_vectors) are evaluated once for each distance if positions are
  consecutive or distances are bounded. A term holds the resulting table; the loop over blocks computes the table's
  gradient, and JAX propagates it to the parameters;
- distance slots without a table, and block_bias, are called for each block and differentiated by JAX inside the loop;
- factored_query and factored_key, where they replace a distance slot, become columns of the queries and keys;
- slots of tokens (query, key, value, vector_query, vector_key, finish, sink) and `tokens` are called outside the loop,
  and differentiated there by JAX;
- walk has a loop of its own (`outward.py`), and mix is called inside the loop over blocks (`together.py`); JAX
  differentiates both there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Num

from relpos.attention.per_head import SPLIT, for_heads


def _of_one_head(slot: Callable) -> Callable:
    """Refuse to evaluate a slot for several heads at once: their axis would be taken for the axis of distances."""

    @functools.wraps(slot)
    def guarded(self, *args, **kwargs):
        if not self.one_head and nnx.to_flat_state(nnx.state(self, SPLIT)):
            name = type(self).__name__
            raise ValueError(
                f"{name}.{slot.__name__} is for one head, but this {name} holds several: call "
                "relpos.encodings.biases(encoding, d) for their biases [N, n], or pass the encoding to relpos.attention"
            )
        return slot(self, *args, **kwargs)

    return guarded


class Passed(NamedTuple):
    """The result of `walk` for one block of keys."""

    dots: Float[Array, "C K"] | None  # before scaling; None: the dot products of queries and keys
    bias: Float[Array, "C K"] | None  # not scaled; None: no bias
    carry: Any  # for the next block


class Slots(nnx.Module):
    """The empty slots: attention without positions.

    Attributes:
      constant_beyond: c such that every distance slot is constant for d >= c and for d <= -c; None if there is no such
        c. Key blocks farther away than c read one row of a table.
      shift_invariant: whether adding one number to all positions changes nothing. False for schemes that read the
        positions themselves.
      head_dim: H, if the encoding was made for heads of one size; None: any size.
      causal_only: whether the encoding is defined for keys in the past only.
      needs_tokens: whether slots read features that `tokens` computes from the layer's input.
      scaled_vectors: whether q . a_K is multiplied by the scale, as q . k is.
      logit_scale: the scale of the dot products if the caller gives none; None: 1 / sqrt(H).
      normalized: whether weights are divided by their sum; if not, they are exp(logit), as some walks need.
      sees_itself: whether a query may see keys at its own place in the order.
      mixes: whether `mix` is filled: all heads are then computed together.
      walk_rows: the largest block of queries for a walk; smaller if blocks on the diagonal are expensive.
      walks: whether `walk` is filled: keys are then visited one block after another, the nearest first.
      axes: how many numbers a token's position has. 1: positions are [T]. More: positions are [T, axes], such as row
        and column of an image; positions [T] are optional there, and no distance slot may be filled. None: no slot
        reads positions, so any number of axes is accepted.
      reals: whether positions and distances may be real numbers; tables hold integer distances only.
      unbound: whether the slots read projections of the layer that `bind` has not supplied yet.
      one_head: whether this is one head of an encoding, see `split_heads`; slots with parameters per head can be
        evaluated only then.
      overridden: the names of the public methods that the encoding defines.

    With causal=True and without a separate order, distance slots never see a negative distance.
    """

    constant_beyond: int | None = None
    shift_invariant: bool = True
    head_dim: int | None = None
    causal_only: bool = False
    needs_tokens: bool = False
    scaled_vectors: bool = True
    logit_scale: float | None = None
    normalized: bool = True
    sees_itself: bool = True
    axes: int | None = 1
    reals: bool = False
    one_head: bool = False
    unbound: bool = False
    walk_rows: int = 128
    walks: bool = False
    mixes: bool = False
    overridden: frozenset[str] = frozenset()

    def __init_subclass__(cls, *, fills_slots: bool = True, **options: Any) -> None:
        """Record at class definition which slots are overridden: tools such as `nnx.tabulate` wrap methods later."""
        super().__init_subclass__(**options)
        if not fills_slots:
            return
        own = [name for name, value in vars(cls).items() if callable(value) and name[0] != "_"]
        cls.overridden = cls.overridden.union(own)
        cls.walks, cls.mixes = "walk" in cls.overridden, "mix" in cls.overridden
        for name in SLOTS.intersection(own) - {"mix"}:  # which sees all heads
            setattr(cls, name, _of_one_head(vars(cls)[name]))

    @classmethod
    def adds_to_input(cls) -> bool:
        """Whether positions are added to the model's input, which leaves nothing for attention to do."""
        return False

    @property
    def parts(self) -> tuple["Slots", ...]:
        """The summands of a sum of encodings; otherwise this encoding alone."""
        return (self,)

    @property
    def of_heads(self) -> tuple[tuple["Slots", int], ...]:
        """The encodings of the layer's heads, with the number of heads of each; empty: this one serves all heads."""
        return ()

    def features_of_parts(self, features: Any) -> tuple[Any, ...]:
        """Return the features of each part, given those of the sum."""
        return (features,)

    @property
    def reads_positions(self) -> bool:
        """Whether any slot reads positions; their order alone does not count."""
        return self.axes is not None and bool(self.overridden)

    @property
    def keeps_key_features(self) -> bool:
        """Whether slots read the features of keys together with those of queries, so that a cache must keep them."""
        return self.walks or "block_bias" in self.overridden

    def query(
        self, q_TH: Float[Array, "T H"], positions_T: Num[Array, "T *axes"], features_T: Any
    ) -> Float[Array, "T W"]:
        """Return the query of the content term, rotated or biased, of any width W.

        Do not compute anything here that grows along the row. XPos (arXiv:2212.10554) multiplies queries by z^i and
        keys by z^-j: at position 40,000 one factor is 0, the other infinite, and their product NaN. `walk` sees both
        positions of a pair and can compute z^(i - j), as `xpos` does.
        """
        return q_TH

    def key(
        self, k_SH: Float[Array, "S H"], positions_S: Num[Array, "S *axes"], features_S: Any
    ) -> Float[Array, "S W"]:
        """Return the key of the content term, as a cache stores it. See `query` for what not to compute here."""
        return k_SH

    def vector_query(
        self, q_TH: Float[Array, "T H"], positions_T: Num[Array, "T *axes"], features_T: Any
    ) -> Float[Array, "T W"]:
        """Return the query that is multiplied with the key vectors a_K; q_TH is the layer's query, not `query`'s."""
        return q_TH

    def vector_key(
        self, k_SH: Float[Array, "S H"], positions_S: Num[Array, "S *axes"], features_S: Any
    ) -> Float[Array, "S W"]:
        """Return the key that is multiplied with the query vectors a_Q, as wide as they are."""
        return k_SH

    def value(
        self, v_SH: Float[Array, "S H"], positions_S: Num[Array, "S *axes"], features_S: Any
    ) -> Float[Array, "S H"]:
        """Return the value, rotated for example, as a cache stores it."""
        return v_SH

    def finish(
        self, out_TH: Float[Array, "T H"], positions_T: Num[Array, "T *axes"], features_T: Any
    ) -> Float[Array, "T H"]:
        """Return the output of each query, given the weighted sum of the values: rotated back, for example."""
        return out_TH

    def bias(self, d: Num[Array, "n"]) -> Float[Array, "n"] | None:
        """Return b[d], which is added to the logits without scaling."""
        return None

    def key_vectors(self, d: Num[Array, "n"]) -> Float[Array, "n W"] | None:
        """Return a_K[d], which are multiplied with `vector_query`."""
        return None

    def factored_query(
        self, q_TH: Float[Array, "T H"], positions_T: Num[Array, "T"]
    ) -> Float[Array, "T F"] | None:
        """Return the query's factor, if a distance slot is an inner product of two factors.

            factored_query(q_i, i) . factored_key(j) = q_i . a_K[i - j],  or, for an encoding with a bias,  b[i - j]

        For scattered positions, the factors are appended to the query and the key, so that no vector per pair of
        tokens is needed. An encoding that fills it fills exactly one distance slot, `key_vectors` or `bias`. Factors
        are not used where `constant_beyond` clamps distances, nor for a bias under `mix`. The product must be exact for
        every distance, negative ones included. It is rounded to the type of the queries: in half precision, the bias
        of distant positions needs several factors. q_TH is the result of `vector_query`; positions are any numbers.
        """
        return None

    def factored_key(self, positions_S: Num[Array, "S"]) -> Float[Array, "S F"] | None:
        """Return the key's factor, see `factored_query`."""
        return None

    def query_vectors(self, d: Num[Array, "n"]) -> Float[Array, "n W"] | None:
        """Return a_Q[d], which are multiplied with `vector_key`."""
        return None

    def value_vectors(self, d: Num[Array, "n"]) -> Float[Array, "n H"] | None:
        """Return a_V[d], which are added to the values."""
        return None

    def sink(self) -> Float[Array, ""] | None:
        """Return the logit of an attention sink, a key that takes weight but has no value; None: no sink."""
        return None

    def block_bias(
        self,
        q_positions: Num[Array, "C *axes"],
        k_positions: Num[Array, "K *axes"],
        q_features: Any,
        k_features: Any,
    ) -> Float[Array, "C K"] | None:
        """Return a bias that is not a function of d alone, but of the positions or the tokens' features.

        The features are those from `tokens`, trees of arrays [C, ...] and [K, ...]; None if there are none. Where a
        pair is masked the result is not used, but must be finite.
        """
        return None

    def begin(self, q_TH: Float[Array, "T H"], q_features: Any) -> Any:
        """Return each query's carry before the first key, a tree of arrays [T, ...]: see `walk`."""
        return ()

    def query_block(self, q_CH: Float[Array, "C H"], q_features: Any) -> Any:
        """Return the features that `walk` gets for a block of queries, a tree of arrays of any shape.

        They are computed once for each block, not once for each pair of blocks.
        """
        return q_features

    def key_block(self, k_KH: Float[Array, "K H"], k_features: Any) -> Any:
        """Return the features that `walk` gets for a block of keys, see `query_block`."""
        return k_features

    def walk(
        self,
        carry: Any,
        q_CH: Float[Array, "C H"],
        k_KH: Float[Array, "K H"],
        q_positions: Num[Array, "C *axes"],
        k_positions: Num[Array, "K *axes"],
        q_features: Any,
        k_features: Any,
        seen_CK: Bool[Array, "C K"] | None,
        scale: float,
    ) -> Passed:
        """Carry each query past one block of keys, from its last key to its first.

        Keys are sorted by order, one segment after another, so that a query sees one contiguous run of them. Blocks
        come from the last to the first: a causal query meets its own key first and then walks outward. The result must
        not depend on how the row is cut into blocks.

        Args:
          carry: the result of `begin`, or of `walk` at the previous block; its types must not change.
          q_CH: the queries returned by `query`.
          k_KH: the keys returned by `key`.
          q_positions: positions of the queries; the distance to a hidden key may be anything.
          k_positions: positions of the keys.
          q_features: the result of `query_block`.
          k_features: the result of `key_block`.
          seen_CK: which pairs are visible; None: all. Hidden keys that a query meets before its first visible key must
            not change its carry; after its last visible key the carry is not used.
          scale: the scale of the dot products.

        Returns:
          Dot products, bias and carry. At hidden pairs the first two are not used, but must be finite.
        """
        raise NotImplementedError

    def come_along(self, k_SH: Float[Array, "S H"], block: Any) -> Float[Array, "S H"]:
        """Transform earlier keys for a query that comes after this block of keys; `block` is the result of `key_block`.

        An encoding that fills this and `at_end` asserts that its walk is a dot product with each transformed key, that
        the transformation is linear in the key, and that a key with zero features changes no other key. A cache then
        holds the transformed keys.
        """
        raise NotImplementedError

    def at_end(self, block: Any) -> Float[Array, "K H"]:
        """Return the keys of a block as seen by later queries, see `come_along`."""
        raise NotImplementedError

    def mix(
        self, logits_NCK: Float[Array, "N C K"], bias_NCK: Float[Array, "N C K"] | None
    ) -> Float[Array, "N C K"]:
        """Mix the logits of all heads; the only slot that sees the axis of heads.

        The result for a pair of tokens must depend on that pair alone, not on which pairs share its block. Talking
        heads (arXiv:2003.02436) are a product with a matrix [N, N] here; no slot covers their mix after the softmax.

        Args:
          logits_NCK: the scaled products of a block of queries with the keys and vectors of a block of keys.
          bias_NCK: the sum of the biases; None if the encoding has none.

        Returns:
          The logits before softcap and softmax. Those of hidden pairs are not used, but must be finite.
        """
        return logits_NCK if bias_NCK is None else logits_NCK + bias_NCK


SLOTS = frozenset(
    name
    for name, value in vars(Slots).items()
    if callable(value) and name[0] != "_" and name != "features_of_parts"
) | {"tokens"}


def split_heads(encoding: Slots) -> tuple[Any, Any, Any]:
    """Return (graphdef, state that is split over heads, state that heads share).

    `nnx.merge` of the three, the second without its axis of heads, is the encoding of one head, whose slots can be
    called. The axis has N query heads, or K key heads for a `PerKeyHead`: see `relpos.attention.per_head.for_heads`.
    """
    one = nnx.merge(*nnx.split(encoding))
    for _, module in nnx.iter_graph(one):  # one encoding may hold another
        if isinstance(module, Slots):
            module.one_head = True
    graphdef, per_head, shared = nnx.split(one, SPLIT, ...)  # type: ignore[misc]
    return graphdef, per_head, shared


def each_head(function: Callable[[Any], Any], encoding: Slots) -> Any:
    """Return function(encoding of one head) for each head, [N, ...].

    The result is [K, ...] if only parameters per key head are split, and [1, ...] if all heads share everything.
    """
    split, per_head, shared = split_heads(encoding)

    def one_head(per_head):
        return function(nnx.merge(split, per_head, shared))

    if jax.tree.leaves(per_head):
        return jax.vmap(one_head)(for_heads(per_head))
    return jax.tree.map(lambda x: x[None], one_head(per_head))
