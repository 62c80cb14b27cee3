"""A small network of the distance relative to the query's position."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead


class FIRE(Encoding):
    """b[i, j] = f(psi(i - j) / psi(max(i, L))),  psi(x) = ln(c x + 1),  f an MLP 1 -> hidden -> 1 with ReLU.

    Li et al. 2024, "Functional Interpolation for Relative Positions Improves Long Context Transformers",
    arXiv:2310.04418, sec. 4.2 and appendix. c > 0 (from 0.1) and L (from 512) are learned, L = |multiplier| * L0;
    f ends in one output a head, its hidden layer is shared by the heads. i is the query's position in its segment,
    counted from 0. With keys on both sides the distance is |i - j|.
    """

    shift_invariant = False

    def __init__(
        self,
        *,
        hidden: int = 32,
        initial_c: float = 0.1,
        initial_threshold: float = 512.0,
        epsilon: float = 1e-6,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        if min(hidden, initial_c, initial_threshold, epsilon) <= 0:
            raise ValueError(
                "fire.hidden, initial_c, initial_threshold and epsilon must be positive, got "
                f"{hidden}, {initial_c}, {initial_threshold}, {epsilon}"
            )
        self.initial_threshold = initial_threshold
        self.epsilon = epsilon
        uniform = jax.nn.initializers.uniform
        self.c = nnx.Param(jnp.array(initial_c, float))
        self.multiplier = nnx.Param(jnp.array(1.0, float))
        # torch.nn.Linear's initialisation, U(-1/sqrt(fan in), 1/sqrt(fan in)), which the paper's code has.
        self.hidden_kernel = nnx.Param(uniform(2.0)(rngs.params(), (hidden,)) - 1.0)
        self.hidden_bias = nnx.Param(uniform(2.0)(rngs.params(), (hidden,)) - 1.0)
        bound = hidden**-0.5
        shape = (dims.num_heads, hidden)
        self.output = PerHead(uniform(2 * bound)(rngs.params(), shape) - bound)
        self.offset = PerHead(uniform(2 * bound)(rngs.params(), (dims.num_heads,)) - bound)

    def _psi(self, x):
        return jnp.log1p(jnp.abs(self.c[...]) * x)

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Evaluate f for every pair."""
        d = jnp.abs(q_positions[:, None] - k_positions[None, :])
        threshold = jnp.abs(self.multiplier[...] * self.initial_threshold)
        span = self._psi(jnp.maximum(q_positions, threshold)) + self.epsilon
        x = self._psi(d) / span[:, None]
        kernel, bias = self.hidden_kernel[...][None, None], self.hidden_bias[...][None, None]
        hidden = jax.nn.relu(x[..., None] * kernel + bias)
        return hidden @ self.output[...] + self.offset[...]
