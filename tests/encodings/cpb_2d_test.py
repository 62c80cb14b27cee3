import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention.slots import each_head
from tests import oracle
from tests.encodings.cpb_test import coordinate, network


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"height": 4, "width": 5, "window": 3, "hidden": 7},
        {"width": 7, "spacing": "linear", "bound": 0.0, "window": 0, "hidden": 5},
    )

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"window": 8, "spacing": "log", "bound": 16.0, "height": 8, "width": 8}
        chosen |= self.options
        inputs = []
        for a, b, side in zip(
            divmod(i, chosen["width"]), divmod(j, chosen["width"]),
            (chosen["height"], chosen["width"]), strict=True,
        ):  # fmt: skip
            d = max(1 - side, min(side - 1, a - b))
            inputs.append(coordinate(d, chosen["window"], chosen["spacing"]))
        return scale * float(q @ k) + network(self.p, self.head, inputs, chosen["bound"])


def make(**options):
    return encodings.create("cpb_2d", num_heads=2, head_dim=4, rngs=nnx.Rngs(0), **options)


def test_rows_stand_before_columns_and_a_larger_grid_keeps_its_biases():
    small, large = (make(height=n, width=n, hidden=2, bound=0.0) for n in (8, 16))
    for encoding in (small, large):
        encoding.kernel[...] = jnp.array([[1.0, 0.0], [0.0, 10.0]])
        encoding.output[...] = jnp.ones((2, 2))
    at = jnp.array([[0, 0], [7, 0], [0, 7], [3, 5]])
    a, b = (each_head(lambda one: one.block_bias(at, at, None, None), e) for e in (small, large))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    edge = np.log2(9) / 3
    np.testing.assert_allclose(a[0, :, 0], [0, edge, 10 * edge, a[0, 3, 0]], rtol=1e-5)
    np.testing.assert_allclose(a[0, 0, :3], 0, atol=1e-6)  # keys ahead: the ReLU


def test_there_is_no_bias_of_one_distance():
    with pytest.raises(ValueError, match="no bias that is a function of the distance"):
        encodings.biases(make(), jnp.arange(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, r"cpb_2d\.height must be from 1 to 128, got 0"),
        ({"width": 129}, r"cpb_2d\.width must be from 1 to 128, got 129"),
        ({"window": 1}, r"cpb_2d\.window must be 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
