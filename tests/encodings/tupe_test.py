import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import attention, encodings
from tests import oracle
from tests.encodings.t5_test import bucket


class Oracle(oracle.Oracle):
    VARIANTS = ({"untied": True}, {"max_distance": 20, "num_buckets": 8, "max_length": 300})

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"num_buckets": 32, "max_distance": 128, "untied": False} | self.options
        p, n, H = self.p, self.head, len(q)
        of_positions = (p["vectors"][i] @ p["of_queries"][n]) @ (p["vectors"][j] @ p["of_keys"][n])
        of_positions /= np.sqrt(2 * H)
        if chosen["untied"] and i == 0:
            of_positions = p["first"][n][0]
        elif chosen["untied"] and j == 0:
            of_positions = p["first"][n][1]
        row = bucket(i - j, chosen["num_buckets"], chosen["max_distance"], True)
        return float(q @ k) / np.sqrt(2 * H) + of_positions + p["table"][n][row]


def test_a_place_without_a_row_is_nan():
    tupe = encodings.create("tupe", num_heads=1, head_dim=2, rngs=nnx.Rngs(0), max_length=4)
    q = jnp.ones((1, 6, 1, 2))
    out = attention(q, q, q, encoding=tupe, causal=True)[0, :, 0, 0]
    np.testing.assert_array_equal(jnp.isnan(out), [False] * 4 + [True] * 2)
