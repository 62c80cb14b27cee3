"""The base class of position encodings, and the functions that apply an encoding to all heads."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos.attention import Passed as Passed
from relpos.attention import PerHead as PerHead
from relpos.attention import PerHeadConstant as PerHeadConstant
from relpos.attention import PerKeyHead as PerKeyHead
from relpos.attention import PerKeyHeadConstant as PerKeyHeadConstant
from relpos.attention import Slots, split_heads
from relpos.attention.by_heads import slices
from relpos.attention.per_head import for_heads, varies
from relpos.attention.slots import each_head
from relpos.sharding import left_to_the_compiler


@dataclasses.dataclass(frozen=True)
class Dims:
    """The sizes that an encoding may need.

    Attributes:
      num_heads: N, the number of query heads.
      head_dim: H, the size of a head's queries and keys.
      features: D, the width of the layer's input.
      num_kv_heads: K, the number of key heads, a divisor of N; 0 stands for N.
    """

    num_heads: int
    head_dim: int
    features: int
    num_kv_heads: int = 0

    def __post_init__(self):
        if not self.num_kv_heads:
            object.__setattr__(self, "num_kv_heads", self.num_heads)


class Encoding(Slots, fills_slots=False):
    """The base class of position encodings. Methods are written for one head; attention maps them over heads.

    Each scheme is one file with one subclass, and the file's name is the scheme's name. Its options are the keyword
    arguments of `__init__` except `dims` and `rngs`; they are plain data, with the paper's values as defaults. All
    layers of a stack share a parameter that is created with `shared_by_layers=True`; schemes do so where papers do.
    Besides the slots of attention (`relpos.attention.Slots`), an encoding may fill `embed` and `tokens`.

    Attributes:
      max_length: the encoding has parameters for positions 0 ... max_length - 1; None: no limit.
    """

    max_length: int | None = None

    def __init__(self, *, dims: Dims, rngs: nnx.Rngs):
        pass

    @property
    def parts(self) -> tuple["Encoding", ...]:
        """The summands of a sum of encodings; otherwise this encoding alone."""
        return (self,)

    @property
    def of_heads(self) -> tuple[tuple["Encoding", int], ...]:
        """The encodings of the layer's heads, with the number of heads of each; empty: this one serves all heads."""
        return ()

    @classmethod
    def adds_to_input(cls) -> bool:
        """Whether the scheme fills `embed`: a model applies it once before its layers, which then have no encoding."""
        return "embed" in cls.overridden

    def of_projections(
        self, query_DNH: Float[Array, "D N H"], key_DKH: Float[Array, "D K H"]
    ) -> dict[str, Array]:
        """Return what an `unbound` encoding computes from its layer's projections, by attribute name."""
        return {}

    def embed(
        self, x_TD: Float[Array, "T D"], positions_T: Num[Array, "T *axes"]
    ) -> Float[Array, "T D"]:
        """Add absolute positions to the model's input; called once, before the first layer."""
        return x_TD

    def tokens(
        self, x_TD: Float[Array, "T D"], valid_T: Array, state: Any = None
    ) -> tuple[Any, Any]:
        """Compute each token's features from the layer's input, for one head.

        Args:
          x_TD: the layer's input.
          valid_T: False for padding, which must not affect the result.
          state: the state returned by the call for the preceding tokens; None at the start.

        Returns:
          The features, a tree of arrays [T, ...] that is passed to the slots of tokens, `block_bias` and `walk`; and
          the state after these tokens, a tree of arrays that a cache keeps.
        """
        return None, None


def normal(rngs: nnx.Rngs, stddev: float, *shape: int) -> Float[Array, "..."]:
    """Return initial parameters, drawn from a normal distribution around 0."""
    return stddev * jax.random.normal(rngs.params(), shape)


def running_sums(
    x_T: Float[Array, "T ..."], valid_T: Array, state: Any
) -> tuple[Float[Array, "T ..."], Float[Array, "..."]]:
    """Return the sum over all tokens up to each one, without padding, and the last sum, the next tokens' state."""
    counted_T = valid_T.reshape(-1, *(x_T.ndim - 1) * [1])
    sums_T = jnp.cumsum(jnp.where(counted_T, x_T, 0), 0) + (0 if state is None else state[None])
    return sums_T, sums_T[-1]


