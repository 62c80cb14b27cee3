"""Projections whose matrix products run at full rate on XLA's CPU backend."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from relpos.attention.mesh_axes import varying_like

_NORMAL = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Linear(nnx.Linear):
    """x W + b, over the last axis of x; it computes in `dtype`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        init: Any = _NORMAL,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        """Make W [inputs, outputs], by default normal with variance 1 / inputs, and b of zeros if there is a bias."""
        super().__init__(inputs, outputs, use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"], first: int = 0) -> Float[Array, "... M"]:
        """Return x W + b in the layer's type, or only the outputs from the index `first` on."""
        kernel = self.kernel[...].astype(self.dtype)
        y = product(x.astype(self.dtype), kernel[:, first:] if first else kernel)
        if self.bias is None:
            return y
        bias = self.bias[first:].astype(self.dtype)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


def product(x: Float[Array, "... D"], kernel: Float[Array, "D M"]) -> Float[Array, "... M"]:
    """Return x W.

    The gradient of W sums over tokens, the first axis of both factors, for which XLA's CPU backend has no fast product:
    on one core it ran at a third to a half of the rate of the others. The narrower factor is transposed first.
    """
    # On an explicit mesh a sum over tokens must say how it is sharded, which JAX's own gradient does.
    if jax.typeof(x).sharding.mesh.explicit_axes:
        return x @ kernel
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    x, kernel = varying_like((x, kernel), (x, kernel))
    return _product(precision, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(precision, x, kernel):
    return jnp.matmul(x, kernel, precision=precision)


def _forward(precision, x, kernel):
    return jnp.matmul(x, kernel, precision=precision), (x, kernel)


def _backward(precision, factors, d):
    x, kernel = factors
    dot = functools.partial(jnp.matmul, precision=precision)
    flat_x, flat_d = (y.reshape(-1, y.shape[-1]) for y in (x, d))
    if jax.default_backend() != "cpu":
        d_kernel = dot(flat_x.T, flat_d)
    elif x.shape[-1] <= d.shape[-1]:
        d_kernel = dot(_turned(flat_x), flat_d)
    else:
        d_kernel = _turned(dot(_turned(flat_d), flat_x))
    return dot(d, kernel.T), d_kernel


def _turned(x):
    return lax.optimization_barrier(x.T)  # else XLA fuses it with the product


_product.defvjp(_forward, _backward)
