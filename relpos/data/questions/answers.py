"""Compute answers from the logits of windows, and score them overall and by distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from relpos.data.questions.question import Question
from relpos.data.questions.rows import Prepared
from relpos.data.questions.scores import best_threshold, scores_v1, scores_v2
from relpos.data.questions.windows import best_span

MOST_DISTANCES = 16  # that are reported one by one


class Answer(NamedTuple):
    """The best span of a question's context.

    Attributes:
      text: the span without surrounding white space.
      start: its first character.
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
      logits_W2T: logits of each place in each window's row as the first and as the last token.
      longest: tokens of an answer, at most.
      no_answer: whether the first separator stands for "no answer".
    """
    logits_W2T = logits_W2T.astype(np.float64)
    starts_WS, stops_WS = (logits_W2T[:, end, prepared.head :] for end in (0, 1))
    span = best_span(starts_WS, stops_WS, prepared.windows, longest=longest)
    none = float(logits_W2T[:, :, 0].sum(axis=1).min()) if no_answer else -np.inf
    # Places that are no candidates have a negligibly low logit.
    total = float(np.logaddexp.reduce(logits_W2T, axis=(0, 2)).sum())
    places = prepared.context.places[span.start : span.stop]
    start, stop = int(places[0, 0]), int(places[-1, 1])
    text = context[start:stop]
    return Answer(
        text.strip(),
        start + len(text) - len(text.lstrip()),
        float(np.exp(span.score - total)),
        none - span.score,
        float(np.exp(none - total)),
    )


def threshold(answers: Mapping[str, Answer], questions: Sequence[Question]) -> float:
    """Return the threshold of `Answer.no_answer` that maximises F1 on these questions.

    It is 0 if none of them was read.
    """
    read = [question for question in questions if question.id in answers]
    if not read:
        return 0.0
    predictions = {id: answer.text for id, answer in answers.items()}
    return best_threshold(predictions, read, {id: a.no_answer for id, a in answers.items()})


def scores(
    answers: Mapping[str, Answer], questions: Sequence[Question], threshold: float | None
) -> dict[str, float]:
    """Return exact match and F1 in percent; a question without a prediction counts as wrong.

    Args:
      answers: by question id.
      questions: all of them.
      threshold: score by SQuAD 2.0 with this threshold; None: by SQuAD 1.1.
    """
    predictions = {id: answer.text for id, answer in answers.items()}
    if threshold is None:
        return scores_v1(predictions, questions)
    certainty = {id: answer.no_answer for id, answer in answers.items()}
    return scores_v2(predictions, questions, no_answer=certainty, threshold=threshold)


class AtDistance(NamedTuple):
    """The scores of the questions at a distance or in a range of distances.

    Attributes:
      distance: such as "3" or "5-8".
      beyond: whether it is greater than those of training.
      questions: the number of questions.
      scores: their scores.
    """

    distance: str
    beyond: bool
    questions: int
    scores: dict[str, float]


def by_distance(
    answers: Mapping[str, Answer],
    questions: Sequence[Question],
    threshold: float | None,
    trained: int,
) -> list[AtDistance]:
    """Return the scores by distance, without questions that have none.

    Args:
      answers: by question id.
      questions: all of them.
      threshold: as for `scores`.
      trained: the greatest distance of training.
    """
    found = []
    for low, high in distance_ranges((question.group for question in questions), trained):
        chosen = [question for question in questions if low <= question.group <= high]
        if chosen:
            name = str(low) if low == high else f"{low}-{high}"
            found.append(
                AtDistance(name, low > trained, len(chosen), scores(answers, chosen, threshold))
            )
    return found


def distance_ranges(groups: Iterable[int], trained: int) -> list[tuple[int, int]]:
    """Return ranges of distances by which to group results; none spans `trained`.

    If there are few distances, each is a range of its own; otherwise a range ends at twice its start.

    Args:
      groups: the distances that occur; 0 means none.
      trained: the greatest distance of training.
    """
    known = sorted({group for group in groups if group > 0})
    if len(known) <= MOST_DISTANCES:
        return [(group, group) for group in known]
    ranges, low = [], known[0]
    while low <= known[-1]:
        high = max(low, 2 * low - 1)
        if low <= trained < high:
            high = trained
        ranges.append((low, high))
        low = high + 1
    return ranges
