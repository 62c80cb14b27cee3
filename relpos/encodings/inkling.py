"""A profile of distances for each query, mixed out of a few that all heads share."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead


class Inkling(Encoding):
    """b[i, j] = (W_r x_i) . D[d] for 0 <= d < extent, 0 beyond; not scaled.

    Inkling (Hugging Face transformers, models/inkling, 2026; no paper, so no arXiv: number). W_r is each head's own
    [features, rank]; the profiles D [extent, rank] are shared by the heads. Its local layers have extent 512, the
    global ones 1024 and `log_factor`: queries and bias are multiplied by 1 + 0.1 log(max(1, (i + 1) / extent)).
    Causal.
    """
