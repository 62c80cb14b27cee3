"""Checkpoints: model, optimizer, step and data iterator, saved while training goes on (Orbax)."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from ml_collections import ConfigDict

from relpos.errors import UserError
from relpos.terminal import printable
from relpos.training.stored_run import notes_on_environment, read_config, read_run
from relpos.training.task import BatchIterator, Task, check_common, create_task, is_own_code

KEEP = 2
_log = logging.getLogger(__name__)


class CheckpointError(UserError):
    """A checkpoint could not be written or read."""

    exit_code = 1


class Checkpoints:
    """The checkpoints of a run directory, the last two of them kept.

    A checkpoint is complete or invisible: one that a kill or a full disk cut short is never read.

    Args:
      workdir: the run directory.
      read_only: for a reader beside a run that may be under way; otherwise this process holds the
        run directory, and what a killed save left behind is removed.
    """

    def __init__(self, workdir: Path, read_only: bool = False):
        self._path = workdir / "checkpoints"
        self._failed = False
        # Orbax logs every phase of a save, and errors that it raises as well.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._manager = ocp.CheckpointManager(
            self._path.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else KEEP,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=True,
                # A directory that cannot be made in the background is waited for, for minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint, None when there is none."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: nnx.State, batches: BatchIterator, meta: dict[str, Any]
    ) -> None:
        """Start to save; the state may be donated as soon as this returns.

        Args:
          step: updates done.
          state: of `init_state`.
          batches: the iterator, which has given exactly `step` batches.
          meta: plain JSON.

        Raises:
          CheckpointError: this save or the one before it failed.
        """
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(nnx.to_pure_dict(state[0])),
            optimizer=ocp.args.StandardSave(nnx.to_pure_dict(state[1])),
            data=grain.checkpoint.CheckpointSave(batches),
            meta=ocp.args.JsonSave(meta),
        )
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._failure(error) from error

    def restore(
        self, step: int, state: nnx.State, batches: BatchIterator
    ) -> tuple[nnx.State, dict[str, Any]]:
        """Return the saved state and meta; the iterator is set to the next batch in place.

        Args:
          step: which checkpoint.
          state: a state of the same structure, whose shapes, types and devices are the target.
          batches: a new iterator.

        Raises:
          CheckpointError: it cannot be read, or does not fit the state.
        """
        args = ocp.args.Composite(
            model=ocp.args.StandardRestore(_target(state[0])),
            optimizer=ocp.args.StandardRestore(_target(state[1])),
            data=grain.checkpoint.CheckpointRestore(batches),
            meta=ocp.args.JsonRestore(),
        )
        restored = self._restore(step, args)
        nnx.replace_by_pure_dict(state[0], restored["model"])
        nnx.replace_by_pure_dict(state[1], restored["optimizer"])
        return state, restored["meta"]

    def restore_model(self, step: int, state: nnx.State) -> nnx.State:
        """Return the model's part of a checkpoint; `state` is the target, a model's state."""
        args = ocp.args.Composite(model=ocp.args.StandardRestore(_target(state)))
        nnx.replace_by_pure_dict(state, self._restore(step, args)["model"])
        return state

    def wait(self) -> None:
        """Return when what was saved is on disk.

        Raises:
          CheckpointError: a save failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Wait for a save under way and stop Orbax's threads."""
        try:
            self._manager.close()
        except Exception as error:
            if not self._failed:  # nobody has heard of it
                raise self._failure(error) from error

    def _restore(self, step: int, args: ocp.args.Composite) -> Any:
        if step not in (steps := self._manager.all_steps()):
            raise UserError(
                f"no checkpoint of step {step} in {str(self._path)!r}; there are {steps}"
            )
        try:
            restored = self._manager.restore(step, args=args)
        except Exception as error:
            raise self._unreadable(step, _first_line(error)) from error
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(restored["model"])):
            # No such state is ever saved.
            raise self._unreadable(
                step, "a parameter is not a finite number, the files are damaged"
            )
        return restored

    def _unreadable(self, step: int, why: str) -> CheckpointError:
        others = [str(other) for other in self._manager.all_steps() if other != step]
        hint = (
            f"; remove {str(self._path / str(step))!r} to use step {others[-1]}" if others else ""
        )
        return CheckpointError(f"cannot restore step {step} from {str(self._path)!r}: {why}{hint}")

    def _failure(self, error: Exception) -> CheckpointError:
        self._failed = True
        steps = sorted(int(path.name) for path in self._path.glob("*") if path.name.isdigit())
        left = f"the last complete one is step {steps[-1]}" if steps else "there is none yet"
        return CheckpointError(
            f"cannot save a checkpoint in {str(self._path)!r} ({left}): {_first_line(error)}"
        )


class LoadedRun(NamedTuple):
    """A trained model with what belongs to it.

    Attributes:
      config: of the run, locked.
      task: its data, loss and evaluation.
      model: a Flax NNX module.
      step: of the checkpoint.
    """

    config: ConfigDict
    task: Task
    model: nnx.Module
    step: int


def load_model(
    workdir: str | Path, step: int | None = None, *, trust_code: bool = False
) -> LoadedRun:
    """Return the trained model of a run directory, for use without training.

    A run directory is data: nothing in it is run. What is not as it was when the run began is logged.

    Args:
      workdir: a run directory; nothing is written to its checkpoints.
      step: which checkpoint, None for the newest.
      trust_code: whether a task that is no part of relpos, a module that config.json names, may be imported.

    Raises:
      UserError: no run directory, a damaged one, or no such checkpoint; or its task is not part of relpos.
    """
    workdir = Path(workdir)
    run = read_run(workdir)
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{str(workdir)!r} has no checkpoint yet: train it first")
    config = read_config(workdir)
    if is_own_code(config) and not trust_code:
        raise UserError(
            f"{str(workdir / 'config.json')!r} asks for code that is no part of relpos, the task "
            f"{config.task!r}: where you trust it, --trust_code (in Python trust_code=True) runs it"
        )
    check_common(config)
    task = create_task(config, workdir)
    for note in notes_on_environment(run):
        _log.warning("%s: %s", workdir, printable(note, keep=""))
    graphdef, state = nnx.split(task.init_model(nnx.Rngs(config.seed)))
    tried: int | None = None
    while True:
        checkpoints = Checkpoints(workdir, read_only=True)
        try:
            chosen = checkpoints.latest_step() if step is None else step
            if chosen is None:
                raise UserError(f"{str(workdir)!r} has no checkpoint yet: train it first")
            model = nnx.merge(graphdef, checkpoints.restore_model(chosen, state))
            return LoadedRun(config, task, model, chosen)
        except CheckpointError:
            # A run under way removes its older checkpoints, perhaps while this one is read.
            if step is not None or chosen == tried:
                raise
            tried = chosen
        finally:
            checkpoints.close()


def _target(state: nnx.State) -> Any:
    """Return the shapes, types and devices to restore to."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.to_pure_dict(state))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
