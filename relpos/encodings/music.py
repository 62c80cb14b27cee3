"""A vector for each distance and head, multiplied with the query."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, normal
from relpos.registry import check_choice, check_range

BEYOND = ("zero", "clip")
MOST = 2**30  # int32 can index the rows of both directions for every distance below this


class Music(Encoding):
    """logit = q_i . (k_j + E[M - 1 - d]) / sqrt(H),  0 <= d = i - j < M.

    Huang et al. 2018, "Music Transformer", arXiv:1809.04281, sec. 3.3-3.4. Each head of each layer has its own E [M,
    H], whose last row belongs to distance 0, as in the paper. E starts with standard deviation 1 / sqrt(H), as in the
    public code. M is `max_distance`, by default 1024, half of the paper's 2048. Distances from M on have no vector
    (`beyond` "zero", as in the public code) or that of M - 1 ("clip"). With `bidirectional` E is [2 M - 1, H]: the
    first M rows are as before, the others belong to keys in the future. The paper's skewing is how the blockwise path
    handles the distances of any scheme. Left out: the paper's relative times and pitches.

    Choose it where exact distances matter over a long range, as in music: each head has a vector for every distance
    below M.

    Choose another for little data or long rows: a head learns M vectors, one for each distance, and distances from M on
    are not told apart.
    """

    def __init__(
        self,
        *,
        max_distance: int = 1024,
        beyond: str = "zero",
        bidirectional: bool = False,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("music.max_distance", max_distance, 1, MOST - 1)
        check_choice("music.beyond", beyond, BEYOND)
        self.max_distance, self.beyond, self.bidirectional = max_distance, beyond, bidirectional
        self.constant_beyond = max_distance if beyond == "zero" else max_distance - 1
        self.causal_only = not bidirectional
        self.head_dim = H = dims.head_dim
        rows = 2 * max_distance - 1 if bidirectional else max_distance
        self.table = PerHead(normal(rngs, H**-0.5, dims.num_heads, rows, H))

    def key_vectors(self, d):
        """Return E[M - 1 - d]."""
        last = self.max_distance - 1
        near = jnp.clip(d, -last if self.bidirectional else 0, last)
        vectors = self.table[last - near]
        return vectors if self.beyond == "clip" else jnp.where((d == near)[:, None], vectors, 0)
