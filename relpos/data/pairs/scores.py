"""Scores of translations: BLEU and chrF by sacrebleu, with their signatures, and exact match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sacrebleu

from relpos.data.errors import DataError

# The tokenizers built into sacrebleu for languages without spaces between words.
TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}


def scores(found: Sequence[str], wanted: Sequence[str], language: str = "") -> dict[str, Any]:
    """Return bleu, chrf and exact_match in percent, case-sensitive and on plain text.

    BLEU is that of Papineni et al. 2002 as `sacrebleu` computes it by default (Post 2018, arXiv:1804.08771).

    Args:
      found: translations.
      wanted: one reference for each translation.
      language: their language, such as "de" or "zh_Hant", which decides how BLEU splits words.

    Raises:
      DataError: there are no translations, or not as many as references.
    """
    if not found or len(found) != len(wanted):
        raise DataError(
            f"{len(found)} translations cannot be compared with {len(wanted)} references."
        )
    tokenizer = TOKENIZERS.get(language.replace("-", "_").split("_")[0], "13a")
    bleu, chrf = sacrebleu.BLEU(tokenize=tokenizer), sacrebleu.CHRF()
    return {
        "bleu": bleu.corpus_score(list(found), [list(wanted)]).score,
        "chrf": chrf.corpus_score(list(found), [list(wanted)]).score,
        "exact_match": 100 * exact_matches(found, wanted) / len(found),
        "pairs": len(found),
        "bleu_signature": str(bleu.get_signature()),
        "chrf_signature": str(chrf.get_signature()),
    }


def exact_matches(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Return how many translations equal their reference, apart from spaces."""
    return sum(a.split() == b.split() for a, b in zip(found, wanted, strict=True))
