"""Parallel text of tensorflow-datasets: wmt*_translate, ted_hrlr_translate, any two text features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import tensorflow_datasets as tfds

from relpos.data import tfds_sets
from relpos.data.errors import DataError, nearest
from relpos.data.pairs import Pair, drop_empty, fingerprint, hold_out, overlaps
from relpos.data.parallel import ParallelCorpus
from relpos.data.splits import SPLITS

Place = tuple[str, ...]  # of a feature: ("en",) or ("translation", "en")


class PairRecords(Sequence[Pair]):
    """Pairs read one by one from disk when they are asked for.

    Args:
        source: random access records, as tfds' `as_data_source` gives them.
        paths: where source and target stand in a record.
    """

    def __init__(self, source: Sequence[Mapping[str, Any]], paths: tuple[Place, Place]) -> None:
        self._source = source
        self._paths = paths

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        record = self._source[index % len(self)]
        return _text_at(record, self._paths[0]), _text_at(record, self._paths[1])


def open_pairs(name: str, data_dir: str, languages: Sequence[str]) -> ParallelCorpus:
    """Opens a set of parallel text such as "wmt16_translate/de-en".

    A small set is read as a whole: pairs with an empty side are dropped, and sentences that a
    held-out split shares with train counted. A large one stays on disk, as it is. Where validation
    or test is missing the set is read as well, and `pairs.hold_out` makes them from train.

    Args:
        name: as tensorflow-datasets spells it.
        data_dir: its folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        languages: the features of source and target.

    Raises:
        DataError: the set cannot be opened, has no train split or not these languages.
    """
    builder, sources = tfds_sets.open_sources(name, data_dir)
    paths = _paths_of(builder, name, languages)
    found = {split: PairRecords(source, paths) for split, source in sources.items()}
    if not len(found.get("train", ())):
        raise DataError(f"{name} has no train split; it has: {', '.join(found) or 'none'}.")
    missing = [split for split in SPLITS if not len(found.get(split, ()))]
    small = tfds_sets.is_small(builder)
    if not small and not missing:
        return ParallelCorpus(
            name=name,
            languages=tuple(languages),
            version=str(builder.version),
            sha256=tfds_sets.description_hash(builder),
            hashed="description",
            splits={split: found[split] for split in SPLITS},
        )
    notes = []
    read: dict[str, Sequence[Pair]] = {}
    for split in SPLITS:
        if split not in missing:
            read[split], dropped = drop_empty(found[split])
            if dropped:
                notes.append(f"{split}: {dropped} pairs had an empty side and were dropped")
            if not read[split]:
                raise DataError(f"{name}: no pair of {split} has text in both languages.")
    if missing:
        read.update(hold_out(read["train"], missing))
        notes.append(f"{' and '.join(missing)} held out from train")
    splits = {split: read[split] for split in SPLITS}
    return ParallelCorpus(
        name=name,
        languages=tuple(languages),
        version=str(builder.version),
        sha256=fingerprint(splits) if small else tfds_sets.description_hash(builder),
        hashed="documents" if small else "description",
        splits=splits,
        notes=(*notes, *overlaps(splits)),
    )


def _text_at(record: Mapping[str, Any], path: Place) -> bytes:
    value: Any = record
    for key in path:
        value = value[key]
    return value.encode() if isinstance(value, str) else bytes(value)


def _paths_of(
    builder: tfds.core.DatasetBuilder, name: str, languages: Sequence[str]
) -> tuple[Place, Place]:
    """Returns where the languages' texts stand in a record."""
    texts = {path[-1]: path for path in _texts(builder.info.features or {}, ())}
    if len(languages) != 2 or languages[0] == languages[1]:
        raise DataError(f"Translation needs two languages, not {list(languages)}.")
    for language in languages:
        if language not in texts:
            raise DataError(
                f"{name} has no text feature {language!r}.{nearest(language, texts)} "
                f"It has: {', '.join(sorted(texts)) or 'none'}."
            )
    return texts[languages[0]], texts[languages[1]]


def _texts(features: Mapping[str, Any], above: Place) -> Iterator[Place]:
    """Yields the paths of all texts in features, which may hold others."""
    for key, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from _texts(feature, (*above, key))
        elif tfds_sets.is_text(feature):
            yield (*above, key)
