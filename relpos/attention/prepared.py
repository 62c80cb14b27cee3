"""The arrays of a call, and how they become the queries, keys and parts of one head."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from relpos import positions
from relpos.attention import checks, distances
from relpos.attention.blocks import of_part
from relpos.attention.distances import Tables
from relpos.attention.parts import Part
from relpos.attention.plan import PartPlan, Plan
from relpos.attention.reference import Keys, Queries, Tokens
from relpos.attention.regions import Layout, offset_of
from relpos.attention.slots import Slots
from relpos.positions import Consecutive


class Location(NamedTuple):
    """Positions, segments, order of one call's queries or keys; None: not given."""

    position: Any = None  # [B, T], or [B, T, axes], or `Consecutive`
    segment: Any = None  # [B, T]
    order: Array | None = None  # [B, T]


class Arrays(NamedTuple):
    """The arrays of one call; None for what was not given."""

    state: Any
    tables: tuple[Any, ...] | None  # one for each part of a sum
    q: Array
    k: Array
    v: Array
    q_features: Any
    k_features: Any
    locations: tuple[Location, ...]  # of the queries and of the keys
    seeds: Array | None


def position_of(given: Any, length: int) -> Array:
    """Return positions as an array, [B, T] or [T], which may have axes."""
    if given is None:
        return positions.contiguous(length)
    return given.of(length) if isinstance(given, Consecutive) else given


def of_all_rows(locations: tuple[Location, ...]) -> tuple[tuple[Location, ...], tuple[Any, ...]]:
    """Split locations into those of each row, and positions that start at the same number in all rows."""

    def is_shared(location: Location) -> bool:
        return isinstance(location.position, Consecutive) and jnp.ndim(location.position.start) == 0

    of_rows = tuple(x._replace(position=None) if is_shared(x) else x for x in locations)
    return of_rows, tuple(x.position if is_shared(x) else None for x in locations)


def tokens_of(
    T, S, locations: tuple[Location, ...], shared: tuple[Any, ...]
) -> tuple[Tokens, Tokens]:
    """Return the tokens of the queries and of the keys of one row, given both results of `of_all_rows`."""

    def tokens(length, location: Location, of_all) -> Tokens:
        position = position_of(location.position if of_all is None else of_all, length)
        return Tokens(positions.contiguous(length), position, location.segment, location.order)

    return tokens(T, locations[0], shared[0]), tokens(S, locations[1], shared[1])


def offset_of_all_rows(
    layout: Layout, T, S, locations: tuple[Location, ...], shared: tuple[Any, ...]
) -> Any:
    """Return the distance of row 0 and column 0; None if it differs between rows of the batch."""
    if any(isinstance(x.position, Consecutive) for x in locations):
        return None
    return offset_of(layout, *tokens_of(T, S, (Location(), Location()), shared))


def queries_and_keys(
    plan: Plan, encoding: Slots, tokens: tuple[Tokens, Tokens], q, k, v, q_features, k_features
) -> tuple[Queries, Keys]:
    """Return one head's queries and keys; their vectors and features are tuples with one entry for each part."""
    q_position, k_position = (of_side.position for of_side in tokens)
    queries = _queries(plan, encoding, q, q_position, q_features)
    keys = _keys(plan, encoding, k, v, k_features)
    if plan.padded:  # the keys of another kind of heads are wider
        keys = keys._replace(key=keys.key[..., -queries.content.shape[-1] :])
    checks.check_ready_keys(queries.content.shape[-1], keys.key.shape[-1])
    return _factored(plan, encoding, queries, keys, q_position, k_position)


def of_one_part(queries: Queries, keys: Keys) -> tuple[Queries, Keys]:
    """Return the queries and keys for a path that treats a sum as one encoding."""
    return of_part(queries, 0), of_part(keys, 0)


def parts_of(plan: Plan, encoding: Slots, tables: Sequence[Tables]) -> tuple[Part, ...]:
    """Return one head's parts; those that blocks need not evaluate have an empty encoding."""

    def of(planned: PartPlan, part: Slots, tables: Tables) -> Part:
        evaluated = planned.evaluated or plan.path == "reference"
        return Part(part if evaluated else Slots(), planned.beyond, planned.band, tables)

    return tuple(of(*of_part) for of_part in plan.each(encoding, tables))


def tables_of(
    plan: Plan, encoding: Slots, given: Any, T: int, S: int, offset: Any
) -> tuple[Tables, ...]:
    """Return each part's tables, empty if blocks read none; offset: the distance of row 0 and column 0."""
    if given is None or plan.filled.walks or len(given) != len(plan.parts):
        given = (None,) * len(plan.parts)

    def of(planned: PartPlan, part: Slots, table: Tables | None) -> Tables:
        layout = plan.layout._replace(band=planned.band)
        cut: Any = planned.beyond, plan.rules, layout, T, S, offset
        if table is None:
            return distances.tabulate(part, *cut) if planned.tabulated else Tables()
        # With an offset, `beyond` is the longest distance in the table.
        return distances.of_cache(table, *cut) if layout.offset else table

    return tuple(of(*of_part) for of_part in plan.each(encoding, given))


def _queries(plan: Plan, encoding: Slots, q: Array, position: Array, features: Any) -> Queries:
    """Return the queries and, for each part, the vector query if it differs from the query."""
    of_parts = plan.features_of_parts(encoding, features)
    if not plan.filled.own_vector_query:
        return Queries(q, (None,) * len(plan.parts), of_parts)

    def vector(planned: PartPlan, part: Slots, features: Any) -> Array | None:
        if not planned.filled.key_vectors:
            return None
        found = part.vector_query(q, position, features)
        # The logits are scaled as a whole.
        return (found if part.scaled_vectors else found / plan.rules.scale).astype(q.dtype)

    vectors = tuple(vector(*of_part) for of_part in plan.each(encoding, of_parts))
    return Queries(encoding.query(q, position, features).astype(q.dtype), vectors, of_parts)


def _keys(plan: Plan, encoding: Slots, k: Array, v: Array, features: Any) -> Keys:
    """Split the keys and vector keys that `transforms.keys` concatenated."""
    widths = [planned.filled.own_vector_key for planned in plan.parts]
    vectors: list[Array | None] = []
    for width in reversed(widths):
        k, vector = jnp.split(k, [k.shape[-1] - width], -1) if width else (k, None)
        vectors.insert(0, vector)
    return Keys(k, v, plan.features_of_parts(encoding, features), tuple(vectors))


def _factored(
    plan: Plan, encoding: Slots, q: Queries, k: Keys, q_position: Array, k_position: Array
) -> tuple[Queries, Keys]:
    """Append the factors of factored parts to queries and keys."""
    beside = lambda x, factor: jnp.concatenate([x, factor.astype(x.dtype)], -1)  # noqa: E731
    for number, (planned, part) in enumerate(plan.each(encoding)):
        if planned.factored:
            vector = q.content if q.vector[number] is None else q.vector[number]
            factor = part.factored_query(vector, q_position)
            if planned.filled.bias:  # the logits are scaled as a whole
                factor = factor / plan.rules.scale
            vectors = (*q.vector[:number], None, *q.vector[number + 1 :])
            q = q._replace(content=beside(q.content, factor), vector=vectors)
            k = k._replace(key=beside(k.key, part.factored_key(k_position)))
    return q, k
