"""Batches of examples as a model sees them; B examples, T positions.

placeholder    inputs   1 0 0 _ _ _      an encoder predicts the hidden symbols in place
               targets  1 0 0 0 0 1
               scored   . . . x x x

causal         inputs   1 0 0 _ 0 0      a decoder predicts each symbol from those before it;
               targets  0 0 _ 0 0 1      the blank marks where the answer begins,
               scored   . . . x x x      unless the question's own symbols do
"""

from __future__ import annotations

from collections.abc import Sequence

import grain
import numpy as np

from relpos.data.algorithmic.base import Example, Task
from relpos.data.errors import DataError, nearest
from relpos.data.sampling import IN_THIS_THREAD, endless

Batch = dict[str, np.ndarray]

PRESENTATIONS = ("placeholder", "causal")


def batch(
    task: Task,
    rng: np.random.Generator,
    lengths: Sequence[int] | np.ndarray,
    size: int | None = None,
    presentation: str | None = None,
) -> Batch:
    """Return a batch with one example of each of the lengths.

    Args:
      task: what to draw.
      rng: the random generator.
      lengths: B lengths as the task measures them; they may differ.
      size: T, so that all batches have one shape; None: as few positions as possible.
      presentation: one of `PRESENTATIONS`; None: as in the task's paper.

    Returns:
      `inputs` and `targets`, int32 [B, T], `scored`, bool [B, T], and `segments`, int32 [B, T]: 1 for tokens, 0 for
      padding.

    Raises:
      DataError: the task has no such length, or an example does not fit the size.
    """
    presentation = _presentation(task, presentation)
    shown = [_show(task, example, presentation) for example in task.examples(rng, lengths)]
    longest = max((len(inputs) for inputs, _, _ in shown), default=0)
    if size is not None and longest > size:
        raise DataError(
            f"An example of {task.name} with length {max(lengths)} takes {longest} tokens, more than "
            f"the {size} of a batch: give a larger size or a smaller length."
        )
    shape = (len(shown), longest if size is None else size)
    kinds = {"inputs": "int32", "targets": "int32", "scored": "bool", "segments": "int32"}
    filled: Batch = {name: np.zeros(shape, kind) for name, kind in kinds.items()}
    for i, (inputs, targets, scored) in enumerate(shown):
        row = {"inputs": inputs, "targets": targets, "scored": scored, "segments": 1}
        for name, values in row.items():
            filled[name][i, : len(inputs)] = values
    return filled


def size_for(task: Task, length: int, presentation: str | None = None) -> int:
    """Return the `size` that every example of at most this length fits into."""
    causal = _presentation(task, presentation) == "causal"
    return task.most_tokens(length) - (causal and not task.answer_mark)


def train_batches(
    task: Task,
    *,
    lengths: tuple[int, int],
    batch_size: int,
    seed: int,
    presentation: str | None = None,
    one_length: bool = False,
) -> grain.IterDataset[Batch]:
    """Return endless batches [B, T], each a function of the seed and of its index; T fits the greatest length.

    The iterator resumes exactly with `get_state` and `set_state`, and Orbax saves it with
    `grain.checkpoint.CheckpointSave`.

    Args:
      task: what to draw.
      lengths: the smallest and the greatest length; `task.draw_lengths` draws between them.
      batch_size: B.
      seed: any integer.
      presentation: see `batch`.
      one_length: draw one length for all examples of a batch (Ruoss et al.) rather than one for each example.

    Raises:
      DataError: the task has none of these lengths, or a number is out of range.
    """
    shortest, longest = lengths
    if shortest > longest:
        raise DataError(f"lengths are the smallest and the largest, not {shortest} and {longest}.")
    _check_positive(batch_size=batch_size)
    for length in lengths:
        task.check_length(length)
    size = size_for(task, longest, presentation)

    def draw(index: int) -> Batch:
        rng = _generator(seed, _TRAINING, index)
        drawn = task.draw_lengths(rng, *lengths, 1 if one_length else batch_size)
        return batch(task, rng, np.broadcast_to(drawn, batch_size), size, presentation)

    return endless(draw).to_iter_dataset(IN_THIS_THREAD)


def eval_batches(
    task: Task,
    *,
    length: int,
    examples: int,
    batch_size: int,
    seed: int,
    presentation: str | None = None,
) -> list[Batch]:
    """Return batches [B, T] of `examples` examples of one length, which T fits; empty rows pad the last batch.

    The examples are a function of the seed and the length, and use different random numbers from training.

    Args:
      task: what to draw.
      length: the length, as the task measures it.
      examples: the number of examples over all batches.
      batch_size: B.
      seed: any integer.
      presentation: see `batch`.

    Raises:
      DataError: the task has no such length, or a number is out of range.
    """
    _check_positive(examples=examples, batch_size=batch_size)
    task.check_length(length)
    rng = _generator(seed, _EVALUATION, length)
    size = size_for(task, length, presentation)
    drawn = batch(task, rng, [length] * examples, size, presentation)
    missing = -examples % batch_size
    padded = {key: np.pad(value, ((0, missing), (0, 0))) for key, value in drawn.items()}
    return [
        {key: value[start : start + batch_size] for key, value in padded.items()}
        for start in range(0, examples, batch_size)
    ]


_TRAINING, _EVALUATION = 0, 1


def _generator(seed: int, *words: int) -> np.random.Generator:
    """Return a generator seeded by any integer and some non-negative ones."""
    return np.random.default_rng((abs(seed), seed < 0, *words))


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise DataError(f"{name} must be at least 1, not {value}.")


def _presentation(task: Task, presentation: str | None) -> str:
    presentation = task.presentation if presentation is None else presentation
    if presentation not in PRESENTATIONS:
        raise DataError(
            f"There is no presentation {presentation!r}: they are {' and '.join(PRESENTATIONS)}."
            f"{nearest(presentation, PRESENTATIONS)}"
        )
    return presentation


def _show(
    task: Task, example: Example, presentation: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, targets and which of the targets are scored."""
    tokens, hidden, scored = example
    if presentation == "placeholder":
        return np.where(hidden, task.blank, tokens), tokens, scored
    if task.answer_mark:
        start = int(hidden.argmax())
        tokens = np.concatenate([tokens[:start], [task.blank], tokens[start:]])
        scored = np.concatenate([scored[:start], [False], scored[start:]])
    return tokens[:-1], tokens[1:], scored[1:]
