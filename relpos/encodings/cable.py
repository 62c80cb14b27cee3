"""Distance as the sum of the gates of the tokens between query and key, in both directions, weighted by the query."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, normal, running_sums
from relpos.registry import check_choice

GATES = {"relu": jax.nn.relu, "softplus": jax.nn.softplus}
KERNELS = ("linear", "log")


class CABLE(Encoding):
    """b[i, j] = -g_i s_ij,  s_ij = sum of f_t over j < t <= i, or over i < t <= j where the key comes later,

        f_t = relu(w . x_t + c),  g_i = softplus(w' . x_i + c'),  w and w' of each head: columns 0 and 1 of `weight`

    Veisi, Amirzadeh, Mansourian 2025, "Context-aware Biases for Length Extrapolation", arXiv:2503.08067, sec. 3; for
    both directions as in sec. 5.5 and the authors' code. Weights start with standard deviation 0.02, offsets at 0.
    `gate` "softplus" without `weights`, so that g = 1, is the first arXiv version of the paper: f_t = -log(1 -
    sigmoid(w . x_t + c)), which is `fox` with w and c negated, for encoders as well. With `kernel` "log" b = -g_i log(1
    + s_ij^2), the paper's K-CABLE, sec. 5.6. The running sums of f are the features of each token and, at the end, the
    state of the cache.

    Choose it for forget gates in encoders as well as decoders. The paper finds it better than fixed biases on rows
    longer than those of training.

    Choose another where the caller gives positions, which it does not read, and for cross-attention layers, where there
    are no tokens between query and key. `fox` is cheaper if no weights are needed.
    """

    needs_tokens = True
    axes = None

    def __init__(
        self,
        *,
        gate: str = "relu",
        weights: bool = True,
        kernel: str = "linear",
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_choice("cable.gate", gate, GATES)
        check_choice("cable.kernel", kernel, KERNELS)
        self.gate, self.kernel = gate, kernel
        N, gates = dims.num_heads, 1 + weights
        self.weight = PerHead(normal(rngs, 0.02, N, dims.features, gates))
        self.offset = PerHead(jnp.zeros((N, gates)))

    def tokens(self, x_TD, valid_T, state=None):
        """Return the running sums of f_t and, with weights, g_t; and the last sum."""
        read_TG = x_TD.astype(float) @ self.weight[...] + self.offset[...][None]
        sums_T, last = running_sums(GATES[self.gate](read_TG[:, 0]), valid_T, state)
        return (sums_T, *jax.nn.softplus(read_TG[:, 1:].T)), last

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Return -g_i |S_i - S_j| or -g_i log(1 + (S_i - S_j)^2), where S are the running sums."""
        gap = q_features[0][:, None] - k_features[0][None, :]
        gap = jnp.abs(gap) if self.kernel == "linear" else jnp.log1p(gap**2)
        weights = q_features[1:]
        return -weights[0][:, None] * gap if weights else -gap
