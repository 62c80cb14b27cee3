"""A bias computed by a small network from the distance relative to the query's position."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead
from relpos.registry import check_range

MOST_HIDDEN = 256
LEAST = 1e-15  # beyond this and its inverse, float32 could not hold c L


class FIRE(Encoding):
    """b[i, j] = f(psi(i - j) / psi(max(i, L))),  psi(x) = ln(c x + 1),  f an MLP 1 -> hidden -> 1 with ReLU.

    Li et al. 2024, "Functional Interpolation for Relative Positions Improves Long Context Transformers",
    arXiv:2310.04418, sec. 4.2 and appendix. c > 0 (from 0.1) and L (from 512) are learned, L = |multiplier| * L0;
    f has one output for each head; its hidden layer is shared by the heads. i is the query's position, by default its
    index in its segment. With keys on both sides the distance is |i - j|.

    Choose it to read longer rows with a learned bias: distances are divided by the query's position, so the network's
    argument stays between 0 and 1 at any length. The paper finds it ahead of ALiBi, T5 and KERPLE there.

    Choose another where speed matters, since the network is evaluated for every pair, and where rows may begin at any
    position: a shift changes the bias.
    """

    shift_invariant = False
    reals = True

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
        check_range("fire.hidden", hidden, 1, MOST_HIDDEN)  # compile time grows with it
        check_range("fire.initial_c", initial_c, LEAST, 1 / LEAST)
        check_range("fire.initial_threshold", initial_threshold, LEAST, 1 / LEAST)
        check_range("fire.epsilon", epsilon, LEAST, 1 / LEAST)
        self.initial_threshold = initial_threshold
        self.epsilon = epsilon
        uniform = jax.nn.initializers.uniform
        self.c = nnx.Param(jnp.array(initial_c, float))
        self.multiplier = nnx.Param(jnp.array(1.0, float))
        # torch.nn.Linear's initialisation, U(-1/sqrt(fan in), 1/sqrt(fan in)), as in the paper's code.
        self.hidden_kernel = nnx.Param(uniform(2.0)(rngs.params(), (hidden,)) - 1.0)
        self.hidden_bias = nnx.Param(uniform(2.0)(rngs.params(), (hidden,)) - 1.0)
        bound = hidden**-0.5
        shape = (dims.num_heads, hidden)
        self.output = PerHead(uniform(2 * bound)(rngs.params(), shape) - bound)
        self.offset = PerHead(uniform(2 * bound)(rngs.params(), (dims.num_heads,)) - bound)

    def _psi(self, x):
        return jnp.log(jnp.abs(self.c[...]) * x + 1)

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Evaluate f for every pair."""
        d = jnp.abs(q_positions[:, None] - k_positions[None, :])
        threshold = jnp.abs(self.multiplier[...] * self.initial_threshold)
        span = self._psi(jnp.maximum(q_positions, threshold)) + self.epsilon
        x = self._psi(d) / span[:, None]
        of_x = _network(x, self.hidden_kernel[...], self.hidden_bias[...], self.output[...])
        return of_x + self.offset[...]


@jax.custom_jvp
def _network(x, kernel, bias, output):
    """Return sum_h output[h] relu(kernel[h] x + bias[h]) for numbers x, without an array of the hidden layer.

    With its kink at t = -b/w, relu(w x + b) is |w| (max(x, t) - t) if w > 0, and |w| max(x, t) + w x if w < 0.
    """
    kinks, steepness, slope = _kinks(kernel, bias, output)
    at_kinks = output * jax.nn.relu(kernel * kinks + bias)  # 0, except for units without a kink
    y = x * slope + (at_kinks - jnp.where(kernel < 0, 0, steepness * kinks)).sum()
    for t, weight in zip(kinks, steepness, strict=True):
        y += weight * jnp.where(x > t, x, t)  # jnp.maximum would also check for NaN
    return y


def _kinks(kernel, bias, output):
    """Return each unit's kink, the change of slope there, and the slope before all kinks.

    A unit without a kink, or whose kink is too far away to be a finite number, is assigned one.
    """
    far = jnp.finfo(kernel.dtype).max / 2
    kinks = jnp.where(kernel == 0, 0, -bias / jnp.where(kernel == 0, 1, kernel))
    slope = jnp.where(kernel < 0, output * kernel, 0).sum()
    return jnp.clip(kinks, -far, far), output * jnp.abs(kernel), slope


@_network.defjvp
def _network_tangent(primals, tangents):
    """Look up the tangent: between two neighbouring kinks each unit is on or off, and the network is a line.

    The transpose, which JAX derives from this, sums dy and dy x over the numbers in each interval.
    """
    x, kernel, bias, output = primals
    dx, d_kernel, d_bias, d_output = tangents
    kinks, steepness, first_slope = _kinks(kernel, bias, output)
    # Sums, not look-ups: on CPUs a gather reads one number at a time.
    interval = jnp.zeros(x.shape, jnp.int32)
    slope = jnp.full_like(x, first_slope)
    for t, weight in zip(kinks, steepness, strict=True):
        interval += (x > t).astype(jnp.int32)
        slope += jnp.where(x > t, weight, 0)
    kinks = jnp.sort(kinks)
    inside = jnp.concatenate([kinks[:1] - 1, (kinks[:-1] + kinks[1:]) / 2, kinks[-1:] + 1])
    on = (kernel[:, None] * inside[None] + bias[:, None] > 0).astype(x.dtype)
    of_x = (d_output * kernel + output * d_kernel) @ on
    constant = (d_output * bias + output * d_bias) @ on
    # One look-up of both, whose transpose is one scatter.
    line = jnp.stack([of_x, constant], -1).at[interval].get(mode="promise_in_bounds")
    d_line = (line * jnp.stack([x, jnp.ones_like(x)], -1)).sum(-1)
    return _network(*primals), slope * dx + d_line
