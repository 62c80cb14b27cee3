"""Pad tokens to whole blocks; no query sees the appended keys."""

from typing import Any

import jax
import jax.numpy as jnp

from relpos.attention import choices
from relpos.attention.reference import Rules, Tokens
from relpos.attention.regions import Layout, round_up
from relpos.positions import contiguous


def pad(tree: Any, *sizes: int) -> Any:
    """Append zeros, so that the first axes are multiples of these sizes."""

    def one(x):
        axes = zip(x.shape, sizes, strict=False)
        more = [(0, round_up(length, size) - length) for length, size in axes]
        return jnp.pad(x, more + [(0, 0)] * (x.ndim - len(sizes)))

    return jax.tree.map(one, tree)


def cut(tree: Any, size: int) -> Any:
    """Pad, then cut into blocks, [blocks, size, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), pad(tree, size))


def whole_blocks(rules: Rules, layout: Layout, q: Tokens, k: Tokens) -> tuple[Tokens, Tokens]:
    """Pad queries and keys to whole blocks, and hide the appended keys."""
    T, S = q.row.shape[0], k.row.shape[0]
    # Keys that causality hides need no segments.
    hidden = rules.causal and layout.consecutive and not layout.offset
    hidden = hidden and (T == S or choices.are_at_most(S, T))
    if round_up(S, layout.columns) != S and k.segment is None and not hidden:
        q, k = (tokens._replace(segment=jnp.ones_like(tokens.row)) for tokens in (q, k))
    # Positions continue, so that causality hides the padding; the output of padding queries is not used.
    firsts = [tokens.position[0] if layout.offset else 0 for tokens in (q, k)]
    q, k = pad(q, layout.rows), pad(k, layout.columns)
    if layout.consecutive:
        q, k = (
            tokens._replace(position=first + contiguous(tokens.row.shape[0]))
            for tokens, first in zip((q, k), firsts, strict=True)
        )
    return q, k
