"""Exact match and F1 of answers, as the official evaluations of SQuAD 1.1 and 2.0 define them.

Rajpurkar et al. 2016, arXiv:1606.05250, and 2018, arXiv:1806.03822, with the scripts evaluate-v1.1.py and
evaluate-v2.0.py beside the data. Texts are compared in lower case, without ASCII punctuation, without the words a, an
and the, and with single spaces. F1 compares bags of words; among several correct answers the best match counts.

The versions differ if a text has no words left: in 2.0 the empty text answers an impossible question, and F1 of two
empty texts is 1; in 1.1 it is 0, though exact match is 1.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Mapping, Sequence

from relpos.data.errors import DataError
from relpos.data.questions.question import Question

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Return the normalised text that is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1.0 if the prediction is one of the answers, else 0.0."""
    return float(normalise(prediction) in map(normalise, answers))


def f1(prediction: str, answers: Sequence[str], *, empty: float = 1.0) -> float:
    """Return the best F1 between the prediction's words and an answer's.

    Args:
      prediction: the predicted text.
      answers: the correct ones.
      empty: F1 of two texts without words: 1 in SQuAD 2.0, 0 in 1.1.
    """
    return max(_f1(normalise(prediction).split(), normalise(a).split(), empty) for a in answers)


def _f1(predicted: list[str], right: list[str], empty: float) -> float:
    if not predicted and not right:
        return empty
    common = (collections.Counter(predicted) & collections.Counter(right)).total()
    return 2 * common / (len(predicted) + len(right))


def scores_v1(predictions: Mapping[str, str], questions: Sequence[Question]) -> dict[str, float]:
    """Return {"exact_match", "f1"} in percent, by SQuAD 1.1.

    Args:
      predictions: predicted text by question id; a missing one counts as wrong.
      questions: questions with answers.

    Raises:
      DataError: there are no questions, or one has no answer.
    """
    _check(questions)
    if impossible := [q.id for q in questions if q.impossible]:
        raise DataError(
            f"{len(impossible)} questions, first {impossible[0]}, have no answer: score by SQuAD 2.0."
        )
    exact, overlap = 0.0, 0.0
    for q in questions:
        if q.id in predictions:
            exact += exact_match(predictions[q.id], q.answers)
            overlap += f1(predictions[q.id], q.answers, empty=0.0)
    return {"exact_match": 100 * exact / len(questions), "f1": 100 * overlap / len(questions)}


def scores_v2(
    predictions: Mapping[str, str],
    questions: Sequence[Question],
    *,
    no_answer: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """Return percentages by SQuAD 2.0: of all questions, and of those with and without an answer.

    A missing prediction counts as wrong; the official script leaves its question out.

    Args:
      predictions: predicted text by question id; "" for no answer.
      questions: with and without answers.
      no_answer: the model's confidence that a question has no answer, such as a probability.
      threshold: if no_answer exceeds it, the prediction is "".

    Returns:
      exact_match and f1; answerable_exact_match, answerable_f1 and impossible_accuracy if there are such questions.

    Raises:
      DataError: there are no questions.
    """
    _check(questions)
    pairs = {q.id: _pair_v2(predictions, q, no_answer or {}, threshold) for q in questions}
    groups = {
        "": list(pairs.values()),
        "answerable_": [pairs[q.id] for q in questions if not q.impossible],
        "impossible_": [pairs[q.id] for q in questions if q.impossible],
    }
    scores = {}
    for name, group in groups.items():
        if not group:
            continue
        exact, overlap = (100 * sum(column) / len(group) for column in zip(*group, strict=True))
        if name == "impossible_":  # without answers, both scores are the same
            scores["impossible_accuracy"] = exact
        else:
            scores |= {f"{name}exact_match": exact, f"{name}f1": overlap}
    return scores


def _pair_v2(
    predictions: Mapping[str, str], q: Question, no_answer: Mapping[str, float], threshold: float
) -> tuple[float, float]:
    if q.id not in predictions:
        return 0.0, 0.0
    # An answer of only articles and punctuation is none.
    answers = [answer for answer in q.answers if normalise(answer)] or [""]
    if q.id in no_answer and no_answer[q.id] > threshold:
        return float(q.impossible), float(q.impossible)
    return exact_match(predictions[q.id], answers), f1(predictions[q.id], answers)


def best_threshold(
    predictions: Mapping[str, str],
    questions: Sequence[Question],
    no_answer: Mapping[str, float],
    *,
    score: str = "f1",
) -> float:
    """Return the threshold of `scores_v2` that maximises a score; choose it on validation.

    Args:
      predictions: the best span by question id, whether or not the question seems answerable.
      questions: with and without answers.
      no_answer: for every question, the model's confidence that it has no answer.
      score: "f1" or "exact_match".
    """
    _check(questions)
    column = {"exact_match": 0, "f1": 1}[score]
    gained = []  # by answering the question rather than giving no answer
    for q in questions:
        answered = _pair_v2(predictions, q, {}, 0.0)[column]
        gained.append((no_answer[q.id], answered - float(q.impossible)))
    best, threshold, total = 0.0, float("-inf"), 0.0
    # Questions with equal confidence are answered together. Losses come first, so that no sum within such a group
    # exceeds the sum before or after it.
    for certainty, gain in sorted(gained):
        total += gain
        if total > best:
            best, threshold = total, certainty
    return threshold


def _check(questions: Sequence[Question]) -> None:
    if not questions:
        raise DataError("There are no questions to score.")
