"""Products of content and position: queries and keys are both multiplied with vectors for each distance."""

import math

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, PerHeadConstant, normal
from relpos.registry import check_range

MOST = 2**20  # distances with their own row


class DeBERTa(Encoding):
    """logit = [q_i . k_j + q_i . (P W_K)[delta(i, j)] + k_j . (P W_Q)[delta(j, i)]] / sqrt(3 H).

    He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", arXiv:2006.03654, sec. 3.1. delta(i,
    j) = clip(i - j + span, 0, 2 span - 1). P [2 span, features] is learned, one table for all layers; each head of each
    layer has its own W_K and W_Q. With `share` they are the layer's own projections of keys and queries, as in version
    2 (share_att_key in its public code); `relpos.encodings.bind` supplies them. With `log_buckets`, distances above
    span / 2 share rows that cover logarithmically growing ranges up to `max_distance`, as in version 2. With
    `keys_by_query`, keys are multiplied with row delta(i, j), as in the public code, not with the paper's delta(j, i).

    Choose it for encoders, and to continue training DeBERTa models: queries and keys both look at distances. The paper
    reports better results than RoBERTa's on language understanding.

    Choose another for decoding and for short rows, where most pairs lie within `span`: keys are multiplied with vectors
    too, which makes its decoding step the slowest in docs/performance.md.
    """

    def __init__(
        self,
        *,
        span: int = 512,
        log_buckets: bool = False,
        max_distance: int = 512,
        share: bool = False,
        keys_by_query: bool = False,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("deberta.span", span, 2, MOST)
        if log_buckets:  # the nearest distances have a bucket each
            check_range("deberta.max_distance", max_distance, span // 2 + 2, 2**30)
        self.span, self.log_buckets, self.max_distance = span, log_buckets, max_distance
        self.share, self.keys_by_query = share, keys_by_query
        self.head_dim = H = dims.head_dim
        self.logit_scale = (3 * H) ** -0.5  # a logit is the sum of three products
        self.constant_beyond = max_distance if log_buckets else span
        N, D = dims.num_heads, dims.features
        self.table = nnx.Param(normal(rngs, 0.02, 2 * span, D), shared_by_layers=True)
        self.unbound = share
        kernels: list[nnx.Variable] = [
            PerHeadConstant(jnp.full((N, D, H), jnp.nan))  # not known yet
            if share
            else PerHead(normal(rngs, D**-0.5, N, D, H))
            for _ in range(2)
        ]
        self.of_keys, self.of_queries = kernels

    def of_projections(self, query_DNH, key_DKH):
        """Return the layer's projections if they are shared, with those of key heads repeated for their query heads."""
        if not self.share:
            return {}
        key_DNH = jnp.repeat(key_DKH, query_DNH.shape[1] // key_DKH.shape[1], 1)
        each = {"of_queries": query_DNH, "of_keys": key_DNH}
        return {name: jnp.moveaxis(kernel, 1, 0) for name, kernel in each.items()}

    def _row(self, d):
        """Return each distance's row of the table."""
        if self.log_buckets:
            middle = self.span // 2
            # Integer thresholds, not a rounded logarithm, for the same result on every platform: row middle + m begins
            # after the last n with ln(n / middle) / ln((max - 1) / middle) * (middle - 1) <= m - 1.
            growth = ((self.max_distance - 1) / middle) ** (1 / (middle - 1)) if middle > 1 else 1.0
            ends = [math.floor(middle * growth**m + 1e-9) for m in range(middle)]
            n = jnp.abs(d)
            coarse = middle + (n[:, None] > jnp.array(ends, jnp.int32)[None]).sum(-1)
            d = jnp.sign(d) * jnp.where(n <= middle, n, coarse)
        return jnp.clip(d, -self.span, self.span - 1) + self.span

    def key_vectors(self, d):
        """Return (P W_K)[delta(i, j)], for the products with queries."""
        return (self.table[...] @ self.of_keys[...])[self._row(d)]

    def query_vectors(self, d):
        """Return (P W_Q)[delta(j, i)], for the products with keys."""
        return (self.table[...] @ self.of_queries[...])[self._row(d if self.keys_by_query else -d)]
