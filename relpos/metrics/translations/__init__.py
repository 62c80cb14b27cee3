"""Metrics of translations: measure(found, wanted, language) -> a number, for sentences and one reference of each.

A file may have signature(language), which says in sacrebleu's terms what was computed.
"""

from collections.abc import Sequence
from typing import Any

from relpos.errors import UserError
from relpos.metrics import Metrics

METRICS = Metrics(__name__)


def scores(found: Sequence[str], wanted: Sequence[str], language: str = "") -> dict[str, Any]:
    """Return all metrics of translations, cased and on plain text, their signatures, and how many pairs there are.

    Args:
      found: translations.
      wanted: one reference for each.
      language: of both, such as "de" or "zh_Hant"; it decides how they are cut into words.

    Raises:
      UserError: there are none, or not as many of one as of the other.
    """
    if not found or len(found) != len(wanted):
        raise UserError(
            f"{len(found)} translations cannot be held against {len(wanted)} references."
        )
    signed = {
        f"{name}_signature": sign(language)
        for name, sign in METRICS.attributes("signature").items()
    }
    return METRICS.measure(list(found), list(wanted), language) | {"pairs": len(found)} | signed
