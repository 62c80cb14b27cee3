"""Sentence pairs: drop empty ones, and hold out splits that share no sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from relpos.data.errors import DataError
from relpos.data.splits import families, held_out

Pair = tuple[bytes, bytes]  # source and target, UTF-8

HELD_OUT_FRACTION = 0.025  # of the pairs, in each of validation and test
HELD_OUT_PAIRS = 2000  # at most


def drop_empty(pairs: Iterable[Pair]) -> tuple[list[Pair], int]:
    """Strip white space from the pairs; return the non-empty ones and the number of the others."""
    stripped = [(strip(source), strip(target)) for source, target in pairs]
    kept = [(source, target) for source, target in stripped if source and target]
    return kept, len(stripped) - len(kept)


def strip(sentence: bytes) -> bytes:
    """Return a sentence without surrounding white space, including Unicode's."""
    text = sentence.decode("utf-8", "surrogateescape").strip()
    return text.encode("utf-8", "surrogateescape")


def hold_out(pairs: Sequence[Pair], missing: Sequence[str]) -> dict[str, list[Pair]]:
    """Assign pairs to train and to the missing splits by the hash of their content.

    Pairs that share a source or a target stay together, so no sentence of either language is in two splits. A large
    group of such pairs goes to train.

    Args:
      pairs: the pairs of train.
      missing: "validation", "test" or both.

    Raises:
      DataError: the pairs are too few, or too many of them are connected.
    """
    kin = families(pairs)
    budget = max(1, min(HELD_OUT_PAIRS, int(HELD_OUT_FRACTION * len(pairs))))
    dealt = held_out(
        [min(pairs[i][0] for i in family) for family in kin],
        [len(family) for family in kin],
        budget=budget,
        largest=max(1, budget // 10),
    )
    splits: dict[str, list[int]] = {"train": [], **{split: [] for split in missing}}
    for split, indices in dealt.items():
        chosen = splits[split if split in missing else "train"]
        chosen += [i for family in indices for i in kin[family]]
    for split, indices in splits.items():
        if not indices:
            raise DataError(
                f"{len(pairs)} pairs, in {len(kin)} groups without a common sentence, are too few to "
                f"put any aside for {split}: give {split} files."
            )
    return {split: [pairs[i] for i in sorted(indices)] for split, indices in splits.items()}


def overlaps(splits: Mapping[str, Sequence[Pair]]) -> list[str]:
    """Return a note for every held-out split with source sentences that are also in train."""
    trained = {source for source, _ in splits["train"]}
    notes = []
    for split, pairs in splits.items():
        shared = sum(source in trained for source, _ in pairs) if split != "train" else 0
        if shared:
            notes.append(f"{split}: {shared} of {len(pairs)} source sentences stand in train too")
    return notes
