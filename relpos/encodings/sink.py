"""A key without a value, which takes the weight that no token should get."""

import jax.numpy as jnp

from relpos.encodings.base import Dims, Encoding, PerHead


class Sink(Encoding):
    """p_ij = exp(q_i . k_j / sqrt(H)) / (exp(s) + sum_k exp(q_i . k_k / sqrt(H))),  s learned for each head.

    Miller 2023, "Attention is off by one", fixes s = 0. Here s is learned, starting at `initial`, as in OpenAI
    2025, "gpt-oss-120b & gpt-oss-20b Model Card", arXiv:2508.10925, sec. 2.2. It does not encode positions; that model
    has rope+sink in every layer.

    Choose it in a sum with another scheme where a head should be able to attend to nothing: one number for each head.

    Choose another to encode positions, which it does not. GPU kernels do not support it.
    """

    axes = None

    def __init__(self, *, initial: float = 0.0, dims: Dims, rngs):
        self.logit = PerHead(jnp.full((dims.num_heads,), initial, float))

    def sink(self):
        """Return s."""
        return self.logit[...]
