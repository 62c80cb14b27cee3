"""Any tensorflow-datasets set with the features of SQuAD, such as "squad/v2.0"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError
from relpos.data.questions.corpus import corpus_of_readings
from relpos.data.questions.question import Question, Reading
from relpos.data.splits import SPLITS

FEATURES = ("context", "question", "answers")


def load(*, name: str = "", data_dir: str = "") -> Corpus[Question]:
    """Load a set; a missing validation or test split is held out from train.

    Args:
      name: as tensorflow-datasets spells it.
      data_dir: the tensorflow-datasets folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      DataError: the set cannot be opened, or lacks SQuAD's features or a train split.
    """
    from relpos.data import tfds_sets  # slow (a second), so imported only when this source is used

    builder, sources = tfds_sets.open_sources(name, data_dir)
    features = builder.info.features or {}
    if missing := [feature for feature in FEATURES if feature not in features]:
        raise DataError(
            f"{name} lacks SQuAD's features {', '.join(missing)}; it has "
            f"{', '.join(sorted(features)) or 'none'}."
        )
    if "train" not in sources:
        raise DataError(f"{name} has no train split; it has: {', '.join(sources) or 'none'}.")
    read = {
        split: [read_records(source, f"{name} {split}")]
        for split, source in sources.items()
        if split in SPLITS
    }
    return corpus_of_readings(name, str(builder.version), read)


def read_records(records: Sequence[Mapping[str, Any]], name: str) -> Reading:
    """Read tensorflow-datasets records of SQuAD and similar sets.

    Args:
      records: one split, with the features `FEATURES` and perhaps id, title and is_impossible.
      name: set and split, for messages.
    """
    reading = Reading()
    for i, record in enumerate(records):
        answers = record["answers"]
        starts = [int(start) for start in answers["answer_start"]]
        reading.add(
            f"{name} record {i}",
            id=_str(record["id"]) if "id" in record else None,
            context=_str(record["context"]),
            question=_str(record["question"]),
            answers=list(zip(map(_str, answers["text"]), starts, strict=True)),
            impossible=bool(record.get("is_impossible", False)),
            document=_str(record.get("title", b"")),
        )
    return reading


def _str(text: bytes | str) -> str:
    return text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")
