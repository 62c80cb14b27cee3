"""The fraction of answers without a wrong symbol.

A decoder sees the correct previous symbols, so an exact match under teacher forcing is one under greedy decoding, too.
"""

import jax
import jax.numpy as jnp

from relpos.metrics.symbols import Scored

FORMAT = "{:.1%}"


def measure(scored: Scored) -> tuple[jax.Array, jax.Array]:
    """Return the number of correct answers and the number of answers."""
    wrong_BT = (scored.logits.argmax(-1) != scored.targets) & scored.counts
    right_B = ~wrong_BT.any(1) & scored.counts.any(1)
    return right_B.sum().astype(jnp.float32), scored.is_example.sum().astype(jnp.float32)
