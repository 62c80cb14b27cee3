"""A bias that is a sum of a few bumps, each with a learned height, width and centre."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, normal
from relpos.registry import check_range

MOST_KERNELS = 256
MOST_DISTANCE = 2**24  # integers up to here are exact in float32


class TISA(Encoding):
    """b[d] = sum_s a_s exp(-|b_s| (j - i - c_s)^2),  j - i = -d,  s = 1 ... kernels.

    Wennberg, Henter 2021, "The Case for Translation-Invariant Self-Attention in Transformer-Based Language Models",
    arXiv:2106.01950, sec. 4. Each head of each layer has its own a, b and c, initialised as in the authors' code: a and
    b from N(0.1, 0.01^2), c from N(0, 5^2). That code evaluates the kernels at i - j - 1, which only shifts and mirrors
    c. Unlike in the paper, distances beyond `max_distance` are clipped to it; the paper's models have 512 positions.

    Choose it where a head should learn a few offsets to look at, behind or ahead: three numbers for each bump. The
    paper uses it in place of ALBERT's learned positions.

    Choose another for long distances: bumps start within a few tokens and would have to move far, and distances beyond
    `max_distance` are not told apart.
    """

    reals = True

    def __init__(self, *, kernels: int = 5, max_distance: int = 512, dims: Dims, rngs: nnx.Rngs):
        check_range("tisa.kernels", kernels, 1, MOST_KERNELS)
        check_range("tisa.max_distance", max_distance, 1, MOST_DISTANCE)
        self.max_distance = self.constant_beyond = max_distance
        N = dims.num_heads
        self.amplitudes = PerHead(0.1 + normal(rngs, 0.01, N, kernels))
        self.sharpness = PerHead(0.1 + normal(rngs, 0.01, N, kernels))
        self.offsets = PerHead(normal(rngs, 5.0, N, kernels))

    def bias(self, d):
        """Return the sum of the kernels at -d."""
        x = -jnp.clip(d, -self.max_distance, self.max_distance).astype(float)
        from_middle = x[:, None] - self.offsets[...][None]
        kernels = jnp.exp(-jnp.abs(self.sharpness[...])[None] * from_middle**2)
        return (self.amplitudes[...][None] * kernels).sum(-1)
