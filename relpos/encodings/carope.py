"""Rotations whose base the tokens choose: one number of each token and head, and its powers."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerKeyHead
from relpos.encodings.rotations import check_head_dim, check_layout, rotated


class CARoPE(Encoding):
    """q_i R(phi_i) . k_j R(phi_j),  phi_tm = sum_{s <= t} f_s^m,  f_s = 1 / (softplus(w . x_s + c) + 1),  m < H/2.

    Veisi, Fartoot, Amirzadeh 2025, "Context-aware Rotary Position Embedding", arXiv:2507.23083, sec. 2: RoPE, whose
    angles are i theta_1^m, with another theta_1 for each token. w is each layer's and each key head's, for its queries
    and its keys are to turn by the same angles. The paper starts as RoPE and does not say how: here w starts at 0, and
    c, of which the paper knows nothing, where f = base^(-2/H). The sums are each token's features and, at the end, the
    cache's state. The pairs that turn together are those of `rope`. Causal.

    Choose it in place of `rope` in decoders: the paper has lower perplexity than with RoPE, on longer rows too, and it
    starts as RoPE.

    Choose another for encoders and cross-attention layers, and where positions are given: it reads tokens, not
    positions.
    """

    needs_tokens = True
    causal_only = True
    axes = None

    def __init__(self, *, base: float = 10000.0, layout: str = "half", dims: Dims, rngs: nnx.Rngs):
        if base <= 1:
            raise ValueError(f"carope.base must be above 1, got {base}")
        check_layout("carope.layout", layout)
        K, D, H = dims.num_kv_heads, dims.features, dims.head_dim
        check_head_dim("carope", H)
        self.layout, self.pairs = layout, H // 2
        self.head_dim = H
        self.weight = PerKeyHead(jnp.zeros((K, D)))
        opened = math.expm1(2 / H * math.log(base))  # what softplus is to be
        self.offset = PerKeyHead(jnp.full((K,), opened + math.log(-math.expm1(-opened)), float))

    def tokens(self, x_TD, valid_T, state=None):
        """Return the angles phi_t, and the last ones."""
        opened_T = jax.nn.softplus(x_TD.astype(float) @ self.weight[...] + self.offset[...])
        m_M = jnp.arange(self.pairs)
        step_TM = jnp.exp(-jnp.log1p(opened_T)[:, None] * m_M[None])
        angles_TM = jnp.cumsum(jnp.where(valid_T[:, None], step_TM, 0), 0)
        angles_TM += 0 if state is None else state[None]
        return angles_TM, angles_TM[-1]

    def query(self, q_TH, positions_T, features_T):
        """Turn the query by the sum up to it."""
        return rotated(q_TH, jnp.sin(features_T), jnp.cos(features_T), self.layout)

    def key(self, k_SH, positions_S, features_S):
        """Turn the key by the sum up to it."""
        return rotated(k_SH, jnp.sin(features_S), jnp.cos(features_S), self.layout)
