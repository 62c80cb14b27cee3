"""Metrics of language models: measure(scored) -> (sum, count), or None where it has no meaning."""

from typing import NamedTuple

import jax

from relpos.metrics import Metrics


class Scored(NamedTuple):
    """A batch and what a model says of it.

    Attributes:
      logits: [B, T, V].
      targets: the tokens to be found, [B, T].
      nats: their cross-entropy, [B, T].
      weights: 1.0 where a target counts, else 0.0, [B, T].
      text_bytes: the bytes that each target stands for, [B, T]; None where the loss is no code length of the text.
    """

    logits: jax.Array
    targets: jax.Array
    nats: jax.Array
    weights: jax.Array
    text_bytes: jax.Array | None


METRICS = Metrics(__name__)
