"""A linear bias whose slope depends on the query and the key."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from relpos.encodings.alibi import paper_slopes
from relpos.encodings.base import (
    Dims,
    Encoding,
    Passed,
    PerHead,
    PerHeadConstant,
    PerKeyHead,
    normal,
)


class GrapeA(Encoding):
    """b[i, j] = -(i - j) s r (softplus(v . q_i / sqrt(H)) + softplus(u . k_j / sqrt(H))),  |u| = |v| = 1.

    Zhang et al. 2025, "Group Representational Position Encoding", arXiv:2512.07805, sec. 4: GRAPE-A-QK; `queries` and
    `keys` switch one of the gates off, which gives GRAPE-A-K and GRAPE-A-Q. It is a group action: exp(n A) = I + n A on
    [q; 1; 0] and the inverse transpose on [k; 0; 1], with A of rank 1 and A^2 = 0. v and the rate r = softplus(rho),
    initially 1, are learned for each head, u for each key head; s are ALiBi's slopes, as in the authors' code. With
    equal gates it is ALiBi. In the sum grape_a+fox each token also has its own step. In a sum with a rotation the gates
    read the rotated queries and keys. Causal.

    Choose it as an ALiBi whose slope depends on query and key: it contains ALiBi and, as a group action, is a function
    of i - j and the two tokens.

    Choose another for encoders: it is causal. It walks along the row, which GPU kernels do not support.
    """

    causal_only = True
    reals = True

    def __init__(self, *, queries: bool = True, keys: bool = True, dims: Dims, rngs: nnx.Rngs):
        if not (queries or keys):
            raise ValueError("grape_a without gates is alibi: set grape_a.queries or grape_a.keys")
        N, K, H = dims.num_heads, dims.num_kv_heads, dims.head_dim
        self.head_dim = H
        self.slopes = PerHeadConstant(jnp.array(paper_slopes(N), jnp.float32))
        self.rate = PerHead(jnp.full((N,), math.log(math.e - 1), float))
        self.of_queries = PerHead(normal(rngs, H**-0.5, N, H)) if queries else None
        self.of_keys = PerKeyHead(normal(rngs, H**-0.5, K, H)) if keys else None

    def query_block(self, q_CH, q_features):
        """Return the gates of the queries."""
        return None if self.of_queries is None else opened(q_CH, self.of_queries[...])

    def key_block(self, k_KH, k_features):
        """Return the gates of the keys."""
        return None if self.of_keys is None else opened(k_KH, self.of_keys[...])

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        """Return the bias of each pair; nothing is carried."""
        q_gate = 0.0 if q_features is None else q_features[:, None]
        k_gate = 0.0 if k_features is None else k_features[None, :]
        rate = self.slopes[...] * jax.nn.softplus(self.rate[...])
        d_CK = q_positions[:, None] - k_positions[None, :]
        return Passed(None, -rate * (q_gate + k_gate) * d_CK, carry)


def opened(x_TH: Float[Array, "T H"], along_H: Float[Array, "H"]) -> Float[Array, "T"]:
    """Return softplus(a . x / sqrt(H)), where a is the unit vector along `along_H`."""
    unit_H = along_H * jax.lax.rsqrt((along_H**2).sum() + 1e-12)
    x_TH = x_TH.astype(jnp.promote_types(x_TH.dtype, unit_H.dtype))
    return jax.nn.softplus(x_TH @ unit_H * x_TH.shape[-1] ** -0.5)
