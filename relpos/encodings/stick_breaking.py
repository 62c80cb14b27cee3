"""Stick-breaking weights, from the query backward, in place of a softmax."""

import jax
import jax.numpy as jnp

from relpos.attention.reference import dot_rows
from relpos.encodings.base import Dims, Encoding, Passed
from relpos.encodings.cope import sums_from_the_end


class StickBreaking(Encoding):
    """A_ij = beta_ij prod_{j < k < i} (1 - beta_ik),  beta_ij = sigmoid(q_i . k_j / sqrt(H)),  out_i = sum_j A_ij v_j.

    Tan et al. 2024, "Scaling Stick-Breaking Attention", arXiv:2410.17980, sec. 2. The nearest key takes its share of
    the stick first, and the rest is left for the next key. Weights sum to at most 1. A query does not see itself, so
    the first token of a sequence gets zeros; with `attend_current`, an option of the authors' code, it does: k <= i.
    There are no parameters. It reads the order of tokens, not their positions. Causal.

    Here the logit is log A_ij = log beta_ij + sum_{j < k < i} log(1 - beta_ik). In a sum, rotations turn the queries
    and keys of beta; biases and vectors of the other parts are added to log A. Left out: the norm of each head's
    output, and a learned vector times the rest of the stick, which the authors' 3B model does not use.

    Choose it for decoders that should find the newest of several matches: only the order counts, and no positions are
    needed. The paper uses it in place of softmax with rotations, and beyond the trained length.

    Choose another for encoders, and where speed matters: it walks along the row, and GPU kernels do not support it. A
    softcap and `sink` need a softmax and are refused.
    """

    causal_only = True
    axes = None
    normalized = False

    def __init__(self, *, attend_current: bool = False, dims: Dims, rngs):
        self.sees_itself = attend_current

    def begin(self, q_TH, q_features):
        """Return the logarithm of the rest of each query's stick: log 1."""
        return jnp.zeros(q_TH.shape[:1], jnp.promote_types(q_TH.dtype, jnp.float32))

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Continue from the last key to the first."""
        z_CK = scale * dot_rows(q_CH, k_KH)
        share_CK, rest_CK = jax.nn.log_sigmoid(z_CK), jax.nn.log_sigmoid(-z_CK)
        if seen_CK is not None:
            rest_CK = jnp.where(seen_CK, rest_CK, 0)
        # Shifted by one key before summing: subtracting a key's own term afterwards could cancel large numbers.
        behind_CK = jnp.pad(rest_CK[:, 1:], ((0, 0), (0, 1)))
        with jax.default_matmul_precision("highest"):
            left_CK = carry[:, None] + sums_from_the_end(behind_CK)
        # Zeros, not None: the dot products are already part of the bias.
        return Passed(jnp.zeros_like(z_CK), left_CK + share_CK, left_CK[:, 0] + rest_CK[:, 0])
