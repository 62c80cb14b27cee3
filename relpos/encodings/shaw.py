"""Vectors for each clipped distance, added to keys and values."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding

MOST = 2**30  # of which 2k + 1 rows int32 can number


class Shaw(Encoding):
    """logit = q_i . (k_j + a_K[c]) / sqrt(H),  out_i = sum_j p_ij (v_j + a_V[c]),  c = clip(j - i, -k, k).

    Shaw, Uszkoreit, Vaswani 2018, "Self-Attention with Relative Position Representations", arXiv:1803.02155,
    sec. 3.1-3.2. Two tables [2k+1, H], shared by the heads; each layer has its own. `keys` and `values` switch
    one of them off (the paper's table 3).
    """

    def __init__(
        self, *, k: int = 16, keys: bool = True, values: bool = True, dims: Dims, rngs: nnx.Rngs
    ):
        if not 0 <= k < MOST:
            raise ValueError(
                f"shaw.k, the clipping distance, must be from 0 to {MOST - 1}, got {k}"
            )
        if not (keys or values):
            raise ValueError("shaw without keys and without values is none")
        self.k = self.constant_beyond = k
        self.head_dim = dims.head_dim
        init = jax.nn.initializers.glorot_uniform()
        shape = (2 * k + 1, dims.head_dim)
        self.keys = nnx.Param(init(rngs.params(), shape)) if keys else None
        self.values = nnx.Param(init(rngs.params(), shape)) if values else None

    def _row(self, d):
        return jnp.clip(-d, -self.k, self.k) + self.k  # the paper counts j - i = -d

    def key_vectors(self, d):
        """Return a_K[clip(-d)]."""
        return None if self.keys is None else self.keys[self._row(d)]

    def value_vectors(self, d):
        """Return a_V[clip(-d)]."""
        return None if self.values is None else self.values[self._row(d)]
