import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import attention, encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"base": 500.0},)

    def logit(self, q, k, i, j, scale, x, row, column):
        base, H = self.options.get("base", 10000.0), len(q)
        delta = np.clip(self.p["delta"][self.head], -2 * np.pi, 0)
        total = 0.0
        for c in range(H):
            lengths = np.log1p(np.exp(q[c])) * np.log1p(np.exp(k[c]))
            total += lengths * np.cos((j - i) * base ** (-c / H) + delta[c])
        return scale * total


def test_delta_starts_at_zero_and_is_held_between_a_turn_back_and_zero():
    pope = encodings.create("pope", num_heads=1, head_dim=4, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(pope.delta[...], np.zeros((1, 4)))
    q = jnp.ones((1, 5, 1, 4))
    expected = attention(q, q, jnp.arange(5.0)[None, :, None, None] * q, encoding=pope)
    pope.delta[...] = jnp.full((1, 4), 0.7)
    found = attention(q, q, jnp.arange(5.0)[None, :, None, None] * q, encoding=pope)
    np.testing.assert_array_equal(found, expected)
