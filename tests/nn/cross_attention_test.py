"""Rows of queries that share a row of memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.nn.cross_attention import CrossAttention

B, S, T, D = 2, 5, 3, 8


@pytest.fixture(scope="module")
def layer():
    return CrossAttention(2, D, rngs=nnx.Rngs(0))


def drawn(rows, length, seed):
    return jax.random.normal(jax.random.key(seed), (rows, length, D))


def attend(layer, x, memory):
    return layer(x, memory, positions=jnp.broadcast_to(jnp.arange(T), x.shape[:2]))


def test_consecutive_rows_of_queries_read_one_row_of_memory(layer):
    x, y = drawn(2 * B, T, 0), drawn(B, S, 1)
    shared = attend(layer, x, layer.remember(y))
    repeated = attend(layer, x, layer.remember(jnp.repeat(y, 2, 0)))
    np.testing.assert_allclose(shared, repeated, atol=1e-6)


def test_rows_that_do_not_divide_are_refused(layer):
    memory = layer.remember(drawn(B, S, 1))
    with pytest.raises(ValueError, match="3 rows of queries do not divide among 2 rows of memory"):
        attend(layer, drawn(3, T, 0), memory)
