"""Vectors for each clipped distance, added to keys and values."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead
from relpos.registry import check_range

MOST = 2**30  # int32 can index 2k + 1 rows for every k below this


class Shaw(Encoding):
    """logit = q_i . (k_j + a_K[c]) / sqrt(H),  out_i = sum_j p_ij (v_j + a_V[c]),  c = clip(j - i, -k, k).

    Shaw, Uszkoreit, Vaswani 2018, "Self-Attention with Relative Position Representations", arXiv:1803.02155,
    sec. 3.1-3.2. Two tables [2k+1, H], shared by the heads; each layer has its own. `keys=False` or `values=False`
    drops one (the paper's table 3). As in released models, `right` is the clipping distance of keys in the future if it
    differs from k (-1: it is k), with tables [k + right + 1, H]; with `per_head` each head has its own tables.

    Choose it where exact offsets of near tokens matter, as in translation: of three schemes it had the best BLEU on
    Multi30k (docs/tasks.md). From k on all distances are alike, so rows may be of any length.

    Choose another where distances beyond k must be told apart, or where speed matters: vectors cost more than a bias,
    most of all for scattered positions.
    """

    def __init__(
        self,
        *,
        k: int = 16,
        right: int = -1,
        per_head: bool = False,
        keys: bool = True,
        values: bool = True,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("shaw.k, the clipping distance,", k, 0, MOST - 1)
        check_range("shaw.right, of keys in the future, -1 for shaw.k,", right, -1, MOST - 1)
        if not (keys or values):
            raise ValueError("shaw needs shaw.keys or shaw.values: for no positions choose none")
        self.k, self.right = k, k if right == -1 else right
        self.constant_beyond = max(self.k, self.right)
        self.head_dim = dims.head_dim

        def table():
            shape = (self.k + self.right + 1, dims.head_dim)
            init = jax.nn.initializers.glorot_uniform(batch_axis=(0,) if per_head else ())
            if per_head:
                return PerHead(init(rngs.params(), (dims.num_heads, *shape)))
            return nnx.Param(init(rngs.params(), shape))

        self.keys = table() if keys else None
        self.values = table() if values else None

    def _row(self, d):
        return jnp.clip(-d, -self.k, self.right) + self.k  # the paper counts j - i = -d

    def key_vectors(self, d):
        """Return a_K[clip(-d)]."""
        return None if self.keys is None else self.keys[self._row(d)]

    def value_vectors(self, d):
        """Return a_V[clip(-d)]."""
        return None if self.values is None else self.values[self._row(d)]
