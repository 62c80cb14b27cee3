"""Parallel text from tensorflow-datasets: wmt*_translate, ted_hrlr_translate, any two text features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError, nearest
from relpos.data.pairs.corpus import pairs_corpus
from relpos.data.pairs.pairs import Pair, drop_empty, hold_out, overlaps
from relpos.data.splits import SPLITS
from relpos.data.tfds.records import Records, as_bytes

Place = tuple[str, ...]  # of a feature: ("en",) or ("translation", "en")


def load(
    *, name: str = "", languages: Sequence[str] = ("en", "de"), data_dir: str = ""
) -> Corpus[Pair]:
    """Load a set of parallel text such as "wmt16_translate/de-en".

    A small set is read whole: pairs with an empty side are dropped, and sentences that a held-out split shares with
    train are counted. A large set stays on disk unchanged, unless validation or test is missing; then it is read too,
    and `pairs.hold_out` takes them from train.

    Args:
      name: as tensorflow-datasets spells it.
      languages: the features of source and target.
      data_dir: its folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      DataError: the set cannot be opened, or lacks a train split or one of the languages.
    """
    from relpos.data.tfds import sets  # takes a second, for which other sources need not wait

    builder, sources = sets.open_sources(name, data_dir)
    texts = {path[-1]: path for path in sets.texts(builder)}
    paths = tuple(texts[language] for language in _checked(languages, texts, name))
    found = {
        split: Records(source, lambda record: (_at(record, paths[0]), _at(record, paths[1])))
        for split, source in sources.items()
    }
    if not len(found.get("train", ())):
        raise DataError(f"{name} has no train split; it has: {', '.join(found) or 'none'}.")
    missing = [split for split in SPLITS if not len(found.get(split, ()))]
    large = not sets.is_small(builder)
    version = str(builder.version)
    description = sets.description_hash(builder) if large else ""
    if large and not missing:
        on_disk = {split: found[split] for split in SPLITS}
        return pairs_corpus(name, version, on_disk, languages=languages, description=description)
    notes = []
    read: dict[str, list[Pair]] = {}
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
    return pairs_corpus(
        name,
        version,
        splits,
        languages=languages,
        notes=(*notes, *overlaps(splits)),
        description=description,
    )


def _at(record: Mapping[str, Any], path: Place) -> bytes:
    value: Any = record
    for key in path:
        value = value[key]
    return as_bytes(value)


def _checked(languages: Sequence[str], texts: Iterable[str], name: str) -> Sequence[str]:
    """Return the languages, or raise if the set lacks one."""
    if len(languages) != 2 or languages[0] == languages[1]:
        raise DataError(f"Translation needs two languages, not {list(languages)}.")
    for language in languages:
        if language not in texts:
            raise DataError(
                f"{name} has no text feature {language!r}.{nearest(language, texts)} "
                f"It has: {', '.join(sorted(texts)) or 'none'}."
            )
    return languages
