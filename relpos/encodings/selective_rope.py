"""Rotations by angles that depend on the tokens: each token adds angles computed from the layer's input."""

from flax import nnx

from relpos.encodings.base import Dims, PerKeyHead, normal, running_sums
from relpos.encodings.rotations.pairs import Rotation
from relpos.registry import check_range


class SelectiveRoPE(Rotation):
    """q_i R(phi_i) . k_j R(phi_j),  phi_t = sum_{s <= t} A B x_s, H / 2 angles for each key head.

    Movahedi et al. 2025, "Selective Rotary Position Embedding", arXiv:2511.17388: RoPE with angles that are cumulative
    sums of a low-rank projection of the layer's input. A [features, rank] is shared by the heads; each key head has its
    own B, because its queries and its keys must turn by the same angles. The pairs that turn together are (m, m + H/2).
    The sums are the features of each token and, at the end, the state of the cache. Causal.

    Choose it for copying, state tracking and retrieval, in a sum with `fox`: the paper reports better results
    on these tasks with gates and rotations that both depend on the tokens.

    Choose another for encoders and cross-attention layers, and where the caller gives positions: it reads tokens, not
    positions.
    """

    needs_tokens = True
    causal_only = True
    axes = None

    def __init__(self, *, rank: int = 4, dims: Dims, rngs: nnx.Rngs):
        super().__init__("selective_rope", dims)
        check_range("selective_rope.rank", rank, 1)
        K, D, M = dims.num_kv_heads, dims.features, dims.head_dim // 2
        self.down = nnx.Param(normal(rngs, D**-0.5, D, rank))
        self.up = PerKeyHead(normal(rngs, rank**-0.5, K, rank, M))

    def tokens(self, x_TD, valid_T, state=None):
        """Return the angles phi_t, and the last ones."""
        step_TM = x_TD.astype(float) @ self.down[...] @ self.up[...]
        return running_sums(step_TM, valid_T, state)
