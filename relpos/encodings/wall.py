"""A forget gate for each channel: each channel of a key fades at its own rate."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from relpos.attention.reference import dot_rows
from relpos.encodings.base import Dims, Encoding, Passed, PerHead, normal

PIECE = 8  # keys; products with keys in a query's own piece are computed channel by channel


class Wall(Encoding):
    """logit = scale sum_n q_in k_jn prod_{t = j+1..i} f_tn,  f_t = sigmoid(W x_t + c), a gate for each channel n.

    Tilde Research 2026, "Wall Attention: Length Generalization With Diagonal Gates", as in flash-linear-attention's
    layers/wall_attn.py (no paper, so no arXiv: number). Each query head has its own W [features, H] and c [H]; c starts
    at `initial_offset`, 8 as there, so that gates start near 1. Left out: its second gate, one for all channels of a
    head, which the sum wall+fox adds. Causal. A cache keeps the faded keys, and so one key for each query head.

    With P the sums of log f the factor is exp(P_i) exp(-P_j), whose second part overflows. Here a query fades as it
    walks past the keys: every factor is a product of gates, at most 1, and one that underflows is too small to count.

    Choose it for decoders that read far beyond the trained length: the authors train on 4,096 tokens, evaluate up to
    200,000, and do better than RoPE and FoX.

    Choose another for encoders, and where speed or memory matters: it walks along the row, and a cache holds a key for
    each query head.
    """

    needs_tokens = True
    causal_only = True
    walk_rows = 64
    axes = None

    def __init__(self, *, initial_offset: float = 8.0, dims: Dims, rngs: nnx.Rngs):
        N, D, H = dims.num_heads, dims.features, dims.head_dim
        self.head_dim = H
        self.weight = PerHead(normal(rngs, D**-0.5, N, D, H))
        self.offset = PerHead(jnp.full((N, H), initial_offset, float))

    def tokens(self, x_TD, valid_T, state=None):
        """Return log f_t, 0 for padding; there is no state."""
        gate_TH = x_TD.astype(float) @ self.weight[...] + self.offset[...][None]
        log_TH = jax.nn.log_sigmoid(gate_TH)
        return jnp.where(valid_T[:, None], log_TH, 0), jnp.zeros(())

    def begin(self, q_TH, q_features):
        """Return the query before it fades, in float32 or wider."""
        return q_TH.astype(jnp.result_type(q_TH, q_features, jnp.float32))

    def query_block(self, q_CH, q_features):
        """Return nothing: `walk` needs only the carry of a query."""

    def key_block(self, k_KH, k_features):
        """Return log f, the keys faded for a query after the block, and the product of the block's gates."""
        return k_features, *faded(k_KH.astype(k_features.dtype), k_features)

    def come_along(self, k_SH, block):
        """Return earlier keys, faded by the gates of a block."""
        _, _, through_H = block
        return k_SH * through_H[None]

    def at_end(self, block):
        """Return the keys faded by the gates that follow them in their block."""
        return block[1]

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Fade the queries by the gates of the keys that they see."""
        log_KH, faded_KH, through_H = k_features
        if seen_CK is None:
            return Passed(dot_rows(carry, faded_KH), None, carry * through_H[None])
        C, K = seen_CK.shape

        def pieces(x, axis):
            x = jnp.pad(x, [(0, -K % PIECE if at == axis else 0) for at in range(x.ndim)])
            return x.reshape(*x.shape[:axis], -1, PIECE, *x.shape[axis + 1 :])

        seen = pieces(seen_CK, 1)
        k, log = pieces(k_KH.astype(carry.dtype), 0), pieces(log_KH, 0)
        number = jnp.arange(k.shape[0])
        # A query's own piece holds the last key that it sees, and may hold hidden keys after that.
        own_C = jnp.where(seen.any(2), number[None], 0).max(1)
        at_own = own_C[:, None] == number[None]
        near, carry = _within(carry, at_own, seen, k, log)

        def past(carry, piece):
            number, faded_LH, through_H = piece
            after = jnp.where((own_C > number)[:, None], carry * through_H[None], carry)
            return after, dot_rows(carry, faded_LH)

        carry, far = jax.lax.scan(past, carry, (number, *faded(k, log)), reverse=True)
        dots = jnp.where(at_own[:, :, None], near[:, None], jnp.swapaxes(far, 0, 1))
        return Passed(dots.reshape(C, -1)[:, :K], None, carry)


def _within(carry, at_own, seen, k, log):
    """Walk the queries past the keys that each sees in its own piece.

    Returns the dot products [C, L], and the queries after the piece, [C, H].

    Args:
      carry: the queries.
      at_own: which of the P pieces is each query's own, [C, P].
      seen: which keys of the pieces each query sees, [C, P, L].
      k: the keys, [P, L, H].
      log: the logarithms of their gates, [P, L, H].
    """
    # A product selects the rows: a look-up is as fast, but its transpose is a scatter.
    with jax.default_matmul_precision("highest"):
        k_CLH, log_CLH = (jnp.tensordot(at_own.astype(x.dtype), x, 1) for x in (k, log))
    seen_CL = (seen & at_own[:, :, None]).any(1)
    faded_CLH, through_CH = faded(k_CLH, jnp.where(seen_CL[:, :, None], log_CLH, 0))
    return (carry[:, None] * faded_CLH).sum(-1), carry * through_CH


def faded(
    k: Float[Array, "*P L H"], log: Float[Array, "*P L H"]
) -> tuple[Float[Array, "*P L H"], Float[Array, "*P H"]]:
    """Return each key times the gates that follow it, and the product of all gates.

    Logarithms are summed, not subtracted, so that no digits are lost where a gate is shut.
    """
    behind = jnp.flip(jnp.cumsum(jnp.flip(log[..., 1:, :], -2), -2), -2)
    behind = jnp.concatenate([behind, jnp.zeros_like(log[..., :1, :])], -2)
    return k * jnp.exp(behind), jnp.exp(behind[..., 0, :] + log[..., 0, :])
