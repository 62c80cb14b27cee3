"""Products of words with words plus products of positions with positions, each with their own projections."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, PerHead, normal
from relpos.encodings.t5 import T5
from relpos.registry import check_range


class TUPE(T5):
    """logit = (q_i . k_j + (p_i U_Q) . (p_j U_K)) / sqrt(2 H) + b[d],  b as in T5.

    Ke, He, Liu 2021, "Rethinking Positional Encoding in Language Pre-training", arXiv:2006.15595, sec. 3. p_i
    [features] is learned; each head has its own U_Q and U_K, and all layers share them. With `untied`, if position 0
    (the [CLS] token) is the query or the key, a learned number replaces the product of positions; each head has one for
    either case. A position outside the table gives NaN.

    Choose it for encoders like BERT: words and positions have separate projections, and [CLS] may be exempt (`untied`).
    The paper reports better results than BERT's on GLUE.

    Choose another for rows beyond `max_length`, which have no positions, and for decoding: queries and keys are twice
    as wide, even in the cache.
    """

    shift_invariant = False

    def __init__(
        self,
        *,
        max_length: int = 512,
        untied: bool = False,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            num_buckets=num_buckets, max_distance=max_distance, bidirectional=bidirectional, dims=dims, rngs=rngs
        )  # fmt: skip
        check_range("tupe.max_length", max_length, 1)
        self.head_dim = dims.head_dim
        self.logit_scale = (2 * dims.head_dim) ** -0.5  # a logit is the sum of two products
        self.max_length = max_length
        N, D, H = dims.num_heads, dims.features, dims.head_dim
        self.vectors = nnx.Param(normal(rngs, 1.0, max_length, D), shared_by_layers=True)
        self.of_queries = PerHead(normal(rngs, D**-0.5, N, D, H), shared_by_layers=True)
        self.of_keys = PerHead(normal(rngs, D**-0.5, N, D, H), shared_by_layers=True)
        # The logits where position 0 is the query, and where it is the key.
        self.first = PerHead(jnp.zeros((N, 2)), shared_by_layers=True) if untied else None

    def _projected(self, positions_T, kernel_DH):
        # JAX counts a negative index from the end: send it out of bounds instead.
        index_T = jnp.where(positions_T < 0, self.vectors.shape[0], positions_T)
        rows_TD = self.vectors[...].at[index_T].get(mode="fill", fill_value=jnp.nan)
        is_first_T1 = (positions_T == 0)[:, None]
        rows_TD = rows_TD if self.first is None else jnp.where(is_first_T1, 0, rows_TD)
        return rows_TD @ kernel_DH, is_first_T1

    def query(self, q_TH, positions_T, features_T):
        """Return [q, p U_Q], and if untied two more columns for the numbers that replace products."""
        place_TH, is_first_T1 = self._projected(positions_T, self.of_queries[...])
        if self.first is None:
            return jnp.concatenate([q_TH, place_TH], -1)
        seeks, is_sought = self.first[...] * (2 * q_TH.shape[-1]) ** 0.5
        numbers = [jnp.where(is_first_T1, seeks, 0), jnp.where(is_first_T1, 0, is_sought)]
        return jnp.concatenate([q_TH, place_TH, *numbers], -1)

    def key(self, k_SH, positions_S, features_S):
        """Return [k, p U_K], and if untied two more columns that select those numbers."""
        place_SH, is_first_S1 = self._projected(positions_S, self.of_keys[...])
        if self.first is None:
            return jnp.concatenate([k_SH, place_SH], -1)
        found = [jnp.ones_like(place_SH[:, :1]), is_first_S1.astype(place_SH.dtype)]
        return jnp.concatenate([k_SH, place_SH, *found], -1)
