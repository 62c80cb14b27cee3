"""The base classes of the terms of attention.

    logit[i, j] = scale * (sum of the terms' dots) + sum of the terms' biases
    out[i]      = sum of the terms' products with weights[i, :],   weights = softmax of the logits

The terms, each with its gradient, are in `relpos.attention.logit_terms` and `relpos.attention.value_terms`; the loop
over blocks (`relpos.attention.blockwise`) treats them all alike. A term is differentiated with respect to its own
arrays and to the block's queries, keys, values and features.
"""

import abc
import functools
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float

from relpos.attention.blocks import Block
from relpos.attention.mesh_axes import varying_like
from relpos.attention.reach import Reach
from relpos.attention.reference import Keys, Queries, Rules


class Logits(NamedTuple):
    """What a term adds to the logits of a block, or the gradient with respect to it; None: nothing."""

    dots: Float[Array, "C K"] | None = None  # before scaling
    bias: Float[Array, "C K"] | None = None


class Adds(NamedTuple):
    """What a term adds to gradients; None: nothing. Vectors and features are tuples with one entry for each part."""

    content: Any = None  # [C, H]
    vector: Any = None  # [C, H], of the vector query, if it differs from the content
    q_features: Any = None
    key: Any = None  # [H, K], transposed, like those below
    k_vector: Any = None  # [W, K], of the vector key, if it differs from the key
    value: Any = None  # [H, K]
    k_features: Any = None
    weights: Any = None  # [C, K], of the softmax's weights

    @classmethod
    def for_vectors(cls, q: Queries, part: int, x: Array) -> "Adds":
        """Return a gradient of what is multiplied with a part's key vectors."""
        if q.vector[part] is None:
            return cls(content=x)
        return cls(vector=only(part, len(q.vector), x))

    @classmethod
    def for_query_vectors(cls, k: Keys, part: int, x: Array) -> "Adds":
        """Return a gradient of what is multiplied with a part's query vectors."""
        if k.vector[part] is None:
            return cls(key=x)
        return cls(k_vector=only(part, len(k.vector), x))

    def plus(self, other: "Adds") -> "Adds":
        """Return the sum, field by field."""
        return Adds(*map(plus, self, other))

    def of_queries(self) -> Queries:
        """Return the fields of the queries, the first three."""
        return Queries(self.content, self.vector, self.q_features)


def only(part: int, parts: int, x: Any) -> tuple[Any, ...]:
    """Return a tuple with x for one part and None for the others."""
    return tuple(x if i == part else None for i in range(parts))


def plus(a: Any, b: Any) -> Any:
    """Add two trees; None, in place of a leaf, of a tuple's entry or of a whole tree, adds nothing."""
    if a is None or b is None:
        return b if a is None else a
    if type(a) is tuple:
        return tuple(map(plus, a, b))
    return jax.tree.map(lambda x, y: x if y is None else x + y, a, b, is_leaf=lambda x: x is None)


def zeros(tree: Any) -> Any:
    """Return accumulators of zeros, in float32 or wider."""
    like = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))  # noqa: E731
    return varying_like(tree, jax.tree.map(like, tree))


def turn(tree: Any) -> Any:
    """Transpose matrices; leave vectors as they are."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, -1, -2) if x.ndim > 1 else x, tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Cast gradients to the types of what they are gradients of."""
    return jax.tree.map(lambda x, dx: dx.astype(x.dtype), like, tree)


