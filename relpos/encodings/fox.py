"""A forget gate: the bias of a key sums the logarithms of the gates of later tokens, up to the query."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, normal, running_sums


class FoX(Encoding):
    """b[i, j] = sum_{t = j+1..i} log f_t,  f_t = sigmoid(w . x_t + c), for each head.

    Lin et al. 2025, "Forgetting Transformer: Softmax Attention with a Forget Gate", arXiv:2503.02130, sec. 3. The sum
    is a difference of running sums F_i - F_j. The running sums are the features of each token and, at the end, the
    state of the cache. Causal.

    Choose it for decoders of text: a gate for each head at hardly any cost, without any other positions. The paper
    reports better results than the Transformer's in long-context language modelling and beyond the trained length.

    Choose another for encoders, and where a distant token must be found whatever comes after it: a closed gate hides
    everything before it.
    """

    needs_tokens = True
    causal_only = True
    axes = None

    def __init__(self, *, initial_offset: float = 0.0, dims: Dims, rngs: nnx.Rngs):
        N, D = dims.num_heads, dims.features
        self.weight = PerHead(normal(rngs, D**-0.5, N, D))
        self.offset = PerHead(jnp.full((N,), initial_offset, float))

    def tokens(self, x_TD, valid_T, state=None):
        """Return the running sums F_t, and the last one."""
        gate_T = x_TD.astype(float) @ self.weight[...] + self.offset[...]
        return running_sums(jax.nn.log_sigmoid(gate_T), valid_T, state)

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Return F_i - F_j."""
        return q_features[:, None] - k_features[None, :]
