"""Products of queries and keys that swing with the distance, each pair of tokens at a pace of its own."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos.attention.reference import dot_rows
from relpos.encodings.base import Dims, Encoding, Passed


class TAPA(Encoding):
    """logit = q_A . k_A / sqrt(A)  cos(2 pi |d|^alpha  q_P . k_P / sqrt(H - A)),  q = (q_A, q_P), k = (k_A, k_P).

    Wang et al. 2025, "Positional Encoding via Token-Aware Phase Attention", arXiv:2509.12635, eq. 12. The first
    A = amplitude * H dimensions of a head say how large, the others how fast; alpha is 0.1, and A half of them, as in
    the paper's experiments. It has no parameters. The scale of the logits is 1 / sqrt(A); one that a caller gives takes
    its place, and leaves the phase.

    Choose it for long contexts with nothing to train: the paper shows that with RoPE the distance itself weighs on the
    products, and has lower perplexity and better retrieval on longer rows.

    Choose another where time counts: the phase is of each pair, which GPU kernels do not carry. Half of a head says
    nothing but how fast the rest swings.
    """

    reals = True

    def __init__(self, *, alpha: float = 0.1, amplitude: float = 0.5, dims: Dims, rngs: nnx.Rngs):
        if not 0 < alpha <= 2:
            raise ValueError(f"tapa.alpha must be above 0 and at most 2, got {alpha}")
        self.alpha = alpha
        self.head_dim = H = dims.head_dim
        self.width = round(amplitude * H)
        if not 0 < self.width < H:
            raise ValueError(
                f"tapa.amplitude must leave some of {H} dimensions to the amplitude and some to the phase, got "
                f"{amplitude}"
            )
        self.logit_scale = self.width**-0.5

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Let each product swing; nothing is carried."""
        A = self.width
        d_CK = jnp.abs(q_positions[:, None] - k_positions[None])
        pace_CK = dot_rows(q_CH[:, A:], k_KH[:, A:]) * (q_CH.shape[1] - A) ** -0.5
        phase_CK = 2 * np.pi * pace_CK * (d_CK.astype(pace_CK.dtype) ** self.alpha)
        return Passed(dot_rows(q_CH[:, :A], k_KH[:, :A]) * jnp.cos(phase_CK), None, carry)
