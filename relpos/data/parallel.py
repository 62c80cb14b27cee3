"""Parallel text for translation: pairs of sentences in splits, with a name, a version and a hash.

`load_parallel()` gives "cldr", which needs no download, `load_parallel("scan")` the commands of
SCAN; `source=` and `target=` name the user's own files, `tfds=` a tensorflow-datasets set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relpos.data import cldr, pairs, scan
from relpos.data.errors import DataError, nearest
from relpos.data.pairs import Pair
from relpos.data.parallel_files import read_pairs

VERSION = "1.0.0"  # of the rules that clean and split files
EMBEDDED = ("cldr", "scan")
# Written anew at every start, which takes two to three seconds.
CLDR_PAIRS = {"train": 20_000, "validation": 500, "test": 500, "longer": 500}


@dataclasses.dataclass(frozen=True)
class ParallelCorpus:
    """Pairs of sentences, source and target as UTF-8 bytes, by split.

    Attributes:
        name: such as "cldr", "wmt16_translate/de-en", or the names of the train files.
        version: of the text, or for the user's files of the rules that clean and split them.
        sha256: of what `hashed` says.
        splits: "train", "validation" and "test", each with random access to its pairs; and of an
            embedded corpus "longer", pairs longer than those of the other three.
        languages: of source and target, where they are known.
        hashed: "documents": all sentences of all splits; "description": a large set's name, version
            and the sizes of its parts.
        notes: what was dropped, held out or found in two splits, in words.
    """

    name: str
    version: str
    sha256: str
    splits: Mapping[str, Sequence[Pair]]
    languages: tuple[str, ...] = ()
    hashed: str = "documents"
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Returns what a run's config.json holds: what results depend on, ready for JSON.

        The bytes of a split are counted where counting is cheap, that is where they were hashed.
        """
        sizes: dict[str, dict[str, int]] = {}
        for split, found in self.splits.items():
            sizes[split] = {"pairs": len(found)}
            if self.hashed == "documents":
                sizes[split]["source_bytes"] = sum(len(source) for source, _ in found)
                sizes[split]["target_bytes"] = sum(len(target) for _, target in found)
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "hashed": self.hashed,
            "languages": list(self.languages),
            "splits": sizes,
        }


def load_parallel(
    name: str = "cldr",
    *,
    source: str = "",
    target: str = "",
    validation_source: str = "",
    validation_target: str = "",
    test_source: str = "",
    test_target: str = "",
    tfds: str = "",
    data_dir: str = "",
    languages: Sequence[str] = ("en", "de"),
    lengths: tuple[int, int] = (1, 4),
    cutoff: int = 26,
    seed: int = 0,
) -> ParallelCorpus:
    """Loads parallel text: an embedded corpus, unless files or a tensorflow-datasets set are named.

    Args:
        name: "cldr" or "scan"; of no account where files or a set are named.
        source: file of the source sentences of train, one a line, plain, .gz or .xz.
        target: file of their translations.
        validation_source: "" together with validation_target: held out from train.
        validation_target: see validation_source.
        test_source: "" together with test_target: held out from train.
        test_target: see test_source.
        tfds: a tensorflow-datasets set, see `parallel_tfds.open_pairs`.
        data_dir: the tensorflow-datasets folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        languages: for cldr two locales, for a tensorflow-datasets set two of its features.
        lengths: for cldr: the least and the most items of a list; those of the split "longer" have
            more, up to twice as many.
        cutoff: for scan: the most actions of a pair in train, see `scan.split`.
        seed: for cldr and scan.

    Raises:
        DataError: what is named cannot be used, or does not go together.
    """
    files = {
        "train": (source, target),
        "validation": (validation_source, validation_target),
        "test": (test_source, test_target),
    }
    if any(map(any, files.values())):
        if tfds:
            raise DataError(f"Give either files or tfds={tfds!r}, not both.")
        return _own_files(files)
    if tfds:
        # Importing tensorflow-datasets takes a second, which all others need not wait for.
        from relpos.data import parallel_tfds

        return parallel_tfds.open_pairs(tfds, data_dir, languages)
    if name == "cldr":
        return _cldr(languages, lengths, seed)
    if name == "scan":
        return _scan(cutoff, seed)
    raise DataError(
        f"There is no embedded corpus {name!r}.{nearest(name, EMBEDDED)} "
        f"Known: {', '.join(EMBEDDED)}; or name files (source=, target=) or a set (tfds=)."
    )


def _own_files(files: Mapping[str, tuple[str, str]]) -> ParallelCorpus:
    for split, (source, target) in files.items():
        if bool(source) != bool(target):
            raise DataError(
                f"{split} has only its {'source' if source else 'target'} file: sentences and their "
                "translations come in two files."
            )
    if not files["train"][0]:
        raise DataError("There are files to validate or test on, but none to train on: source=...")
    notes: list[str] = []
    splits: dict[str, list[Pair]] = {}
    for split, (source, target) in files.items():
        if source:
            splits[split], dropped = read_pairs(source, target)
            notes += dropped
    missing = [split for split in files if split not in splits]
    if missing:
        splits.update(pairs.hold_out(splits["train"], missing))
        notes.append(f"{' and '.join(missing)} held out from train")
    splits = {split: splits[split] for split in files}
    return ParallelCorpus(
        name=", ".join(Path(file).name for file in files["train"]),
        version=VERSION,
        sha256=pairs.fingerprint(splits),
        splits=splits,
        notes=(*notes, *pairs.overlaps(splits)),
    )


def _cldr(languages: Sequence[str], lengths: tuple[int, int], seed: int) -> ParallelCorpus:
    most = lengths[1]
    splits = {
        split: cldr.pairs(
            count,
            length=(most + 1, 2 * most) if split == "longer" else lengths,
            split="test" if split == "longer" else split,
            seed=seed,
            languages=languages,
        )
        for split, count in CLDR_PAIRS.items()
    }
    return ParallelCorpus(
        name="cldr",
        version=cldr.description(),
        sha256=pairs.fingerprint(splits),
        splits=splits,
        languages=cldr.pair_of_locales(languages),
        notes=(f"lists of {lengths[0]} to {most} items, longer: up to {2 * most}; seed {seed}",),
    )


def _scan(cutoff: int, seed: int) -> ParallelCorpus:
    found = scan.split(cutoff, seed)._asdict()
    splits = {
        split: [(command.encode(), actions.encode()) for command, actions in found[split]]
        for split in ("train", "validation", "test", "longer")
    }
    return ParallelCorpus(
        name="scan",
        version=VERSION,
        sha256=pairs.fingerprint(splits),
        splits=splits,
        languages=("command", "actions"),
        notes=(f"at most {cutoff} actions, longer: more; seed {seed}",),
    )
