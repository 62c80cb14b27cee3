"""chrF (Popović 2015) with the defaults of `sacrebleu`."""

import sacrebleu

FORMAT = "{:.2f}"


def measure(found: list[str], wanted: list[str], language: str) -> float:
    """Return chrF, 0 to 100."""
    return float(sacrebleu.CHRF().corpus_score(found, [wanted]).score)


def signature(language: str) -> str:
    """Return sacrebleu's signature."""
    scorer = sacrebleu.CHRF()
    scorer.corpus_score([""], [[""]])
    return str(scorer.get_signature())
