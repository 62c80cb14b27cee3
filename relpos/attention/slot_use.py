"""Find out which slots an encoding fills."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from relpos.attention.distances import Table
from relpos.attention.slots import Slots, split_heads


class SlotUse(NamedTuple):
    """The slots that an encoding fills."""

    bias: bool
    key_vectors: bool
    query_vectors: bool
    value_vectors: bool
    block_bias: bool
    own_vector_query: bool  # whether the query for the key vectors differs from that for the keys
    own_vector_key: int  # the width of the key for the query vectors, if it differs from the key for the queries; or 0
    factors: int  # F, the number of factors; 0 without factors
    walks: bool
    sink: bool
    mixes: bool
    normalized: bool
    width: int  # how many numbers a bias without constant_beyond holds at once for each distance; else 0
    trained: bool  # whether it has trained parameters

    @classmethod
    def of(cls, encoding: Slots, whole: Slots | None = None) -> "SlotUse":
        """Trace each slot once, without computing anything; `whole` is the sum that the encoding is a part of."""
        whole = encoding if whole is None else whole
        split, per_head, shared = split_heads(encoding)

        def one(per_head, shared):
            return nnx.merge(split, jax.tree.map(lambda x: x[0], per_head), shared)

        def ask(*state):
            of_one, d = one(*state), jnp.zeros((1,), jnp.int32)
            return Table.of(of_one, d), of_one.factored_key(d)

        table, factor = jax.eval_shape(ask, per_head, shared)
        bias, key_vectors, query_vectors, value_vectors = (slot is not None for slot in table)
        changes_query = bool({"query", "vector_query"} & whole.overridden)
        changes_query |= any(not part.scaled_vectors for part in whole.parts)
        changes_key = bool({"key", "vector_key"} & whole.overridden)
        endless = bias and encoding.constant_beyond is None
        filled = cls(
            bias, key_vectors, query_vectors, value_vectors, "block_bias" in encoding.overridden,
            own_vector_query=key_vectors and changes_query,
            own_vector_key=table.query_vectors.shape[-1] if query_vectors and changes_key else 0,
            factors=0 if factor is None else factor.shape[-1],
            walks=encoding.walks,
            sink="sink" in encoding.overridden,
            mixes=encoding.mixes,
            normalized=encoding.normalized,
            width=_width(lambda d: one(per_head, shared).bias(d)) if endless else 0,
            trained=bool(nnx.to_flat_state(nnx.state(encoding, nnx.Param))),
        )  # fmt: skip
        filled.check(encoding)
        return filled

    def check(self, encoding: Slots) -> None:
        """Refuse an encoding that fills slots that do not go together."""
        name = type(encoding).__name__
        if self.factors and (
            self.query_vectors or self.value_vectors or self.bias == self.key_vectors
        ):
            raise ValueError(
                f"{name} fills factored_key, so it must fill exactly one distance slot that the factors replace: "
                "key_vectors or bias"
            )
        if self.walks and (self.value_vectors or self.mixes):
            raise ValueError(f"{name} fills walk, so it may fill neither value_vectors nor mix")
        if self.sink and not self.normalized:
            raise ValueError(
                f"{name} has both an attention sink and weights that are not divided by their sum (normalized = "
                "False): it may have only one of the two"
            )
        if encoding.axes not in (1, None) and self.distances:
            raise ValueError(
                f"{name} takes positions of {encoding.axes} axes, which have no single distance, so it may fill no "
                "distance slot: fill block_bias, which gets the positions themselves"
            )

    @property
    def worth_a_table(self) -> bool:
        """Whether, for scattered positions, a bias is faster to look up than to evaluate, as measured on a CPU.

        A bias such as ALiBi's, with one number for each distance and nothing trained, is not.
        """
        return self.bias and not self.vectors and (self.trained or self.width > 1)

    @property
    def vectors(self) -> bool:
        """Whether any slot of vectors by distance is filled."""
        return self.key_vectors or self.query_vectors or self.value_vectors

    @property
    def distances(self) -> bool:
        """Whether any distance slot is filled."""
        return self.bias or self.vectors


def _width(function: Callable[[Array], Array]) -> int:
    """Return the size of the largest array that a function of n distances makes, divided by n."""
    few, many = (
        largest(jax.make_jaxpr(function)(jax.ShapeDtypeStruct((n,), jnp.int32)).jaxpr)
        for n in (4096, 8192)
    )
    return (many - few) // 4096


def largest(program: Any) -> int:
    """Return the size of the largest array that a program makes, including those inside its operations."""
    found = [0]
    for operation in program.eqns:
        found += [made.aval.size for made in operation.outvars if hasattr(made.aval, "size")]
        for inner in jax.tree.leaves(tuple(operation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found.append(largest(inner))
    return max(found)
