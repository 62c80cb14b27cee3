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
    np.testing.assert_allclose(encodings.biases(encoding, d)[0], [0, -0.3, -2.4, -2.4], rtol=1e-6)
    gradient = nnx.grad(lambda encoding: encodings.biases(encoding, d).sum())(encoding)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match=r"log.*power"):
        encodings.create("kerple", num_heads=1, head_dim=2, rngs=nnx.Rngs(0), kernel="logg")


def test_where_it_starts():
    kerple = encodings.create("kerple", num_heads=1000, head_dim=2, rngs=nnx.Rngs(0))
    for parameter, most in ((kerple.p[...], 2), (kerple.a[...], 1)):
        assert 0 <= parameter.min() < 0.02 * most
        assert 0.98 * most < parameter.max() <= most


@pytest.mark.parametrize("kernel", ["log", "power"])
def test_parameters_at_and_beyond_their_bounds_learn_as_if_they_stood_there(kernel):
    """The authors' code holds the values, so that a parameter which starts at 0.003 has the gradient of one at 0.01."""

    def gradient(p, a):
        kerple = encodings.create(
            "kerple", num_heads=len(p), head_dim=2, rngs=nnx.Rngs(0), kernel=kernel
        )
        kerple.p[...], kerple.a[...] = jnp.array(p), jnp.array(a)
        d = jnp.array([1, 5, 40])
        found = nnx.grad(lambda kerple: encodings.biases(kerple, d).sum())(kerple)
        return np.asarray(found.p[...]), np.asarray(found.a[...])

    outside = gradient([0.003, 0.01, -1.0, 1.5], [0.5, -0.2, 0.01, 0.009])
    held = gradient([0.01001, 0.01001, 0.01001, 1.5], [0.5, 0.01001, 0.01001, 0.01001])
    for a, b in zip(outside, held, strict=True):
        assert (a != 0).all()
        np.testing.assert_allclose(a, b, rtol=5e-3)
