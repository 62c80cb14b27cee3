"""The text of a run: a name, a version, a hash, and documents in three splits that share none.

`load()` gives library_text, which needs no download; `load(path=...)` the user's own text;
`load(tfds=...)` any tensorflow-datasets text set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from relpos.data import files, library_text, paths, splits
from relpos.data.errors import DataError


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents as bytes, by split.

    Attributes:
        name: such as "library_text", "lm1b", or the file's name.
        version: of the text, or for the user's files of the rules that split them.
        sha256: of what `hashed` says.
        splits: "train", "validation" and "test", each with random access to its documents.
        hashed: "documents": all bytes of all splits; "description": a large set's name, version and
            the sizes of its parts.
    """

    name: str
    version: str
    sha256: str
    splits: Mapping[str, Sequence[bytes]]
    hashed: str = "documents"

    def describe(self) -> dict[str, Any]:
        """Returns what a run's config.json holds: everything but the text, ready for JSON.

        The bytes of a split are counted where counting is cheap, that is where they were hashed.
        """
        sizes: dict[str, dict[str, int]] = {}
        for split, documents in self.splits.items():
            sizes[split] = {"documents": len(documents)}
            if self.hashed == "documents":
                sizes[split]["bytes"] = sum(len(documents[i]) for i in range(len(documents)))
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "hashed": self.hashed,
            "splits": sizes,
        }


def load(*, path: str = "", field: str = "text", tfds: str = "", data_dir: str = "") -> Corpus:
    """Loads a corpus: library_text, unless a path or a tensorflow-datasets set is named.

    Args:
        path: a file, a glob or a folder of text, see `files.read_splits`.
        field: the field of .jsonl files there that holds the text.
        tfds: a tensorflow-datasets set, see `tfds_sets.open_set`.
        data_dir: the tensorflow-datasets folder; "" means $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        DataError: both are named, or what is named cannot be used.
    """
    if path and tfds:
        raise DataError(f"Give either path={path!r} or tfds={tfds!r}, not both.")
    if path:
        found = files.read_splits(path, field)
        name = paths.expanded(path).resolve().name
        return Corpus(name, files.VERSION, splits.fingerprint(found), found)
    # Importing tensorflow-datasets takes a second, which the user's own files need not wait for.
    if tfds:
        from relpos.data import tfds_sets

        opened = tfds_sets.open_set(tfds, data_dir)
        return Corpus(tfds, opened.version, opened.sha256, opened.splits, opened.hashed)
    from relpos.data import library_text_builder

    prepared = library_text_builder.prepare(data_dir)
    return Corpus("library_text", library_text.VERSION, splits.fingerprint(prepared), prepared)
