"""A run directory as an object, of which each part is read when it is asked for."""

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
from relpos.training.evaluation import evaluate, evaluate_text
from relpos.training.run_config import config_class, read_stored
from relpos.training.run_directory import is_locked
from relpos.training.stored_run import notes_on_environment, read_run
from relpos.training.task import (
    AnswersLines,
    Continues,
    Record,
    ScoresText,
    Task,
    create_task,
    is_own_code,
)

_log = logging.getLogger(__name__)

FINISHED, BEGUN, WAITING = "finished", "begun", "waiting"


class NoCheckpointError(UserError):
    """A run has no checkpoint yet."""


class Run:
    """A run of `relpos train`, finished or not.

    A run without a checkpoint has a config, metrics and a state; one that has not begun has a state alone. Nothing in
    the directory is written, and no code that it names is run.

    Args:
      path: the run directory.
      step: the checkpoint to read the model from, None for the newest.
      trust_code: whether the task may be a module that is no part of relpos, which is imported.

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
        """``"finished"``, ``"begun"``, or ``"waiting"`` where there is no config.json yet."""
        if (self.path / "summary.txt").exists():
            return FINISHED
        return BEGUN if (self.path / "config.json").exists() else WAITING

    @property
    def in_use(self) -> bool:
        """Whether a process is training it now."""
        return is_locked(self.path)

    @functools.cached_property
    def config(self) -> Any:
        """The config, an instance of the task's `Config`; what an older version has not stored has its default.

        Raises:
          UserError: the task is not part of relpos, or the config is of a version with other keys.
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
        """The config as config.json has it, dotted key -> value."""
        return flatten(read_run(self.path)["config"])

    @property
    def provenance(self) -> dict[str, Any]:
        """What the results depend on besides the config: facts on the data, hashes of tokenizers, versions."""
        return {name: value for name, value in read_run(self.path).items() if name != "config"}

    def records(self) -> list[Record]:
        """Return the records of metrics.jsonl in order, none where there is no such file."""
        try:
            return read_records(self.path / "metrics.jsonl")
        except FileNotFoundError:
            return []

    @property
    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """Split -> column -> values, in order: ``run.metrics["validation"]["bits_per_byte"]``.

        Each split has a column ``step``; one that is read at several lengths has ``length``. A number that a record
        lacks is NaN.
        """
        return metrics.table(self.records())

    def frame(self) -> Any:
        """Return the records as a pandas DataFrame, a row each.

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
        """The newest step that metrics.jsonl tells of, 0 where there is none."""
        return metrics.last_step(self.records())

    @functools.cached_property
    def step(self) -> int:
        """The step of the checkpoint that `model` is read from; settled when it is first asked for.

        Raises:
          NoCheckpointError: there is none yet.
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
        """Its data, loss and evaluation; without the encoding if the run has dropped it by `step`.

        Raises:
          UserError: the task is not part of relpos, or its data are not to be had.
        """
        task = self._created_task
        try:
            return dropping.task_at(self.step, self.config, task)
        except NoCheckpointError:
            return task

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of its task.

        Raises:
          UserError: the task has no tokenizer, or one for each of several languages.
        """
        if not hasattr(self.task, "tokenizer"):
            raise UserError(f"the task {self.config.task!r} has no single tokenizer; see run.task")
        return self.task.tokenizer

    @functools.cached_property
    def model(self) -> nnx.Module:
        """The trained model, a Flax NNX module on a device of this machine.

        Raises:
          UserError: as `task` and `step`, or there is no such checkpoint.
          CheckpointError: it is damaged.
        """
        while True:
            step = self.step
            try:
                return restore_model(self.path, step, self.task, self.config.seed)
            except UserError:
                # A run under way removes its older checkpoints, perhaps while this one is read.
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
          split: such as test.
          lengths: of the windows or examples, by default those of the config.
          text: a file, glob or folder that a language model is scored on in place of a split.
          console: where the table is printed, by default nowhere.

        Raises:
          UserError: as `model`, or the task has no such split, lengths or text.
        """
        task = self.task
        if not text:
            return evaluate(task, self.model, split, lengths=lengths, console=console)
        if not isinstance(task, ScoresText):
            raise UserError(f"--text is for language models: {self.config.task} is scored by split")
        return evaluate_text(task, self.model, text, lengths=lengths, console=console)

    @property
    def continues(self) -> bool:
        """Whether `predict` continues texts; otherwise it answers each line."""
        return isinstance(self.task, Continues)

    def predict(self, prompts: str | Sequence[str], **how: Any) -> list[str]:
        """Return each prompt with its continuation or, where the model does not continue texts, its answer.

        Args:
          prompts: one or several.
          **how: as of `answers`.

        Raises:
          UserError: as `model`, or a prompt has no answer.
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
        """Yield for each line of each chunk what `predict` returns, or what is wrong with the line.

        Args:
          chunks: the lines of a chunk are answered together.
          max_tokens: of a continuation, by default the config's.
          context: how many of a prompt's last tokens are read, by default as many as the run is evaluated at.
          seed: of what is drawn, by default 0.
          **sampling: ``temperature``, ``top_k`` and ``top_p``, by default the config's; see `relpos.nn.Sampling`.

        Raises:
          UserError: as `model`, or an option is given to a model that does not continue texts.
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
                    f"--{name} is for models that continue a text; this one has one answer"
                )
        if not isinstance(task, AnswersLines):
            raise UserError(f"task {self.config.task} cannot predict yet")
        for chunk in chunks:
            yield from task.predict_lines(self.model, chunk)

    def plot(self) -> Any:
        """Return a matplotlib Figure: the loss by step, and what was tested at several lengths by length.

        Raises:
          UserError: matplotlib is not installed.
        """
        from relpos.runs import plot

        return plot.draw(self.metrics, self.settings["sequence_length"], self.name)


def load_run(path: str | Path, step: int | None = None, *, trust_code: bool = False) -> Run:
    """Return a run directory as an object, see `Run`.

    Args:
      path: the run directory.
      step: the checkpoint to read the model from, None for the newest.
      trust_code: whether a task that is no part of relpos, a module that config.json names, may be imported.

    Raises:
      UserError: it is no run directory, or its config.json is damaged.
    """
    run = Run(path, step, trust_code=trust_code)
    read_run(run.path)
    return run
