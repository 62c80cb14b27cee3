"""Bits per byte: the code length of the text, including document ends, divided by its bytes."""

import jax
import jax.numpy as jnp

from relpos.metrics.text import Scored

FORMAT = "{:.4f}"
PROGRESS = "{:.3f} bpb"


def measure(scored: Scored) -> tuple[jax.Array, jax.Array] | None:
    """Return the number of bits and the number of bytes."""
    if scored.text_bytes is None:
        return None
    bits = (scored.nats * scored.weights).sum() / jnp.log(2.0)
    return bits, (scored.text_bytes * scored.weights).sum()
