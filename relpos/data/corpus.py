"""The data of a run: items in splits, with a name, a version and a hash."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Sizes = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Corpus(Generic[Item]):
    """Documents, pairs of sentences or questions, by split.

    Attributes:
      name: such as "library_text", "wmt16_translate/de-en", or the name of a file.
      version: the version of the data; for files, of the rules that clean and split them.
      sha256: the hash of what `hashed` names.
      splits: "train", "validation" and "test", each with random access to its items; some sources add "longer", whose
        items are longer than those of the other three.
      sizes: counts for each split, such as {"documents": 12, "bytes": 3456}.
      hashed: "items": all items of all splits; "description": a large set's name, version and the sizes of its
        parts.
      languages: source and target language, if the items are translations.
      problems: one message for each kind of fault that was corrected or led to an omission.
      notes: messages about what was dropped, held out or shared by two splits, or how the data were generated.
    """

    name: str
    version: str
    sha256: str
    splits: Mapping[str, Sequence[Item]]
    sizes: Mapping[str, Sizes]
    hashed: str = "items"
    languages: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return what the results depend on, as a dict for a run's config.json."""
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "hashed": self.hashed,
            **({"languages": list(self.languages)} if self.languages else {}),
            "splits": {split: dict(sizes) for split, sizes in self.sizes.items()},
        }


def fingerprint(
    splits: Mapping[str, Sequence[Item]], parts: Callable[[Item], Iterable[bytes]]
) -> str:
    """Return the SHA-256 of the parts of all items of all splits, including their order and boundaries."""
    digest = hashlib.sha256()
    for split, items in splits.items():
        digest.update(f"{split} {len(items)}\n".encode())
        for i in range(len(items)):
            for part in parts(items[i]):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
    return digest.hexdigest()


def corpus_of(
    name: str,
    version: str,
    splits: Mapping[str, Sequence[Item]],
    *,
    unit: str,
    parts: Callable[[Item], Iterable[bytes]],
    measure: Callable[[Sequence[Item]], Sizes],
    description: str = "",
    **more: Any,
) -> Corpus[Item]:
    """Return a corpus identified by the hash of its items or, if it is large, of its description.

    Args:
      name: see `Corpus`, also for version and splits.
      version: the version of the data.
      splits: items by split.
      unit: the name of the items in `sizes`.
      parts: returns the bytes that an item consists of.
      measure: returns further sizes of a split.
      description: the hash of a large dataset's description, used instead of the hash of its items, which stay unread.
      **more: other attributes of `Corpus`.
    """
    sizes = {
        split: {unit: len(items), **({} if description else measure(items))}
        for split, items in splits.items()
    }
    return Corpus(
        name,
        version,
        description or fingerprint(splits, parts),
        splits,
        sizes,
        "description" if description else "items",
        **more,
    )
