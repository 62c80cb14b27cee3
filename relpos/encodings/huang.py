"""A vector for each clipped distance, multiplied with both query and key."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, normal
from relpos.registry import check_range

MOST = 2**30  # int32 can index 2k + 1 rows for every k below this


class Huang(Encoding):
    """logit = (q_i . k_j + q_i . a[c] + k_j . a[c]) / sqrt(H),  c = clip(j - i, -k, k).

    Huang, Liang, Xu, Xiang 2020, "Improve Transformer Models with Better Relative Position Embeddings",
    arXiv:2009.13658, method 4: (q + a) . (k + a) without the term a . a. One table [2k+1, H] serves queries and keys
    and is shared by the heads; each layer has its own. The defaults, k = 511 and an initial standard deviation of 0.02,
    are those of the authors' BERT for 512 tokens. This is "relative_key_query" in Hugging Face's transformers, whose
    table is indexed by i - j and so is in reverse order. Left out: methods 1 to 3, which multiply q . k.

    Choose it where keys as well as queries should look at distances, or to continue training BERT models of that kind.

    Choose another where speed matters: every distance is multiplied with queries and with keys. Distances beyond k are
    not told apart.
    """

    def __init__(self, *, k: int = 511, dims: Dims, rngs: nnx.Rngs):
        check_range("huang.k, the clipping distance,", k, 0, MOST - 1)
        self.k = self.constant_beyond = k
        self.head_dim = dims.head_dim
        self.table = nnx.Param(normal(rngs, 0.02, 2 * k + 1, dims.head_dim))

    def key_vectors(self, d):
        """Return a[clip(-d)], for the products with queries."""
        return self.table[jnp.clip(-d, -self.k, self.k) + self.k]  # the paper counts j - i = -d

    def query_vectors(self, d):
        """Return the same vectors, for the products with keys."""
        return self.key_vectors(d)
