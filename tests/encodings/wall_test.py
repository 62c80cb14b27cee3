import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle
from tests.attending import assert_trees_close, attend, inputs, make, value_and_grads


class Oracle(oracle.Oracle):
    VARIANTS = ({"initial_offset": -2.0},)

    def logit(self, q, k, i, j, scale, x, row, column):
        kept = np.ones(len(q))
        for t in range(column + 1, row + 1):
            kept /= 1 + np.exp(-(x[t] @ self.p["weight"][self.head] + self.p["offset"][self.head]))
        return scale * float((q * k * kept).sum())


OFFSETS = {
    "shut": np.full(10, -50.0),
    "shut or open": np.where(np.arange(10) % 2, -50.0, 50.0),
    "from shut to open": np.linspace(-50, 50, 10),
}


@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS)
def test_no_gate_overflows_or_costs_digits(offset):
    """In float32 the logarithms of a row's gates add up to -7,500: exp of it is 0, of its opposite no number."""
    encoding = make("wall", heads=1, dtype=jnp.float32)
    encoding.offset[...] = jnp.asarray(offset[None], jnp.float32)
    # Some tokens shut every channel, and what follows is to be as exact as what comes before.
    q, k, v, x = inputs(T=150, B=1, N=1, K=1, dtype=np.float32)
    encoding.weight[...] = 0.1 * encoding.weight[...].at[0, 0].set(-600.0)
    x = x.at[..., 0].set(jnp.where(jnp.arange(150) % 29 == 5, 1.0, 0.0))
    weight = jnp.ones_like(q)
    kw = {"causal": True, "implementation": "blockwise"}
    found = value_and_grads(encoding, (q, k, v, x), weight, **kw)
    with jax.enable_x64(True):
        wide = make("wall", heads=1)
        wide.offset[...], wide.weight[...] = (
            a[...].astype(jnp.float64) for a in (encoding.offset, encoding.weight)
        )
        arrays = [a.astype(jnp.float64) for a in (q, k, v, x)]
        exact = value_and_grads(wide, arrays, weight.astype(jnp.float64), **kw)
        assert_trees_close(found, exact, 2e-5)


def test_open_gates_are_no_positions():
    encoding = make("wall", dtype=jnp.float32, initial_offset=1000.0)
    arrays = inputs(dtype=np.float32)
    found, expected = (attend(each, *arrays, causal=True) for each in (encoding, make("none")))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
