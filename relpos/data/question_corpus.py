"""Question answering: questions in splits, with a name, a version and a hash.

`load_questions()` gives "stories", which needs no download; `train=` names the user's own files, in
SQuAD's JSON or bAbI's lines; `tfds=` a tensorflow-datasets set such as "squad/v2.0".
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relpos.data import babi, squad, stories
from relpos.data.errors import DataError, nearest
from relpos.data.paths import find
from relpos.data.questions import Problem, Question, Reading
from relpos.data.splits import SPLITS, families, held_out

VERSION = "1.0.0"  # of the rules that read and split
HELD_OUT_FRACTION = 0.05  # of the questions, for each of validation and test
HELD_OUT_QUESTIONS = 2000  # at most
STORIES = {"train": 10_000, "validation": 500, "test": 1000, "longer": 1000}


@dataclasses.dataclass(frozen=True)
class QuestionCorpus:
    """Questions by split.

    Attributes:
        name: such as "stories", "squad/v2.0", or the name of the train file.
        version: of the text, or for the user's files of the rules that read and split them.
        sha256: of all questions of all splits.
        splits: "train", "validation" and "test"; and of stories "longer", at greater distances.
        problems: what was wrong with records that were put right or left out.
        notes: what was held out or found in two splits, in words.
    """

    name: str
    version: str
    sha256: str
    splits: Mapping[str, Sequence[Question]]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Returns what results depend on, ready for JSON: not where in a file a faulty record stood."""
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "splits": {
                split: {"questions": len(found), "impossible": sum(q.impossible for q in found)}
                for split, found in self.splits.items()
            },
        }


def load_questions(
    name: str = "stories",
    *,
    train: str = "",
    validation: str = "",
    test: str = "",
    tfds: str = "",
    data_dir: str = "",
    distance: tuple[int, int] = (2, 8),
    facts: int = 1,
    seed: int = 0,
) -> QuestionCorpus:
    """Loads questions: stories, unless files or a tensorflow-datasets set are named.

    Where validation or test is missing, whole articles or stories are held out from train by their
    hash; where there are too few of those, whole paragraphs.

    Args:
        name: "stories"; of no account where files or a set are named.
        train: a file, a glob or a folder. Files that end in .json (.gz, .xz) are read as SQuAD's,
            others as bAbI's.
        validation: "" means held out from train.
        test: "" means held out from train.
        tfds: a tensorflow-datasets set with the features of SQuAD.
        data_dir: the tensorflow-datasets folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        distance: for stories: the least and the greatest, in sentences; those of the split "longer"
            are greater, up to twice as much.
        facts: for stories: needed sentences, 1 or 2.
        seed: for stories.

    Raises:
        DataError: what is named cannot be used, or does not go together.
    """
    files = {"train": train, "validation": validation, "test": test}
    if any(files.values()):
        if tfds:
            raise DataError(f"Give either files or tfds={tfds!r}, not both.")
        if not train:
            raise DataError(
                "There are files to validate or test on, but none to train on: train=..."
            )
        read = {split: _read(pattern) for split, pattern in files.items() if pattern}
        return _corpus(Path(train).name, VERSION, read)
    if tfds:
        return _from_tfds(tfds, data_dir)
    if name != "stories":
        raise DataError(
            f"There are no embedded questions {name!r}.{nearest(name, ['stories'])} "
            "Known: stories; or name files (train=) or a set (tfds=)."
        )
    low, high = distance
    splits = {
        split: stories.questions(
            count,
            distance=(high + 1, 2 * high) if split == "longer" else (low, high),
            facts=facts,
            split="test" if split == "longer" else split,
            seed=seed,
        )
        for split, count in STORIES.items()
    }
    notes = f"{facts} facts at distances {low} to {high}, longer: up to {2 * high}; seed {seed}"
    return QuestionCorpus("stories", stories.VERSION, _fingerprint(splits), splits, (), (notes,))


