"""Metrics of translations: measure(found, wanted, language) -> a number, with one reference per sentence.

A module may also define signature(language), the signature of the metric in sacrebleu's format.
"""

from collections.abc import Sequence
from typing import Any

from relpos.errors import UserError
from relpos.metrics import Metrics

METRICS = Metrics(__name__)


def scores(found: Sequence[str], wanted: Sequence[str], language: str = "") -> dict[str, Any]:
    """Compute all metrics of the translations `found` against `wanted`, one reference each, on cased, detokenized text.

    Return them with their signatures and the number of pairs. The target language, such as "de" or "zh_Hant",
    determines tokenization.

    Raises:
      UserError: there are no translations, or the numbers of translations and references differ.
    """
    if not found or len(found) != len(wanted):
        raise UserError(
            f"{len(found)} translations cannot be compared with {len(wanted)} references."
        )
    signed = {
        f"{name}_signature": sign(language)
        for name, sign in METRICS.attributes("signature").items()
    }
    return METRICS.measure(list(found), list(wanted), language) | {"pairs": len(found)} | signed
