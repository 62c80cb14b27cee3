import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


def turn(x, position, layout="half", turned=None, base=10000):
    """The paper's rotation, a pair of dimensions at a time."""
    R = len(x) if turned is None else turned
    out = np.array(x, np.float64)
    for m in range(R // 2):
        a, b = (m, m + R // 2) if layout == "half" else (2 * m, 2 * m + 1)
        angle = position * base ** (-2 * m / R)
        out[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
        out[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
    return out


class Oracle(oracle.Oracle):
    VARIANTS = ({"base": 500.0, "layout": "interleaved"}, {"fraction": 0.4})

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"base": 10000, "layout": "half", "fraction": 1.0} | self.options
        turned = round(chosen.pop("fraction") * len(q))
        return scale * float(
            turn(q, i, turned=turned, **chosen) @ turn(k, j, turned=turned, **chosen)
        )


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(("fraction", "turned"), [(1.0, 12), (0.5, 6), (1 / 3, 4)])
def test_both_layouts_and_partial_rotation(layout, fraction, turned):
    encoding = encodings.create(
        "rope", num_heads=1, head_dim=12, rngs=nnx.Rngs(0), layout=layout, fraction=fraction
    )
    x = np.random.default_rng(0).normal(size=(5, 12))
    positions = np.array([0, 1, 7, 100, -3])
    expected = [turn(row, i, layout, turned) for row, i in zip(x, positions, strict=True)]
    out = encoding.query(jnp.array(x, jnp.float32), jnp.array(positions), None)
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_an_odd_number_of_turned_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"pairs.*even.*7"):
        encodings.create("rope", num_heads=1, head_dim=7, rngs=nnx.Rngs(0))
