"""Batches of questions, by Grain: shuffled rows for training, and all windows of each question for scoring.

A batch is a dict: `inputs` and `parts`, int32 [B, T], `candidates`, bool [B, T], and `target`,
int32 [B, 2], see rows.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import grain
import numpy as np

from relpos.data.errors import DataError
from relpos.data.questions.question import Fault, Question, Reading
from relpos.data.questions.rows import NOT_TRAINED, Prepared, Row, RowFormat
from relpos.data.sampling import IN_THIS_THREAD, Epochs, endless

Batch = dict[str, np.ndarray]


class TrainingRows:
    """Random access to the rows of the windows that are trained on, built on demand.

    Attributes:
      problems: the questions left out of training, by reason.
    """

    def __init__(self, questions: Sequence[Question], row_format: RowFormat) -> None:
        self._layout = row_format
        self._windows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        account = Reading()
        contexts: dict[str, np.ndarray] = {}  # one array for all questions about a context
        for question in questions:
            try:
                prepared = row_format.prepare(question.context, question.question)
            except DataError:
                longer = f"question of more than {row_format.longest_question}"
                account.complain(f"{longer} tokens, not trained on", question.id)
                continue
            targets = row_format.targets(prepared, question)
            if targets is None:
                longer = f"answer of more than {row_format.longest_answer}"
                account.complain(f"{longer} tokens, not trained on", question.id)
                continue
            context = contexts.setdefault(question.context, prepared.context.ids)
            for (low, high), target in zip(prepared.windows, targets, strict=True):
                if target[0] != NOT_TRAINED:
                    self._windows.append((prepared.question, context[low:high], target))
        self.problems: tuple[Fault, ...] = account.problems
        if not self._windows:
            wrong = "; ".join(map(str, self.problems)) or "there are none"
            raise DataError(f"No question can be trained on: {wrong}.")

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Row:
        return self._layout.row(*self._windows[index])


def train_batches(rows: TrainingRows, *, batch_size: int, seed: int) -> grain.IterDataset[Batch]:
    """Return endless batches, every epoch in a new order.

    The order is a function of `seed`. The iterator resumes exactly with `get_state` and `set_state`, and Orbax saves it
    with `grain.checkpoint.CheckpointSave`.
    """
    epochs = Epochs(len(rows), (seed,))
    drawn = endless(lambda index: rows[epochs[index]])
    return drawn.batch(batch_size, drop_remainder=True).to_iter_dataset(IN_THIS_THREAD)


def padded(rows: Sequence[Row], batch_size: int) -> Batch:
    """Return the rows as a batch, padded with empty rows that are not trained on."""
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    missing = batch_size - len(rows)
    return {
        name: np.pad(
            value, ((0, missing), (0, 0)), constant_values=NOT_TRAINED if name == "target" else 0
        )
        for name, value in batch.items()
    }


def eval_batches(
    read: Iterable[tuple[Question, Prepared]], row_format: RowFormat, *, batch_size: int
) -> Iterator[Batch]:
    """Yield batches of the rows of all windows of all questions, in order."""
    rows = (
        row
        for question, prepared in read
        for row in row_format.rows(prepared, row_format.targets(prepared, question))
    )
    while some := list(itertools.islice(rows, batch_size)):
        yield padded(some, batch_size)
