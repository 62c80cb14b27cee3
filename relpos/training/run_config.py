"""Run configs: frozen dataclasses, built once from a config file and the command line when a run starts."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from relpos import config_files, encodings, places, sections
from relpos import overrides as overrides_lib
from relpos.errors import UserError
from relpos.nn import TransformerConfig
from relpos.sections import Options, Positive, Seed, at_least, name_in, options_of
from relpos.training.optimizer import OptimizerConfig
from relpos.training.task import find_module


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The config shared by all tasks. Each task subclasses it.

    Attributes:
      task: the name of a module in `relpos/tasks`, or the dotted name of your own module.
      seed: seed of parameter initialization, data order and dropout.
      steps: number of updates.
      batch_size: sequences per batch.
      sequence_length: T, in tokens.
      optimizer: the optimizer and its schedule.
      log_every: steps between log lines.
      eval_every: steps between evaluations on the validation split.
      checkpoint_every: steps between checkpoints.
    """

    task: str
    seed: Seed = 0
    steps: Annotated[int, at_least(0)] = 1000
    batch_size: Positive = 32
    sequence_length: Positive = 128
    optimizer: OptimizerConfig = OptimizerConfig()
    log_every: Positive = 100
    eval_every: Positive = 500
    checkpoint_every: Positive = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerRunConfig(RunConfig):
    """The config of a task with a model built from `relpos.nn` layers.

    Attributes:
      encoding: a scheme; several for alternating layers, "rope,none"; or several in every layer, "rope+t5".
      encodings: scheme -> options.
      model: the layers. An encoder-decoder uses them for both of its stacks.
    """

    encoding: str = "rope"
    encodings: Options = options_of(encodings)
    model: TransformerConfig = TransformerConfig(num_layers=2, features=128, num_heads=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenRunConfig(TransformerRunConfig):
    """The config of a task with a model of a single token sequence.

    Attributes:
      positions: how tokens get positions, a module of `relpos/places` such as randomized; None counts 0, 1, 2, ...
      places: name -> options.
    """

    positions: Annotated[str, name_in(places)] | None = None
    places: Options = options_of(places)


def load(path: str | Path, overrides: Iterable[tuple[str, str]] = ()) -> Any:
    """Load a config file and apply overrides.

    Args:
      path: a Python file that defines ``get_config()``, or the name of a config shipped with relpos, such as ``lm``.
      overrides: pairs of dotted key and text, see `relpos.overrides`.

    Returns:
      An instance of the task's `Config`.

    Raises:
      UserError: the file is missing or is not a config, a key is unknown, or a value is invalid.
    """
    plain, pairs = config_files.read_file(path), list(overrides)
    task = dict(pairs).get("task", plain.get("task"))
    kind = config_class(task)
    return sections.read(kind, overrides_lib.override(kind, plain, pairs))


def config_class(task: Any) -> type[RunConfig]:
    """Import a task's module and return its `Config` class.

    Raises:
      UserError: the task does not exist, or its `Config` is not a subclass of `RunConfig`.
    """
    kind = find_module(task).Config
    if not (isinstance(kind, type) and issubclass(kind, RunConfig)):
        raise UserError(
            f"task {task!r}: its Config must be a subclass of relpos.training.run_config.RunConfig"
        )
    return kind


def read_stored(plain: Mapping[str, Any], kind: type[Any], path: str) -> Any:
    """Return the config stored in config.json, an instance of `kind`. Missing keys get their defaults.

    Raises:
      UserError: a value is invalid, or a key is unknown, as in runs of other versions.
    """
    try:
        return sections.read(kind, plain)
    except UserError as error:
        raise UserError(
            f"{path!r}: {error}. If another version of relpos wrote it, use that version or train the run again"
        ) from error