class Term(struct.PyTreeNode):
    """A term, for one head: a frozen dataclass, and a pytree of its arrays.

    In each pass, a block passes the term's `ring` on to the next block of the same region: a ring buffer where
    neighbouring blocks share distances (`spread.Ring`), else None. Gradients leave the backward pass in two ways:
    `sums`, the gradients of the term's own arrays, pass from block to block through all regions and all blocks of
    queries; `Adds` are gradients of the tokens' arrays (queries, keys, values, features). A term with arrays defines
    `zero_sums` and `gradient`.

    Attributes:
      reads_tokens: for a logit term, whether gradients reach queries, keys, values or features through it.
    """

    reads_tokens: ClassVar[bool] = True

    def begin(self, block: Block) -> Any:
        """Return the ring of the forward pass before the first block of a region."""
        return None

    def begin_backward(self, block: Block) -> Any:
        """Return the ring of the backward pass before the first block of a region."""
        return None

    def end_backward(self, block: Block, ring: Any, sums: Any) -> tuple[Adds, Any]:
        """Return the gradients that remain to be added after the last block of a region, and the sums."""
        return Adds(), sums

    def zero_sums(self) -> Any:
        """Return the sums before the first block."""
        return None

    def gradient(self, sums: Any) -> Self:
        """Return the term's gradient, a term that holds its arrays' gradients, from the sums over all blocks."""
        if jax.tree.leaves(self):
            raise TypeError(
                f"{type(self).__name__} has arrays: it must define zero_sums and gradient"
            )
        return self


class LogitTerm(Term):
    """A summand of the logits."""

    @abc.abstractmethod
    def forward(self, block: Block, ring: Any) -> tuple[Logits, Any]:
        """Return what the term adds to the block's logits, of a shape that broadcasts to [C, K], and the ring."""

    @abc.abstractmethod
    def backward(self, block: Block, d: Logits, ring: Any, sums: Any) -> tuple[Adds, Any, Any]:
        """Return the gradients that the term adds, the ring and the sums.

        `d` is the gradient with respect to the result of `forward`, always [C, K].
        """

    def vjp(self, block: Block, ring: Any) -> tuple[Logits, Any, Any]:
        """Return the results of `forward`, and the backward pass through this block, a function of (d, ring, sums)."""
        return *self.forward(block, ring), functools.partial(self.backward, block)


class ValueTerm(Term):
    """A summand of the output, a product with the weights."""

    @abc.abstractmethod
    def forward(
        self, block: Block, weights_CK: Array, shrink_C: Array, ring: Any
    ) -> tuple[Float[Array, "C H"] | None, Any]:
        """Return what the block adds to the output, and the ring.

        The weights are exp(logits - peak) after dropout, where the peak is the row's largest logit so far, and shrink_C
        is exp(peak before this block - peak).
        """

    def end(self, block: Block, ring: Any) -> Float[Array, "C H"] | None:
        """Return what remains to be added to the output after the last block of a region."""
        return None

    @abc.abstractmethod
    def backward(
        self, block: Block, weights_CK: Array, ring: Any, sums: Any
    ) -> tuple[Adds, Any, Any]:
        """Return the gradients that the term adds, also of the weights; the ring; the sums.

        The weights are the softmax's, after dropout; `block.rows` holds the gradient of the output.
        """


class ByDistance(Term):
    """A distance slot of one part: one table for each kind of region. Its sums are a term with transposed tables."""

    near: Any
    past: Any
    future: Any
    part: int = struct.field(pytree_node=False)

    def reach(self, block: Block) -> Reach:
        """Return how the block accesses the part's table."""
        return block.reaches[self.part]

    def here(self, block: Block) -> Array:
        """Return the table for the block's region."""
        return getattr(self, block.tables[self.part])

    def put(self, block: Block, table: Array) -> Self:
        """Replace the table for the block's region."""
        return self.replace(**{block.tables[self.part]: table})

    def zero_sums(self):  # noqa: D102
        return zeros(turn(self))

    def gradient(self, sums):  # noqa: D102
        return cast_like(turn(sums), self)


class ByPair(Term):
    """Slots of one part that are evaluated for each block, where JAX differentiates them.

    Its sums are the gradient of `state`.
    """

    state: Any  # of the encoding
    integers: Any  # of the encoding, not differentiated
    graphdef: Any = struct.field(pytree_node=False)
    rules: Rules = struct.field(pytree_node=False)

    def encoding(self, state: Any) -> Any:
        """Return the encoding with this state."""
        return nnx.merge(self.graphdef, state, self.integers)

    def zero_sums(self):  # noqa: D102
        return zeros(self.state)

    def gradient(self, sums):  # noqa: D102
        return self.replace(state=cast_like(sums, self.state), integers=None)
