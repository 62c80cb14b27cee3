"""Choose the held-out items by the hash of their keys, up to a budget."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

SPLITS = ("train", "validation", "test")


def held_out(
    keys: Sequence[bytes], sizes: Sequence[int], *, budget: int, largest: int
) -> dict[str, list[int]]:
    """Assign items to train, validation and test.

    In the order of their keys' SHA-256 the items fill test, then validation, then train. An item's split depends on its
    key and hardly on the other items.

    Args:
      keys: the bytes to hash for each item: its name or its content.
      sizes: the size of each item, in bytes or in a unit of your choice.
      budget: the maximum total size of test and of validation.
      largest: larger items always go to train, so that no single item makes up a held-out split.

    Returns:
      The indices of each split's items, in ascending order.
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


def hold_out_families(
    kin: Sequence[Sequence[int]],
    keys: Sequence[bytes],
    missing: Sequence[str],
    *,
    budget: int,
    largest: int,
) -> dict[str, list[int]]:
    """Return the items of train and of each missing split, family by family; `families` are kept together.

    See `held_out`; `kin` lists the items of each family; the smallest key of a family is hashed for it.
    """
    dealt = held_out(
        [min(keys[i] for i in family) for family in kin],
        [len(family) for family in kin],
        budget=budget,
        largest=largest,
    )
    chosen: dict[str, list[int]] = {split: [] for split in ("train", *missing)}
    for split, numbers in dealt.items():
        of_split = chosen[split if split in missing else "train"]
        of_split += [i for number in numbers for i in kin[number]]
    return chosen


def families(pairs: Sequence[tuple[Hashable, Hashable]]) -> list[list[int]]:
    """Group pairs connected by a shared first or second part; return the indices of each group."""
    # Each pair points to an earlier one of its family, the first to itself.
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
    """Return the split of a key by its SHA-256.

    Eight tenths of all keys go to train, a tenth each to validation and test. This is for generated text, which has no
    list of documents to assign.
    """
    tenth = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(tenth, "train")
