"""Evaluation, shared by all tasks: metric means over the batches of each case, and a table of the results."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from relpos import cores
from relpos.errors import UserError
from relpos.training.metrics_log import Window
from relpos.training.progress import say, track
from relpos.training.task import Case, KeepsOutputs, Record, Scores, Task

# Labels of records that cover only part of a case.
PARTS = ("source_words", "distance")
# All labels, in the order of table columns. The other values of a record are scores.
LABELS = ("length", "search", *PARTS, "pairs", "questions", "too_long", "unread")


def evaluate(
    task: Task,
    model: nnx.Module,
    split: str,
    *,
    lengths: Sequence[int] = (),
    brief: bool = False,
    console: Console | None = None,
) -> list[Record]:
    """Score a split, print a table and return the records.

    Args:
      task: the task.
      model: the model.
      split: the split's name.
      lengths: see `relpos.training.task.Task.cases`.
      brief: see `relpos.training.task.Task.cases`.
      console: where to print the table and a progress bar; None prints nothing.

    Raises:
      UserError: the split is unknown, or one of `lengths` cannot be scored.
    """
    cases = task.cases(model, split, lengths=lengths, brief=brief)
    return _evaluate(task, model, cases, split, bool(lengths), console)


def evaluate_text(
    task: Task, model: nnx.Module, path: str, *, lengths: Sequence[int], console: Console | None
) -> list[Record]:
    """Score a file, glob or folder like `evaluate`. The task must be a `ScoresText`."""
    cases = task.text_cases(model, path, lengths=lengths)  # type: ignore[attr-defined]
    return _evaluate(task, model, cases, path, bool(lengths), console)


def _evaluate(
    task: Task,
    model: nnx.Module,
    cases: Sequence[Case],
    name: str,
    asked: bool,
    console: Console | None,
) -> list[Record]:
    records: list[Record] = []
    complaints: dict[str, None] = {}
    for case in cases if console is None else track(console, cases, f"evaluating {name}"):
        try:
            records += [{"split": name, **record} for record in score(task, model, case)]
        except UserError as error:
            if asked:
                raise
            complaints[str(error)] = None
    if console is not None:
        title = f"{task.title} on {name}" if task.title else name
        show(console, records, title=title, formats=task.formats, trained=task.trained_length)
        for complaint in complaints:
            say(console, complaint)
    return records


def score(task: Task, model: nnx.Module, case: Case) -> list[Record]:
    """Return the records of a case: the metric means, refined by the task if it is a `Scores`."""
    found, outputs = means(task, model, case)
    record = {**case.labels, **found}
    return task.score(model, case, record, outputs) if isinstance(task, Scores) else [record]


def means(task: Task, model: nnx.Module, case: Case) -> tuple[dict[str, float], list[np.ndarray]]:
    """Return the metric means over a case's batches (NaN for an empty case) and the outputs of all rows."""
    graphdef, state = nnx.split(model)
    function = _with_outputs if isinstance(task, KeepsOutputs) else _without
    sums, outputs = Window(), []
    for batch in case.batches():
        metrics, kept = cores.by_rows(function, (task, graphdef), state, batch)
        sums.add(
            {
                name: (cores.total(total), cores.total(count))
                for name, (total, count) in metrics.items()
            }
        )
        outputs += list(np.asarray(kept))
    found = sums.means()
    return {name: found.get(name, np.nan) for name in {"loss": 0, **sums.totals}}, outputs


def _without(task: Any, graphdef: Any, state: nnx.State, batch: Mapping[str, jax.Array]) -> Any:
    return task.metrics(nnx.merge(graphdef, state), batch, None), jnp.zeros(0)


def _with_outputs(
    task: Any, graphdef: Any, state: nnx.State, batch: Mapping[str, jax.Array]
) -> Any:
    return task.metrics_and_outputs(nnx.merge(graphdef, state), batch, None)


def show(
    console: Console,
    records: Sequence[Record],
    *,
    title: str,
    formats: Mapping[str, str],
    trained: int | None = None,
) -> None:
    """Print a table with one row per record.

    Args:
      console: where to print.
      records: scores with their labels (see `LABELS`).
      title: the table's title.
      formats: score -> format string; other scores are omitted.
      trained: the trained length. Longer lengths form a separate group, and each group ends with its mean.
    """
    columns = [name for name in LABELS if any(record.get(name) for record in records)]
    columns += [name for name in formats if any(name in record for record in records)]
    with_times = trained is not None and "length" in columns
    table = Table(title=title)
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
        if name == "length" and with_times:
            table.add_column("times trained", justify="right")
    parts = [records]
    if with_times:
        parts = [
            [r for r in records if (r["length"] > trained) == beyond] for beyond in (False, True)
        ]
    for beyond, part in enumerate(parts):
        for record in part:
            table.add_row(*_cells(record, columns, formats, trained if with_times else None))
        lengths = {record.get("length") for record in part}
        if len(lengths) == len(part) > 1:
            means = {
                name: np.mean([r[name] for r in part])
                for name in formats
                if all(name in r for r in part)
            }
            name = "beyond" if beyond else "trained"
            table.add_row(
                *_cells({"length": "mean", "times": name, **means}, columns, formats, trained),
                style="bold",
            )
        table.add_section()
    console.print(table)


def _cells(
    record: Record, columns: Sequence[str], formats: Mapping[str, str], trained: int | None
) -> list[str]:
    cells = []
    for name in columns:
        value = record.get(name, "")
        cells.append(formats[name].format(value) if name in formats and value != "" else str(value))
        if name == "length" and trained is not None:
            cells.append(record.get("times") or f"{value / trained:.3g}x")
    return cells
