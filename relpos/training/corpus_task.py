"""What tasks on a corpus share."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from relpos.data.corpus import Corpus
from relpos.errors import UserError, did_you_mean
from relpos.training.stored_run import artefact_path, check_provenance
from relpos.training.task import Record, Task

Item = TypeVar("Item")


class CorpusTask(Task, Generic[Item]):
    """A task on the corpus named by the config section ``data``; see `Task`.

    Attributes:
      sources: the registry of corpora, such as `relpos.data.text`.
      config: the config, set by the task.
      workdir: the run directory, set by `prepare`.
    """

    sources: Any
    config: Any
    workdir: Path

    def prepare(self, workdir: Path) -> None:
        """Set `workdir`; tasks also load or create their tokenizers."""
        self.workdir = workdir

    def stored_tokenizer(self, name: str = "tokenizer") -> tuple[dict[str, Any], Sequence[Item]]:
        """Return a tokenizer's path and vocabulary size, and the items to train it on: none if it is stored.

        The byte tokenizer is never stored: all are empty.
        """
        chosen = self.config.data
        if chosen.tokenizer == "bytes":
            return {}, ()
        ending = "json" if chosen.tokenizer == "words" else "model"
        path, is_new = artefact_path(self.workdir, f"{name}.{ending}")
        items: Sequence[Item] = self.corpus.splits["train"] if is_new else ()
        return {"path": path, "vocab_size": chosen.vocab_size}, items

    @functools.cached_property
    def corpus(self) -> Corpus[Item]:
        """The corpus, loaded on first use: a trained model works without it."""
        chosen = self.config.data
        corpus: Corpus[Item] = self.sources.load_chosen(chosen.source, chosen.sources)
        check_provenance(self.workdir, {"corpus": corpus.describe()})
        return corpus

    def describe(self) -> Record:
        """Return the corpus's name, version, hash and counts."""
        return {"corpus": self.corpus.describe()}

    def test_splits(self) -> list[str]:
        """Return all splits except train and validation."""
        return [name for name in self.corpus.splits if name not in ("train", "validation")]

    def items(self, split: str) -> Sequence[Item]:
        """Return the items of a split.

        Raises:
          UserError: there is no such split.
        """
        splits = self.corpus.splits
        if split not in splits:
            raise UserError(f"unknown split {split!r}{did_you_mean(split, splits)}")
        return splits[split]
