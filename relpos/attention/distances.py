"""Tables of an encoding's distance slots, evaluated once, outside the loop over blocks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from relpos.attention.reference import Rules
from relpos.attention.regions import Layout, near_span
from relpos.attention.slots import Slots


class Table(NamedTuple):
    """The distance slots by falling distance; None for an empty slot."""

    bias: Any = None  # [P]
    key_vectors: Any = None  # [P, H]
    query_vectors: Any = None  # [P, H]
    value_vectors: Any = None  # [P, H]

    @classmethod
    def of(cls, encoding: Slots, d: Array) -> "Table":
        """Evaluate the slots at these distances."""
        return cls(*(getattr(encoding, slot)(d) for slot in cls._fields))


class Tables(NamedTuple):
    """The tables of one encoding, one for each kind of region."""

    near: Table = Table()
    past: Table = Table()
    future: Table = Table()


def tabulate(
    encoding: Slots,
    beyond: int | None,
    rules: Rules,
    layout: Layout,
    T: int,
    S: int,
    offset: Any = 0,
) -> Tables:
    """Evaluate the distance slots at the distances that blocks read; offset: the distance of row 0 and column 0."""

    def table(d: Array) -> Table:
        return Table.of(encoding, jnp.maximum(d, 0) if rules.past_only else d)

    if not layout.has_table:
        return Tables()
    near = table(_near(beyond, rules, layout, T, S, offset))
    if beyond is None or not layout.consecutive:
        return Tables(near)
    far = jnp.full((1,), beyond, jnp.int32)
    return Tables(near, table(far), Table() if rules.causal else table(-far))


def _near(
    beyond: int | None, rules: Rules, layout: Layout, T: int, S: int, offset: Any
) -> Int[Array, "P"]:
    """Return the distances of the near table."""
    span = near_span(beyond, rules, layout, T, S)
    first = span.first + offset if span.relative else span.first
    return first - jnp.arange(span.size, dtype=jnp.int32)


def of_cache(
    tables: Tables, beyond: int, rules: Rules, layout: Layout, T: int, S: int, offset: Any
) -> Tables:
    """Return tables like those of `tabulate`, read from a causal cache's tables of the distances `beyond` ... 0."""
    index = jnp.clip(beyond - _near(beyond, rules, layout, T, S, offset), 0, beyond)
    near = jax.tree.map(lambda x: x[index], tables.near)
    return Tables(near, jax.tree.map(lambda x: x[:1], tables.near))