def _read(pattern: str) -> list[Reading]:
    return [
        squad.read_squad(str(path)) if ".json" in path.suffixes[-2:] else babi.read_babi(str(path))
        for path in find(pattern)
    ]


def _from_tfds(name: str, data_dir: str) -> QuestionCorpus:
    # Importing tensorflow-datasets takes a second, which all others need not wait for.
    from relpos.data import tfds_sets

    builder, sources = tfds_sets.open_sources(name, data_dir)
    features = builder.info.features or {}
    if missing := [feature for feature in squad.SQUAD_FEATURES if feature not in features]:
        raise DataError(
            f"{name} has not SQuAD's features: {', '.join(missing)} missing; it has "
            f"{', '.join(sorted(features)) or 'none'}."
        )
    if "train" not in sources:
        raise DataError(f"{name} has no train split; it has: {', '.join(sources) or 'none'}.")
    read = {
        split: [squad.read_squad_records(source, f"{name} {split}")]
        for split, source in sources.items()
        if split in SPLITS
    }
    return _corpus(name, str(builder.version), read)


def _corpus(name: str, version: str, read: Mapping[str, Sequence[Reading]]) -> QuestionCorpus:
    """Puts what was read together, and holds out what is missing."""
    problems = _together(reading.problems for readings in read.values() for reading in readings)
    splits = {
        split: _told_apart(q for reading in readings for q in reading.questions)
        for split, readings in read.items()
    }
    for split, found in splits.items():
        if not found:
            wrong = "; ".join(map(str, problems)) or "there are none"
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
            notes.append(f"{split}: {shared} of {len(splits[split])} contexts stand in train too")
    return QuestionCorpus(name, version, _fingerprint(splits), splits, problems, tuple(notes))


def _told_apart(questions: Iterable[Question]) -> list[Question]:
    """Returns questions of several files, none with the id of another: two languages of a set share theirs."""
    found: dict[str, Question] = {}
    for question in questions:
        id, number = question.id, 1
        while id in found:
            number += 1
            id = f"{question.id} ({number})"
        found[id] = dataclasses.replace(question, id=id)
    return list(found.values())


def _together(summaries: Iterable[Iterable[Problem]]) -> tuple[Problem, ...]:
    found: dict[str, Problem] = {}
    for problem in (problem for summary in summaries for problem in summary):
        known = found.get(problem.message, dataclasses.replace(problem, count=0))
        found[problem.message] = dataclasses.replace(known, count=known.count + problem.count)
    return tuple(found.values())


def _hold_out(questions: Sequence[Question], missing: Sequence[str]) -> dict[str, list[Question]]:
    budget = max(1, min(HELD_OUT_QUESTIONS, int(HELD_OUT_FRACTION * len(questions))))
    for whole in ("document", "context"):
        # What stands under two titles, or is told twice, must not be in two splits either.
        kin = families([(getattr(q, whole), q.context) for q in questions])
        texts = [q.context + q.question for q in questions]
        dealt = held_out(
            [min(texts[i] for i in family).encode() for family in kin],
            [len(family) for family in kin],
            budget=budget,
            largest=budget,
        )
        splits: dict[str, list[Question]] = {"train": [], **{split: [] for split in missing}}
        for split, indices in dealt.items():
            chosen = splits[split if split in missing else "train"]
            chosen += [questions[i] for family in indices for i in kin[family]]
        if all(splits.values()):
            return splits
    raise DataError(
        f"{len(questions)} questions on {len(kin)} paragraphs are too few to put some aside: "
        f"give files for {' and '.join(missing)}."
    )


def _fingerprint(splits: Mapping[str, Sequence[Question]]) -> str:
    digest = hashlib.sha256()
    for split, questions in splits.items():
        digest.update(f"{split} {len(questions)}\n".encode())
        for question in questions:
            digest.update(json.dumps(dataclasses.astuple(question)).encode())
    return digest.hexdigest()
