"""Exact match and F1 of answers, as the official evaluations of SQuAD 1.1 and 2.0 define them.

Rajpurkar et al. 2016, arXiv:1606.05250, and 2018, arXiv:1806.03822, with the scripts evaluate-v1.1.py and
evaluate-v2.0.py beside the data. Texts are compared in lower case, without ASCII punctuation, without the words a, an
and the, and with single spaces. F1 compares bags of words; among several correct answers the best match counts.

The versions differ if a text has no words left: in 2.0 the empty text answers an impossible question, and F1 of two
empty texts is 1; in 1.1 it is 0, though exact match is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relpos.data.errors import DataError
from relpos.data.questions.question import Question
from relpos.metrics.answers import METRICS, normalise


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
    found = [
        METRICS.measure(predictions[q.id], q.answers, 0.0) if q.id in predictions else _all(0.0)
        for q in questions
    ]
    return _percent(found)


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
    found = {q.id: _scores_v2(predictions, q, no_answer or {}, threshold) for q in questions}
    groups = {
        "": list(found.values()),
        "answerable_": [found[q.id] for q in questions if not q.impossible],
        "impossible_": [found[q.id] for q in questions if q.impossible],
    }
    scores = {}
    for group, members in groups.items():
        if members and group == "impossible_":  # without answers, all metrics are the same
            scores["impossible_accuracy"] = _percent(members)["exact_match"]
        elif members:
            scores |= {f"{group}{name}": value for name, value in _percent(members).items()}
    return scores


def _all(value: float) -> dict[str, float]:
    return dict.fromkeys(METRICS.names(), value)


def _percent(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric in percent."""
    return {name: 100 * sum(each[name] for each in found) / len(found) for name in METRICS.names()}


def _scores_v2(
    predictions: Mapping[str, str], q: Question, no_answer: Mapping[str, float], threshold: float
) -> dict[str, float]:
    if q.id not in predictions:
        return _all(0.0)
    # An answer of only articles and punctuation is none.
    answers = [answer for answer in q.answers if normalise(answer)] or [""]
    if q.id in no_answer and no_answer[q.id] > threshold:
        return _all(float(q.impossible))
    return METRICS.measure(predictions[q.id], answers, 1.0)


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
    gained = []  # by answering this question instead of giving none
    for q in questions:
        answered = _scores_v2(predictions, q, {}, 0.0)[score]
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
