"""Corpora of sentence pairs: drop empty pairs, and hold out splits that share no sentence."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

from relpos.data.corpus import Sizes, corpus_of
from relpos.data.errors import DataError
from relpos.data.splits import SPLITS, families, hold_out_families

Pair = tuple[bytes, bytes]  # source and target, UTF-8

HELD_OUT_FRACTION = 0.025  # of the pairs, in each of validation and test
HELD_OUT_PAIRS = 2000  # at most


def _measure(pairs: Sequence[Pair]) -> Sizes:
    return {
        "source_bytes": sum(len(source) for source, _ in pairs),
        "target_bytes": sum(len(target) for _, target in pairs),
    }


# Return a corpus of pairs, given its name, version, splits and languages.
pairs_corpus = functools.partial(corpus_of, unit="pairs", parts=lambda pair: pair, measure=_measure)


def drop_empty(pairs: Iterable[Pair]) -> tuple[list[Pair], int]:
    """Strip white space from the pairs; return the non-empty ones and the number of the others."""
    stripped = [(strip(source), strip(target)) for source, target in pairs]
    kept = [(source, target) for source, target in stripped if source and target]
    return kept, len(stripped) - len(kept)


def strip(sentence: bytes) -> bytes:
    """Return a sentence without surrounding white space, including Unicode's."""
    text = sentence.decode("utf-8", "surrogateescape").strip()
    return text.encode("utf-8", "surrogateescape")


def with_held_out(given: Mapping[str, list[Pair]]) -> tuple[dict[str, list[Pair]], list[str]]:
    """Return train, validation and test, and a note if some were not given and are held out from train.

    Pairs are held out by the hash of their content. Those that share a source or a target stay together, so train and
    the splits held out from it share no sentence. A large group of such pairs goes to train.

    Raises:
      DataError: the pairs are too few, or too many of them are connected.
    """
    missing = [split for split in SPLITS if split not in given]
    if not missing:
        return {split: given[split] for split in SPLITS}, []
    pairs = given["train"]
    kin = families(pairs)
    budget = max(1, min(HELD_OUT_PAIRS, int(HELD_OUT_FRACTION * len(pairs))))
    sources = [source for source, _ in pairs]
    chosen = hold_out_families(kin, sources, missing, budget=budget, largest=max(1, budget // 10))
    splits = dict(given)
    for split, indices in chosen.items():
        if not indices:
            raise DataError(
                f"{len(pairs)} pairs, in {len(kin)} groups without a common sentence, are too few to hold any out for "
                f"{split}: give {split} files."
            )
        splits[split] = [pairs[i] for i in sorted(indices)]
    note = f"{' and '.join(missing)} held out from train"
    return {split: splits[split] for split in SPLITS}, [note]


def overlaps(splits: Mapping[str, Sequence[Pair]]) -> list[str]:
    """Return a note for every held-out split with source sentences that are also in train."""
    trained = {source for source, _ in splits["train"]}
    notes = []
    for split, pairs in splits.items():
        shared = sum(source in trained for source, _ in pairs) if split != "train" else 0
        if shared:
            notes.append(f"{split}: {shared} of {len(pairs)} source sentences are also in train")
    return notes
