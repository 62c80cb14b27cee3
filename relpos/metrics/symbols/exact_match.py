"""The share of answers without a wrong symbol.

A decoder is given the right symbols before each, so that an exact match is what greedy decoding gives too.
"""

import jax
import jax.numpy as jnp

from relpos.metrics.symbols import Scored

FORMAT = "{:.1%}"


def measure(scored: Scored) -> tuple[jax.Array, jax.Array]:
    """Return how many answers are right, and how many there are."""
    wrong_BT = (scored.logits.argmax(-1) != scored.targets) & scored.counts
    right_B = ~wrong_BT.any(1) & scored.counts.any(1)
    return right_B.sum().astype(jnp.float32), scored.is_example.sum().astype(jnp.float32)
