"""Metrics of question answering: measure(prediction, answers, empty) -> 0 to 1, as in SQuAD's evaluation scripts.

Rajpurkar et al. 2016, arXiv:1606.05250, and 2018, arXiv:1806.03822. Texts are compared in lower case, without ASCII
punctuation and articles (a, an, the), and with single spaces. `empty` is the score of two texts without words: 1 in
SQuAD 2.0, where the empty text answers an impossible question, 0 in 1.1.
"""

import re
import string

from relpos.metrics import Metrics

METRICS = Metrics(__name__)

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Normalise a text for comparison."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
