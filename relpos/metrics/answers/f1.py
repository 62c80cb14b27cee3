"""The best bag-of-words F1 between a prediction and the correct answers."""

import collections
from collections.abc import Sequence

from relpos.metrics.answers import normalise

FORMAT = "{:.2f}"


def measure(prediction: str, answers: Sequence[str], empty: float = 1.0) -> float:
    """Return the best F1; two texts without words score `empty`."""
    return max(_f1(normalise(prediction).split(), normalise(a).split(), empty) for a in answers)


def _f1(predicted: list[str], right: list[str], empty: float) -> float:
    if not predicted and not right:
        return empty
    common = (collections.Counter(predicted) & collections.Counter(right)).total()
    return 2 * common / (len(predicted) + len(right))
