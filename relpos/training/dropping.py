"""DroPE: dropping the position encoding at a given step.

Gelberg et al. 2025, "Extending the Context of Pretrained LLMs by Dropping Their Positional Embeddings",
arXiv:2512.12167: train a decoder with rotary positions, remove them, and train briefly at the same length. The causal
mask is then the only source of order, and no part of the model is specific to the trained length.

After `drop_encoding_at` updates the model has no encoding, in training, evaluation and checkpoints.
"""

import dataclasses
from typing import Any

from relpos.encodings.composed import expressions
from relpos.errors import UserError
from relpos.training.task import DropsEncoding

KEY = "drop_encoding_at"


def check(config: Any) -> None:
    """Check `drop_encoding_at` of a config with a valid ``encoding``.

    Raises:
      UserError: the step is outside the run, there is no encoding to drop, or ``positions`` would remain.
    """
    step = config.drop_encoding_at
    if step is None:
        return
    if step > config.steps:
        raise UserError(
            f"config key {KEY!r} must be a step of the run, 1 to {config.steps}, got {step}"
        )
    if set(expressions.leaves(expressions.layers(config.encoding))) == {"none"}:
        raise UserError(
            f"config key {KEY!r} is {step}, and encoding={config.encoding!r} has nothing to drop: name a scheme to "
            "start with"
        )
    if config.positions:
        raise UserError(
            f"config key {KEY!r} is {step}, and positions={config.positions!r} would still encode positions: leave one "
            "of the two out"
        )


def is_dropped(config: Any, step: int) -> bool:
    """Return whether the encoding is gone after `step` updates; False for configs without the key."""
    at = getattr(config, KEY, None)
    return at is not None and at <= step


def check_task(config: Any, task: Any) -> None:
    """Check that the task supports `drop_encoding_at` if the config sets it; a user's own task may not.

    Raises:
      UserError: the task does not support it.
    """
    if getattr(config, KEY, None) is not None and not isinstance(task, DropsEncoding):
        raise UserError(
            f"config key {KEY!r} is {config.drop_encoding_at}, and the task {config.task!r} has no "
            "without_encoding() to return the task with models that have none"
        )


def task_at(step: int, config: Any, task: Any) -> Any:
    """Return the task for `step` completed updates, without its encoding if that is dropped."""
    return task.without_encoding() if is_dropped(config, step) else task


def without_encoding(config: Any) -> Any:
    """Return the config with the encoding of each layer replaced by ``none``."""
    none = ",".join("none" for _ in expressions.layers(config.encoding))
    return dataclasses.replace(config, encoding=none)
