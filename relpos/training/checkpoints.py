"""Checkpoints of model, optimizer, data iterator and the loop's counters, saved in the background with Orbax."""

import contextlib
import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from relpos.errors import UserError
from relpos.training import checksums

KEEP = 2
# Either file marks a checkpoint as ours; the other may be lost.
_OURS = (checksums.NAME, "meta/metadata")
# Folders left by a kill during a save or removal, by Orbax or by us.
_LEFTOVERS = (".[0-9]*.incomplete*", "[0-9]*.orbax-checkpoint-tmp")


class CheckpointError(UserError):
    """Raised when a checkpoint cannot be written or read."""

    exit_code = 1


class Checkpoints:
    """The last two checkpoints of a run directory.

    A checkpoint becomes visible only when complete: Orbax writes it under a temporary name, checksums are added, and
    then it is renamed to its step. Incomplete or modified checkpoints are never read. Other files are left alone.

    If read_only, another process may be training. Otherwise this process must hold the run directory's lock, and
    leftovers of killed saves are removed.

    Raises:
      CheckpointError: the directory cannot be read or created.
    """

    def __init__(self, workdir: Path, read_only: bool = False):
        self._path = workdir / "checkpoints"
        try:
            if not read_only:
                self._path.mkdir(exist_ok=True)
                for pattern in _LEFTOVERS:
                    for leftover in self._path.glob(pattern):
                        _remove(leftover)
            self._steps = _steps(self._path)
        except OSError as error:
            raise CheckpointError(
                f"cannot use {error.filename or str(self._path)!r}: {error.strerror}"
            ) from error
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            # In the background, Orbax waits minutes for a directory that cannot be created.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None."""
        return self._steps[-1] if self._steps else None

    def save(
        self, step: int, state: nnx.State, batches: grain.DatasetIterator, meta: dict[str, Any]
    ) -> None:
        """Start saving the state after `step` updates.

        `batches` has yielded exactly `step` batches; `meta` is plain JSON. The state may be donated as soon as this
        returns.

        Raises:
          CheckpointError: this save or the previous one failed.
        """
        self.wait()
        if os.path.lexists(self._folder(step)):
            raise self._failure(f"{str(self._folder(step))!r} is in the way, move it elsewhere")
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(nnx.to_pure_dict(state[0])),
            optimizer=ocp.args.StandardSave(nnx.to_pure_dict(state[1])),
            data=grain.checkpoint.CheckpointSave(batches),
            meta=ocp.args.JsonSave({"step": step, **meta}),
        )
        try:
            self._orbax.save(self._incomplete(step).absolute(), args=args)
        except Exception as error:
            raise self._failure(_first_line(error)) from error
        self._saving = self._background.submit(self._complete, step)

    def restore(
        self, step: int, state: nnx.State, batches: grain.DatasetIterator
    ) -> tuple[nnx.State, dict[str, Any]]:
        """Return the saved state and meta, and advance `batches`, a new iterator, to the next batch.

        Structure, shapes, dtypes and devices are taken from `state`.

        Raises:
          CheckpointError: the checkpoint is damaged, cannot be read, or does not match `state`.
        """
        restored = self._restore(
            step,
            model=_target(state[0]),
            optimizer=_target(state[1]),
            data=grain.checkpoint.CheckpointRestore(batches),
        )
        nnx.replace_by_pure_dict(state[0], restored["model"])
        nnx.replace_by_pure_dict(state[1], restored["optimizer"])
        return state, restored["meta"]

    def restore_model(self, step: int, state: nnx.State) -> nnx.State:
        """Return the model state of a checkpoint; `state` is the restore target."""
        nnx.replace_by_pure_dict(state, self._restore(step, model=_target(state))["model"])
        return state

    def wait(self) -> None:
        """Wait until all saves are on disk.

        Raises:
          CheckpointError: a save failed.
        """
        saving, self._saving = self._saving, None  # report a failure once
        try:
            if saving is not None:
                saving.result()
        except Exception as error:
            raise self._failure(_first_line(error)) from error

    def close(self) -> None:
        """Wait for a running save and stop the threads."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._orbax.close()

    def _complete(self, step: int) -> None:
        """Wait for Orbax, add checksums, publish the checkpoint and remove older ones. Runs in the background."""
        self._orbax.wait_until_finished()
        checksums.write(self._incomplete(step))
        self._incomplete(step).rename(self._folder(step))
        self._steps = [*self._steps, step]
        while len(self._steps) > KEEP:
            # Rename first, so that a kill cannot leave a partial checkpoint.
            oldest = self._folder(self._steps[0]).rename(self._incomplete(self._steps[0]))
            self._steps = self._steps[1:]
            _remove(oldest)

    def _restore(self, step: int, **parts: ocp.args.CheckpointArgs) -> Any:
        self.wait()
        if step not in self._steps:
            raise UserError(
                f"no checkpoint of step {step} in {str(self._path)!r}; there are {self._steps}"
            )
        folder, args = self._folder(step), ocp.args.Composite(**parts, meta=ocp.args.JsonRestore())
        try:
            checksums.verify(folder)
            restored = self._orbax.restore(folder.absolute(), args=args)
            saved = restored["meta"].pop("step")
        except Exception as error:
            raise self._unreadable(step, _first_line(error)) from error
        if saved != step:
            hint = "" if saved in self._steps else f", rename it to {str(self._folder(saved))!r}"
            raise self._unreadable(step, f"it is step {saved} under another name{hint}")
        for part, name in (("model", "a parameter"), ("optimizer", "the optimizer's state")):
            if not all(np.isfinite(x).all() for x in jax.tree.leaves(restored.get(part))):
                # The loop never saves such a state.
                raise self._unreadable(step, f"{name} is not a finite number")
        return restored

    def _folder(self, step: int) -> Path:
        return self._path / str(step)

    def _incomplete(self, step: int) -> Path:
        return self._path / f".{step}.incomplete"

    def _unreadable(self, step: int, why: str) -> CheckpointError:
        others = [other for other in self._steps if other != step]
        hint = f"; remove {str(self._folder(step))!r} to use step {others[-1]}" if others else ""
        return CheckpointError(f"cannot restore step {step} from {str(self._path)!r}: {why}{hint}")

    def _failure(self, why: str) -> CheckpointError:
        steps: list[int] = []
        with contextlib.suppress(OSError):
            steps = _steps(self._path)
        left = f"the last complete one is step {steps[-1]}" if steps else "there is none yet"
        return CheckpointError(f"cannot save a checkpoint in {str(self._path)!r} ({left}): {why}")


def _target(state: nnx.State) -> ocp.args.StandardRestore:
    """Return the shapes, dtypes and devices to restore to."""
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.to_pure_dict(state))
    return ocp.args.StandardRestore(shapes)


def _steps(path: Path) -> list[int]:
    """Return the steps of the complete checkpoints, in order."""
    return sorted(
        int(folder.name)
        for folder in path.iterdir()
        if is_step(folder.name) and any((folder / name).exists() for name in _OURS)
    )


def is_step(name: str) -> bool:
    """Return whether a name is a step as formatted by `str`."""
    return name.isdecimal() and name.isascii() and (name == "0" or name[0] != "0")


def _remove(folder: Path) -> None:
    if folder.is_symlink():  # moved to another disk by the user
        folder.unlink()
    else:
        shutil.rmtree(folder)


def _first_line(error: Exception) -> str:
    """Return an error's message without TensorStore's settings and long paths."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = re.split(r" \[(?:tensorstore_spec|os_error_code|source locations)", line)[0]
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-180:]}"