def bind(
    encoding: Encoding, query_DNH: Float[Array, "D N H"], key_DKH: Float[Array, "D K H"]
) -> Encoding:
    """Return the encoding for a layer with these projections of queries and keys.

    Layers call it in each forward pass. An encoding that reads no projections is returned as it is.

    Args:
      encoding: an encoding of N heads.
      query_DNH: the layer's projection of its input to queries.
      key_DKH: the layer's projection of its input to keys.
    """
    kinds = [encoding] if not encoding.of_heads else [kind for kind, _ in encoding.of_heads]
    if not any(part.unbound for kind in kinds for part in kind.parts):
        return encoding
    bound = nnx.merge(*nnx.split(encoding))
    kernels: list[tuple[Any, Array, Array]] = [(bound, query_DNH, key_DKH)]
    if bound.of_heads:
        heads = slices(bound, query_DNH.shape[1], key_DKH.shape[1])
        kernels = [(s.encoding, query_DNH[:, s.queries], key_DKH[:, s.keys]) for s in heads]
    for kind, of_queries, of_keys in kernels:
        for part in kind.parts:
            for name, value in part.of_projections(of_queries, of_keys).items():
                getattr(part, name)[...] = value
            part.unbound = False
    return bound


def tokens(
    encoding: Encoding, x_BTD, valid_BT=None, state=None, *, positions=None, segments=None
) -> tuple[Any, Any]:
    """Run `encoding.tokens` for all heads and rows.

    Args:
      encoding: the encoding.
      x_BTD: the layer's input.
      valid_BT: False for padding; None: there is no padding.
      state: [B, N, ...], from the call for the preceding tokens.
      positions: [B, T] or [T], the positions (or the order) given to attention, if any. Within each segment, tokens are
        then read in this order instead of their order in the row.
      segments: [B, T] or [T], the segments given to attention, if any.

    Returns:
      Features [B, T, N, ...] for `attention`, and the new state [B, N, ...]. The axis of heads has K entries where the
      features depend on parameters per key head only, and one entry where the encoding has no parameters per head.
      For heads of several kinds, and for a sum, both are tuples with one entry per kind or part.
    """
    if not encoding.needs_tokens:
        return None, None
    several = [kind for kind, _ in encoding.of_heads] or encoding.parts
    if len(several) > 1:
        states = (None,) * len(several) if state is None else state
        found = [
            tokens(one, x_BTD, valid_BT, of_one, positions=positions, segments=segments)
            for one, of_one in zip(several, states, strict=True)
        ]
        return tuple(features for features, _ in found), tuple(state for _, state in found)
    shape = x_BTD.shape[:2]
    valid_BT = jnp.ones(shape, bool) if valid_BT is None else valid_BT
    order_BT = None
    if positions is not None:
        segments = 0 if segments is None else segments
        order_BT = jnp.lexsort(
            (jnp.broadcast_to(positions, shape), jnp.broadcast_to(segments, shape))
        )
    split, per_head, shared = split_heads(encoding)

    rows = left_to_the_compiler(_tokens, (split,), x_BTD, 0)
    return rows(per_head, shared, x_BTD, valid_BT, state, order_BT)


def _tokens(split, per_head, shared, x_BTD, valid_BT, state, order_BT):
    def one_head(per_head, x_TD, valid_T, state):
        return nnx.merge(split, per_head, shared).tokens(x_TD, valid_T, state)

    per_head = _read_per_head(one_head, per_head, x_BTD[0], valid_BT[0], state)
    entries = None if jax.tree.leaves(per_head) else 1
    heads = jax.vmap(one_head, (0, None, None, 0), (1, 0), axis_size=entries)

    def row(x_TD, valid_T, state, order_T):
        if order_T is None:
            return heads(per_head, x_TD, valid_T, state)
        found_T, state = heads(per_head, x_TD[order_T], valid_T[order_T], state)
        back_T = jnp.argsort(order_T)
        return jax.tree.map(lambda f: f[back_T], found_T), state

    return jax.vmap(row)(x_BTD, valid_BT, state, order_BT)


def _read_per_head(one_head, per_head, x_TD, valid_T, state):
    """Return the parameters per head: K copies if the features read none that are per query head, otherwise N."""
    sizes = [x.shape[0] for x in jax.tree.leaves(per_head)]
    K, N = min(sizes, default=1), max(sizes, default=1)
    if K < N:
        state = jax.tree.map(lambda s: s[0, 0], state)
        if not varies(lambda of_head: one_head(of_head, x_TD, valid_T, state), per_head, N):
            return jax.tree.map(lambda x: x[:K], per_head)
    return for_heads(per_head)


def biases(encoding: Encoding, d: Int[Array, "n"]) -> Float[Array, "N n"]:
    """Return every head's bias b[d], not scaled, as pictures and tables of a scheme show it.

    Args:
      encoding: an encoding of any number of heads.
      d: distances, query position - key position.

    Returns:
      [N, n], or [1, n] if the heads share one bias.

    Raises:
      ValueError: the encoding has no bias that is a function of the distance alone.
    """
    if encoding.of_heads:
        each = [(biases(part, d), count) for part, count in encoding.of_heads]
        return jnp.concatenate([jnp.repeat(b, n // b.shape[0], 0) for b, n in each])
    found = each_head(lambda one: one.bias(jnp.asarray(d)), encoding)
    if found is None:
        raise ValueError(
            f"{type(encoding).__name__} has no bias that is a function of the distance alone; its docstring says "
            "which slots it fills"
        )
    return found
