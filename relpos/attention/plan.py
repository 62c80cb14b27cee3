"""The plan of a call: its path, how the attention matrix is cut, and how blocks read distance slots."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from relpos.attention import checks, choices, regions
from relpos.attention.distances import Tables
from relpos.attention.reference import Rules
from relpos.attention.slot_use import SlotUse
from relpos.attention.slots import Slots


class PartPlan(NamedTuple):
    """How one part of a sum is evaluated; an encoding that is not a sum has one part."""

    filled: SlotUse  # the slots that the part fills
    beyond: int | None = None  # its constant_beyond; None if no distance reaches it
    band: int | None = None  # its `Layout.band`
    tabulated: bool = False  # whether blocks read its distance slots from a table
    factored: bool = False  # whether factors, appended to queries and keys, replace these slots

    @property
    def evaluated(self) -> bool:
        """Whether blocks call the encoding itself: for block_bias, walk, or distance slots without table or factors."""
        by_pair = self.filled.distances and not self.tabulated and not self.factored
        return self.filled.block_bias or self.filled.walks or by_pair


class Known(NamedTuple):
    """What is known about a call's positions at trace time."""

    consecutive: bool  # whether all visible pairs have distance i - j + one constant
    offset: bool = False  # whether the constant may differ from 0
    whole: bool = True  # whether positions are integers
    longest: int | None = None  # a bound on |d| of visible pairs; None: not known


class Plan(NamedTuple):
    """The static side of attention, for all heads."""

    path: str  # reference, blockwise, outward or pallas
    rules: Rules
    filled: SlotUse  # the slots that the whole encoding fills
    graphdef: Any  # the encoding's
    layout: regions.Layout
    parts: tuple[PartPlan, ...]  # on other paths than blockwise, a sum is one part
    padded: bool = False  # whether keys out of a cache may have leading zeros, to be as wide as those of other heads

    def each(self, encoding: Slots, *more: Any) -> Iterator[tuple[Any, ...]]:
        """Return each part's plan, its encoding, and its entries in `more`."""
        parts = encoding.parts if len(self.parts) > 1 else (encoding,)
        return zip(self.parts, parts, *more, strict=True)

    def features_of_parts(self, encoding: Slots, features: Any) -> tuple[Any, ...]:
        """Return the features of each part."""
        return encoding.features_of_parts(features) if len(self.parts) > 1 else (features,)

    @classmethod
    def of(
        cls,
        encoding: Slots,
        graphdef: Any,
        rules: Rules,
        sizes: tuple[Any, Any, int, int],
        dtype: Any,
        tables: tuple[Tables | None, ...] | None,
        *,
        implementation: choices.Implementation,
        known: Known,
        block_sizes: tuple[int, int] | None,
    ) -> "Plan":
        """Return the plan for an encoding and what is known of the positions; sizes are T, S, N, H."""
        T, S, N, H = sizes
        consecutive = known.consecutive
        filled = SlotUse.of(encoding)
        path = choices.implementation(
            implementation, T, S, has_vectors=filled.vectors or filled.walks or filled.width >= H
        )
        made = functools.partial(cls, path, rules, filled, graphdef)
        if path == "reference":
            return made(regions.Layout(T, S, consecutive), (PartPlan(filled),))
        if path == "pallas":
            part, width = _kernels(encoding, filled, tables, (T, S, H), rules, known)
            cut = choices.kernel_layout(
                T, S, width * dtype.itemsize,
                consecutive=consecutive, band=part.band, block_sizes=block_sizes,
            )  # fmt: skip
            return made(cut, (part,))
        if filled.walks:
            cut = choices.walk_layout(
                T, S, encoding.walk_rows, consecutive=consecutive, block_sizes=block_sizes
            )
            cut = cut._replace(offset=known.offset)
            return made(cut, (PartPlan(filled),))._replace(path="outward")
        # Each part has its own band, so that a part without constant_beyond does not widen the others' bands.
        parts = (encoding,) if filled.mixes else encoding.parts
        tables = tables or (None,) * len(parts)
        together = N if filled.mixes else 1
        planned = [
            _blockwise(part, encoding, table, (T, S, H), rules, known, block_sizes, together)
            for part, table in zip(parts, tables, strict=True)
        ]
        rows, columns = (min(sizes) for sizes in zip(*(cut[:2] for _, cut in planned), strict=True))
        cut = regions.Layout(rows, columns, consecutive, offset=known.offset)
        return made(cut, tuple(part for part, _ in planned))


def _kernels(
    encoding: Slots,
    filled: SlotUse,
    tables: tuple[Tables | None, ...] | None,
    sizes,
    rules: Rules,
    known: Known,
) -> tuple[PartPlan, int]:
    """Return the plan for GPU kernels, and the width of queries and keys in them."""
    T, S, H = sizes
    band = _length(tables[0]) if tables is not None and len(tables) == 1 else None
    beyond, may_factor = _clamp(encoding, filled, rules, known.whole)
    if band is None and beyond is not None:
        band = min(beyond, max(T, S) - 1) if known.consecutive else beyond
    factored = band is None and may_factor
    endless = filled.vectors and band is None and not factored
    checks.check_kernels(encoding, filled, vector_per_distance=endless)
    width = H + (filled.factors if factored else 0)
    return PartPlan(filled, None, band, band is not None, factored), width


def _blockwise(
    part: Slots,
    encoding: Slots,
    table: Tables | None,
    sizes,
    rules: Rules,
    known: Known,
    block_sizes,
    together: int,
) -> tuple[PartPlan, regions.Layout]:
    """Return the plan of one part on the blockwise path, and the layout that it would have alone."""
    T, S, H = sizes
    consecutive, offset = known.consecutive, known.offset
    filled, band = SlotUse.of(part, encoding), _length(table)
    beyond, may_factor = _clamp(part, filled, rules, known.whole)
    if band is not None and offset:
        beyond, band = band, None  # no distance is longer
    elif consecutive and not offset and beyond is not None and choices.are_at_most(beyond, T, S):
        beyond = None  # no distance is that far
    by_pair = not consecutive and beyond is None and table is None
    factored = by_pair and may_factor
    if by_pair and not factored and known.whole and filled.worth_a_table:
        band = known.longest
    width = max(filled.width, H if filled.vectors else 0) if by_pair and not factored else 0
    cut = choices.layout(
        T, S, consecutive=consecutive, beyond=beyond, has_vectors=filled.vectors and not factored,
        width=0 if band is not None else width,
        window=rules.widest, block_sizes=block_sizes, together=together,
    )  # fmt: skip
    if band is not None:
        cut = cut._replace(band=band)
    return PartPlan(filled, beyond, cut.band, cut.has_table, factored), cut


def _clamp(encoding: Slots, filled: SlotUse, rules: Rules, whole: bool) -> tuple[int | None, bool]:
    """Return where distances clamp, and whether factors may replace the slot.

    A band holds integer distances only, and factors cannot clamp. Factors of a bias are scaled with the dot products,
    while `mix` needs the bias by itself. Blocks that call an encoding's block_bias also evaluate its distance slots.
    """
    beyond = encoding.constant_beyond
    may_factor = bool(filled.factors) and not filled.block_bias and (whole or beyond is None)
    if filled.bias:
        may_factor = may_factor and rules.scale != 0 and not filled.mixes
    return (beyond if whole else None), may_factor


def _length(table: Tables | None) -> int | None:
    """Return the longest distance in a table out of a cache."""
    return None if table is None else jax.tree.leaves(table)[0].shape[1] - 1
