"""The fraction of answer symbols that are correct."""

import jax
import jax.numpy as jnp

from relpos.metrics.symbols import Scored

FORMAT = "{:.1%}"
PROGRESS = "{:.1%} right"


def measure(scored: Scored) -> tuple[jax.Array, jax.Array]:
    """Return the number of answer symbols predicted correctly, and the number of answer symbols."""
    right_BT = (scored.logits.argmax(-1) == scored.targets) & scored.counts
    return right_BT.sum().astype(jnp.float32), scored.counts.sum().astype(jnp.float32)
