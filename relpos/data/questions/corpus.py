"""A corpus of questions, and its construction from files: join them, make ids unique, split."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from relpos.data.corpus import Corpus, Sizes, corpus_of
from relpos.data.errors import DataError
from relpos.data.paths import find
from relpos.data.questions.question import Question, Reading
from relpos.data.splits import SPLITS, families, hold_out_families

VERSION = "1.0.0"  # of the rules that read and split
HELD_OUT_FRACTION = 0.05  # of the questions, in each of validation and test
HELD_OUT_QUESTIONS = 2000  # at most


def _measure(questions: Sequence[Question]) -> Sizes:
    return {"impossible": sum(question.impossible for question in questions)}


# Return a corpus of questions, given its name, version and splits.
questions_corpus = functools.partial(
    corpus_of,
    unit="questions",
    parts=lambda question: (json.dumps(dataclasses.astuple(question)).encode(),),
    measure=_measure,
)


def files_loader(read: Callable[[str], Reading]) -> Callable[..., Corpus[Question]]:
    """Return the `load` function of a source, given its function `read` that reads one file."""

    def load(*, train: str = "", validation: str = "", test: str = "") -> Corpus[Question]:
        """Load questions from the user's own files.

        Args:
          train: a file, a glob or a folder; .gz and .xz files are decompressed.
          validation: likewise; "" means to hold out from train.
          test: likewise.

        Raises:
          DataError: train names no files, or a file cannot be used.
        """
        if not train:
            raise DataError("No files given: set train to the training files.")
        files = {"train": train, "validation": validation, "test": test}
        found = {
            split: [read(str(path)) for path in find(pattern)]
            for split, pattern in files.items()
            if pattern
        }
        return corpus_of_readings(Path(train).name, VERSION, found)

    load.__module__ = read.__module__  # where help() looks for it
    return load


def corpus_of_readings(
    name: str, version: str, read: Mapping[str, Sequence[Reading]]
) -> Corpus[Question]:
    """Join what was read, and hold out the missing splits.

    Whole articles or stories are held out from train by their hash; if there are too few, whole paragraphs.

    Args:
      name: the corpus's name.
      version: of the data.
      read: what was read for each split; "train" must be present.

    Raises:
      DataError: a split has no usable question, or there are too few to hold any out.
    """
    account = Reading()
    for reading in itertools.chain.from_iterable(read.values()):
        for fault in reading.problems:
            account.complain(fault.message, fault.first, fault.count)
    problems = tuple(map(str, account.problems))
    splits = {
        split: _told_apart(q for reading in readings for q in reading.questions)
        for split, readings in read.items()
    }
    for split, found in splits.items():
        if not found:
            wrong = "; ".join(problems) or "there are none"
            raise DataError(f"{name}: no question of {split} can be used: {wrong}.")
    notes = []
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        splits |= _hold_out(splits["train"], missing)
        notes.append(f"{' and '.join(missing)} held out from train")
    splits = {split: splits[split] for split in SPLITS}
    contexts = {q.context for q in splits["train"]}
    for split in ("validation", "test"):
        shared = sum(q.context in contexts for q in splits[split])
        if shared:
            notes.append(
                f"{split}: {shared} of {len(splits[split])} questions have a context that is also in train"
            )
    return questions_corpus(name, version, splits, problems=problems, notes=tuple(notes))


def _told_apart(questions: Iterable[Question]) -> list[Question]:
    """Return the questions of several files with unique ids; files in two languages of one dataset share ids."""
    found: dict[str, Question] = {}
    for question in questions:
        id, number = question.id, 1
        while id in found:
            number += 1
            id = f"{question.id} ({number})"
        found[id] = dataclasses.replace(question, id=id)
    return list(found.values())


def _hold_out(questions: Sequence[Question], missing: Sequence[str]) -> dict[str, list[Question]]:
    budget = max(1, min(HELD_OUT_QUESTIONS, int(HELD_OUT_FRACTION * len(questions))))
    for whole in ("document", "context"):
        # A paragraph with two titles, or a repeated story, must not be in two splits either.
        kin = families([(getattr(q, whole), q.context) for q in questions])
        keys = [(q.context + q.question).encode("utf-8", "surrogatepass") for q in questions]
        chosen = hold_out_families(kin, keys, missing, budget=budget, largest=budget)
        splits = {split: [questions[i] for i in items] for split, items in chosen.items()}
        if all(splits.values()):
            return splits
    raise DataError(
        f"{len(questions)} questions on {len(kin)} paragraphs are too few to hold any out: provide files for "
        f"{' and '.join(missing)}."
    )
