"""Warm-up, stable, decay: a constant rate, then linear decay. Hägele et al. 2024, arXiv:2405.18392, sec. 3."""

import jax
import jax.numpy as jnp


def fraction(done: jax.Array, *, decay: float = 0.2) -> jax.Array:
    """Return 1 until the last fraction `decay` of the steps after the warm-up, then (1 - done) / decay.

    Raises:
      ValueError: `decay` is not in (0, 1].
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], got {decay}")
    return jnp.minimum(1.0, (1 - done) / decay)
