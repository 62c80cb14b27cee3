"""The records of a run as columns, and its main metric."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relpos.training.evaluation import PARTS

# The main metrics and whether "higher" or "lower" is better; the first that a task has is used.
MEASURES = {
    "bits_per_byte": "lower",
    "exact_match": "higher",
    "accuracy": "higher",
    "f1": "higher",
    "bleu": "higher",
    "loss": "lower",
}


def table(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Return split -> column -> values in the order of the records, omitting records without a split."""
    splits: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if isinstance(split := record.get("split"), str):
            splits.setdefault(split, []).append(record)
    return {
        split: {
            name: _column([record.get(name) for record in rows])
            for name in dict.fromkeys(name for record in rows for name in record)
            if name != "split"
        }
        for split, rows in splits.items()
    }


def _column(values: list[Any]) -> np.ndarray:
    if all(value is None or is_number(value) for value in values):
        whole = all(isinstance(value, int) and abs(value) < 2**63 for value in values)
        kind = np.int64 if whole else np.float64
        return np.array([np.nan if value is None else value for value in values], kind)
    column = np.empty(len(values), object)
    column[:] = values
    return column


def is_number(value: Any) -> bool:
    """Return whether a value is a number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def last_step(records: Sequence[Mapping[str, Any]]) -> int:
    """Return the last step in the records, or 0."""
    steps = (record.get("step") for record in records)
    return max((step for step in steps if isinstance(step, int)), default=0)


def measure_of(records: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the first of `MEASURES` in the records, or None."""
    there = {name for record in records for name, value in record.items() if is_number(value)}
    return next((name for name in MEASURES if name in there), None)


def by_length(
    records: Sequence[Mapping[str, Any]], name: str, split: str = "test"
) -> dict[int, float]:
    """Return length -> latest value in a split, in order of length."""
    found = {
        record["length"]: record[name]
        for record in records
        if record.get("split") == split
        and isinstance(record.get("length"), int)
        and is_number(record.get(name))
        and not any(part in record for part in PARTS)
    }
    return dict(sorted(found.items()))
