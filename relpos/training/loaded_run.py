"""A trained run as an object: its config, its task and its model, for use without training."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from relpos.errors import UserError
from relpos.terminal import printable
from relpos.training import dropping
from relpos.training.checkpoints import CheckpointError, Checkpoints
from relpos.training.run_config import config_class, read_stored
from relpos.training.stored_run import notes_on_environment, read_run
from relpos.training.task import Task, create_task, is_own_code

_log = logging.getLogger(__name__)


class LoadedRun(NamedTuple):
    """A trained model with what belongs to it.

    Attributes:
      config: of the run, an instance of the task's `Config`.
      task: its data, loss and evaluation; without the encoding if the run has dropped it by that step.
      model: a Flax NNX module.
      step: of the checkpoint.
    """

    config: Any
    task: Task
    model: nnx.Module
    step: int


def load_run(
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
    path, plain = str(workdir / "config.json"), run["config"]
    if is_own_code(plain.get("task")) and not trust_code:
        raise UserError(
            f"{path!r} asks for code that is no part of relpos, the task "
            f"{plain['task']!r}: where you trust it, --trust_code (in Python trust_code=True) runs it"
        )
    config = read_stored(plain, config_class(plain.get("task")), path)
    task = create_task(config, workdir)
    for note in notes_on_environment(run):
        _log.warning("%s: %s", workdir, printable(note, keep=""))
    tried: int | None = None
    while True:
        checkpoints = Checkpoints(workdir, read_only=True)
        try:
            chosen = checkpoints.latest_step() if step is None else step
            if chosen is None:
                raise UserError(f"{str(workdir)!r} has no checkpoint yet: train it first")
            of_step = dropping.task_at(chosen, config, task)
            graphdef, state = _shapes(of_step, config.seed)
            model = nnx.merge(graphdef, checkpoints.restore_model(chosen, state))
            return LoadedRun(config, of_step, model, chosen)
        except CheckpointError:
            # A run under way removes its older checkpoints, perhaps while this one is read.
            if step is not None or chosen == tried:
                raise
            tried = chosen
        finally:
            checkpoints.close()


def _shapes(task: Task, seed: int) -> tuple[nnx.GraphDef, nnx.State]:
    """Return a model's structure and shapes, on a device of this machine, whatever the run was trained on."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: task.init_model(nnx.Rngs(seed))))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return graphdef, jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state
    )
