"""Which terms an encoding has: of distances where a table holds them, of pairs where it is evaluated."""

import jax.numpy as jnp
from flax import nnx

from relpos.attention.blocks import Terms
from relpos.attention.distances import Tables
from relpos.attention.logit_terms import Bias, Content, KeyVectors, PairLogits, QueryVectors
from relpos.attention.reference import Rules
from relpos.attention.regions import Layout
from relpos.attention.slots import Slots
from relpos.attention.value_terms import PairValues, Values, ValueVectors


def is_inexact(path, variable):
    """Tell trained numbers from integers, for `nnx.split`."""
    return jnp.issubdtype(variable[...].dtype, jnp.inexact)


def terms_of(encoding: Slots, rules: Rules, layout: Layout, tables: Tables) -> Terms:
    """List the terms that the tables fill, and those that the encoding fills for each pair."""

    def of_slot(kind, slot):
        by_region = [getattr(table, slot) for table in tables]
        return [] if by_region[0] is None else [kind(*by_region)]

    logits = [
        Content(),
        *of_slot(KeyVectors, "key_vectors"),
        *of_slot(QueryVectors, "query_vectors"),
        *of_slot(Bias, "bias"),
    ]
    values = [Values(), *of_slot(ValueVectors, "value_vectors")]
    if encoding.overridden:
        graphdef, state, integers = nnx.split(encoding, is_inexact, ...)  # type: ignore[misc]
        logits.append(PairLogits(state, integers, graphdef, rules, layout.has_table))
        if not layout.has_table:
            values.append(PairValues(state, integers, graphdef, rules))
    return Terms(tuple(logits), tuple(values))
