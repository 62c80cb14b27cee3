"""BLEU (Papineni et al. 2002) with the defaults of `sacrebleu` (Post 2018, arXiv:1804.08771)."""

import sacrebleu

FORMAT = "{:.2f}"

# sacrebleu's tokenizers that need no extra packages, for languages without spaces between words.
TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char", "lo": "char", "km": "char", "my": "char"}


def measure(found: list[str], wanted: list[str], language: str) -> float:
    """Return BLEU, 0 to 100."""
    return float(_scorer(language).corpus_score(found, [wanted]).score)


def signature(language: str) -> str:
    """Return sacrebleu's signature."""
    scorer = _scorer(language)
    scorer.corpus_score([""], [[""]])
    return str(scorer.get_signature())


def _scorer(language: str) -> sacrebleu.BLEU:
    return sacrebleu.BLEU(tokenize=TOKENIZERS.get(language.replace("-", "_").split("_")[0], "13a"))
