"""What a task brings to the training loop; `relpos.tasks` holds one file for each."""

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from relpos.errors import UserError, did_you_mean
from relpos.nn import Sampling

Batch = Mapping[str, np.ndarray]
Record = dict[str, Any]
# Name -> (sum, count): over many batches the mean is the sum of the sums over the sum of the counts.
Metrics = dict[str, tuple[jax.Array, jax.Array]]
T = TypeVar("T")


class BatchIterator(Protocol):
    """A Grain iterator: endless batches, and a state from which the same ones follow."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any:
        """Return what JSON can hold."""

    def set_state(self, state: Any) -> None:
        """Go to where that state was taken."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is scored together: a split, read at one length.

    Attributes:
      labels: what its record is about, such as {"length": 256}.
      batches: returns the batches that hold everything once.
      items: what they are made of, if the task wants it again in `Scores.score`.
    """

    labels: Record
    batches: Callable[[], Iterable[Batch]]
    items: Any = None


class Task(Protocol):
    """Data, model and metrics of one kind of job; a task is a subclass.

    `relpos/tasks/NAME.py` defines ``Config``, a frozen dataclass with the task's defaults (see
    `relpos.training.run_config.RunConfig`), and ``create(config) -> Task``, which refuses a config that makes no sense
    with a UserError. It reads and writes nothing: `prepare` does.

    What only some tasks can do are protocols of their own: `DropsEncoding`, `KeepsOutputs`, `Scores`, `ScoresText`,
    `Concludes`, `AnswersLines` and `Continues`.

    Attributes:
      title: of tables, before "on SPLIT".
      formats: figure of a record -> how tables show it.
      progress: metric -> how the progress of training shows it.
      trained_length: of which tables tell the multiples; None: they tell none.
    """

    title: str = ""
    formats: ClassVar[Mapping[str, str]] = {"loss": "{:.4f}"}
    progress: ClassVar[Mapping[str, str]] = {}
    trained_length: int | None = None

    def prepare(self, workdir: Path) -> None:
        """Make what a run keeps beside its checkpoints, a tokenizer for example, or read it if the run has begun."""

    def describe(self) -> dict[str, Any]:
        """Return facts on the data, plain JSON, which go into config.json.

        A run is refused to go on when one of them has changed: only what a result depends on
        belongs here (names, versions, hashes; no paths).
        """
        return {}

    def notes(self) -> list[str]:
        """Return lines on the data that are printed at the start."""
        return []

    def init_model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Return an untrained model. Its nnx.Param variables (and subclasses) are trained."""
        raise NotImplementedError

    def activation_bytes(self) -> int:
        """Return the least memory that the activations of a training batch take."""
        return 0

    def train_batches(self) -> BatchIterator:
        """Return a new iterator at the first batch."""
        raise NotImplementedError

    def tokens(self, batch: Batch) -> int:
        """Return how many targets of a batch are not padding, for tokens per second."""
        raise NotImplementedError

    def metrics(self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Metrics:
        """Return the metrics of a batch; pure, called inside jit.

        Training lowers the mean of ``loss``, in nats per target, or of ``objective`` where there is one.

        Args:
          model: the model.
          batch: one batch, on the device.
          key: for dropout; None when evaluating.
        """
        raise NotImplementedError

    def test_splits(self) -> Sequence[str]:
        """Return the splits that are scored at the end of training."""
        return ("test",)

    def cases(
        self, model: Any, split: str, *, lengths: Sequence[int], brief: bool
    ) -> Sequence[Case]:
        """Return what is scored of a split.

        Args:
          model: the model.
          split: its name.
          lengths: to read it at; none: those of the config.
          brief: whether a part of it will do, for evaluations while training.

        Raises:
          UserError: there is no such split, or such lengths have no meaning.
        """
        raise NotImplementedError


@runtime_checkable
class DropsEncoding(Protocol):
    """A task whose config has ``drop_encoding_at``."""

    def without_encoding(self) -> Task:
        """Return the same task and data, with models that lack only the parameters of the encoding."""


@runtime_checkable
class KeepsOutputs(Protocol):
    """A task that needs a model's outputs to score a case."""

    def metrics_and_outputs(
        self, model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[Metrics, jax.Array]:
        """Return the metrics, and an output for each row."""


@runtime_checkable
class Scores(Protocol):
    """A task with figures that are no means over batches."""

    def score(
        self, model: Any, case: Case, record: Record, outputs: list[np.ndarray]
    ) -> list[Record]:
        """Return the records of a case.

        Args:
          model: the model.
          case: of `Task.cases`.
          record: its labels and the means of its metrics.
          outputs: one for each row of its batches, of a task that is a `KeepsOutputs`; else empty.
        """


@runtime_checkable
class ScoresText(Protocol):
    """A task that can score any text."""

    def text_cases(self, model: Any, path: str, *, lengths: Sequence[int]) -> Sequence[Case]:
        """Return the cases of a text: a file, a glob or a folder; see `Task.cases`."""


@runtime_checkable
class Concludes(Protocol):
    """A task that does more at the end of training than score its test splits."""

    def conclude(self, model: Any, console: Console) -> None:
        """Print samples, say."""


@runtime_checkable
class AnswersLines(Protocol):
    """A task whose models answer a line with a line."""

    def predict_lines(self, model: Any, lines: Sequence[bytes]) -> list[bytes | UserError]:
        """Return for each line, in order, an answer, or what is wrong with it."""


@runtime_checkable
class Continues(Protocol):
    """A task whose models continue prompts."""

    def predict(
        self,
        model: Any,
        chunks: Iterable[Sequence[bytes]],
        sampling: Sampling,
        max_tokens: int,
        seed: int,
        context: int = 0,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield each prompt and its continuation; the prompts of a chunk are continued together."""


def one_by_one(answer: Callable[[bytes], T], lines: Sequence[bytes]) -> list[T | UserError]:
    """Return what `answer` makes of each line, or the UserError that it raises."""

    def guarded(line: bytes) -> T | UserError:
        try:
            return answer(line)
        except UserError as error:
            return error

    return [guarded(line) for line in lines]


def together(
    read: Callable[[bytes], T],
    answer: Callable[[Sequence[T]], Sequence[bytes]],
    lines: Sequence[bytes],
) -> list[bytes | UserError]:
    """Return the answers to lines that are read one by one and answered together.

    Args:
      read: makes a question of a line, or raises a UserError.
      answer: returns the answers to all questions.
      lines: the lines.

    Returns:
      For each line its answer, or what is wrong with it.
    """
    found = one_by_one(read, lines)
    answers = iter(answer([question for question in found if not isinstance(question, UserError)]))
    return [question if isinstance(question, UserError) else next(answers) for question in found]


def create_task(config: Any, workdir: Path | None = None) -> Task:
    """Return the task of a config.

    Args:
      config: an instance of the task's `Config`.
      workdir: of the run that it is prepared for; None: it is not.

    Raises:
      UserError: the task refuses the config, or the run directory is of other data.
    """
    task: Task = find_module(config.task).create(config)
    if workdir is not None:
        task.prepare(workdir)
    return task


def is_own_code(task: Any) -> bool:
    """Tell whether a config's ``task`` is no part of relpos but a module of somebody's."""
    return isinstance(task, str) and "." in task


def find_module(name: Any) -> Any:
    """Import the module of a task.

    A plain name is a module of `relpos.tasks`; one with a dot is any importable module, which runs its code: whoever
    wrote the config must be trusted.

    Raises:
      UserError: there is no such task.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"config key 'task' must name a task, got {name!r}")
    module = importlib.import_module(_module_name(name))
    for needed in ("Config", "create"):
        if not hasattr(module, needed):
            raise UserError(
                f"task {name!r} is a module without {needed}: see relpos.training.task.Task"
            )
    return module


def _module_name(name: str) -> str:
    if is_own_code(name):
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise UserError(f"task {name!r} is no importable module")
        return name
    package = importlib.import_module("relpos.tasks")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    if name not in names:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, names)}")
    return f"relpos.tasks.{name}"
