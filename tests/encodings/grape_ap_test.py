import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle
from tests.attending import attend, inputs, make


class Oracle(oracle.Oracle):
    VARIANTS = ({"width": 2},)

    def potential(self, x_i, x_t, t):
        """log sigmoid(p_i . R_t n(p_t) / P), R_t as a matrix for each pair."""
        probe = self.p["probe"][self.head]
        p_i, p_t = x_i @ probe, x_t @ probe
        p_t = p_t / math.sqrt((p_t**2).mean() + 2.0**-23)
        half, turned = len(p_t) // 2, p_t.copy()
        turn = np.array([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]])
        for m in range(half):
            turned[[m, m + half]] = turn @ p_t[[m, m + half]]
        return -math.log(1 + math.exp(-(p_i @ turned) / len(p_t)))

    def logit(self, q, k, i, j, scale, x, row, column):
        raise NotImplementedError("the way to a key leads past those behind it")

    def logits(self, q, keys, i, js, scale, x, row, columns):
        """From the last key to the first: a key's own token is no step on the way to it."""
        found, passed = [], 0.0
        for k, j, column in reversed(list(zip(keys, js, columns, strict=True))):
            found.append(scale * float(q @ k) + self.p["slopes"][self.head] * passed)
            passed += self.potential(x[row], x[column], j)
        return found[::-1]


def test_where_it_starts():
    made = encodings.create("grape_ap", num_heads=8, head_dim=50, rngs=nnx.Rngs(0))
    assert made.probe.shape == (8, 400, 8)
    np.testing.assert_allclose(made.probe[...].std(), 0.5 / 400**0.5, rtol=0.05)
    np.testing.assert_allclose(made.slopes[...], [2.0**-h for h in range(1, 9)])


def test_probes_that_say_nothing_are_alibi():
    """Each step is then log sigmoid(0) = -log 2."""
    grape, alibi = (make(name, dtype=jnp.float32) for name in ("grape_ap", "alibi"))
    grape.probe[...] = jnp.zeros_like(grape.probe[...])
    grape.slopes[...] = alibi.slopes[...] / math.log(2)
    arrays = inputs(T=29, B=1, dtype=np.float32)
    found, expected = (attend(each, *arrays, causal=True) for each in (grape, alibi))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_keys_to_come_are_no_steps():
    """What a sink shows: beside it a number for all keys of a query counts."""
    both, sink = (make(name, dtype=jnp.float32) for name in ("grape_ap+sink", "sink"))
    sink.logit[...] = both.parts[1].logit[...]
    arrays = inputs(T=29, B=1, dtype=np.float32)
    found, expected = (attend(each, *arrays, causal=True) for each in (both, sink))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-6)


def test_pairs_turn_together():
    with pytest.raises(ValueError, match=r"grape_ap\.width must be even.*got 3"):
        make("grape_ap", width=3)
