"""What a call decides: the path, how the attention matrix is cut, and how it gets at what an encoding says."""

from typing import Any, NamedTuple

import jax

from relpos.attention import checks, choices, regions
from relpos.attention.distances import Tables
from relpos.attention.filled import Filled
from relpos.attention.reference import Rules
from relpos.attention.slots import Slots


class Plan(NamedTuple):
    """The static side of attention, for all heads."""

    path: str
    rules: Rules
    filled: Filled
    graphdef: Any  # of the encoding
    beyond: int | None  # its constant_beyond, where a distance is that far
    layout: regions.Layout
    tabulated: bool  # distances as a table, from which blocks read
    factored: bool  # as factors, beside the queries and keys; neither: evaluated for each pair

    @property
    def evaluated(self) -> bool:
        """Whether blocks evaluate the encoding: a table says all that it has to say of distances."""
        by_pair = self.filled.distances and not self.tabulated and not self.factored
        return self.filled.block_bias or self.filled.walks or by_pair

    @classmethod
    def of(
        cls,
        encoding: Slots,
        graphdef: Any,
        rules: Rules,
        sizes: tuple[Any, Any, int],
        dtype: Any,
        tables: Tables | None,
        *,
        implementation: choices.Implementation,
        consecutive: bool,
        whole: bool,
        block_sizes: tuple[int, int] | None,
    ) -> "Plan":
        """Choose by path, positions (consecutive, or at least whole numbers) and slots; sizes are T, S, H."""
        T, S, H = sizes
        filled = Filled.of(encoding)
        path = choices.implementation(
            implementation, T, S, has_vectors=filled.vectors or filled.walks
        )
        # A band has a place for whole distances alone; factors know of no distance that is held.
        beyond = encoding.constant_beyond if whole else None
        may_factor = bool(filled.factors) and (whole or encoding.constant_beyond is None)
        band = None if tables is None else jax.tree.leaves(tables)[0].shape[1] - 1
        if filled.walks:
            if path == "pallas":
                raise ValueError(checks.no_kernel_walks(encoding))
            cut = choices.walk_layout(T, S, consecutive=consecutive, block_sizes=block_sizes)
            return cls(path, rules, filled, graphdef, None, cut, tabulated=False, factored=False)
        if path == "pallas":
            if band is None and beyond is not None:
                band = min(beyond, max(T, S) - 1) if consecutive else beyond
            factored = band is None and may_factor
            if filled.vectors and band is None and not factored:
                raise ValueError(checks.no_kernel(encoding))
            width = H + (filled.factors if factored else 0)
            cut = choices.kernel_layout(
                T, S, width * dtype.itemsize,
                consecutive=consecutive, band=band, block_sizes=block_sizes,
            )  # fmt: skip
            return cls(path, rules, filled, graphdef, None, cut, band is not None, factored)
        if consecutive and beyond is not None and choices.are_within(beyond, T, S):
            beyond = None  # no distance is that far
        by_pair = path == "blockwise" and not consecutive and beyond is None and tables is None
        factored = by_pair and may_factor
        cut = choices.layout(
            T, S, H, consecutive=consecutive, beyond=beyond, has_vectors=filled.vectors and not factored,
            window=rules.window, block_sizes=block_sizes,
        )  # fmt: skip
        if band is not None:
            cut = cut._replace(band=band)
        tabulated = path == "blockwise" and cut.has_table
        return cls(path, rules, filled, graphdef, beyond, cut, tabulated, factored)
