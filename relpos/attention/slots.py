"""What attention asks of a position encoding: the slots of the one equation, for one head.

    logit[i, j] = scale * ( query(q_i) . key(k_j)  +  vector_query(q_i) . a_K[d]  +  vector_key(k_j) . a_Q[d] )
                  +  b[d]  +  block_bias[i, j],        or what `mix` makes of all heads' products and biases
    out[i]      = finish( sum_j p_ij * ( value(v_j) + a_V[d] ) ),   d = position of i - position of j
    p_ij        = exp(logit[i, j]) / ( exp(sink) + sum_k exp(logit[i, k]) );   without a sink the softmax,
                  and only exp(logit[i, j]) where `normalized` is False

An encoding overrides the slots its paper fills and leaves the others. It sees no batch axis and, but for `mix`, no
head axis: attention vmaps it over heads (parameters of type `PerHead` and `PerKeyHead` are split along their first
axis, all others are shared by the heads) and evaluates it at the distances a block needs. What is computed for each
token (query, key, value, finish) may read the token's features, which `tokens` (of `relpos.encodings.base.Encoding`)
computes from the layer's input.

Every path gives exact gradients to the encoding's parameters, to queries, keys, values and features, and none to
positions. An encoding never writes a backward pass: for a function of the distance fill `bias`, for anything else of a
pair `block_bias`; a factor on the logits of a pair is returned by `block_bias` and multiplied in `mix`. In blocks the
logits and the output are sums of terms (`terms.py`), and gradients come about in these places:

- distance slots (bias, key_vectors, query_vectors, value_vectors) are evaluated once for each distance, where positions
  are consecutive or distances have a bound: a table, which a term holds. The loop over blocks gives the table's
  gradient, and JAX goes on from there to the parameters;
- distance slots without a table, and block_bias, are called for each block, and differentiated by JAX inside the loop;
- where factored_query and factored_key stand for a distance slot, they are columns of queries and keys, whose gradients
  the products give;
- slots of tokens (query, key, value, vector_query, vector_key, finish, sink) are called outside of the loop, and
  differentiated there by JAX, as `tokens` is;
- walk and mix have loops of their own (`outward.py`, `together.py`), in which JAX differentiates them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Bool, Float, Num

from relpos.attention.per_head import SPLIT


def _of_one_head(slot: Callable) -> Callable:
    """Refuse to evaluate a slot of several heads at once: their axis would be taken for that of the distances."""

    @functools.wraps(slot)
    def guarded(self, *args, **kwargs):
        if not self.one_head and nnx.to_flat_state(nnx.state(self, SPLIT)):
            name = type(self).__name__
            raise ValueError(
                f"{name}.{slot.__name__} is of one head, and this {name} holds several: relpos.encodings.biases("
                "encoding, d) gives their biases [N, n]; relpos.attention takes the encoding as it is"
            )
        return slot(self, *args, **kwargs)

    return guarded


class Passed(NamedTuple):
    """What `walk` gives, past one block of keys."""

    dots: Float[Array, "C K"] | None  # to be scaled; None: the dot products of queries and keys
    bias: Float[Array, "C K"] | None  # not scaled; None: nothing
    carry: Any  # before the next block


class Slots(nnx.Module):
    """The empty slots: attention without positions.

    Attributes:
      constant_beyond: c such that every distance slot is constant for d >= c and for d <= -c; None if it never
        is. Key blocks further away than this read one row of a table.
      shift_invariant: adding one number to all positions changes nothing. False for schemes that look at the
        positions themselves.
      head_dim: H, where the encoding was made for heads of one size; None: any.
      causal_only: defined for keys in the past alone.
      needs_tokens: slots read features computed from the layer's input by `tokens`.
      scaled_vectors: whether the products with key vectors are scaled as the content's are.
      logit_scale: the scale of the dot products where the caller gives none; None: 1 / sqrt(H).
      normalized: whether weights are divided by their sum; if not, they are exp(logit), which a `walk` may provide.
      sees_itself: whether a query may see keys at its own place in the order.
      mixes: `mix` is filled: all heads are computed together.
      walk_rows: the largest block of queries that walks together; smaller if blocks on the diagonal are expensive.
      walks: `walk` is filled: keys are visited one block after another, the nearest first.
      axes: how many numbers say where a token stands. 1: positions are [T]. Several: [T, axes], row and column of an
        image, or still [T], which the encoding may take as it likes or refuse; it fills no slot of distances. None:
        any, for no slot reads positions.
      reals: whether positions and distances may be real numbers; tables hold whole distances only.
      unbound: the slots read projections of the layer, which `bind` has yet to bring.
      one_head: whether this is one head of an encoding, see `relpos.attention.one_head`; slots with parameters per
        head are evaluated in no other.
      overridden: the names of the methods that fill a slot, or do something else that the empty slots do not.

    With causal=True, and no order of its own, distance slots never see a negative distance.
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
        """Note which slots the class fills, once: tools such as `nnx.tabulate` wrap methods later."""
        super().__init_subclass__(**options)
        if not fills_slots:
            return
        own = [name for name, value in vars(cls).items() if callable(value) and name[0] != "_"]
        cls.overridden = cls.overridden.union(own)
        cls.walks, cls.mixes = "walk" in cls.overridden, "mix" in cls.overridden
        for name in SLOTS.intersection(own) - OF_ALL_HEADS:
            setattr(cls, name, _of_one_head(vars(cls)[name]))

    @classmethod
    def adds_to_input(cls) -> bool:
        """Whether positions are added to the model's input: there is nothing left for attention to do."""
        return False

    @property
    def parts(self) -> tuple["Slots", ...]:
        """The encodings whose terms are summed up: this one alone, unless it is a sum."""
        return (self,)

    @property
    def of_heads(self) -> tuple[tuple["Slots", int], ...]:
        """The encodings of the layer's heads, each with how many of them it serves; empty: this one serves all."""
        return ()

    def features_of_parts(self, features: Any) -> tuple[Any, ...]:
        """Return each part's features, of those of the whole."""
        return (features,)

    @property
    def reads_positions(self) -> bool:
        """Whether any slot reads where tokens stand, beyond their order."""
        return self.axes is not None and bool(self.overridden)

    @property
    def keeps_key_features(self) -> bool:
        """Whether the features of keys are read together with those of queries: a cache must keep them."""
        return self.walks or "block_bias" in self.overridden

    def query(
        self, q_TH: Float[Array, "T H"], positions_T: Num[Array, "T *axes"], features_T: Any
    ) -> Float[Array, "T W"]:
        """Return the query of the content term, of any width W: a rotation, a bias.

        Nothing that grows along the row belongs here. XPos (arXiv:2212.10554) multiplies queries by z^i and keys by
        z^-j: at position 40,000 the one is 0 and the other infinite, and their product NaN. `walk` sees both
        positions of a pair and can say z^(i - j), as `xpos` does.
        """
        return q_TH

    def key(
        self, k_SH: Float[Array, "S H"], positions_S: Num[Array, "S *axes"], features_S: Any
    ) -> Float[Array, "S W"]:
        """Return the key of the content term. It is what a cache stores. See `query` for what does not belong here."""
        return k_SH

    def vector_query(
        self, q_TH: Float[Array, "T H"], positions_T: Num[Array, "T *axes"], features_T: Any
    ) -> Float[Array, "T W"]:
        """Return the query that meets the key vectors a_K, of their width; q_TH is the layer's, not `query`'s."""
        return q_TH

    def vector_key(
        self, k_SH: Float[Array, "S H"], positions_S: Num[Array, "S *axes"], features_S: Any
    ) -> Float[Array, "S W"]:
        """Return the key that meets the query vectors a_Q, of their width."""
        return k_SH

    def value(
        self, v_SH: Float[Array, "S H"], positions_S: Num[Array, "S *axes"], features_S: Any
    ) -> Float[Array, "S H"]:
        """Return the value, as a cache stores it: a rotation."""
        return v_SH

    def finish(
        self, out_TH: Float[Array, "T H"], positions_T: Num[Array, "T *axes"], features_T: Any
    ) -> Float[Array, "T H"]:
        """Return the output of each query, from the weighted sum of values: rotated back, say."""
        return out_TH

    def bias(self, d: Num[Array, "n"]) -> Float[Array, "n"] | None:
        """Return b[d], added to the logits; not scaled."""
        return None

    def key_vectors(self, d: Num[Array, "n"]) -> Float[Array, "n W"] | None:
        """Return a_K[d], which meet `vector_query`."""
        return None

    def factored_query(
        self, q_TH: Float[Array, "T H"], positions_T: Num[Array, "T"]
    ) -> Float[Array, "T F"] | None:
        """Return the query's factor, where what is said of a distance is an inner product of two factors.

            factored_query(q_i, i) . factored_key(j) = q_i . a_K[i - j],  or where the encoding has a bias  b[i - j]

        It stands beside the query and the key where positions are scattered: there would be a vector for each pair of
        tokens otherwise. An encoding that fills it fills one slot of distances, `key_vectors` or `bias`; it is not
        used where `constant_beyond` clamps distances, nor for a bias under `mix`. The product must be right
        for every distance, negative ones too. It is rounded to the type of the queries: in half precision a bias of far
        positions wants several factors.

        Args:
          q_TH: what `vector_query` gives.
          positions_T: any numbers.
        """
        return None

    def factored_key(self, positions_S: Num[Array, "S"]) -> Float[Array, "S F"] | None:
        """Return the key's part, see `factored_query`."""
        return None

    def query_vectors(self, d: Num[Array, "n"]) -> Float[Array, "n W"] | None:
        """Return a_Q[d], which meet `vector_key`."""
        return None

    def value_vectors(self, d: Num[Array, "n"]) -> Float[Array, "n H"] | None:
        """Return a_V[d], added to the values."""
        return None

    def sink(self) -> Float[Array, ""] | None:
        """Return the logit of a key that takes weight and has no value; None: there is none."""
        return None

    def block_bias(
        self,
        q_positions: Num[Array, "C *axes"],
        k_positions: Num[Array, "K *axes"],
        q_features: Any,
        k_features: Any,
    ) -> Float[Array, "C K"] | None:
        """Return a bias that is no function of d alone: of the positions, or of the tokens' features.

        Args:
          q_positions: positions of a block of queries.
          k_positions: positions of a block of keys. The result must be finite at every hidden pair, and is not used.
          q_features: what `tokens` gave for these queries, a tree of arrays [C, ...]; None if it gives none.
          k_features: likewise for the keys.
        """
        return None

    def begin(self, q_TH: Float[Array, "T H"], q_features: Any) -> Any:
        """Return what each query carries before it has met a key, a tree of arrays [T, ...]: see `walk`."""
        return ()

    def query_block(self, q_CH: Float[Array, "C H"], q_features: Any) -> Any:
        """Return what `walk` gets as the features of a block of queries, a tree of arrays of any shape.

        It is computed once for each block, not once for each pair of blocks.
        """
        return q_features

    def key_block(self, k_KH: Float[Array, "K H"], k_features: Any) -> Any:
        """Return what `walk` gets as the features of a block of keys, see `query_block`."""
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
        """Take the queries past one block of keys, from its last key to its first.

        Keys stand in the order of their positions, one segment after another: what a query sees is one run of them.
        Blocks come from the last to the first, so that a causal query meets its own key first and then walks outward.
        How the row is cut into blocks must not matter.

        Args:
          carry: what `begin` gave, or `walk` at the block before; it keeps its types.
          q_CH: the queries, as `query` leaves them.
          k_KH: the keys, as `key` leaves them.
          q_positions: where the queries stand; where a key is hidden its distance may be any.
          k_positions: where the keys stand.
          q_features: what `query_block` gave.
          k_features: what `key_block` gave.
          seen_CK: which pairs are visible; None: all. Keys that a query meets before the first that it sees must leave
            its carry as it is; after the last that it sees the carry is not used.
          scale: of the dot products.

        Returns:
          What joins the logits, and the carry. Where a pair is hidden they must be finite, and are not used.
        """
        raise NotImplementedError

    def come_along(self, k_SH: Float[Array, "S H"], block: Any) -> Float[Array, "S H"]:
        """Return earlier keys as a query after this block of keys meets them; `key_block` gave `block`.

        An encoding that fills it and `at_end` says that a walk past keys is a product of each with what it is by now,
        linear in the key; and that a key whose features are zeros changes no other. A cache then holds keys as they are
        by now.
        """
        raise NotImplementedError

    def at_end(self, block: Any) -> Float[Array, "K H"]:
        """Return the keys of a block as a query after it meets them, see `come_along`."""
        raise NotImplementedError

    def mix(
        self, logits_NCK: Float[Array, "N C K"], bias_NCK: Float[Array, "N C K"] | None
    ) -> Float[Array, "N C K"]:
        """Return the logits of all heads, out of those of all heads: the one slot that sees the axis of heads.

        What it says of a pair of tokens depends on that pair alone: which pairs come together must not matter. Talking
        heads (arXiv:2003.02436) are a product with [N, N] here; what they do behind the softmax no slot says.

        Args:
          logits_NCK: the products of queries with keys and vectors, scaled, for a block of pairs.
          bias_NCK: the sum of the biases; None where the encoding has none.

        Returns:
          What the softmax is taken of, or, with a softcap, what is capped. Where a pair is hidden it must be finite,
          and is not used.
        """
        return logits_NCK if bias_NCK is None else logits_NCK + bias_NCK


OF_ALL_HEADS = frozenset({"mix"})
SLOTS = frozenset(
    name
    for name, value in vars(Slots).items()
    if callable(value) and name[0] != "_" and name != "features_of_parts"
) | {"tokens"}
