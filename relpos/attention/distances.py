"""What an encoding says of distances, evaluated once, outside of the loop over blocks."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from relpos.attention.reference import Rules
from relpos.attention.regions import Layout, near_span
from relpos.attention.slots import Slots


class Table(NamedTuple):
    """The distance slots at falling distances; None where the encoding leaves a slot empty."""

    bias: Any = None  # [P]
    key_vectors: Any = None  # [P, H]
    query_vectors: Any = None  # [P, H]
    value_vectors: Any = None  # [P, H]


class Tables(NamedTuple):
    """Everything of the encoding that is evaluated once, outside of the loop over blocks."""

    near: Table = Table()
    past: Table = Table()
    future: Table = Table()


def tabulate(
    encoding: Slots, beyond: int | None, rules: Rules, layout: Layout, T: int, S: int
) -> Tables:
    """Evaluate the distance slots where blocks will read them."""

    def table(d: Array) -> Table:
        d = jnp.maximum(d, 0) if rules.past_only else d
        return Table(
            encoding.bias(d),
            encoding.key_vectors(d),
            encoding.query_vectors(d),
            encoding.value_vectors(d),
        )

    if not layout.has_table:
        return Tables()
    span = near_span(beyond, rules, layout, T, S)
    near = table(span.first - jnp.arange(span.size, dtype=jnp.int32))
    if beyond is None or not layout.consecutive:
        return Tables(near)
    far = jnp.full((1,), beyond, jnp.int32)
    return Tables(near, table(far), Table() if rules.causal else table(-far))
