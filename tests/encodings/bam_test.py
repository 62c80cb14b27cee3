import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import encodings
from relpos.nn.layer_encodings import is_shared_by_layers
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"location": True}, {"scale_inside": True})

    def logit(self, q, k, i, j, scale, x, row, column):
        alpha, beta = self.p["alpha"][self.head], self.p["beta"][self.head]
        mu = 0.0
        if "location" in self.options:
            mu = math.exp(self.p["location"][self.head]) - math.exp(-self.p["location"][self.head])
        if "scale_inside" in self.options:
            return scale * float(q @ k) - (abs(j - i - mu) * math.exp(alpha) + 1e-5) ** beta
        return scale * float(q @ k) - (abs(j - i - mu) + 1e-5) ** beta * math.exp(alpha)


def make(**options):
    return encodings.create("bam", num_heads=8, head_dim=4, rngs=nnx.Rngs(0), **options)


def test_it_starts_as_alibi():
    found = encodings.biases(make(location=True), jnp.array([0, 1, 100, -100]))
    slopes = 2.0 ** -np.arange(1, 9)
    expected = -slopes[:, None] * [1e-5, 1.00001, 100.00001, 100.00001]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_negative_exponent_looks_away_from_what_is_near():
    bam = make(location=True)
    bam.beta[...] = jnp.full(8, -1.0)
    near, at_one, far = encodings.biases(bam, jnp.array([0, 1, 1000]))[0]
    assert near < -1e4 < at_one < far < 0
    gradient = nnx.grad(lambda bam: encodings.biases(bam, jnp.arange(-3, 4)).sum())(bam)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_positive_location_is_in_the_future():
    bam = make(location=True)
    bam.location[...] = jnp.full(8, math.asinh(1.5))  # mu = 3, and the key at j = i + 3
    found = encodings.biases(bam, jnp.array([3, 0, -3]))[0]
    np.testing.assert_allclose(found, [-3, -1.5, 0], atol=1e-4)


def test_layers_have_their_own_numbers_or_share_them():
    for per_layer in (True, False):
        alpha = make(per_layer=per_layer).alpha
        assert is_shared_by_layers(("alpha",), alpha) == (not per_layer)
