import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"kernels": 2, "max_distance": 9},)

    def logit(self, q, k, i, j, scale, x, row, column):
        most = self.options.get("max_distance", 512)
        ahead = max(-most, min(most, j - i))
        each = zip(*(self.p[n][self.head] for n in ("amplitudes", "sharpness", "offsets")))  # noqa: B905
        bias = sum(a * math.exp(-abs(b) * (ahead - c) ** 2) for a, b, c in each)
        return scale * float(q @ k) + bias


def make(heads=1, **options):
    return encodings.create("tisa", num_heads=heads, head_dim=4, rngs=nnx.Rngs(0), **options)


def test_where_it_starts():
    tisa = make(1000)
    for values, mean, spread in (
        (tisa.amplitudes, 0.1, 0.01), (tisa.sharpness, 0.1, 0.01), (tisa.offsets, 0, 5),
    ):  # fmt: skip
        assert values.shape == (1000, 5)
        assert abs(np.mean(values[...]) - mean) < 0.05 * spread
        assert 0.95 * spread < np.std(values[...]) < 1.05 * spread


def test_a_kernel_stands_where_the_paper_counts_it():
    """At j - i = c; the authors' code counts i - j - 1."""
    tisa = make(kernels=1)
    tisa.amplitudes[...], tisa.sharpness[...], tisa.offsets[...] = (
        jnp.array([[x]]) for x in (2.0, -0.5, -3.0)
    )
    found = encodings.biases(tisa, jnp.array([3, 4, 2, -3]))[0]
    expected = 2 * np.exp([0, -0.5, -0.5, -18])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("option", ["kernels", "max_distance"])
def test_nothing_of_length_zero(option):
    with pytest.raises(ValueError, match=rf"tisa\.{option} must be from 1"):
        make(**{option: 0})
