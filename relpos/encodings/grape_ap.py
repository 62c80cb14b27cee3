"""A forget gate for each query and each token between it and the key."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.alibi import paper_slopes
from relpos.encodings.base import Dims, Encoding, Passed, PerHead, PerHeadConstant, normal
from relpos.encodings.cope import sums_from_the_end

EPSILON = 2.0**-23  # of float32, as PyTorch's rms_norm adds it


class GrapeAP(Encoding):
    """b[i, j] = s sum_{t = j+1..i} log sigmoid(p_i . R_t n(p_t) / P),  p_t = W x_t of P numbers,  n(p) = p / rms(p).

    Zhang et al. 2025, "Group Representational Position Encoding", arXiv:2512.07805, sec. 5: path-integral additive
    GRAPE. Choices that the paper leaves open follow the authors' code: only the token between query and key is
    normalised, R_t turns all of its pairs (m, m + P/2) by -t radians, s are ALiBi's slopes, P is 8, and each head has
    its own W [features, P]. R_t turns by the position, not by the distance, so a shift of all positions changes the
    bias. Causal.

    Choose it as a `fox` whose gates also depend on the query: each query forgets at its own rate.

    Choose another for encoders, and where speed matters: each pair has a gate. A shift of all positions changes the
    bias, so rows should begin at the same position as in training.
    """

    needs_tokens = True
    causal_only = True
    shift_invariant = False
    reals = True

    def __init__(self, *, width: int = 8, dims: Dims, rngs: nnx.Rngs):
        if width < 2 or width % 2:
            raise ValueError(
                f"grape_ap.width must be even, since numbers turn in pairs, and at least 2; got {width}"
            )
        N, D = dims.num_heads, dims.features
        self.slopes = PerHeadConstant(jnp.array(paper_slopes(N), jnp.float32))
        self.probe = PerHead(normal(rngs, 0.5 * D**-0.5, N, D, width))

    def tokens(self, x_TD, valid_T, state=None):
        """Return p_t; there is no state."""
        return x_TD.astype(float) @ self.probe[...], jnp.zeros(())

    def begin(self, q_TH, q_features):
        """Return the sum over the tokens that each query has passed: none yet."""
        return jnp.zeros(q_features.shape[:1], q_features.dtype)

    def key_block(self, k_KH, k_features):
        """Return n(p_t)."""
        squares_K1 = (k_features**2).mean(-1, keepdims=True)
        return k_features * jax.lax.rsqrt(squares_K1 + EPSILON)

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Continue the sums from the last key to the first; a key's bias leaves out its own step."""
        at_K1 = k_positions[:, None].astype(k_features.dtype)
        sin, cos = jnp.sin(at_K1), jnp.cos(at_K1)
        a, b = jnp.split(k_features, 2, -1)
        turned_KP = jnp.concatenate([a * cos + b * sin, b * cos - a * sin], -1)
        with jax.default_matmul_precision("highest"):
            dots_CK = q_features @ turned_KP.T / q_features.shape[-1]
        steps_CK = self.slopes[...] * jax.nn.log_sigmoid(dots_CK)
        if seen_CK is not None:
            steps_CK = jnp.where(seen_CK, steps_CK, 0)
        sums_CK = carry[:, None] + sums_from_the_end(steps_CK)
        return Passed(None, sums_CK - steps_CK, sums_CK[:, 0])
