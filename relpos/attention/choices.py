"""Every choice of path and size, in one place: by platform and shape."""

from typing import Literal

import jax

from relpos.attention.blockwise import Layout

Implementation = Literal["auto", "reference", "blockwise"]
IMPLEMENTATIONS = ("auto", "reference", "blockwise")

# Fewer queries than this: the dense path holds no more than a few rows of S numbers, and has no loop to set up.
FEW_QUERIES = 8


def implementation(asked: str, T: int, S: int) -> str:
    """Return the path that "auto" stands for."""
    if asked != "auto":
        return asked
    return "reference" if T < FEW_QUERIES else "blockwise"


def layout(T: int, S: int, H: int, *, consecutive: bool, has_vectors: bool) -> Layout:
    """Return block sizes.

    Blocks of 512 keep logits and weights of one head in a core's cache; short sequences are cut finer, so that
    there are hidden blocks to skip. Where positions are scattered and the encoding has vectors, a block holds one
    vector of H numbers for every pair: smaller blocks.
    """
    largest = 128 if max(T, S) <= 512 else 512
    if has_vectors and not consecutive:
        largest = max(16, 512 // max(1, round(H**0.5)))
    return Layout(min(largest, _ceil(T, 8)), min(largest, _ceil(S, 8)), consecutive)


def loop_over_heads(platform: str | None = None) -> bool:
    """Whether heads and batch rows go one after another (a core's cache holds one head's block) or all at once."""
    return (platform or jax.default_backend()) == "cpu"


def _ceil(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
