"""The logits that slots of distances and pairs add to those of a walk, in one block.

JAX differentiates them together with the walk past the block.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from relpos.attention import reference
from relpos.attention.reference import Keys, Queries, Rules, Tokens, dot_rows
from relpos.attention.slots import Slots
from relpos.attention.spread import spread, spread_columns, spread_vector
from relpos.attention.terms import plus


def logits(
    encoding: Slots, rules: Rules, consecutive: bool, q: Queries, k: Keys, *tokens: Tokens
) -> tuple[Array | None, list[Array | None]]:
    """Return the summand of the dot products, and the biases; None: nothing to add.

    If positions are `consecutive`, a block has few distances. The features are those of the encoding's `tokens`.
    """
    of_distances = _of_few_distances if consecutive else reference.distance_logits
    dots_CK, bias_CK = of_distances(encoding, rules, q, k, *tokens)
    return dots_CK, [bias_CK, reference.block_bias(encoding, q, k, *tokens)]


def _of_few_distances(
    encoding: Slots, rules: Rules, q: Queries, k: Keys, q_tokens: Tokens, k_tokens: Tokens
) -> tuple[Array | None, Array | None]:
    """Compute `reference.distance_logits`, evaluating each distance of the block once."""
    C, K = q_tokens.row.shape[0], k_tokens.row.shape[0]
    d_L: Any = q_tokens.position[0] - k_tokens.position[0] + C - jnp.arange(C + K, dtype=jnp.int32)
    d_L = jnp.maximum(d_L, 0) if rules.past_only else d_L
    dots_CK = None
    if (a_K := encoding.key_vectors(d_L)) is not None:
        dots_CK = spread(dot_rows(q.for_vectors, a_K.astype(q.for_vectors.dtype)))
    if (a_Q := encoding.query_vectors(d_L)) is not None:
        products_KL = dot_rows(k.for_vectors, a_Q.astype(k.for_vectors.dtype))
        dots_CK = plus(dots_CK, spread_columns(products_KL))
    b_L = encoding.bias(d_L)
    return dots_CK, None if b_L is None else spread_vector(b_L, C)
