import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


def coordinate(d, window, spacing):
    """From the paper's text where there is no window, else from its code."""
    if spacing == "linear":
        return d / (window - 1) if window else d
    if not window:
        return math.copysign(math.log(1 + abs(d)), d)
    return math.copysign(math.log2(abs(d / (window - 1) * 8) + 1) / math.log2(8), d)


def network(p, head, inputs, bound):
    """One hidden unit after the other."""
    total = 0.0
    for unit in range(len(p["offset"])):
        z = p["offset"][unit] + sum(p["kernel"][a][unit] * x for a, x in enumerate(inputs))
        total += max(z, 0.0) * p["output"][head][unit]
    return bound / (1 + math.exp(-total)) if bound else total


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"spacing": "linear", "bound": 0.0, "hidden": 7, "window": 9},
        {"window": 0, "hidden": 5},
    )

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"window": 128, "spacing": "log", "bound": 16.0} | self.options
        u = coordinate(i - j, chosen["window"], chosen["spacing"])
        return scale * float(q @ k) + network(self.p, self.head, [u], chosen["bound"])


def make(**options):
    return encodings.create("cpb", num_heads=1, head_dim=4, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Swin v2's coordinates are 0, 7 and 8 of its window of 8: log2(9) / 3 at the edge, not 1.
        ({"window": 8}, (0, math.log2(9) / 3, 0)),
        ({"window": 0}, (0, math.log(8), 0)),
        ({"window": 8, "spacing": "linear"}, (0, 1, 0)),
        ({"window": 0, "spacing": "linear"}, (0, 7, 0)),
    ],
)
def test_coordinates_are_the_papers_and_its_codes(options, expected):
    cpb = make(hidden=1, **options)
    cpb.kernel[...], cpb.output[...] = jnp.ones((1, 1)), jnp.ones((1, 1))
    found = encodings.biases(cpb, jnp.array([0, 7, -7]))[0]  # a ReLU: what is negative is 0
    np.testing.assert_allclose(found, 16 / (1 + np.exp(-np.array(expected, float))), rtol=1e-6)


def test_where_it_starts():
    cpb = make()
    for values, size in ((cpb.kernel, (1, 512)), (cpb.output, (1, 512))):
        assert values.shape == size
        assert 0.017 < np.std(values[...]) < 0.023
    assert not cpb.offset[...].any()
    np.testing.assert_allclose(encodings.biases(cpb, jnp.arange(-50, 50)), 8, atol=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, r"cpb\.hidden must be from 1 to 4096, got 0"),
        ({"window": 1}, r"cpb\.window must be 0 \(no window\) or at least 2, got 1"),
        ({"spacing": "square"}, r"unknown cpb\.spacing 'square': known: log, linear"),
        ({"bound": -1.0}, r"cpb\.bound must be at least 0, got -1"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
