import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"alpha": 0.7, "amplitude": 0.3},)

    def logit(self, q, k, i, j, scale, x, row, column):
        D, theta = len(q), self.options.get("amplitude", 0.5)
        A = round(theta * D)
        amplitude = sum(float(q[c] * k[c]) for c in range(A)) / math.sqrt(A)
        pace = sum(float(q[c] * k[c]) for c in range(A, D)) / math.sqrt(D - A)
        distance = abs(i - j) ** self.options.get("alpha", 0.1)
        return amplitude * math.cos(2 * math.pi * distance * pace)


def make(head_dim=8, **options):
    return encodings.create("tapa", num_heads=1, head_dim=head_dim, rngs=nnx.Rngs(0), **options)


def test_at_distance_zero_and_without_a_pace_it_is_the_product_of_the_first_half():
    ones = jnp.ones((3, 8))
    places = jnp.array([0, 1, 5])
    still = ones.at[:, 4:].set(0.0)
    for q in (ones, still):
        dots, _, _ = make().walk((), q, ones, places, places, None, None, None, 1.0)
        np.testing.assert_allclose(jnp.diagonal(dots), 4.0)
    np.testing.assert_allclose(dots, 4.0)
    # A pace of 4 / sqrt(4) = 2 at distances 1 and 4: cos(4 pi 4^0.1).
    dots, _, _ = make().walk((), ones, ones, places, places, None, None, None, 1.0)
    np.testing.assert_allclose(dots[1, 0], 4.0, atol=1e-5)
    np.testing.assert_allclose(dots[2, 1], 4 * math.cos(4 * math.pi * 4**0.1), atol=1e-4)


def test_its_scale_is_that_of_the_first_part_and_another_leaves_the_phase():
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(1, 6, 1, 8)), jnp.float32) for _ in range(3))
    encoding = make(amplitude=0.25)
    assert encoding.logit_scale == pytest.approx(2**-0.5)
    found = attention(q, k, v, encoding=encoding, scale=0.3, causal=True)
    dots, _, _ = encoding.walk(
        (), q[0, :, 0], k[0, :, 0], jnp.arange(6), jnp.arange(6), None, None, None, 0.3
    )
    weights = np.tril(np.exp(0.3 * np.asarray(dots)))
    expected = weights / weights.sum(1, keepdims=True) @ v[0, :, 0]
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "tapa.alpha must be above 0 and at most 2"),
        ({"alpha": 3.0}, "tapa.alpha"),
        ({"amplitude": 0.01}, "tapa.amplitude must give some of the 8"),
        ({"amplitude": 1.0}, "tapa.amplitude must give some of the 8"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
