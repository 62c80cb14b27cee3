"""What a call is given, and one head's queries and keys as the encoding and the plan want them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from relpos import positions
from relpos.attention import checks
from relpos.attention.distances import Tables
from relpos.attention.plan import Plan
from relpos.attention.reference import Keys, Queries, Tokens
from relpos.attention.slots import Slots


class Arrays(NamedTuple):
    """The arrays of one call; what was not given is None."""

    state: Any
    tables: Tables | None
    q: Array
    k: Array
    v: Array
    q_features: Any
    k_features: Any
    places: tuple[Any, ...]  # positions, segments and order of queries and of keys, by turns
    seeds: Array | None


def tokens_of(T, S, places: tuple[Any, ...]) -> tuple[Tokens, Tokens]:
    """Return where the queries and the keys of one row stand."""
    index_T, index_S = positions.contiguous(T), positions.contiguous(S)
    q_position, k_position, q_segment, k_segment, *orders = places
    q_position = index_T if q_position is None else q_position
    k_position = index_S if k_position is None else k_position
    q_tokens = Tokens(index_T, q_position, q_segment, orders[0])
    return q_tokens, Tokens(index_S, k_position, k_segment, orders[1])


def of_one_part(queries: Queries, keys: Keys) -> tuple[Queries, Keys]:
    """Return them as blocks want them, with vectors and features of each part."""
    queries = Queries(queries.content, (queries.vector,), (queries.features,))
    return queries, keys._replace(features=(keys.features,), vector=(keys.vector,))


def queries_and_keys(
    plan: Plan, encoding: Slots, tokens: tuple[Tokens, Tokens], q, k, v, q_features, k_features
) -> tuple[Queries, Keys]:
    """Return one head's, as the encoding and the plan want them."""
    filled, (q_tokens, k_tokens) = plan.filled, tokens
    content, vector = q, None
    if filled.own_vector_query:
        content = encoding.query(q, q_tokens.position, q_features).astype(q.dtype)
        vector = encoding.vector_query(q, q_tokens.position, q_features)
        # The logits are scaled as a whole.
        vector = (vector if encoding.scaled_vectors else vector / plan.rules.scale).astype(q.dtype)
    key_vector = None
    if filled.own_vector_key:
        k, key_vector = jnp.split(k, [k.shape[-1] - filled.own_vector_key], -1)
    checks.check_ready_keys(content.shape[-1], k.shape[-1])
    if plan.factored:
        of_query = encoding.factored_query(content if vector is None else vector, q_tokens.position)
        content, vector = _beside(content, of_query), None
        k = _beside(k, encoding.factored_key(k_tokens.position))
    queries = Queries(content, vector, q_features)
    keys = Keys(k, v, k_features, key_vector)
    return queries, keys


def _beside(x_TH: Array, more_TF: Any) -> Array:
    return jnp.concatenate([x_TH, more_TF.astype(x_TH.dtype)], -1)
