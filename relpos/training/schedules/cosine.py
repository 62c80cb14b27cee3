"""Cosine decay. Loshchilov and Hutter 2017, arXiv:1608.03983."""

import jax
import jax.numpy as jnp


def fraction(done: jax.Array) -> jax.Array:
    """Return (1 + cos(pi done)) / 2."""
    return 0.5 * (1 + jnp.cos(jnp.pi * done))
