"""Positions that count the tokens that matter to a query, as sums of gates."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from relpos.attention.reference import dot_rows
from relpos.encodings.base import Dims, Encoding, Passed
from relpos.registry import check_range


class CoPE(Encoding):
    """logit += q_i . e[p_ij],  p_ij = min(sum_{t = j..i} g_it, P - 1),  g_it = sigmoid(scale q_i . k_t).

    Golovneva et al. 2024, "Contextual Position Encoding", arXiv:2405.18719, sec. 4. Between integers the products are
    interpolated: (ceil p - p) q . e[floor p] + (1 - ceil p + p) q . e[ceil p]. e holds P = `positions` vectors, 64 in
    the paper's code. They are shared by the heads; each layer has its own. They start at zero. Causal.

    Choose it where a position is a count of something, such as the k-th noun or sentence: the paper solves counting and
    selective copying, where fixed positions fail.

    Choose another for encoders and where speed matters: it walks along the row, and recounts in each decoding step.
    Counts end at P - 1.
    """

    causal_only = True
    axes = None

    def __init__(self, *, positions: int = 64, dims: Dims, rngs: nnx.Rngs):
        check_range("cope.positions", positions, 1)
        self.head_dim = dims.head_dim
        self.vectors = nnx.Param(jnp.zeros((positions, dims.head_dim)))

    def begin(self, q_TH, q_features):
        """Return each query's count so far."""
        return jnp.zeros(q_TH.shape[:1], jnp.promote_types(q_TH.dtype, jnp.float32))

    def query_block(self, q_CH, q_features):
        """Return q . e[p] for the integers p, [C, P]."""
        return dot_rows(q_CH, self.vectors[...].astype(q_CH.dtype))

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Continue the count from the last key to the first."""
        last = q_features.shape[1] - 1

        def near(carry, q_CH, k_KH, values_CP):
            dots_CK = dot_rows(q_CH, k_KH)
            gates_CK = jax.nn.sigmoid(scale * dots_CK)
            if seen_CK is not None:
                gates_CK = jnp.where(seen_CK, gates_CK, 0)
            count_CK = carry[:, None] + sums_from_the_end(gates_CK)
            bias_CK = interpolated(values_CP, jnp.minimum(count_CK, last))
            return Passed(dots_CK, bias_CK, count_CK[:, 0])

        def far(carry, q_CH, k_KH, values_CP):
            dots_CK = dot_rows(q_CH, k_KH)
            return Passed(dots_CK, jnp.broadcast_to(values_CP[:, last:], dots_CK.shape), carry)

        # In most blocks all queries have reached the last count, and the carry does not depend on the dot products.
        counted = (carry >= last).all()
        return jax.lax.cond(counted, far, near, carry, q_CH, k_KH, q_features)


def sums_from_the_end(x_CK: Float[Array, "C K"]) -> Float[Array, "C K"]:
    """Return y[c, k] = sum_{t >= k} x[c, t], by small matrix products: XLA's running sums are slow on CPUs."""
    (C, K), size = x_CK.shape, 16
    if size >= K:
        return x_CK @ jnp.tril(jnp.ones((K, K), x_CK.dtype))
    pieces = -(-K // size)
    x = jnp.pad(x_CK, ((0, 0), (0, pieces * size - K))).reshape(C, pieces, size)
    inside = x @ jnp.tril(jnp.ones((size, size), x.dtype))
    behind = sums_from_the_end(inside[:, :, 0]) - inside[:, :, 0]
    return (inside + behind[:, :, None]).reshape(C, -1)[:, :K]


def interpolated(values_CP: Float[Array, "C P"], at_CK: Float[Array, "C K"]) -> Array:
    """Return each row's values at the positions 0 ... P - 1, interpolated linearly between integers, [C, K]."""
    steps_CP = jnp.diff(values_CP, axis=1, append=values_CP[:, -1:])
    low_CK = at_CK.astype(jnp.int32)
    # One look-up of both, whose transpose is one scatter.
    pairs_CP2 = jnp.stack([values_CP, steps_CP], -1)
    look = jax.vmap(lambda pairs_P2, i: pairs_P2.at[i].get(mode="promise_in_bounds"))
    pairs_CK2 = look(pairs_CP2, low_CK)
    return pairs_CK2[..., 0] + (at_CK - low_CK) * pairs_CK2[..., 1]
