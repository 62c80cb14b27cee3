import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle
from tests.attending import attend, inputs, make


def exponential(a):
    """Return exp(a) by its series; nothing of a^2 = 0 is assumed."""
    total, term = np.eye(len(a)), np.eye(len(a))
    for n in range(1, 4):
        term = term @ a / n
        total = total + term
    return total


def lifted(q, k, scale):
    """[q; 1; 0] and [k; 0; 1], whose product is that of q and k."""
    return np.concatenate([scale * q, [1, 0]]), np.concatenate([k, [0, 1]])


class Oracle(oracle.Oracle):
    """The group action: G(i) on queries, the inverse transpose of G(j) on keys."""

    VARIANTS = ({"queries": False}, {"keys": False})

    def gate(self, direction, x):
        along = direction @ x / np.linalg.norm(direction) / math.sqrt(len(x))
        return math.log(1 + math.exp(along))

    def logit(self, q, k, i, j, scale, x, row, column):
        gates = 0.0
        if self.options.get("queries", True):
            gates += self.gate(self.p["of_queries"][self.head], q)
        if self.options.get("keys", True):
            gates += self.gate(self.of_key_head("of_keys"), k)
        omega = self.p["slopes"][self.head] * math.log(1 + math.exp(self.p["rate"][self.head]))
        generator = np.zeros((len(q) + 2, len(q) + 2))
        generator[-1, -2] = -omega * gates
        q, k = lifted(q, k, scale)
        back = np.linalg.inv(exponential(j * generator)).T
        return float((exponential(i * generator) @ q) @ (back @ k))


class Fox(oracle.Oracle):
    """A product of one matrix I + log f_t E for each token on the way, E^2 = 0."""

    def logit(self, q, k, i, j, scale, x, row, column):
        q, k = lifted(q, k, scale)
        way = np.eye(len(q))
        for t in range(column + 1, row + 1):
            gate = self.p["weight"][self.head] @ x[t] + self.p["offset"][self.head]
            step = np.eye(len(q))
            step[-1, -2] = -math.log(1 + math.exp(-gate))
            way = step @ way
        return float((way @ q) @ k)


def test_where_it_starts():
    made = encodings.create("grape_a", num_heads=8, num_kv_heads=2, head_dim=50, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(jnp.log1p(jnp.exp(made.rate[...])), np.ones(8), rtol=1e-6)
    np.testing.assert_allclose(made.slopes[...], [2.0**-h for h in range(1, 9)])
    assert made.of_queries.shape == (8, 50)
    assert made.of_keys.shape == (2, 50)


def test_gates_that_are_equal_are_alibi():
    """Two of softplus(0) = log 2, and a rate that takes them away."""
    grape, alibi = (make(name, dtype=jnp.float32) for name in ("grape_a", "alibi"))
    for gate in (grape.of_queries, grape.of_keys):
        gate[...] = jnp.zeros_like(gate[...])
    grape.rate[...] = jnp.full(6, math.log(math.expm1(1 / (2 * math.log(2)))))
    arrays = inputs(T=29, B=1, dtype=np.float32)
    found, expected = (attend(each, *arrays, causal=True) for each in (grape, alibi))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_fox_is_a_product_of_such_matrices():
    fox = make("fox", dtype=jnp.float32)
    arrays = inputs(T=13, B=1, dtype=np.float32)
    found = attend(fox, *arrays, causal=True)
    state = nnx.to_pure_dict(nnx.state(fox))
    p = {name: np.asarray(value, np.float64) for name, value in state.items()}
    q, k, v, x = (np.asarray(each[0], np.float64) for each in arrays)
    at = np.arange(13)
    expected = oracle.attention(
        [Fox(p, n, 6, {}) for n in range(6)], q, k, v, q_positions=at, k_positions=at,
        visible=lambda row, column: column <= row, scale=10**-0.5, x=x,
    )  # fmt: skip
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_without_gates_it_is_another_scheme():
    with pytest.raises(ValueError, match="grape_a without gates is alibi"):
        make("grape_a", queries=False, keys=False)
