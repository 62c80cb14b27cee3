import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"kernel": "power"},)

    def logit(self, q, k, i, j, scale, x, row, column):
        p, a = (max(self.p[name][self.head], 0.01) for name in ("p", "a"))
        if "kernel" in self.options:
            return scale * float(q @ k) - a * abs(i - j) ** min(p, 2)
        return scale * float(q @ k) - p * math.log(1 + a * abs(i - j))


def test_the_power_kernel_and_its_gradient_at_distance_zero():
    encoding = encodings.create("kerple", num_heads=1, head_dim=2, rngs=nnx.Rngs(0), kernel="power")
    encoding.p[...], encoding.a[...] = jnp.array([1.5]), jnp.array([0.3])
    d = jnp.array([0, 1, 4, -4])
    np.testing.assert_allclose(encoding.bias(d), [0, -0.3, -2.4, -2.4], rtol=1e-6)
    gradient = nnx.grad(lambda encoding: encoding.bias(d).sum())(encoding)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match=r"log.*power"):
        encodings.create("kerple", num_heads=1, head_dim=2, rngs=nnx.Rngs(0), kernel="logg")


def test_where_it_starts():
    kerple = encodings.create("kerple", num_heads=1000, head_dim=2, rngs=nnx.Rngs(0))
    for parameter, most in ((kerple.p[...], 2), (kerple.a[...], 1)):
        assert 0 <= parameter.min() < 0.02 * most
        assert 0.98 * most < parameter.max() <= most
