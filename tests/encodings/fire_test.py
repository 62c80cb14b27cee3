import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import encodings
from relpos.attention.slots import each_head
from relpos.encodings.fire import _network
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"hidden": 7, "initial_c": 0.4, "initial_threshold": 20.0, "epsilon": 0.5},)

    def logit(self, q, k, i, j, scale, x, row, column):
        p = self.p
        c, L = abs(p["c"]), abs(p["multiplier"] * self.options.get("initial_threshold", 512))
        epsilon = self.options.get("epsilon", 1e-6)
        ratio = math.log(c * abs(i - j) + 1) / (math.log(c * max(i, L) + 1) + epsilon)
        hidden = np.maximum(ratio * p["hidden_kernel"] + p["hidden_bias"], 0)
        bias = hidden @ p["output"][self.head] + p["offset"][self.head]
        return scale * float(q @ k) + bias


def test_where_it_starts():
    fire = encodings.create("fire", num_heads=64, head_dim=2, rngs=nnx.Rngs(0), initial_c=0.4)
    assert float(fire.c[...]) == np.float32(0.4)
    assert float(fire.multiplier[...]) == 1
    assert np.abs(fire.hidden_kernel[...]).max() <= 1
    assert 0.9 * 32**-0.5 < np.abs(fire.output[...]).max() <= 32**-0.5


def test_a_distance_counts_by_how_far_it_is_to_the_first_token():
    """Versions without the normaliser have a function of the distance alone, which grows with the text."""
    fire = encodings.create("fire", num_heads=1, head_dim=2, rngs=nnx.Rngs(0), initial_threshold=20)
    fire.hidden_kernel[...] = jnp.ones(32)  # the network is the sum of its 32 units: 32 x
    for shift in (fire.hidden_bias, fire.offset):
        shift[...] = jnp.zeros_like(shift[...])
    fire.output[...] = jnp.ones((1, 32))
    at = jnp.array([50, 400, 3000])
    of = functools.partial(each_head, encoding=fire)
    first = of(lambda one: one.block_bias(at, jnp.zeros(1, int), None, None))[0, :, 0]
    ten_before = of(lambda one: jnp.diag(one.block_bias(at, at - 10, None, None)))[0]
    np.testing.assert_allclose(first, 32, rtol=1e-4)
    expected = 32 * np.log(0.1 * 10 + 1) / np.log(0.1 * np.asarray(at) + 1)
    np.testing.assert_allclose(ten_before, expected, rtol=1e-4)


def test_units_that_hardly_bend_or_not_at_all():
    tiny = np.finfo(np.float32).tiny
    kernel = jnp.array([0, 0, tiny, -tiny, tiny, -tiny, 0.5, -0.5])
    bias = jnp.array([0.3, -0.3, 0.3, 0.3, -0.3, -0.3, -0.2, 0.2])
    output = jnp.arange(1.0, 9.0)
    x = jnp.linspace(-3, 3, 13)  # not at the kinks, 0.4

    def plain(x, kernel, bias, output):
        return jax.nn.relu(x[:, None] * kernel + bias) @ output

    for of in (
        lambda f: f(x, kernel, bias, output),
        lambda f: jax.vjp(f, x, kernel, bias, output)[1](x),
    ):
        jax.tree.map(
            lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5),
            of(_network), of(plain),
        )  # fmt: skip
