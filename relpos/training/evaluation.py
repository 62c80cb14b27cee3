"""Evaluation, shared by all tasks: metric means over the batches of each case, and a table of the results."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relpos import cores
from relpos.errors import UserError
from relpos.training.metrics_log import PARTS, MetricSums
from relpos.training.progress import counted, evaluating, say
from relpos.training.task import Case, Record, ScoresText, Task

# All labels, in the order of table columns. The other values of a record are scores.
LABELS = ("length", "search", *PARTS, "pairs", "questions", "too_long", "unread")


def evaluate(
    task: Task,
    model: nnx.Module,
    split: str,
    *,
    lengths: Sequence[int] = (),
    brief: bool = False,
    text: str = "",
    console: Console | None = None,
    complain: Callable[[str], None] | None = None,
) -> list[Record]:
    """Score a split and return the records; a console shows a table of them and, on a terminal, a progress bar.

    `lengths` and `brief` are those of `relpos.training.task.Task.cases`. A `text` is a file, glob or folder to score
    instead of the split, with a task that is a `ScoresText`. `complain` is called with each reason why a case has no
    score; the default prints it on the console.

    Raises:
      UserError: the split is unknown, or one of `lengths` cannot be scored.
    """
    if text:
        assert isinstance(task, ScoresText)
        cases = task.text_cases(model, text, lengths=lengths)
    else:
        cases = task.cases(model, split, lengths=lengths, brief=brief)
    name = text or split
    records: list[Record] = []
    complaints: dict[str, None] = {}
    with evaluating(name, cases, console) as shown:
        for case in shown:
            try:
                records += [{"split": name, **record} for record in score(task, model, case)]
            except UserError as error:
                if lengths:
                    raise
                complaints[str(error)] = None
    if console is not None:
        title = f"{task.title} on {name}" if task.title else name
        console.print(_table(records, title, task.formats, task.trained_length))
        complain = complain or functools.partial(say, console)
    if complain:
        for complaint in complaints:
            complain(complaint)
    return records


def score(task: Task, model: nnx.Module, case: Case) -> list[Record]:
    """Return the records of a case: the metric means, refined by `Task.score`."""
    found, outputs = means(task, model, case)
    return task.score(model, case, {**case.labels, **found}, outputs)


def means(task: Task, model: nnx.Module, case: Case) -> tuple[dict[str, float], list[np.ndarray]]:
    """Return the metric means over a case's batches (NaN for an empty case) and the outputs of all rows."""
    graphdef, state = nnx.split(model)
    sums, outputs = MetricSums(), []
    for batch in counted(case.batches(), "batches"):
        metrics, kept = cores.by_rows(_measured, (task, graphdef), state, batch)
        sums.add({name: (cores.total(s), cores.total(n)) for name, (s, n) in metrics.items()})
        outputs += list(np.asarray(kept))
    found = sums.means()
    return {name: found.get(name, np.nan) for name in {"loss": 0, **sums.totals}}, outputs


def _measured(task: Any, graphdef: Any, state: nnx.State, batch: Mapping[str, jax.Array]) -> Any:
    return task.metrics_and_outputs(nnx.merge(graphdef, state), batch, None)


def _table(
    records: Sequence[Record], title: str, formats: Mapping[str, str], trained: int | None
) -> Table:
    """Return a table with one row per record; scores without a format are omitted.

    Lengths beyond the trained one form a separate group, and each group ends with its mean.
    """
    columns = [name for name in LABELS if any(record.get(name) for record in records)]
    columns += [name for name in formats if any(name in record for record in records)]
    groups = {"": records}
    if trained is not None and "length" in columns:
        columns.insert(columns.index("length") + 1, "times_trained")
        records = [{**r, "times_trained": f"{r['length'] / trained:.3g}x"} for r in records]
        groups = {
            "trained": [r for r in records if r["length"] <= trained],
            "beyond": [r for r in records if r["length"] > trained],
        }
    table = Table(title=escape(title))
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")

    def add(record: Record, style: str | None = None) -> None:
        cells = (
            formats[name].format(record[name])
            if name in formats and name in record
            else str(record.get(name, ""))
            for name in columns
        )
        table.add_row(*cells, style=style)

    for group, members in groups.items():
        for record in members:
            add(record)
        lengths = {record.get("length") for record in members}
        if len(lengths) == len(members) > 1:
            scores = [name for name in formats if all(name in r for r in members)]
            mean = {name: np.mean([r[name] for r in members]) for name in scores}
            add({"length": "mean", "times_trained": group, **mean}, style="bold")
        table.add_section()
    return table
