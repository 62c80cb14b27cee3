"""A corpus of documents, each as bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relpos.data.corpus import Corpus, Sizes, corpus_of


def text_corpus(
    name: str, version: str, splits: Mapping[str, Sequence[bytes]], *, description: str = ""
) -> Corpus[bytes]:
    """Return a corpus of documents, see `relpos.data.corpus.corpus_of`."""
    return corpus_of(
        name,
        version,
        splits,
        unit="documents",
        parts=lambda document: (document,),
        measure=_measure,
        description=description,
    )


def _measure(documents: Sequence[bytes]) -> Sizes:
    return {"bytes": sum(len(documents[i]) for i in range(len(documents)))}
