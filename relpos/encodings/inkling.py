"""A bias over distances for each query, mixed from a few profiles that all heads share."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, normal
from relpos.registry import check_range


class Inkling(Encoding):
    """b[i, j] = (W_r x_i) . D[d] for 0 <= d < extent, 0 beyond; not scaled.

    Thinking Machines 2026, the model Inkling as in Hugging Face's transformers (no paper, so no arXiv: number). Each
    head has its own W_r [features, rank]; the profiles D [extent, rank] are shared by the heads. Causal. With
    `log_floor` > 0 query and bias are multiplied by 1 + log_alpha log(max(1, (i + 1) / log_floor)), as in the model's
    layers without a window; its layers with a window of 512 have `extent` 512. All weights start with standard
    deviation 0.02.

    Choose it where each token should choose the distances that it looks at: a profile for each query is cheaper than a
    vector of the head size for each distance.

    Choose another for encoders: it is causal. No paper compares it with others, and from `extent` on there is no bias.
    """

    needs_tokens = True
    causal_only = True
    scaled_vectors = False

    def __init__(
        self,
        *,
        rank: int = 16,
        extent: int = 1024,
        log_floor: int = 0,
        log_alpha: float = 0.1,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("inkling.rank", rank, 1)
        check_range("inkling.extent", extent, 1)
        check_range("inkling.log_floor", log_floor, 0)
        self.extent = self.constant_beyond = extent
        self.log_floor, self.log_alpha = log_floor, log_alpha
        self.shift_invariant = not log_floor
        self.kernel = PerHead(normal(rngs, 0.02, dims.num_heads, dims.features, rank))
        self.profiles = nnx.Param(normal(rngs, 0.02, extent, rank))

    def tokens(self, x_TD, valid_T, state=None):
        """Return each token's weights of the profiles, W_r x; there is no state."""
        return x_TD.astype(float) @ self.kernel[...], jnp.zeros(())

    def _sharpened(self, x_TW, positions_T):
        if not self.log_floor:
            return x_TW
        count_T = jnp.maximum(positions_T + 1, self.log_floor).astype(float)
        factor_T = 1 + self.log_alpha * jnp.log(count_T / self.log_floor)
        return factor_T[:, None] * x_TW

    def query(self, q_TH, positions_T, features_T):
        """Return the query, multiplied by a factor that grows with its position."""
        return self._sharpened(q_TH, positions_T)

    def vector_query(self, q_TH, positions_T, features_T):
        """Return W_r x, for the products with the profiles."""
        return self._sharpened(features_T, positions_T)

    def key_vectors(self, d):
        """Return D[d], or zeros from `extent` on."""
        row = jnp.where(d < 0, self.extent, d)
        return self.profiles[...].at[row].get(mode="fill", fill_value=0)
