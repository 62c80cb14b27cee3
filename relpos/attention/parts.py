"""The parts of an encoding, and their terms: terms of distances if tables hold them, terms of pairs otherwise."""

from collections.abc import Sequence
from typing import NamedTuple

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
    """Whether a variable holds real numbers rather than integers, a filter for `nnx.split`."""
    return jnp.issubdtype(variable[...].dtype, jnp.inexact)


class Part(NamedTuple):
    """One summand of a sum of encodings, for one head.

    Each part has its own band, so that a part without constant_beyond does not widen the others' bands.
    """

    encoding: Slots  # empty if the tables hold all that blocks read
    beyond: int | None = None  # its constant_beyond, or None
    band: int | None = None  # its `Layout.band`
    tables: Tables = Tables()  # with the same rules and, except for the band, the same layout

    def layout(self, layout: Layout) -> Layout:
        """Return the layout with the part's band."""
        return layout._replace(band=self.band)


def terms_of(parts: Sequence[Part], rules: Rules, layout: Layout) -> Terms:
    """Return the terms of the content and those of each part."""
    found = [_terms_of(i, part, rules, part.layout(layout)) for i, part in enumerate(parts)]
    logits = (Content(), *(term for of_part in found for term in of_part.logits))
    return Terms(logits, (Values(), *(term for of_part in found for term in of_part.values)))


def _terms_of(number: int, part: Part, rules: Rules, layout: Layout) -> Terms:
    """Return the terms that read a part's tables, and those that evaluate its encoding for each pair."""

    def of_slot(kind, slot):
        by_region = [getattr(table, slot) for table in part.tables]
        return [] if by_region[0] is None else [kind(*by_region, number)]

    logits = [
        *of_slot(KeyVectors, "key_vectors"),
        *of_slot(QueryVectors, "query_vectors"),
        *of_slot(Bias, "bias"),
    ]
    values = of_slot(ValueVectors, "value_vectors")
    if part.encoding.overridden:
        graphdef, state, integers = nnx.split(part.encoding, is_inexact, ...)  # type: ignore[misc]
        of_pairs = state, integers, graphdef, rules
        logits.append(PairLogits(*of_pairs, number, layout.has_table))
        if not layout.has_table:
            values.append(PairValues(*of_pairs))
    return Terms(tuple(logits), tuple(values))
