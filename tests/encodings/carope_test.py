import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"base": 500.0, "layout": "interleaved"},)

    def logit(self, q, k, i, j, scale, x, row, column):
        H, total = len(q), 0.0
        w, c = self.of_key_head("weight"), self.of_key_head("offset")
        f = [1 / (math.log1p(math.exp(x[t] @ w + c)) + 1) for t in range(column + 1, row + 1)]
        for m in range(H // 2):
            a, b = (2 * m, 2 * m + 1) if "layout" in self.options else (m, m + H // 2)
            q_m, k_m = complex(q[a], q[b]), complex(k[a], k[b])
            total += (q_m * k_m.conjugate() * np.exp(1j * sum(f_t**m for f_t in f))).real
        return scale * total


def make(name="carope", **options):
    return encodings.create(
        name, num_heads=4, num_kv_heads=2, head_dim=8, rngs=nnx.Rngs(0), **options
    )


@pytest.mark.parametrize("base", [10000.0, 1.5, 1e30])
def test_it_starts_as_rope(base):
    """Whatever the tokens are; angles are counted from the first token, which makes no difference to a pair's."""
    encoding = make(base=base)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 20, 32)), jnp.float32)
    angles, last = encodings.tokens(encoding, x)
    speeds = base ** (-2 * np.arange(4) / 8)
    expected = np.arange(1, 21)[:, None] * speeds
    assert angles.shape == (1, 20, 2, 4)  # of key heads
    np.testing.assert_allclose(angles[0], np.stack([expected, expected], 1), rtol=1e-5)
    np.testing.assert_array_equal(last, angles[:, -1])


def test_the_fastest_pair_turns_by_one_whatever_is_read():
    encoding = make()
    encoding.weight[...] = jnp.ones((2, 32))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 20, 32)), jnp.float32)
    angles, _ = encodings.tokens(encoding, x)
    np.testing.assert_allclose(angles[0, :, 0, 0], np.arange(1, 21), rtol=1e-6)
    steps = np.diff(angles[0, :, 0], axis=0)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps[:, 3], steps[:, 1] ** 3, atol=1e-4)  # powers of one number
    assert np.ptp(steps[:, 1]) > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"base": 1.0}, "carope.base must be above 1"), ({"layout": "pairs"}, "carope.layout")],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_pairs_turn_together():
    with pytest.raises(ValueError, match="head_dim must be even, got 5"):
        encodings.create("carope", num_heads=1, head_dim=5, rngs=nnx.Rngs(0))
