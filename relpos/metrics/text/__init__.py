"""Metrics of language models: measure(scored) -> (sum, count), or None where the metric is undefined."""

from typing import NamedTuple

import jax

from relpos.metrics import Metrics


class Scored(NamedTuple):
    """A batch and the model's predictions.

    Attributes:
      logits: [B, T, V].
      targets: the tokens to predict, [B, T].
      nats: their cross-entropy, [B, T].
      weights: 1.0 where a target counts, else 0.0, [B, T].
      text_bytes: number of bytes per target, [B, T]; None if the loss is not a code length of the text.
    """

    logits: jax.Array
    targets: jax.Array
    nats: jax.Array
    weights: jax.Array
    text_bytes: jax.Array | None


METRICS = Metrics(__name__)
