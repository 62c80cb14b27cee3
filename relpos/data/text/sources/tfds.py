"""Any tensorflow-datasets set with a text feature: lm1b, wiki40b/en, ..."""

from __future__ import annotations

from collections.abc import Sequence

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError
from relpos.data.splits import SPLITS
from relpos.data.text.corpus import text_corpus
from relpos.data.tfds.records import Part, Records, as_bytes

HELD_OUT_FRACTION = 0.01  # of train, for a set without validation or test
HELD_OUT_DOCUMENTS = 2000  # at most


def load(*, name: str = "", data_dir: str = "") -> Corpus[bytes]:
    """Load a set such as "lm1b", "wiki40b/en" or "wiki40b/en:1.3.0".

    A missing validation or test split is taken from the end of train, which tfds has shuffled.

    Args:
      name: as tensorflow-datasets spells it.
      data_dir: its folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      DataError: the set does not exist, is not on disk and cannot be downloaded, is not stored as array_record, or has
        no text feature.
    """
    from relpos.data.tfds import sets  # takes a second, for which other sources need not wait

    builder, sources = sets.open_sources(name, data_dir)
    feature = sets.text_feature(builder, name)
    found = {
        split: Records(source, lambda record: as_bytes(record[feature]))
        for split, source in sources.items()
    }
    large = not sets.is_small(builder)
    return text_corpus(
        name,
        str(builder.version),
        _three_splits(found, name),
        description=sets.description_hash(builder) if large else "",
    )


def _three_splits(found: dict[str, Records[bytes]], name: str) -> dict[str, Sequence[bytes]]:
    """Return train, validation and test; take missing ones from the end of train."""
    if "train" not in found or not len(found["train"]):
        raise DataError(f"{name} has no train split; it has: {', '.join(found) or 'none'}.")
    splits: dict[str, Sequence[bytes]] = {"train": found["train"]}
    stop = len(found["train"])
    for split in ("test", "validation"):
        if split in found and len(found[split]):
            splits[split] = found[split]
            continue
        share = max(1, min(HELD_OUT_DOCUMENTS, int(HELD_OUT_FRACTION * len(found["train"]))))
        if stop - share < 1:
            raise DataError(f"{name} has too few documents to carve {split} from train.")
        splits[split] = Part(found["train"], stop - share, stop)
        stop -= share
        splits["train"] = Part(found["train"], 0, stop)
    return {split: splits[split] for split in SPLITS}
