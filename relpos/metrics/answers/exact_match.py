"""Exact match with one of the correct answers."""

from collections.abc import Sequence

from relpos.metrics.answers import normalise

FORMAT = "{:.2f}"


def measure(prediction: str, answers: Sequence[str], empty: float = 1.0) -> float:
    """Return 1.0 or 0.0. Two texts without words match, whatever the value of `empty`."""
    return float(normalise(prediction) in map(normalise, answers))
