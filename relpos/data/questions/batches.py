"""Batches of questions, by Grain: shuffled rows for training, and all windows of each question for scoring.

A batch is a dict: `inputs` and `parts`, int32 [B, T], `candidates`, bool [B, T], and `target`,
int32 [B, 2], see rows.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import grain
import numpy as np

from relpos.data.errors import DataError
from relpos.data.questions.question import Fault, Question, Reading
from relpos.data.questions.rows import NOT_TRAINED, Prepared, Row, RowFormat
from relpos.data.sampling import IN_THIS_THREAD, Epochs, endless

Batch = dict[str, np.ndarray]


class TrainingRows:
    """Random access to the rows of all windows for training, built on demand.

    Attributes:
      problems: the questions left out of training, by reason.
    """

    def __init__(self, questions: Sequence[Question], row_format: RowFormat) -> None:
        self._layout = row_format
        self._questions: list[np.ndarray] = []
        self._contexts: list[np.ndarray] = []
        account = Reading()
        table: list[tuple[int, ...]] = []
        numbers: dict[str, int] = {}
        for question in questions:
            try:
                prepared = row_format.prepare(question.context, question.question)
            except DataError:
                most = row_format.longest_question
                account.complain(
                    f"question of more than {most} tokens, not trained on", question.id
                )
                continue
            targets = row_format.targets(prepared, question)
            if targets is None:
                account.complain(
                    f"answer of more than {row_format.longest_answer} tokens, not trained on",
                    question.id,
                )
                continue
            number = numbers.setdefault(question.context, len(numbers))
            if number == len(self._contexts):
                self._contexts.append(prepared.context.ids)
            for window, target in zip(prepared.windows, targets, strict=True):
                if target[0] != NOT_TRAINED:
                    table.append((len(self._questions), number, *window, *target))
            self._questions.append(prepared.question)
        self.problems: tuple[Fault, ...] = account.problems
        if not table:
            wrong = "; ".join(map(str, self.problems)) or "there are none"
            raise DataError(f"No question can be trained on: {wrong}.")
        self._table = np.array(table, np.int64)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Row:
        question, context, low, high, *target = self._table[index].tolist()
        return self._layout.row(
            self._questions[question], self._contexts[context][low:high], np.array(target)
        )


def train_batches(rows: TrainingRows, *, batch_size: int, seed: int) -> grain.IterDataset[Batch]:
    """Return endless batches, every epoch in a new order.

    The order is a function of `seed`. The iterator's `get_state` and `set_state` continue exactly,
    and Orbax saves it with `grain.checkpoint.CheckpointSave`.
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
) -> Iterator[tuple[Batch, int]]:
    """Yield batches of the rows of all windows of all questions, in order, and each batch's number of such rows."""
    rows: list[Row] = []
    for question, prepared in read:
        targets = row_format.targets(prepared, question)
        rows += row_format.rows(
            prepared, row_format.untrained(prepared) if targets is None else targets
        )
        while len(rows) >= batch_size:
            yield padded(rows[:batch_size], batch_size), batch_size
            rows = rows[batch_size:]
    if rows:
        yield padded(rows, batch_size), len(rows)
