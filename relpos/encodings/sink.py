"""A key without a value, which takes the weight that no token should have."""

import jax.numpy as jnp

from relpos.encodings.base import Dims, Encoding, PerHead


class Sink(Encoding):
    """p_ij = exp(q_i . k_j / sqrt(H)) / (exp(s) + sum_k exp(q_i . k_k / sqrt(H))),  s learned for each head.

    Miller 2023, "Attention is off by one", has a fixed s = 0. Here s is learned, starting at `initial`, as in OpenAI
    2025, "gpt-oss-120b & gpt-oss-20b Model Card", arXiv:2508.10925, sec. 2.2. It says nothing about positions; that
    model has rope+sink in every layer.

    Choose it in a sum with another scheme where a head is to be able to look at nothing: one number for each head.

    Choose another for positions: it says nothing about them. GPU kernels do not support it.
    """

    axes = None

    def __init__(self, *, initial: float = 0.0, dims: Dims, rngs):
        self.logit = PerHead(jnp.full((dims.num_heads,), initial, float))

    def sink(self):
        """Return s."""
        return self.logit[...]
