"""A run directory as an object that loads each part on first use."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from rich.console import Console

from relpos.errors import UserError
from relpos.files import read_records
from relpos.runs import metrics
from relpos.runs.restore import newest_step, restore_model
from relpos.sections import flatten
from relpos.terminal import printable
from relpos.training import dropping
from relpos.training.evaluation import evaluate
from relpos.training.run_config import config_class, read_stored
from relpos.training.run_directory import is_locked
from relpos.training.stored_run import notes_on_environment, read_run
from relpos.training.task import (
    AnswersLines,
    Continues,
    HasTokenizer,
    Record,
    ScoresText,
    Task,
    create_task,
    is_own_code,
)

_log = logging.getLogger(__name__)

FINISHED, BEGUN, WAITING = "finished", "begun", "waiting"


class NoCheckpointError(UserError):
    """Raised when a run has no checkpoint yet."""


class Run:
    """A run of `relpos train`, finished or not.

    A run without a checkpoint has a config, metrics and a state; a run that has not begun has only a state. The
    directory is never modified, and by default only relpos's own code runs.

    Args:
      path: the run directory.
      step: the checkpoint to load the model from, None for the newest.
      trust_code: whether the task may be a module outside relpos. Importing it runs its code.

    Attributes:
      path: the run directory.
    """

    def __init__(self, path: str | Path, step: int | None = None, *, trust_code: bool = False):
        self.path = Path(path)
        self._asked = step
        self._trust_code = trust_code

    def __repr__(self) -> str:
        return f"<Run {str(self.path)!r}, {self.state}, step {self.last_step}>"

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def state(self) -> str:
        """``"finished"``, ``"begun"``, or ``"waiting"`` if there is no config.json yet."""
        if (self.path / "summary.txt").exists():
            return FINISHED
        return BEGUN if (self.path / "config.json").exists() else WAITING

    @property
    def in_use(self) -> bool:
        """Whether a process is training the run now."""
        return is_locked(self.path)

    @functools.cached_property
    def config(self) -> Any:
        """The config, an instance of the task's `Config`. Keys that older runs lack have their defaults.

        Raises:
          UserError: the task is not part of relpos, or the config was stored by a version with other keys.
        """
        path, plain = str(self.path / "config.json"), read_run(self.path)["config"]
        if is_own_code(plain.get("task")) and not self._trust_code:
            raise UserError(
                f"{path!r} asks for code that is no part of relpos, the task {plain['task']!r}: where you trust it, "
                "--trust_code (in Python trust_code=True) runs it"
            )
        return read_stored(plain, config_class(plain.get("task")), path)

    @property
    def settings(self) -> dict[str, Any]:
        """The config as stored in config.json, dotted key -> value."""
        return flatten(read_run(self.path)["config"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Facts about the data, tokenizer hashes and versions, which the results depend on besides the config."""
        return {name: value for name, value in read_run(self.path).items() if name != "config"}

    def records(self) -> list[Record]:
        """Return the records of metrics.jsonl in order; empty if there is no such file."""
        try:
            return read_records(self.path / "metrics.jsonl")
        except FileNotFoundError:
            return []

    @property
    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """Split -> column -> values, in order: ``run.metrics["validation"]["bits_per_byte"]``.

        Each split has a column ``step``, and ``length`` if it is scored at several lengths. Missing numbers are NaN.
        """
        return metrics.table(self.records())

    def frame(self) -> Any:
        """Return the records as a pandas DataFrame, one row per record.

        Raises:
          UserError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise UserError(
                "Run.frame needs pandas (pip install pandas); run.metrics holds the same as NumPy arrays"
            ) from None
        return pandas.DataFrame(self.records())

    @property
    def last_step(self) -> int:
        """The last step in metrics.jsonl, or 0."""
        return metrics.last_step(self.records())

    @functools.cached_property
    def step(self) -> int:
        """The step of the checkpoint for `model`, chosen on first access.

        Raises:
          NoCheckpointError: there is no checkpoint yet.
        """
        if self._asked is not None:
            return self._asked
        if (newest := newest_step(self.path)) is not None:
            return newest
        raise NoCheckpointError(f"{str(self.path)!r} has no checkpoint yet: train it first")

    @functools.cached_property
    def _created_task(self) -> Task:
        run = read_run(self.path)
        task = create_task(self.config, self.path)
        for note in notes_on_environment(run):
            _log.warning("%s: %s", self.path, printable(note, keep=""))
        return task

    @property
    def task(self) -> Task:
        """The task, without an encoding if the run has dropped it by `step`.

        Raises:
          UserError: the task is not part of relpos, or its data are unavailable.
        """
        task = self._created_task
        try:
            return dropping.task_at(self.step, self.config, task)
        except NoCheckpointError:
            return task

    @property
    def tokenizer(self) -> Any:
        """The task's tokenizer.

        Raises:
          UserError: the task has no tokenizer, or one per language.
        """
        if not isinstance(self.task, HasTokenizer):
            raise UserError(f"the task {self.config.task!r} has no single tokenizer; see run.task")
        return self.task.tokenizer

    @functools.cached_property
    def model(self) -> nnx.Module:
        """The trained model, a Flax NNX module on a device of this machine.

        Raises:
          UserError: `task` or `step` raises it, or the checkpoint does not exist.
          CheckpointError: the checkpoint is damaged.
        """
        while True:
            step = self.step
            try:
                return restore_model(self.path, step, self.task, self.config.seed)
            except UserError:
                # A running process may have removed this older checkpoint during the read.
                del self.step
                if self.step == step:
                    raise

    def evaluate(
        self,
        split: str = "test",
        *,
        lengths: Sequence[int] = (),
        text: str = "",
        console: Console | None = None,
    ) -> list[Record]:
        """Score the model and return the records.

        Args:
          split: the split, such as test.
          lengths: lengths of windows or examples; by default those of the config.
          text: a file, glob or folder to score a language model on instead of a split.
          console: where to print the table; None prints nothing.

        Raises:
          UserError: `model` raises it, or the task does not support the split, lengths or text.
        """
        task = self.task
        if text and not isinstance(task, ScoresText):
            raise UserError(f"--text is for language models: {self.config.task} is scored by split")
        return evaluate(task, self.model, split, lengths=lengths, text=text, console=console)

    @property
    def continues(self) -> bool:
        """Whether `predict` continues prompts. Otherwise it answers each line."""
        return isinstance(self.task, Continues)

    def predict(self, prompts: str | Sequence[str], **how: Any) -> list[str]:
        """Return each prompt with its continuation or, if the model does not continue prompts, its answer.

        Args:
          prompts: one prompt or several.
          **how: options of `answers`.

        Raises:
          UserError: `model` raises it, or a prompt has no answer.
        """
        lines = [prompts] if isinstance(prompts, str) else prompts
        found = []
        for answer in self.answers([[line.encode() for line in lines]], **how):
            if isinstance(answer, UserError):
                raise answer
            found.append(answer.decode(errors="replace"))
        return found

    def answers(
        self,
        chunks: Iterable[Sequence[bytes]],
        *,
        max_tokens: int | None = None,
        context: int | None = None,
        seed: int | None = None,
        **sampling: float,
    ) -> Iterator[bytes | UserError]:
        """Yield the result of `predict`, or an error, for each line.

        Args:
          chunks: lines; each chunk is one batch.
          max_tokens: maximum tokens per continuation; by default the config's.
          context: number of last tokens of a prompt to read; by default the longest evaluation length.
          seed: random seed; by default 0.
          **sampling: ``temperature``, ``top_k`` and ``top_p``, by default the config's; see `relpos.nn.Sampling`.

        Raises:
          UserError: `model` raises it, or an option is given to a model that does not continue prompts.
        """
        task = self.task
        if isinstance(task, Continues):
            kept = self.config.sample
            how: Any = dataclasses.replace(kept.sampling, **sampling)
            most = max_tokens or kept.max_tokens or 1
            for prompt, continuation in task.predict(
                self.model, chunks, how, most, seed or 0, context or 0
            ):
                yield prompt + continuation
            return
        given: Mapping[str, Any] = {"max_tokens": max_tokens, "context": context, "seed": seed}
        for name, value in {**given, **sampling}.items():
            if value is not None:
                raise UserError(
                    f"--{name} is for models that continue a text; this one gives a single answer"
                )
        if not isinstance(task, AnswersLines):
            raise UserError(f"task {self.config.task} cannot predict yet")
        for chunk in chunks:
            yield from task.predict_lines(self.model, chunk)

    def plot(self) -> Any:
        """Return a matplotlib Figure of the loss by step and, if there are several lengths, the test metric by length.

        Raises:
          UserError: matplotlib is not installed.
        """
        from relpos.runs import plot

        return plot.draw(self.records(), self.settings["sequence_length"], self.name)


def load_run(path: str | Path, step: int | None = None, *, trust_code: bool = False) -> Run:
    """Open a run directory, see `Run`.

    Args:
      path: the run directory.
      step: the checkpoint to load the model from, None for the newest.
      trust_code: whether the task named in config.json may be a module outside relpos.

    Raises:
      UserError: the path is not a run directory, or its config.json is damaged.
    """
    run = Run(path, step, trust_code=trust_code)
    read_run(run.path)
    return run
