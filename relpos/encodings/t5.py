"""A learned bias for each bucket of distances."""

import math

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, normal
from relpos.registry import check_range

MOST_BUCKETS = 2**16


class T5(Encoding):
    """b[d] = table[bucket(d)].

    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    arXiv:1910.10683, sec. 2.1. Half of the buckets hold one distance each, the others grow with the logarithm up
    to max_distance, beyond which all distances share the last one. Bidirectional: half of the buckets for each
    direction, the upper half for keys in the future. Each head has its own table [num_buckets], shared by all
    layers unless `per_layer`. T5 itself attends with scale=1; the bias is not scaled.

    Choose it as the first bias to try: a few numbers for each head at hardly any cost. README's language model keeps
    its bits per byte with it at 8 times the trained length.

    Choose another where training rows are shorter than `max_distance`: buckets beyond their length keep their initial
    values, which hurts README's flip-flop. Long distances are not told apart.
    """

    def __init__(
        self,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = False,
        per_layer: bool = False,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        name = type(self).__name__.lower()  # of a subclass, such as tupe
        check_range(f"{name}.num_buckets", num_buckets, 4 if bidirectional else 2, MOST_BUCKETS)
        self.bidirectional = bidirectional
        self.per_direction = num_buckets // 2 if bidirectional else num_buckets
        exact = self.per_direction // 2
        check_range(f"{name}.max_distance", max_distance, exact + 1)
        self.max_distance = self.constant_beyond = max_distance
        self.causal_only = not bidirectional
        table_NR = normal(rngs, dims.features**-0.5, dims.num_heads, num_buckets)
        self.table = PerHead(table_NR, shared_by_layers=not per_layer)

    def bucket(self, d):
        """Return each distance's row of the table."""
        buckets, exact = self.per_direction, self.per_direction // 2
        n = jnp.abs(d) if self.bidirectional else jnp.maximum(d, 0)
        # Integer thresholds, not a rounded logarithm, for the same result on every platform: bucket e + m begins at
        # the least n with ln(n/e) / ln(max/e) * (buckets - e) >= m.
        growth = (self.max_distance / exact) ** (1 / (buckets - exact))
        starts = [math.ceil(exact * growth**m - 1e-9) for m in range(1, buckets - exact)]
        coarse = exact + (n[:, None] >= jnp.array(starts, jnp.int32)[None]).sum(-1)
        row = jnp.where(n < exact, n, coarse)
        return row + jnp.where(d < 0, buckets, 0) if self.bidirectional else row

    def bias(self, d):
        """Return table[bucket(d)]."""
        return self.table[self.bucket(d)]
