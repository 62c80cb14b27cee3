"""Queries and keys in polar coordinates, which separate content from position."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims, Encoding, PerHead
from relpos.registry import check_range


class PoPE(Encoding):
    """q_i . k_j becomes  sum_c softplus(q_ic) softplus(k_jc) cos((j - i) theta_c + delta_c),  theta_c = base^(-c/H).

    Gopalakrishnan et al. 2025, "Decoupling the What and Where With Polar Coordinate Positional Embeddings",
    arXiv:2509.10534, sec. 3. Each of the H features has its own frequency. Each head has its own delta, clipped to
    [-2 pi, 0], which starts at 0. The logits are products of queries and keys of width 2H.

    Choose it where a task looks up tokens by position alone or by content alone: the paper reports far better
    results than RoPE's there, and on longer rows without fine-tuning.

    Choose another where speed or memory matters: queries and keys are twice as wide, even in the cache.
    """

    reals = True

    def __init__(self, *, base: float = 10000.0, dims: Dims, rngs: nnx.Rngs):
        check_range("pope.base", base, 1)
        self.base = base
        self.head_dim = self.width = dims.head_dim
        self.delta = PerHead(jnp.zeros((dims.num_heads, dims.head_dim)))

    def _polar(self, x_TH, positions_T, delta_H):
        angles_TH = positions.angles(positions_T, self.base, 2 * self.width) + delta_H[None]
        length_TH = jax.nn.softplus(x_TH.astype(angles_TH.dtype))
        return jnp.concatenate([length_TH * jnp.cos(angles_TH), length_TH * jnp.sin(angles_TH)], -1)

    def query(self, q_TH, positions_T, features_T):
        """Return softplus(q) at the angles i theta - delta: delta belongs to query heads, as key heads may be fewer."""
        return self._polar(q_TH, positions_T, -jnp.clip(self.delta[...], -2 * np.pi, 0))

    def key(self, k_SH, positions_S, features_S):
        """Return softplus(k) at the angles j theta."""
        return self._polar(k_SH, positions_S, jnp.zeros(self.width))
