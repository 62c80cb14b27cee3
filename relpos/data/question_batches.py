"""Batches of questions, by Grain: shuffled rows to train on, and all windows of each question to score.

A batch is a dict: `inputs` and `segments`, int32 [B, T], `candidates`, bool [B, T], and `target`,
int32 [B, 2], see question_rows.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import grain
import numpy as np

from relpos.data.errors import DataError
from relpos.data.question_rows import NOT_TRAINED, Layout, Prepared, Row
from relpos.data.questions import Problem, Question, Reading

Batch = dict[str, np.ndarray]


class TrainingRows:
    """Random access to the rows of all windows that are trained on; built when it is asked for.

    Attributes:
        problems: questions that are not trained on, by what is wrong with them.
    """

    def __init__(self, questions: Sequence[Question], layout: Layout) -> None:
        self._layout = layout
        self._questions: list[np.ndarray] = []
        self._contexts: list[np.ndarray] = []
        account = Reading()
        table: list[tuple[int, ...]] = []
        numbers: dict[str, int] = {}
        for question in questions:
            try:
                prepared = layout.prepare(question.context, question.question)
            except DataError:
                most = layout.longest_question
                account.complain(
                    f"question of more than {most} tokens, not trained on", question.id
                )
                continue
            targets = layout.targets(prepared, question)
            if targets is None:
                account.complain(
                    f"answer of more than {layout.longest_answer} tokens, not trained on",
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
        self.problems: tuple[Problem, ...] = account.problems
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
    """Returns endless batches, every epoch in another order.

    The order is a function of `seed`. The iterator's `get_state` and `set_state` continue exactly,
    and Orbax saves it with `grain.checkpoint.CheckpointSave`.
    """
    drawn = grain.MapDataset.range(len(rows)).repeat().map_with_index(_Draw(rows, seed))
    return drawn.batch(batch_size, drop_remainder=True).to_iter_dataset(_IN_THIS_THREAD)


def padded(rows: Sequence[Row], batch_size: int) -> Batch:
    """Returns the rows as a batch, filled up with empty ones, which are not trained on."""
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    missing = batch_size - len(rows)
    return {
        name: np.pad(
            value, ((0, missing), (0, 0)), constant_values=NOT_TRAINED if name == "target" else 0
        )
        for name, value in batch.items()
    }


def eval_batches(
    read: Iterable[tuple[Question, Prepared]], layout: Layout, *, batch_size: int
) -> Iterator[tuple[Batch, int]]:
    """Yields the rows of all windows of all questions, in order, and how many of a batch's are such rows."""
    rows: list[Row] = []
    for question, prepared in read:
        targets = layout.targets(prepared, question)
        rows += layout.rows(prepared, layout.untrained(prepared) if targets is None else targets)
        while len(rows) >= batch_size:
            yield padded(rows[:batch_size], batch_size), batch_size
            rows = rows[batch_size:]
    if rows:
        yield padded(rows, batch_size), len(rows)


_IN_THIS_THREAD = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


class _Draw(grain.transforms.MapWithIndex):
    """Gives for the running number of a draw its row; every epoch is a permutation."""

    def __init__(self, rows: TrainingRows, seed: int) -> None:
        self._rows = rows
        self._seed = seed
        self._permutation = functools.lru_cache(maxsize=2)(self._draw_permutation)

    def map_with_index(self, index: int, element: int) -> Row:
        """Returns the row of draw `index`."""
        del element
        epoch, place = divmod(index, len(self._rows))
        return self._rows[int(self._permutation(epoch)[place])]

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self._rows))
