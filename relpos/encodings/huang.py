"""A vector for each clipped distance, which queries and keys meet alike."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding

MOST = 2**30  # of which 2k + 1 rows int32 can number


class Huang(Encoding):
    """logit = (q_i . k_j + q_i . a[c] + k_j . a[c]) / sqrt(H),  c = clip(j - i, -k, k).

    Huang, Liang, Xu, Xiang 2020, "Improve Transformer Models with Better Relative Position Embeddings",
    arXiv:2009.13658, method 4: (q + a) . (k + a) without a . a. One table [2k+1, H] for queries and keys, shared by the
    heads; each layer has its own. k = 511 and a start with standard deviation 0.02 are those of the authors' BERT for
    512 tokens, "relative_key_query" in Hugging Face's transformers, whose table counts i - j: it stands the other way
    round. Left out: methods 1 to 3, which multiply q . k.

    Choose it where keys are to ask for distances as queries do, or to continue BERT models of that kind.

    Choose another where time counts: every distance meets queries and keys, in two products. Distances beyond k are
    alike.
    """

    def __init__(self, *, k: int = 511, dims: Dims, rngs: nnx.Rngs):
        if not 0 <= k < MOST:
            raise ValueError(
                f"huang.k, the clipping distance, must be from 0 to {MOST - 1}, got {k}"
            )
        self.k = self.constant_beyond = k
        self.head_dim = dims.head_dim
        shape = (2 * k + 1, dims.head_dim)
        self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))

    def key_vectors(self, d):
        """Return a[clip(-d)], which meet the queries."""
        return self.table[jnp.clip(-d, -self.k, self.k) + self.k]  # the paper counts j - i = -d

    def query_vectors(self, d):
        """Return the same, which meet the keys."""
        return self.key_vectors(d)
