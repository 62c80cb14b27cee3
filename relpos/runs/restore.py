"""The trained model of a run directory, without its optimizer."""

import contextlib
from pathlib import Path

import jax
from flax import nnx

from relpos.training.checkpoints import Checkpoints
from relpos.training.task import Task


def newest_step(workdir: Path) -> int | None:
    """Return the step of the newest checkpoint, or None."""
    if not (workdir / "checkpoints").is_dir():
        return None
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        return checkpoints.latest_step()


def restore_model(workdir: Path, step: int, task: Task, seed: int) -> nnx.Module:
    """Return the model of a checkpoint.

    Raises:
      UserError: the checkpoint is missing.
      CheckpointError: it is damaged.
    """
    # Restore to a device of this machine, whatever device the run was trained on.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    graphdef, state = nnx.split(nnx.eval_shape(lambda: task.init_model(nnx.Rngs(seed))))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        return nnx.merge(graphdef, checkpoints.restore_model(step, shapes))
