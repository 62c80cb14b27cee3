"""What a task brings to the training loop; `relpos.tasks` holds one file for each."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from flax import nnx
from rich.console import Console

from relpos.errors import UserError, did_you_mean

Batch = Mapping[str, np.ndarray]
Record = dict[str, Any]
T = TypeVar("T")


class BatchIterator(Protocol):
    """A Grain iterator: endless batches, and a state from which the same ones follow."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any:
        """Return what JSON can hold."""

    def set_state(self, state: Any) -> None:
        """Go to where that state was taken."""


class Task(Protocol):
    """Data, model, loss and evaluation of one kind of job.

    `relpos/tasks/NAME.py` defines ``Config``, a frozen dataclass with the task's defaults (see
    `relpos.training.run_config.RunConfig`), and ``create(config, workdir) -> Task``, which refuses a config that makes
    no sense with a UserError, prepares the data and may keep files such as a tokenizer in workdir.

    A task may also have ``notes() -> list[str]``, lines on the data that are printed at the start, and
    ``activation_bytes() -> int``, the least memory that the activations of a training batch take. A task whose
    config has ``drop_encoding_at`` needs ``without_encoding() -> Task``: the same task and data, with models that lack
    only the parameters of the encoding.

    For `relpos.evaluate` and `relpos.predict` a task may have these as well:

    - ``evaluate_splits(model, *, split, lengths, console) -> list[Record]`` prints the scores of a
      split, at several lengths where that means something (no lengths: those of the config);
      ``evaluate_text(..., path)`` instead of it where any text can be scored;
    - ``predict_lines(model, lines) -> list[bytes | UserError]``, one for each of a few lines, in
      order: an answer, or what is wrong with the line; ``predict(model, chunks, sampling, max_tokens,
      seed, context)`` instead of it where prompts are continued, those of a chunk together.
    """

    def describe(self) -> dict[str, Any]:
        """Return facts on the data, plain JSON, which go into config.json.

        A run is refused to go on when one of them has changed: only what a result depends on
        belongs here (names, versions, hashes; no paths).
        """

    def init_model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Return an untrained model. Its nnx.Param variables (and subclasses) are trained."""

    def train_batches(self) -> BatchIterator:
        """Return a new iterator at the first batch."""

    def loss(
        self, model: nnx.Module, batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
        """Return the mean loss in nats per target, and metrics; pure, called inside jit.

        Args:
          model: the model.
          batch: one batch, on the device.
          key: for dropout; None when evaluating.

        Returns:
          The scalar to differentiate, and name -> (sum, count): over many steps the mean of each is
          the sum of the sums over the sum of the counts. ``loss`` belongs among them: the scalar is the
          mean over what it counts, by which the parts of a batch on several devices are weighed.
        """

    def tokens(self, batch: Batch) -> int:
        """Return how many targets of a batch are not padding, for tokens per second."""

    def evaluate(self, model: nnx.Module, split: str) -> list[Record]:
        """Return records for metrics.jsonl, without ``step``: ``{"split": ..., "loss": ...}``."""

    def finish(self, model: nnx.Module, console: Console) -> list[Record]:
        """Print the closing tables and samples to the console and return the records of them."""


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


def create_task(config: Any, workdir: Path) -> Task:
    """Return the task of a config.

    Raises:
      UserError: the task refuses the config.
    """
    task: Task = find_module(config.task).create(config, workdir)
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
