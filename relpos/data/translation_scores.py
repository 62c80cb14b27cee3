"""Scores of translations: BLEU and chrF by sacrebleu, with their signatures, and exact match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sacrebleu

from relpos.data.errors import DataError


def scores(found: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    """Returns bleu, chrf and exact_match in percent, cased and on plain text.

    BLEU is that of Papineni et al. 2002 as `sacrebleu` computes it by default (Post 2018, arXiv:1804.08771).

    Args:
        found: translations.
        wanted: one reference for each.

    Raises:
        DataError: there are none, or not as many of one as of the other.
    """
    if not found or len(found) != len(wanted):
        raise DataError(
            f"{len(found)} translations cannot be held against {len(wanted)} references."
        )
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    return {
        "bleu": bleu.corpus_score(list(found), [list(wanted)]).score,
        "chrf": chrf.corpus_score(list(found), [list(wanted)]).score,
        "exact_match": 100 * exact_matches(found, wanted) / len(found),
        "pairs": len(found),
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


def exact_matches(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Returns how many translations are their reference, spaces apart."""
    return sum(a.split() == b.split() for a, b in zip(found, wanted, strict=True))
