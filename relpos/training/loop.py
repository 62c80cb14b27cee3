"""The training loop, shared by all tasks."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from relpos.errors import UserError
from relpos.files import read_file, write_atomically
from relpos.training import dropping, memory
from relpos.training.checkpoints import Checkpoints
from relpos.training.evaluation import evaluate
from relpos.training.interrupts import Interrupted, Interrupts
from relpos.training.metrics_log import MetricsLog, MetricSums
from relpos.training.optimizer import create_optimizer, learning_rate
from relpos.training.plan import plan
from relpos.training.progress import RunProgress, say, show_record
from relpos.training.run_config import RunConfig
from relpos.training.run_directory import RunDirectory
from relpos.training.step import continued, init_state, make_train_step, model_of
from relpos.training.task import Task, create_task

# If all of these metrics are finite, so is the whole state. The values are their names in error messages.
_FINITE = {
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "parameter_norm": "parameter norm",
    "optimizer_maximum": "the optimizer's state",
}


class DivergenceError(UserError):
    """Raised when the loss, a gradient or the state is no longer finite."""

    exit_code = 1


def train(config: RunConfig, workdir: Path, console: Console) -> int:
    """Train ``config.task`` for ``config.steps`` steps in a run directory, or resume the run.

    Args:
      config: an instance of the task's `Config`, for example from `relpos.training.run_config.load`.
      workdir: the run directory, created if missing.
      console: where to print progress, tables and samples.

    Returns:
      0 if the run is finished; 128 + signal if SIGINT, SIGTERM or SIGHUP stopped it after a save.

    Raises:
      UserError: the config, the data or the directory is invalid; nothing was lost.
      DivergenceError: the loss or the state is NaN or infinite. Such a state is never saved.
      CheckpointError: a checkpoint cannot be written or read.
    """
    directory = RunDirectory(workdir, config)
    interrupts = Interrupts(
        announce=lambda: say(console, "stopping after this step (once more to quit at once)"),
        before_exit=lambda: console.show_cursor(True),
    )
    try:
        summary = workdir / "summary.txt"
        if summary.exists():
            if directory.moved:  # same data?
                directory.describe(create_task(config, workdir).describe())
            for note in directory.notes:
                say(console, note)
            say(console, f"{str(workdir)!r} is finished, step {config.steps}:")
            say(console, read_file(summary).decode("utf-8", "replace").rstrip("\n"))
            return 0
        with interrupts:
            return _train(config, directory, interrupts, console)
    finally:
        directory.close()


def _train(
    config: RunConfig,
    directory: RunDirectory,
    interrupts: Interrupts,
    console: Console,
) -> int:
    run = None
    try:
        with interrupts.stop_at_once():
            task, _, lines = prepare(config, directory)
            for line in lines:
                say(console, line)
            run = _Run(config, task, directory.path, interrupts, console)
        run.train()
        run.finish()
    except Interrupted:
        if run is None or run.untouched:
            directory.forget()
            say(console, "stopped before the first step")
        else:
            run.stop()
        return interrupts.exit_code
    except BaseException:
        if run is None or run.untouched:
            directory.forget()
        raise
    finally:
        if run is not None:
            run.close()
    return 0


def prepare(config: RunConfig, directory: RunDirectory) -> tuple[Task, tuple[Any, Any], list[str]]:
    """Return the task, the shapes of the parameters and the optimizer's state, and lines that describe the run.

    Raises:
      UserError: the data are invalid, the run does not fit into memory, or the directory was made with other data.
    """
    task = create_task(config, directory.path)
    dropping.check_task(config, task)
    tx = create_optimizer(config.optimizer, config.steps)
    state = jax.eval_shape(lambda: init_state(task, tx, jax.random.key(0))[1])  # allocates nothing
    model, moments = state[0], state[1]
    memory.check_model(config, model, optimizer=moments, activations=task.activation_bytes())
    facts = task.describe()
    directory.describe(facts)
    lines = plan(config, facts, model, moments, directory.path)
    return task, (model, moments), [*lines, *directory.notes, *task.notes()]


class _Run:
    """A run in progress: the state, the current step and the reports."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        workdir: Path,
        interrupts: Interrupts,
        console: Console,
    ):
        self._config = config
        self._workdir = workdir
        self._interrupts = interrupts
        self._console = console
        init_key, self._key = jax.random.split(jax.random.key(config.seed))
        self._tx = create_optimizer(config.optimizer, config.steps)
        self._rate = learning_rate(config.optimizer, config.steps)
        self._batches = task.train_batches()
        self.step = 0
        self._saved: int | None = None
        self._evaluated: int | None = None
        self._said: set[str] = set()
        self._pending: tuple | None = None  # the metrics of the newest step, still on the device
        meta: dict[str, Any] = {}
        with contextlib.ExitStack() as opened:
            self._checkpoints = Checkpoints(workdir)
            opened.callback(self._checkpoints.close)
            latest = self._checkpoints.latest_step()
            self._dropped = dropping.is_dropped(config, latest or 0)
            self._task = dropping.task_at(latest or 0, config, task)
            self._graphdef, self._state = init_state(self._task, self._tx, init_key)
            self._train_step = make_train_step(self._task, self._graphdef, self._rate)
            if latest is not None:
                self._state, meta = self._checkpoints.restore(latest, self._state, self._batches)
                self.step = self._saved = latest
                self._evaluated = meta.get("evaluated")
                say(console, f"resuming at step {latest}")
            self._window = MetricSums(meta.get("window"))
            self._log = MetricsLog(workdir, self.step, meta.get("metrics_lines", 0))
            opened.callback(self._log.close)
            if self._log.damage:
                say(console, f"{self._log.damage}; the run goes on")
            self._speed = _Speed()
            self._progress = RunProgress(console, config.steps, self.step, task.progress)
            self._opened = opened.pop_all()

    def train(self) -> None:
        """Run the remaining steps with their evaluations and checkpoints.

        Raises:
          Interrupted: a signal arrived; the current step is complete.
        """
        config = self._config
        compiled = False
        self._progress.start()
        while True:
            if not self._dropped and dropping.is_dropped(config, self.step):
                self._drop_encoding()
                compiled = False
            last = self.step == config.steps
            if last or (self.step > 0 and self.step % config.eval_every == 0):
                self._evaluate()
            if last or (self.step > 0 and self.step % config.checkpoint_every == 0):
                self.save()
            if last:
                break
            if self._interrupts.signal is not None:
                raise Interrupted
            if compiled:
                # Allow explicit transfers only; implicit ones would stall the device.
                with jax.transfer_guard("disallow"):
                    self._take_step()
            else:
                self._take_first_step()
                compiled = True
        self._progress.stop()
        self._checkpoints.wait()

    @property
    def untouched(self) -> bool:
        """Whether there is nothing to keep yet: no step and no checkpoint."""
        return self.step == 0 and self._saved is None

    def finish(self) -> None:
        """Print and store the final tables. Their file marks the run as finished."""
        with self._interrupts.stop_at_once():
            self._console.record = True
            model = model_of(self._graphdef, self._state)
            records = [
                record
                for split in self._task.test_splits()
                for record in evaluate(self._task, model, split, console=self._console)
            ]
            self._task.conclude(model, self._console)
            text = self._console.export_text()
            self._console.record = False
        for record in records:
            self._log.write(self.step, record)
        self._log.sync()
        write_atomically(self._workdir / "summary.txt", text)

    def save(self) -> None:
        """Start saving this step's checkpoint, unless it exists."""
        self._drain()
        if self._saved == self.step:
            return
        self._log.sync()
        meta = {
            "evaluated": self._evaluated,
            "window": self._window.totals,
            "metrics_lines": self._log.lines,
        }
        self._checkpoints.save(self.step, self._state, self._batches, meta)
        self._saved = self.step
        self._speed.resume()

    def stop(self) -> None:
        """Save the run and print how to resume it."""
        self.save()
        self._checkpoints.wait()
        say(self._console, f"stopped at step {self.step}, saved; the same command resumes it")

    def close(self) -> None:
        """Stop the bar and the threads, flush the reports and wait for saves."""
        self._progress.stop()
        self._opened.close()

    def _evaluate(self) -> None:
        if self._evaluated == self.step:
            return
        self._drain()
        with self._interrupts.stop_at_once():
            model = model_of(self._graphdef, self._state)
            records = evaluate(self._task, model, "validation", brief=True, complain=self._say_once)
        for record in records:
            self._log.write(self.step, record)
            say(self._console, f"step {self.step}  {show_record(record)}")
        self._evaluated = self.step
        self._speed.resume()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(self._console, text)

    def _drop_encoding(self) -> None:
        """Continue without the parameters of the encoding and their optimizer state."""
        self._drain()
        self._dropped = True
        self._task = dropping.task_at(self.step, self._config, self._task)
        self._graphdef, self._state = continued(self._task, self._tx, self._state)
        self._train_step = make_train_step(self._task, self._graphdef, self._rate)
        say(self._console, f"step {self.step}: from here on without the encoding")

    def _take_first_step(self) -> None:
        say(self._console, "compiling the training step ...")
        started = time.monotonic()
        self._take_step()
        self._speed = _Speed()
        if self._pending is not None:
            self._pending = *self._pending[:2], None  # its tokens do not count
        self._drain()
        seconds = time.monotonic() - started
        say(self._console, f"compiled in {seconds:.1f} s (with the first step)")
        self._speed.resume()

    def _take_step(self) -> None:
        try:
            batch = next(self._batches)
        except StopIteration:
            raise UserError(f"the data end after {self.step} batches, before the run") from None
        tokens = self._task.tokens(batch)
        self._state, metrics = self._train_step(self._state, batch, self._key)
        self.step += 1
        # Fetch the previous step's metrics, so that the device always has work.
        ready, self._pending = self._pending, (self.step, metrics, tokens)
        if ready is not None:
            self._absorb(*ready)

    def _drain(self) -> None:
        ready, self._pending = self._pending, None
        if ready is not None:
            self._absorb(*ready)

    def _absorb(self, step: int, metrics: Any, tokens: int | None) -> None:
        host = jax.device_get(metrics)
        self._refuse_non_finite(step, host)
        self._window.add(host)
        if tokens is not None:
            self._speed.add(tokens)
        means = self._window.means() | self._speed.rate()
        self._progress.update(step, means)
        if step % self._config.log_every == 0 or step == self._config.steps:
            self._log.write(step, {"split": "train", **means})
            self._progress.log(step, means)
            self._window = MetricSums()
            self._speed = _Speed()

    def _refuse_non_finite(self, step: int, metrics: Any) -> None:
        for name, what in _FINITE.items():
            total, count = (float(part) for part in metrics[name])
            if math.isfinite(total):
                continue
            self._checkpoints.wait()
            saved = (
                f"the last checkpoint, step {self._saved}, predates it"
                if self._saved is not None
                else "no checkpoint had been saved yet"
            )
            raise DivergenceError(
                f"{what} is {total / max(count, 1)} at step {step}; {saved}. The "
                "same run would end here again: try a lower optimizer.learning_rate, a longer "
                "optimizer.warmup_steps or a smaller optimizer.clip_norm with another --workdir."
            )


class _Speed:
    """Tokens per second of training, excluding evaluation, saving and compilation."""

    def __init__(self):
        self._tokens, self._seconds = 0, 0.0
        self.resume()

    def resume(self) -> None:
        """Exclude the time since the last step."""
        self._mark = time.monotonic()

    def add(self, tokens: int) -> None:
        """Count a step that has just ended."""
        now = time.monotonic()
        self._tokens += tokens
        self._seconds += now - self._mark
        self._mark = now

    def rate(self) -> dict[str, float]:
        return {"tokens_per_second": self._tokens / self._seconds} if self._seconds else {}
