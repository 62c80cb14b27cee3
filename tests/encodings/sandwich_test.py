import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention.slots import each_head
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"from_one": True, "width": 10}, {"width": 6, "base": 50.0})

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"width": 128, "base": 10000.0, "from_one": False} | self.options
        D, total = chosen["width"], 0.0
        for m in range(D // 2):
            m += chosen["from_one"]
            total += math.cos((i - j) / chosen["base"] ** (2 * m / D))
        if chosen["from_one"]:
            total -= D / 2
        size = float(np.float32(self.heads / (8 * (self.head + 1))))  # as the encoding has it
        return scale * float(q @ k) + size * total


def make(heads=12, **options):
    return encodings.create("sandwich", num_heads=heads, head_dim=4, rngs=nnx.Rngs(0), **options)


def test_heads_are_scaled_as_in_the_papers_code():
    at_zero = encodings.biases(make(), jnp.array([0]))[:, 0]
    np.testing.assert_allclose(at_zero, [96 / h for h in range(1, 13)], rtol=1e-6)
    # Without cosines, as an earlier NeMo had it, the bias would be a straight line.
    assert np.abs(encodings.biases(make(1), jnp.array([10**5, -(10**6)]))).max() < 8


def test_from_one_is_zero_at_distance_zero_and_lacks_the_fastest_wave():
    d = jnp.array([0, 1])
    found = encodings.biases(make(1, width=4, from_one=True), d)[0]
    expected = (math.cos(0.01) + math.cos(0.0001) - 2) / 8
    np.testing.assert_allclose(found, [0, expected], atol=1e-7)
    found = encodings.biases(make(1, width=4), d)[0]
    np.testing.assert_allclose(found, [0.25, (math.cos(1) + math.cos(0.01)) / 8], rtol=1e-6)


def test_factors_give_the_bias_and_its_constant():
    """A softmax would not tell the constant."""
    sandwich, i, j = make(3, width=6, from_one=True), jnp.array([9, -4]), jnp.array([2, 70, 9])
    products = each_head(
        lambda one: one.factored_query(jnp.zeros((2, 4)), i) @ one.factored_key(j).T, sandwich
    )
    d = (i[:, None] - j[None]).reshape(-1)
    np.testing.assert_allclose(products.reshape(3, -1), encodings.biases(sandwich, d), atol=1e-6)


@pytest.mark.parametrize("width", [0, 7, 10**6])
def test_a_width_without_pairs_is_refused(width):
    with pytest.raises(ValueError, match=rf"sandwich\.width must be even.*got {width}"):
        make(width=width)
