"""Products of queries and keys that oscillate with distance, at a frequency that depends on both tokens."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos.attention.reference import dot_rows
from relpos.encodings.base import Dims, Encoding, Passed


class TAPA(Encoding):
    """logit = q_A . k_A / sqrt(A)  cos(2 pi |d|^alpha  q_P . k_P / sqrt(H - A)),  q = (q_A, q_P), k = (k_A, k_P).

    Wang et al. 2025, "Positional Encoding via Token-Aware Phase Attention", arXiv:2509.12635, eq. 12. The first A =
    amplitude * H dimensions of a head give the amplitude, the others the phase. alpha is 0.1 and `amplitude` 0.5, as in
    the paper's experiments. It has no parameters. The scale of the logits is 1 / sqrt(A); a scale that the caller gives
    replaces it, and does not change the phase.

    Choose it for long contexts with nothing to train: the paper shows that RoPE has a distance-dependent bias, and
    reports lower perplexity and better retrieval on longer rows.

    Choose another where speed matters: each pair has its own phase, which GPU kernels do not support. Half of a head
    serves the phase only.
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
                f"tapa.amplitude must give some of the {H} dimensions to the amplitude and some to the phase, got "
                f"{amplitude}"
            )
        self.logit_scale = self.width**-0.5

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Multiply each product by its cosine; nothing is carried."""
        A = self.width
        d_CK = jnp.abs(q_positions[:, None] - k_positions[None])
        pace_CK = dot_rows(q_CH[:, A:], k_KH[:, A:]) * (q_CH.shape[1] - A) ** -0.5
        phase_CK = 2 * np.pi * pace_CK * (d_CK.astype(pace_CK.dtype) ** self.alpha)
        return Passed(dot_rows(q_CH[:, :A], k_KH[:, :A]) * jnp.cos(phase_CK), None, carry)
