"""Metrics of algorithmic tasks: measure(scored) -> (sum, count)."""

from typing import NamedTuple

import jax

from relpos.metrics import Metrics


class Scored(NamedTuple):
    """A batch and the model's predictions.

    Attributes:
      logits: [B, T, V].
      targets: the correct symbols, [B, T].
      counts: whether a symbol is scored, [B, T].
      is_example: whether a row is an example, not padding, [B].
    """

    logits: jax.Array
    targets: jax.Array
    counts: jax.Array
    is_example: jax.Array


METRICS = Metrics(__name__)
