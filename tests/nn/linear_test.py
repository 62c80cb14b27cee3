"""A projection is a product, whatever way its gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from relpos.nn.linear import Linear, product


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def drawn(*shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape), dtype)


def weighted(multiply):
    """A loss whose gradient by the product differs by token and column."""
    return lambda x, kernel: (jnp.sin(multiply(x, kernel)) * 0.5).sum()


@pytest.mark.parametrize(("D", "M"), [(3, 8), (8, 3)])
@pytest.mark.parametrize("rows", [(), (5,), (2, 5)])
def test_product_and_gradients_are_those_of_matmul(rows, D, M):
    x, kernel = drawn(*rows, D), drawn(D, M)
    np.testing.assert_allclose(product(x, kernel), x @ kernel, rtol=1e-12)
    found, wanted = (
        jax.grad(weighted(f), (0, 1))(x, kernel) for f in (product, lambda x, w: x @ w)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, wanted)


def test_forward_over_reverse_is_that_of_matmul():
    x, kernel = drawn(2, 5, 3), drawn(3, 8)
    found, wanted = (
        jax.jvp(jax.grad(weighted(f), (0, 1)), (x, kernel), (x + 1, kernel - 1))
        for f in (product, lambda x, w: x @ w)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, wanted)


def test_inside_shard_map_gradients_of_a_shared_kernel_are_summed():
    x, kernel = drawn(4, 5, 3), drawn(3, 8)
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, shared = P("rows"), P()

    def gradient(f):
        grad = jax.grad(weighted(f), (0, 1))
        return jax.shard_map(grad, mesh=mesh, in_specs=(rows, shared), out_specs=(rows, shared))

    found, wanted = (jax.jit(gradient(f))(x, kernel) for f in (product, lambda x, w: x @ w))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, wanted)


def test_gradients_of_each_example_are_those_of_matmul():
    x, kernel = drawn(4, 5, 3), drawn(3, 8)
    found, wanted = (
        jax.vmap(jax.grad(weighted(f), 1), (0, None))(x, kernel)
        for f in (product, lambda x, w: x @ w)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_accelerators_get_the_plain_product(monkeypatch):
    x, kernel = drawn(2, 5, 3), drawn(3, 8)
    turned = {}
    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        gradient = jax.make_jaxpr(lambda *factors: jax.grad(weighted(product), 1)(*factors))
        turned[platform] = "optimization_barrier" in str(gradient(x, kernel))
    assert turned == {"cpu": True, "gpu": False, "tpu": False}


def test_a_layer_computes_in_its_type():
    layer = Linear(3, 8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    out = layer(drawn(2, 5, 3, dtype=np.float32))
    assert (out.dtype, out.shape) == (jnp.bfloat16, (2, 5, 8))
    assert layer.kernel[...].dtype == jnp.float32
