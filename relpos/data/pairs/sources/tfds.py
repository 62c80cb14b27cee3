"""Parallel text from tensorflow-datasets: wmt*_translate, ted_hrlr_translate, or any two text features of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError, nearest
from relpos.data.mapped import Mapped
from relpos.data.pairs.corpus import Pair, drop_empty, overlaps, pairs_corpus, with_held_out
from relpos.data.splits import SPLITS


def load(
    *, name: str = "", languages: Sequence[str] = ("en", "de"), data_dir: str = ""
) -> Corpus[Pair]:
    """Load a set of parallel text such as "wmt16_translate/de-en".

    A small set is read whole: pairs with an empty side are dropped, and sentences that a held-out split shares with
    train are counted. A large set stays on disk unchanged, unless validation or test is missing; then it is read too,
    and the missing splits are held out from train.

    Args:
      name: as tensorflow-datasets spells it.
      languages: the features of source and target.
      data_dir: the tensorflow-datasets folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      DataError: the set cannot be opened, or lacks a train split or one of the languages.
    """
    from relpos.data import tfds_sets  # slow (a second), so imported only when this source is used

    builder, sources = tfds_sets.open_sources(name, data_dir)
    texts = {path[-1]: path for path in tfds_sets.texts(builder)}
    if len(languages) != 2 or languages[0] == languages[1]:
        raise DataError(f"Translation needs two different languages, not {list(languages)}.")
    for language in languages:
        if language not in texts:
            raise DataError(
                f"{name} has no text feature {language!r}.{nearest(language, texts)} "
                f"It has: {', '.join(sorted(texts)) or 'none'}."
            )
    source, target = (texts[language] for language in languages)

    def read(record: Mapping[str, Any]) -> Pair:
        return tfds_sets.text_at(record, source), tfds_sets.text_at(record, target)

    found = {split: Mapped(sources[split], read) for split in SPLITS if len(sources.get(split, ()))}
    if "train" not in found:
        raise DataError(f"{name} has no train split; it has: {', '.join(sources) or 'none'}.")
    version, description = str(builder.version), tfds_sets.description_hash(builder)
    if description and len(found) == len(SPLITS):
        return pairs_corpus(
            name, version, found, languages=tuple(languages), description=description
        )
    notes = []
    filled: dict[str, list[Pair]] = {}
    for split, pairs in found.items():
        filled[split], dropped = drop_empty(pairs)
        if dropped:
            notes.append(f"{split}: {dropped} pairs had an empty side and were dropped")
        if not filled[split]:
            raise DataError(f"{name}: no pair of {split} has text in both languages.")
    splits, held = with_held_out(filled)
    return pairs_corpus(
        name,
        version,
        splits,
        languages=tuple(languages),
        notes=(*notes, *held, *overlaps(splits)),
        description=description,
    )
