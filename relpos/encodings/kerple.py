"""A bias from a conditionally positive definite kernel of the distance."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead
from relpos.registry import check_choice

KERNELS = ("log", "power")
LEAST = 0.01  # the authors' code clips the values of both parameters here, but not their gradients


def _clipped(x, least, most=jnp.inf):
    """Clip x to its bounds with the gradient of x itself, so that training can bring x back from outside them."""
    fixed = jax.lax.stop_gradient
    return fixed(jnp.clip(x, least, most)) + (x - fixed(x))


class KERPLE(Encoding):
    """b[d] = -p ln(1 + a |d|)  (kernel "log"),  or  -a |d|^p, p <= 2  (kernel "power"); p, a > 0.

    Chi et al. 2022, "KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation",
    arXiv:2205.09921, sec. 4. Each head has its own p, from U(0, 2), and a, from U(0, 1).

    Choose it as an ALiBi that learns how fast it falls: two numbers for each head. The logarithmic kernel falls slowly,
    and is the one that the paper recommends for longer rows.

    Choose another where exact offsets matter, or past and future differ: the bias only falls with |d|.
    """

    reals = True

    def __init__(self, *, kernel: str = "log", dims: Dims, rngs: nnx.Rngs):
        check_choice("kerple.kernel", kernel, KERNELS)
        self.kernel_name = kernel
        self.p = PerHead(jax.random.uniform(rngs.params(), (dims.num_heads,), maxval=2.0))
        self.a = PerHead(jax.random.uniform(rngs.params(), (dims.num_heads,)))

    def bias(self, d):
        """Return the kernel's value at |d|."""
        n = jnp.abs(d).astype(float)
        a = _clipped(self.a[...], LEAST)
        if self.kernel_name == "log":
            return -_clipped(self.p[...], LEAST) * jnp.log1p(a * n)
        # 0^p has no finite gradient to p: distance 0 is kept out of the power.
        p = _clipped(self.p[...], LEAST, 2)
        return jnp.where(n > 0, -a * jnp.where(n > 0, n, 1) ** p, 0)
