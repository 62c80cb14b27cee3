"""Rotations by positions that a small network computes from each token."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos.encodings.base import Dims, PerKeyHead
from relpos.encodings.rotations.pairs import Rotation
from relpos.registry import check_range


class RePo(Rotation):
    """q_i R(z_i theta) . k_j R(z_j theta),  z_t = w . (silu(x_t W_g) * (x_t W_c)),  theta_m = base^(-2m/H).

    Li, Zhao, Sproat 2025, "RePo: Language Models with Context Re-Positioning", arXiv:2512.14391, sec. 3, and the
    authors' code. W_g and W_c [features, width] are shared by the heads; each key head has its own w [width]. With
    `width` 0 it is an eighth of the features, as there. Base 500000 and layout "half" are those of OLMo-2, the model
    that the authors train further. All weights start normal with standard deviation 0.02, truncated at three standard
    deviations, so that positions start near 0. The scheme does not read the positions of tokens. The paper keeps `rope`
    in the lowest five of 16 layers: "rope(base=500000.0)*5,repo*11".

    Choose it where the order of a context says little, as with retrieved documents: the paper reports better
    results on noisy and structured contexts and on longer rows.

    Choose another for use in all layers: it does not read positions, so equal tokens get equal positions. The paper
    keeps `rope` in the lowest layers.
    """

    needs_tokens = True
    axes = None

    def __init__(
        self,
        *,
        width: int = 0,
        base: float = 500000.0,
        layout: str = "half",
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("repo.width", width, 0)
        super().__init__("repo", dims, base, layout)
        D = dims.features
        width = width or max(1, D // 8)

        def drawn(*shape):
            return 0.02 * jax.random.truncated_normal(rngs.params(), -3.0, 3.0, shape)

        self.gate, self.content = nnx.Param(drawn(D, width)), nnx.Param(drawn(D, width))
        self.position = PerKeyHead(drawn(dims.num_kv_heads, width))

    def tokens(self, x_TD, valid_T, state=None):
        """Return the positions z_t; there is no state."""
        x_TD = x_TD.astype(float)
        read_TW = jax.nn.silu(x_TD @ self.gate[...]) * (x_TD @ self.content[...])
        return read_TW @ self.position[...], jnp.zeros(())

    def _waves(self, positions_T, z_T):
        H = self.head_dim
        theta_M = jnp.asarray(self.base ** (-np.arange(0, H, 2) / H), z_T.dtype)
        angles_TM = z_T[:, None] * theta_M[None]
        return jnp.sin(angles_TM), jnp.cos(angles_TM)
