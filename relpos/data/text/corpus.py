"""A corpus of documents, each as bytes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from relpos.data.corpus import Sizes, corpus_of


def _measure(documents: Sequence[bytes]) -> Sizes:
    return {"bytes": sum(len(documents[i]) for i in range(len(documents)))}


# Return a corpus of documents, given its name, version and splits.
text_corpus = functools.partial(
    corpus_of, unit="documents", parts=lambda document: (document,), measure=_measure
)
