"""Reads what a run directory says about its run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relpos.data import DataError
from relpos.errors import UserError
from relpos.files import read_records
from relpos.terminal import printable
from relpos.training import stored_run


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that was evaluated on its test text.

    Attributes:
      name: the directory's.
      encoding: as in the config: one scheme, or several with commas.
      trained_length: tokens of a training sequence.
      corpus: its name, version and hash.
      step: of the newest figure.
      bits_per_byte: evaluated length -> the newest figure of the test text.
    """

    name: str
    encoding: str
    trained_length: int
    corpus: Mapping[str, Any]
    step: int
    bits_per_byte: Mapping[int, float]

    @property
    def label(self) -> str:
        """The directory's name, and the scheme where that says something else."""
        return self.name if self.name == self.encoding else f"{self.name} ({self.encoding})"


def read_run(workdir: Path) -> Run:
    """Return what `workdir` holds.

    Raises:
      DataError: the folder is no run of this library, or has no figure at its trained length yet.
    """
    try:
        stored = stored_run.read_run(workdir)
        config = stored["config"]
        records = read_records(workdir / "metrics.jsonl")
        encoding, trained_length = config["encoding"], config["sequence_length"]
        if not isinstance(encoding, str) or not isinstance(trained_length, int):
            raise UserError("its encoding or its length is not of the right kind")
        if dropped := config.get("drop_encoding_at"):
            encoding = f"{encoding}, dropped at {dropped}"
    except (UserError, OSError, KeyError) as error:
        raise DataError(
            f"{workdir} is not a language model's run directory: {printable(str(error))}"
        ) from error
    step, figures = 0, {}
    for record in records:
        of_test = record.get("split") == "test" and isinstance(
            record.get("bits_per_byte"), int | float
        )
        if of_test and all(isinstance(record.get(name), int) for name in ("step", "length")):
            step = record["step"]
            figures[record["length"]] = record["bits_per_byte"]
    if trained_length not in figures:
        raise DataError(
            f"{workdir}/metrics.jsonl has no bits_per_byte of the test split at length "
            f"{trained_length}: let the run finish."
        )
    name, encoding = printable(workdir.name), printable(encoding)
    return Run(name, encoding, trained_length, stored.get("corpus", {}), step, figures)


def check_corpus(run: Run, corpus: Mapping[str, Any]) -> None:
    """Refuse to compare a run with what was measured on another text.

    Raises:
      DataError: the run's corpus is not this one.
    """
    for key in ("name", "version", "sha256"):
        if run.corpus.get(key) != corpus.get(key):
            raise DataError(
                f"{run.name} was trained on another corpus: its {key} is {run.corpus.get(key)!r}, "
                f"here it is {corpus.get(key)!r}. Bits per byte of different texts cannot be compared."
            )
