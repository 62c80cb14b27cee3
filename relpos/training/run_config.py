"""What every run is told: frozen dataclasses, made of a config file and the command line once, when a run starts."""

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
    """The config of any task; a task's own is a subclass.

    Attributes:
      task: a module of `relpos/tasks`, or of your own, by its dotted name.
      seed: of the initial parameters, the order of the data and dropout.
      steps: updates.
      batch_size: rows of a batch.
      sequence_length: T, in tokens.
      optimizer: how the model is updated.
      log_every: steps between two reports.
      eval_every: steps between two evaluations on the validation split.
      checkpoint_every: steps between two checkpoints.
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
    """The config of a task whose model is made of `relpos.nn`'s layers.

    Attributes:
      encoding: one scheme, or several that the layers take in turn, "rope,none", or together, "rope+t5".
      encodings: scheme -> its options.
      model: the layers; of the encoder and the decoder each, where there are both.
    """

    encoding: str = "rope"
    encodings: Options = options_of(encodings)
    model: TransformerConfig = TransformerConfig(num_layers=2, features=128, num_heads=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenRunConfig(TransformerRunConfig):
    """The config of a task whose model reads one sequence of tokens.

    Attributes:
      positions: where tokens stand, one of `relpos/places`: randomized, shape, ...; None: one behind the other.
      places: name -> its options.
    """

    positions: Annotated[str, name_in(places)] | None = None
    places: Options = options_of(places)


def load(path: str | Path, overrides: Iterable[tuple[str, str]] = ()) -> Any:
    """Return the config of a file, with some values replaced.

    Args:
      path: a Python file with ``get_config()``, or the name of one that comes with relpos, as ``lm``.
      overrides: pairs of dotted key and text, see `relpos.overrides`.

    Returns:
      An instance of the task's `Config`.

    Raises:
      UserError: there is no such file, it is no config, a key is unknown or a value wrong.
    """
    plain, pairs = config_files.read_file(path), list(overrides)
    task = dict(pairs).get("task", plain.get("task"))
    kind = config_class(task)
    return sections.read(kind, overrides_lib.override(kind, plain, pairs))


def config_class(task: Any) -> type[RunConfig]:
    """Return the class of a task's config: `Config` in its module, which is imported.

    Raises:
      UserError: there is no such task, or its `Config` is no `RunConfig`.
    """
    kind = find_module(task).Config
    if not (isinstance(kind, type) and issubclass(kind, RunConfig)):
        raise UserError(
            f"task {task!r}: its Config must be a subclass of relpos.training.run_config.RunConfig"
        )
    return kind


def read_stored(plain: Mapping[str, Any], kind: type[Any], path: str) -> Any:
    """Return the config that a run directory holds; what it lacks has its default.

    Args:
      plain: of config.json.
      kind: the class of the config.
      path: of the file, for messages.

    Raises:
      UserError: a value is not what its key may be, or a key is unknown, as in runs of other versions.
    """
    try:
        return sections.read(kind, plain)
    except UserError as error:
        raise UserError(
            f"{path!r}: {error}. If another version of relpos wrote it, use that version or train the run again"
        ) from error
