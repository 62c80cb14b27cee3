"""The interface between a task and the training loop. `relpos.tasks` holds the tasks."""

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from relpos.errors import UserError, did_you_mean
from relpos.nn import Sampling

Batch = Mapping[str, np.ndarray]
Record = dict[str, Any]
# Name -> (sum, count). The mean over several batches is the total sum divided by the total count.
Metrics = dict[str, tuple[jax.Array, jax.Array]]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Case:
    """One unit of evaluation: a split at one length.

    Attributes:
      labels: labels of the record, such as {"length": 256}.
      batches: returns batches that cover every item once.
      items: the items behind the batches, if `Task.score` needs them.
    """

    labels: Record
    batches: Callable[[], Iterable[Batch]]
    items: Any = None


class Task(Protocol):
    """The data, model and metrics of a task. Subclass it to define one.

    `relpos/tasks/NAME.py` defines ``Config``, a frozen dataclass with the task's defaults (see
    `relpos.training.run_config.RunConfig`), and ``create(config) -> Task``, which raises a UserError for an invalid
    config. `create` does no I/O; `prepare` does.

    Optional capabilities are separate protocols: `DropsEncoding`, `HasTokenizer`, `ScoresText`, `AnswersLines` and
    `Continues`.

    Attributes:
      title: table title, followed by "on SPLIT".
      formats: value name -> format string in tables.
      progress: metric -> format string in the progress display.
      trained_length: if set, tables also show lengths as multiples of it.
    """

    title: str = ""
    formats: ClassVar[Mapping[str, str]] = {"loss": "{:.4f}"}
    progress: ClassVar[Mapping[str, str]] = {}
    trained_length: int | None = None

    def prepare(self, workdir: Path) -> None:
        """Create the files a run keeps beside its checkpoints, such as a tokenizer, or load them if the run exists."""

    def describe(self) -> dict[str, Any]:
        """Return facts about the data as plain JSON, to be stored in config.json.

        A run cannot be resumed after a fact has changed, so include only what results depend on: names, versions and
        hashes, but no paths.
        """
        return {}

    def notes(self) -> list[str]:
        """Return lines about the data to print at the start."""
        return []

    def init_model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Return an untrained model. Training updates its nnx.Param variables (and subclasses)."""
        raise NotImplementedError

    def activation_bytes(self) -> int:
        """Return a lower bound on the activation memory of a training batch, in bytes."""
        return 0

    def train_batches(self) -> grain.DatasetIterator:
        """Return a new endless iterator positioned at the first batch."""
        raise NotImplementedError

    def tokens(self, batch: Batch) -> int:
        """Return the number of targets in a batch, excluding padding, for tokens per second."""
        raise NotImplementedError

    def metrics(self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Metrics:
        """Compute the metrics of a batch. The method must be pure; it is called inside jit.

        Training minimizes the mean of ``objective`` if present, otherwise of ``loss``, in nats per target. The random
        key is for dropout; it is None for evaluation.
        """
        raise NotImplementedError

    def metrics_and_outputs(
        self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[Metrics, jax.Array]:
        """Return the metrics and one output per row for `score`; by default there are no outputs."""
        return self.metrics(model, batch, key), jnp.zeros(0)

    def test_splits(self) -> Sequence[str]:
        """Return the splits to score at the end of training."""
        return ("test",)

    def cases(
        self, model: Any, split: str, *, lengths: Sequence[int], brief: bool
    ) -> Sequence[Case]:
        """Return the cases of a split.

        They have the given lengths, by default those of the config. If brief, they cover only part of the split, as in
        evaluations during training.

        Raises:
          UserError: the split is unknown, or the task does not support these lengths.
        """
        raise NotImplementedError

    def score(
        self, model: Any, case: Case, record: Record, outputs: list[np.ndarray]
    ) -> list[Record]:
        """Return the records of a case, by default the given one: its labels and metric means.

        `outputs` are those of all rows, see `metrics_and_outputs`.
        """
        return [record]

    def conclude(self, model: Any, console: Console) -> None:
        """Do more at the end of training, such as printing samples."""
        return


@runtime_checkable
class DropsEncoding(Protocol):
    """A task that supports ``drop_encoding_at`` in its config."""

    def without_encoding(self) -> Task:
        """Return the same task with models that lack only the parameters of the encoding."""


@runtime_checkable
class HasTokenizer(Protocol):
    """A task with a single tokenizer."""

    tokenizer: Any


@runtime_checkable
class ScoresText(Protocol):
    """A task that can score arbitrary text."""

    def text_cases(self, model: Any, path: str, *, lengths: Sequence[int]) -> Sequence[Case]:
        """Return the cases of a file, glob or folder; see `Task.cases`."""


@runtime_checkable
class AnswersLines(Protocol):
    """A task that answers each input line with an output line."""

    def predict_lines(self, model: Any, lines: Sequence[bytes]) -> list[bytes | UserError]:
        """Return an answer or an error for each line, in order."""


@runtime_checkable
class Continues(Protocol):
    """A task that continues prompts."""

    def predict(
        self,
        model: Any,
        chunks: Iterable[Sequence[bytes]],
        sampling: Sampling,
        max_tokens: int,
        seed: int,
        context: int = 0,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield each prompt and its continuation. Each chunk is processed as one batch."""


def one_by_one(answer: Callable[[bytes], T], lines: Sequence[bytes]) -> list[T | UserError]:
    """Return `answer(line)` for each line, or the UserError that it raises."""
    found: list[T | UserError] = []
    for line in lines:
        try:
            found.append(answer(line))
        except UserError as error:
            found.append(error)
    return found


def together(
    read: Callable[[bytes], T],
    answer: Callable[[Sequence[T]], Sequence[bytes]],
    lines: Sequence[bytes],
) -> list[bytes | UserError]:
    """Parse lines by `read` one by one, answer them together, and return an answer or a UserError for each line."""
    found = one_by_one(read, lines)
    answers = iter(answer([question for question in found if not isinstance(question, UserError)]))
    return [question if isinstance(question, UserError) else next(answers) for question in found]


def create_task(config: Any, workdir: Path) -> Task:
    """Return the task of a config, prepared for a run directory.

    Raises:
      UserError: the config is invalid for the task, or the run directory was made with other data.
    """
    task: Task = find_module(config.task).create(config)
    task.prepare(workdir)
    return task


def is_own_code(task: Any) -> bool:
    """Return whether a config's ``task`` is a module outside relpos."""
    return isinstance(task, str) and "." in task


def find_module(name: Any) -> Any:
    """Import the module of a task.

    A plain name refers to a module of `relpos.tasks`, a dotted name to any importable module. Importing a module runs
    its code, so use only configs that you trust.

    Raises:
      UserError: the task does not exist.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"config key 'task' must name a task, got {name!r}")
    path = name if is_own_code(name) else f"relpos.tasks.{name}"
    if is_own_code(name):
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise UserError(f"task {name!r} is no importable module")
    else:
        package = importlib.import_module("relpos.tasks")
        names = [module.name for module in pkgutil.iter_modules(package.__path__)]
        if name not in names:
            raise UserError(f"unknown task {name!r}{did_you_mean(name, names)}")
    module = importlib.import_module(path)
    for needed in ("Config", "create"):
        if not hasattr(module, needed):
            raise UserError(
                f"task {name!r} is a module without {needed}: see relpos.training.task.Task"
            )
    return module
