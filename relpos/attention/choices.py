"""Every choice of path and size, in one place: by platform and shape."""

from typing import Literal

import jax

from relpos.attention.distances import Layout, round_up

Implementation = Literal["auto", "reference", "blockwise"]
IMPLEMENTATIONS = ("auto", "reference", "blockwise")

# Fewer queries than this: the dense path holds no more than a few rows of S numbers, and has no loop to set up.
FEW_QUERIES = 8


def implementation(asked: str, T: int, S: int) -> str:
    """Return the path that "auto" stands for."""
    if asked != "auto":
        return asked
    return "reference" if T < FEW_QUERIES else "blockwise"


def layout(
    T: int,
    S: int,
    H: int,
    *,
    consecutive: bool,
    beyond: int | None,
    has_vectors: bool,
    block_sizes: tuple[int, int] | None = None,
) -> Layout:
    """Return block sizes and whether the distances short of `beyond` are few enough for a band.

    Blocks of 512 keep logits and weights of one head in a core's cache; short sequences are cut finer, so that
    there are hidden blocks to skip. Where positions are scattered and the encoding has vectors for all distances, a
    block holds one vector of H numbers for every pair: smaller blocks.
    """
    if block_sizes is not None:
        rows, columns = block_sizes
    else:
        largest = 128 if max(T, S) <= 512 else 512
        if has_vectors and not consecutive and beyond is None:
            largest = max(16, 512 // max(1, round(H**0.5)))
        rows, columns = min(largest, round_up(T, 8)), min(largest, round_up(S, 8))
    band = None
    if beyond is not None and (not consecutive or 2 * beyond < columns):
        band = beyond
    if has_vectors and consecutive and band is None:
        rows = min(
            rows, columns
        )  # what one block of keys hands on to the next is no more than a block
    return Layout(rows, columns, consecutive, band)


def heads_at_once(T: int, S: int, path: str, platform: str | None = None) -> int:
    """Return how many heads (and batch rows) are computed together.

    On the CPU one head's block stays in a core's cache; accelerators want all of them at once.
    """
    return 1 if (platform or jax.default_backend()) == "cpu" else 2**31
