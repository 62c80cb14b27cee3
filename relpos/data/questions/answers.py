"""Compute answers from the logits of windows, and score them overall and by distance.

Exact match and F1 are those of the official evaluations of SQuAD 1.1 and 2.0: Rajpurkar et al. 2016, arXiv:1606.05250,
and 2018, arXiv:1806.03822, with the scripts evaluate-v1.1.py and evaluate-v2.0.py beside the data. Texts are compared
in lower case, without ASCII punctuation, without the words a, an and the, and with single spaces. F1 compares bags of
words; among several correct answers the best match counts.

The versions differ if a text has no words left: in 2.0 the empty text answers an impossible question, and F1 of two
empty texts is 1; in 1.1 it is 0, though exact match is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from relpos.data.errors import DataError
from relpos.data.questions.question import Question
from relpos.data.questions.rows import Prepared
from relpos.data.questions.windows import best_span
from relpos.metrics.answers import METRICS, normalise

MOST_DISTANCES = 16  # this many distances at most are reported one by one


class Answer(NamedTuple):
    """The best span of a question's context.

    Attributes:
      text: the span without surrounding white space.
      start: the index of its first character.
      score: p(first token) p(last token), normalised over all candidates in all windows.
      no_answer: null score minus span score, the null score being that of the window where it is least; positive if the
        model prefers "no answer".
    """

    text: str
    start: int
    score: float
    no_answer: float
    no_answer_score: float


def best_answer(
    context: str, prepared: Prepared, logits_W2T: np.ndarray, *, longest: int, no_answer: bool
) -> Answer:
    """Return the best span of tokens of the context.

    Args:
      context: the text.
      prepared: the question's tokens and windows.
      logits_W2T: logits of each position in each window's row as the first and as the last token.
      longest: the maximum number of tokens in an answer.
      no_answer: whether the first separator stands for "no answer".
    """
    logits_W2T = logits_W2T.astype(np.float64)
    starts_WS, stops_WS = (logits_W2T[:, end, prepared.head :] for end in (0, 1))
    span = best_span(starts_WS, stops_WS, prepared.windows, longest=longest)
    none = float(logits_W2T[:, :, 0].sum(axis=1).min()) if no_answer else -np.inf
    # Positions that are not candidates have a negligibly low logit.
    total = float(np.logaddexp.reduce(logits_W2T, axis=(0, 2)).sum())
    offsets = prepared.context.offsets[span.start : span.stop]
    start, stop = int(offsets[0, 0]), int(offsets[-1, 1])
    text = context[start:stop]
    return Answer(
        text.strip(),
        start + len(text) - len(text.lstrip()),
        float(np.exp(span.score - total)),
        none - span.score,
        float(np.exp(none - total)),
    )


def threshold(answers: Mapping[str, Answer], questions: Sequence[Question]) -> float:
    """Return the threshold of `scores` that maximises F1 over the questions with a prediction; choose it on validation.

    Return 0 if no question has a prediction.
    """
    gained = [  # by answering instead of abstaining
        (answers[q.id].no_answer, _measured(answers[q.id], q, np.inf)["f1"] - float(q.impossible))
        for q in questions
        if q.id in answers
    ]
    if not gained:
        return 0.0
    best, chosen, total = 0.0, float("-inf"), 0.0
    # Questions with equal confidence are answered together. Losses come first, so that no sum within such a group
    # exceeds the sum before or after it.
    for certainty, gain in sorted(gained):
        total += gain
        if total > best:
            best, chosen = total, certainty
    return chosen


def scores(
    answers: Mapping[str, Answer], questions: Sequence[Question], threshold: float | None
) -> dict[str, float]:
    """Return exact match and F1 in percent.

    Args:
      answers: by question id. A missing one counts as wrong; the official 2.0 script leaves out the question.
      questions: all of them.
      threshold: score by SQuAD 2.0, where an answer is "" if its `no_answer` exceeds this; None: by SQuAD 1.1.

    Returns:
      exact_match and f1; by SQuAD 2.0 also answerable_exact_match, answerable_f1 and impossible_accuracy if there are
      such questions.

    Raises:
      DataError: there are no questions, or with SQuAD 1.1 one has no answer.
    """
    if not questions:
        raise DataError("There are no questions to score.")
    answerable = [q for q in questions if not q.impossible]
    impossible = [q for q in questions if q.impossible]
    if threshold is None and impossible:
        raise DataError(
            f"{len(impossible)} questions, first {impossible[0].id}, have no answer: score by SQuAD 2.0."
        )
    found = {q.id: _measured(answers.get(q.id), q, threshold) for q in questions}
    percent = _percent(found, questions)
    if threshold is not None and answerable:
        of_these = _percent(found, answerable)
        percent |= {f"answerable_{name}": value for name, value in of_these.items()}
    if impossible:  # without answers, all metrics are the same
        percent["impossible_accuracy"] = _percent(found, impossible)["exact_match"]
    return percent


def _measured(answer: Answer | None, q: Question, threshold: float | None) -> dict[str, float]:
    """Return the metrics of an answer, from 0 to 1."""
    if answer is None:
        return dict.fromkeys(METRICS.names(), 0.0)
    if threshold is None:
        return METRICS.measure(answer.text, q.answers, 0.0)
    if answer.no_answer > threshold:
        return dict.fromkeys(METRICS.names(), float(q.impossible))
    # A correct answer that is only articles and punctuation does not count as an answer.
    correct = [text for text in q.answers if normalise(text)] or [""]
    return METRICS.measure(answer.text, correct, 1.0)


def _percent(
    found: Mapping[str, Mapping[str, float]], questions: Sequence[Question]
) -> dict[str, float]:
    """Return the mean of each metric over some questions in percent."""
    return {
        name: 100 * sum(found[q.id][name] for q in questions) / len(questions)
        for name in METRICS.names()
    }


def by_distance(
    answers: Mapping[str, Answer],
    questions: Sequence[Question],
    threshold: float | None,
    trained: int,
) -> list[dict[str, Any]]:
    """Return a record of the scores for each distance or range of distances, leaving out questions that have none.

    Each record has `distance`, such as "3" or "5-8", with ", beyond" if it exceeds `trained`, the greatest distance in
    training; `questions`, their number; and the scores. Other arguments are those of `scores`.
    """
    records = []
    for low, high in _ranges((question.group for question in questions), trained):
        chosen = [question for question in questions if low <= question.group <= high]
        if chosen:
            name = str(low) if low == high else f"{low}-{high}"
            distance = f"{name}, beyond" if low > trained else name
            found = scores(answers, chosen, threshold)
            records.append({"distance": distance, "questions": len(chosen), **found})
    return records


def _ranges(groups: Iterable[int], trained: int) -> list[tuple[int, int]]:
    """Return ranges of the distances that occur, none of which spans `trained`.

    If there are few distances, each is a range of its own; otherwise a range ends just below twice its start.
    """
    known = sorted({group for group in groups if group > 0})
    if len(known) <= MOST_DISTANCES:
        return [(group, group) for group in known]
    ranges, low = [], known[0]
    while low <= known[-1]:
        high = 2 * low - 1
        if low <= trained < high:
            high = trained
        ranges.append((low, high))
        low = high + 1
    return ranges
