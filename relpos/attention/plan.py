"""What a call decides: the path, how the attention matrix is cut, and how blocks read distance slots."""

import functools
from typing import Any, NamedTuple

import jax

from relpos.attention import checks, choices, regions
from relpos.attention.distances import Tables
from relpos.attention.reference import Rules
from relpos.attention.slot_use import SlotUse
from relpos.attention.slots import Slots


class PartPlan(NamedTuple):
    """How one part of a sum is evaluated; an encoding that is no sum is one part.

    Attributes:
      filled: the slots that it fills.
      beyond: its constant_beyond; None if no distance reaches it.
      band: `Layout.band`, this part's.
      tabulated: blocks read its distances from a table.
      factored: its distances are factors, beside the queries and keys; neither: they are evaluated for each pair.
    """

    filled: SlotUse
    beyond: int | None = None
    band: int | None = None
    tabulated: bool = False
    factored: bool = False

    @property
    def evaluated(self) -> bool:
        """Whether blocks call the encoding itself: for block_bias, walk, or distances without table or factors."""
        by_pair = self.filled.distances and not self.tabulated and not self.factored
        return self.filled.block_bias or self.filled.walks or by_pair


class Known(NamedTuple):
    """What is known of a call's positions before the program runs.

    Attributes:
      consecutive: the distance of visible pairs is i - j + one constant.
      offset: the constant may be other than 0.
      whole: positions are whole numbers.
      longest: a bound on |d| of visible pairs; None: not known.
    """

    consecutive: bool
    offset: bool = False
    whole: bool = True
    longest: int | None = None


class Plan(NamedTuple):
    """The static side of attention, for all heads.

    Attributes:
      path: reference, blockwise, outward or pallas.
      rules: who sees whom, the scale, softcap and dropout.
      filled: the slots that the whole encoding fills.
      graphdef: of the encoding.
      layout: how the attention matrix is cut.
      parts: of a sum on the blockwise path; elsewhere the whole is the one part.
      padded: keys out of a cache may have zeros in front, which make them as wide as those of other heads.
    """

    path: str
    rules: Rules
    filled: SlotUse
    graphdef: Any
    layout: regions.Layout
    parts: tuple[PartPlan, ...]
    padded: bool = False

    @property
    def in_blocks(self) -> bool:
        """Whether the path leaves a `blockwise.Result`."""
        return self.path in ("blockwise", "outward")

    def parts_of(self, encoding: Slots) -> tuple[Slots, ...]:
        """Return the encodings that the plans of parts are for."""
        return encoding.parts if len(self.parts) > 1 else (encoding,)

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
        """Choose by path, positions and slots; sizes are T, S, N, H."""
        T, S, N, H = sizes
        consecutive = known.consecutive
        filled = SlotUse.of(encoding)
        path = choices.implementation(
            implementation, T, S, has_vectors=filled.vectors or filled.walks or filled.width >= H
        )
        made = functools.partial(cls, path, rules, filled, graphdef)
        if filled.walks:
            if path == "pallas":
                raise choices.NoKernelError(checks.no_kernel_walks(encoding))
            if path == "blockwise":
                cut = choices.walk_layout(
                    T, S, encoding.walk_rows, consecutive=consecutive, block_sizes=block_sizes
                )
                cut = cut._replace(offset=known.offset)
                return made(cut, (PartPlan(filled),))._replace(path="outward")
        if path == "reference":
            return made(regions.Layout(T, S, consecutive), (PartPlan(filled),))
        if path == "pallas":
            part, width = _kernels(encoding, filled, tables, (T, S, H), rules, known)
            cut = choices.kernel_layout(
                T, S, width * dtype.itemsize,
                consecutive=consecutive, band=part.band, block_sizes=block_sizes,
            )  # fmt: skip
            return made(cut, (part,))
        # Each part has a band of its own, so that one whose distances never end widens no other's.
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
    """Plan for GPU kernels, and say how wide queries and keys are there."""
    T, S, H = sizes
    if filled.mixes:
        raise choices.NoKernelError(checks.no_kernel_mixes(encoding))
    if filled.sink:
        raise choices.NoKernelError(checks.no_kernel_sink(encoding))
    if not filled.normalized:
        raise choices.NoKernelError(checks.no_kernel_unnormalized(encoding))
    band = _length(tables[0]) if tables is not None and len(tables) == 1 else None
    beyond, may_factor = _held(encoding, filled, rules, known.whole)
    if band is None and beyond is not None:
        band = min(beyond, max(T, S) - 1) if known.consecutive else beyond
    factored = band is None and may_factor
    if filled.vectors and band is None and not factored:
        raise choices.NoKernelError(checks.no_kernel(encoding))
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
    """Plan one part of the blockwise path, and the blocks that it would have by itself."""
    T, S, H = sizes
    consecutive, offset = known.consecutive, known.offset
    filled, band = SlotUse.of(part, encoding), _length(table)
    beyond, may_factor = _held(part, filled, rules, known.whole)
    if band is not None and offset:
        beyond, band = band, None  # no distance goes beyond it
    elif consecutive and not offset and beyond is not None and choices.are_within(beyond, T, S):
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


def _held(encoding: Slots, filled: SlotUse, rules: Rules, whole: bool) -> tuple[int | None, bool]:
    """Return where distances clamp, and whether factors may replace the slot.

    A band holds whole distances only, and factors cannot clamp. Factors of a bias are scaled with the dot products,
    while `mix` wants the bias by itself. Where blocks call the encoding for its block_bias they ask for distances too.
    """
    beyond = encoding.constant_beyond
    may_factor = bool(filled.factors) and not filled.block_bias and (whole or beyond is None)
    if filled.bias:
        may_factor = may_factor and rules.scale != 0 and not filled.mixes
    return (beyond if whole else None), may_factor


def _length(table: Tables | None) -> int | None:
    """Return the longest distance that a table out of a cache holds."""
    return None if table is None else jax.tree.leaves(table)[0].shape[1] - 1
