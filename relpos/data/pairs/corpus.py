"""A corpus of sentence pairs, source and target as UTF-8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relpos.data.corpus import Corpus, Sizes, corpus_of
from relpos.data.pairs.pairs import Pair


def pairs_corpus(
    name: str,
    version: str,
    splits: Mapping[str, Sequence[Pair]],
    *,
    languages: Sequence[str],
    notes: Sequence[str] = (),
    description: str = "",
) -> Corpus[Pair]:
    """Return a corpus of pairs, see `relpos.data.corpus.corpus_of`."""
    return corpus_of(
        name,
        version,
        splits,
        unit="pairs",
        parts=lambda pair: pair,
        measure=_measure,
        description=description,
        languages=tuple(languages),
        notes=tuple(notes),
    )


def _measure(pairs: Sequence[Pair]) -> Sizes:
    return {
        "source_bytes": sum(len(source) for source, _ in pairs),
        "target_bytes": sum(len(target) for _, target in pairs),
    }
