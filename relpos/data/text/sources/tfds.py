"""Any tensorflow-datasets set with a text feature: lm1b, wiki40b/en, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError
from relpos.data.mapped import Mapped
from relpos.data.splits import SPLITS
from relpos.data.text.corpus import text_corpus

HELD_OUT_FRACTION = 0.01  # of train, for a set without validation or test
HELD_OUT_DOCUMENTS = 2000  # at most


def load(*, name: str = "", data_dir: str = "") -> Corpus[bytes]:
    """Load a set such as "lm1b", "wiki40b/en" or "wiki40b/en:1.3.0".

    A missing validation or test split is taken from the end of train, which tfds has shuffled.

    Args:
      name: as tensorflow-datasets spells it.
      data_dir: the tensorflow-datasets folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      DataError: the set does not exist, is not on disk and cannot be downloaded, is not stored as array_record, or has
        no text feature.
    """
    from relpos.data import tfds_sets  # slow (a second), so imported only when this source is used

    builder, sources = tfds_sets.open_sources(name, data_dir)
    path = (tfds_sets.text_feature(builder, name),)
    found = {
        split: Mapped(source, lambda record: tfds_sets.text_at(record, path))
        for split, source in sources.items()
    }
    return text_corpus(
        name,
        str(builder.version),
        _three_splits(found, name),
        description=tfds_sets.description_hash(builder),
    )


def _three_splits(found: Mapping[str, Sequence[bytes]], name: str) -> dict[str, Sequence[bytes]]:
    """Return train, validation and test; take missing ones from the end of train."""
    train: Sequence[bytes] = found.get("train", ())
    if not len(train):
        raise DataError(f"{name} has no train split; it has: {', '.join(found) or 'none'}.")
    share = max(1, min(HELD_OUT_DOCUMENTS, int(HELD_OUT_FRACTION * len(train))))
    splits = {split: documents for split, documents in found.items() if len(documents)}
    stop = len(train)
    for split in ("test", "validation"):
        if split not in splits:
            if stop - share < 1:
                raise DataError(f"{name} has too few documents to carve {split} from train.")
            splits[split] = Mapped(range(stop - share, stop), lambda i: train[i])
            stop -= share
    splits["train"] = Mapped(range(stop), lambda i: train[i])
    return {split: splits[split] for split in SPLITS}
