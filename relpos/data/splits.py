"""Which documents are held out: by the hash of a document's key, up to a budget of bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

SPLITS = ("train", "validation", "test")


def held_out(
    keys: Sequence[bytes], sizes: Sequence[int], *, budget: int, largest: int
) -> dict[str, list[int]]:
    """Deal documents out to train, validation and test.

    In the order of their keys' SHA-256 the documents fill test, then validation, then train. A
    document's place depends on its key, hardly on what else there is.

    Args:
      keys: what is hashed for each document: its name, or its content.
      sizes: bytes of each document.
      budget: bytes that each of test and validation hold, at most.
      largest: a document of more bytes always goes to train, so that no single one makes up a
        held-out split.

    Returns:
      The indices of each split's documents, ascending.
    """
    order = sorted(range(len(keys)), key=lambda i: (hashlib.sha256(keys[i]).digest(), i))
    dealt: dict[str, list[int]] = {split: [] for split in SPLITS}
    room = {"test": budget, "validation": budget}
    for i in order:
        split = "train"
        if sizes[i] <= largest:
            split = next((s for s in ("test", "validation") if sizes[i] <= room[s]), "train")
        dealt[split].append(i)
        if split != "train":
            room[split] -= sizes[i]
    return {split: sorted(indices) for split, indices in dealt.items()}


def families(pairs: Sequence[tuple[Hashable, Hashable]]) -> list[list[int]]:
    """Return the indices of the pairs that hang together by a common first or second part."""
    # Each points to an earlier one of its family, and the first to itself.
    root = list(range(len(pairs)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for side in (0, 1):
        first: dict[Hashable, int] = {}
        for i, pair in enumerate(pairs):
            one, other = sorted((find(i), find(first.setdefault(pair[side], i))))
            root[other] = one
    found: dict[int, list[int]] = {}
    for i in range(len(pairs)):
        found.setdefault(find(i), []).append(i)
    return list(found.values())


def split_of(key: bytes) -> str:
    """Return the split that a key belongs to by its SHA-256.

    Eight tenths of all keys are train, a tenth each validation and test: for text that is written
    when it is asked for, so that there is no list to deal out.
    """
    tenth = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(tenth, "train")
