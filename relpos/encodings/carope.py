"""Rotations whose base depends on the tokens: powers of one number per token and head."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, PerKeyHead, running_sums
from relpos.encodings.rotations.pairs import Rotation


class CARoPE(Rotation):
    """q_i R(phi_i) . k_j R(phi_j),  phi_tm = sum_{s <= t} f_s^m,  f_s = 1 / (softplus(w . x_s + c) + 1),  m < H/2.

    Veisi, Fartoot, Amirzadeh 2025, "Context-aware Rotary Position Embedding", arXiv:2507.23083, sec. 2: RoPE turns by i
    theta_1^m; here each token has its own theta_1. Each key head of each layer has its own w, because its queries and
    its keys must turn by the same angles. The paper says that it starts as RoPE, but not how: here w starts at 0, and c
    (not in the paper) so that f = base^(-2/H). The running sums are the features of each token and, at the end, the
    state of the cache. The pairs are those of `rope`. Causal.

    Choose it in place of `rope` in decoders: the paper reports lower perplexity than with RoPE, even on longer rows,
    and it starts as RoPE.

    Choose another for encoders and cross-attention layers, and where the caller gives positions: it reads tokens, not
    positions.
    """

    needs_tokens = True
    causal_only = True
    axes = None

    def __init__(self, *, base: float = 10000.0, layout: str = "half", dims: Dims, rngs: nnx.Rngs):
        if base <= 1:
            raise ValueError(f"carope.base must be above 1, got {base}")
        super().__init__("carope", dims, base, layout)
        K, D, H = dims.num_kv_heads, dims.features, dims.head_dim
        self.weight = PerKeyHead(jnp.zeros((K, D)))
        opened = math.expm1(2 / H * math.log(base))  # the initial value of the softplus
        self.offset = PerKeyHead(jnp.full((K,), opened + math.log(-math.expm1(-opened)), float))

    def tokens(self, x_TD, valid_T, state=None):
        """Return the angles phi_t, and the last ones."""
        opened_T = jax.nn.softplus(x_TD.astype(float) @ self.weight[...] + self.offset[...])
        m_M = jnp.arange(self.head_dim // 2)
        step_TM = jnp.exp(-jnp.log1p(opened_T)[:, None] * m_M[None])
        return running_sums(step_TM, valid_T, state)
