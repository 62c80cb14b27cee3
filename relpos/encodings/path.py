"""Reflections: a key is multiplied by the Householder matrices of all tokens between it and the query."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from relpos.encodings.base import Dims, Encoding, Passed, PerKeyHead, normal
from relpos.registry import check_range


class PaTH(Encoding):
    """logit = scale k_j . H_{j+1} ... H_i q_i,  H_t = I - beta_t w_t w_t^T,  |w_t| = 1.

    Yang et al. 2025, "PaTH Attention", arXiv:2505.16381, sec. 2. For each key head: beta_t = 2 sigmoid(u . x_t + c),
    and w_t = W_up W_down x_t, normalised; W_down [D, rank] is shared by the heads (rank 32 as in the paper's code;
    rank=0: one full matrix [D, H] for each key head, as in that code where query heads share key heads). Left out: the
    paper's convolution of three tokens before the norm, which would have to know where documents begin. The paper's
    PaTH-FoX, with forget gates, is the sum path+fox. Causal.

    Choose it for state tracking: the paper shows that reflections by the tokens between query and key can track states
    that rotations by position cannot. The sum path+fox also forgets.

    Choose another for encoders, where the caller gives positions (it reads none), and where speed matters: it is among
    the slowest in docs/performance.md, and GPU kernels do not support it.
    """

    needs_tokens = True
    causal_only = True
    axes = None

    def __init__(self, *, rank: int = 32, dims: Dims, rngs: nnx.Rngs):
        check_range("path.rank, 0 for a full matrix,", rank, 0)
        K, D, H = dims.num_kv_heads, dims.features, dims.head_dim
        self.head_dim = H
        self.rank = rank
        if rank:
            self.down = nnx.Param(normal(rngs, D**-0.5, D, rank))
        width = rank or D
        self.up = PerKeyHead(normal(rngs, width**-0.5, K, width, H))
        self.weight = PerKeyHead(normal(rngs, D**-0.5, K, D))
        self.offset = PerKeyHead(jnp.zeros((K,)))

    def tokens(self, x_TD, valid_T, state=None):
        """Return w_t and beta_t; padding has beta_t = 0 and so reflects nothing."""
        x_TD = x_TD.astype(float)
        w_TH = (x_TD @ self.down[...] if self.rank else x_TD) @ self.up[...]
        w_TH = w_TH * jax.lax.rsqrt((w_TH**2).sum(-1, keepdims=True) + 1e-12)
        beta_T = 2 * jax.nn.sigmoid(x_TD @ self.weight[...] + self.offset[...])
        return (w_TH, jnp.where(valid_T, beta_T, 0)), jnp.zeros(())

    def begin(self, q_TH, q_features):
        """Return the query before any reflection, in float32 or wider."""
        w_TH, _ = q_features
        return q_TH.astype(jnp.result_type(q_TH, w_TH, jnp.float32))

    def query_block(self, q_CH, q_features):
        """Return nothing: `walk` needs only the carry of a query."""

    def key_block(self, k_KH, k_features):
        """Return what the walk past a block needs: w, Z, N and the keys as all later tokens of the block turn them.

        A query that enters the block at its end as v leaves it at its beginning as v - sum_t u_t w_t, where
        u_t = beta_t w_t . (v - sum_{s > t} u_s w_s). With a_t = w_t . v for visible tokens and 0 for others,

            u = A a,  A = (I + beta triu(w w^T, 1))^-1 beta,     the UT transform (sec. 3.1)

        so it leaves as v - a Z,  Z = A^T w, and its product with k_j is v . k_j - (a N)_j,  N = A^T tril(w k^T, -1).
        """
        w_KH, beta_K = k_features
        k_KH = k_KH.astype(w_KH.dtype)
        with jax.default_matmul_precision("highest"):
            upper_KK = beta_K[:, None] * jnp.triu(w_KH @ w_KH.T, 1)
            a_KK = inverse_of_unit_upper(upper_KK) * beta_K[None]
            z_KH = a_KK.T @ w_KH
            n_KK = a_KK.T @ jnp.tril(w_KH @ k_KH.T, -1)
            return w_KH, z_KH, n_KK, k_KH - n_KK.T @ w_KH

    def come_along(self, k_SH, block):
        """Return earlier keys turned by the tokens of a block: (v - a Z) . k = v . (k - (Z k)^T w)."""
        w_KH, z_KH, _, _ = block
        with jax.default_matmul_precision("highest"):
            return k_SH - (k_SH @ z_KH.T) @ w_KH

    def at_end(self, block):
        """Return the keys turned by the tokens that follow them in their block."""
        return block[3]

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Turn the queries by the tokens that they see, the nearest first."""
        w_KH, z_KH, n_KK, turned_KH = k_features
        along_CK = carry @ w_KH.T
        if seen_CK is None:
            return Passed(carry @ turned_KH.T, None, carry - along_CK @ z_KH)
        along_CK = jnp.where(seen_CK, along_CK, 0)
        dots_CK = carry @ k_KH.astype(carry.dtype).T - along_CK @ n_KK
        return Passed(dots_CK, None, carry - along_CK @ z_KH)


def inverse_of_unit_upper(n_KK: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """Return (I + n)^-1 for a strictly upper triangular n, by halves.

        (a b; 0 d)^-1 = (a^-1  -a^-1 b d^-1; 0 d^-1)

    This takes only products; on CPUs a triangular solve is a loop over rows. For the n of `key_block` an entry is
    -beta_t w_t . M w_s, where M are the reflections between t and s, which lengthen no vector: entries stay below 2.
    """
    K = n_KK.shape[0]
    whole = 1 << (K - 1).bit_length()
    n = jnp.pad(n_KK, (0, whole - K))
    inverse, size = jnp.ones((whole, 1, 1), n.dtype), 1
    while size < whole:
        blocks = n.reshape(whole // size, size, whole // size, size).swapaxes(1, 2)
        at = jnp.arange(0, whole // size, 2)
        first, last = inverse[0::2], inverse[1::2]
        corner = -first @ blocks[at, at + 1] @ last
        upper = jnp.concatenate([first, corner], 2)
        lower = jnp.concatenate([jnp.zeros_like(corner), last], 2)
        inverse, size = jnp.concatenate([upper, lower], 1), 2 * size
    return inverse[0, :K, :K]
