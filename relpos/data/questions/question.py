"""Questions whose answers are spans of a text, and a record of those that cannot be used.

Texts are str and offsets count characters, as in SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question about a text.

    Attributes:
      id: unique within its file.
      context: the text that holds the answer.
      question: what is asked.
      answers: the correct texts; () for a question without an answer.
      starts: where each answer starts in the context, in characters: context[start : start + len(answer)] == answer.
      impossible: whether the context does not answer the question (SQuAD 2.0).
      group: a number by which results may be grouped. For stories and bAbI, the distance in sentences from the question
        back to the farthest fact it needs, 1 for the last sentence; otherwise 0.
      document: the article or story; its questions stay in one split.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    impossible: bool = False
    group: int = 0
    document: str = ""


@dataclasses.dataclass
class Fault:
    """A kind of fault: what is wrong, how many there are, and where the first one is."""

    message: str
    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.message}: {self.count}, first {self.first}"


class Reading:
    """The questions read so far, and a record of what was wrong.

    Attributes:
      questions: the usable ones.
    """

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self._ids: set[str] = set()
        self._faults: dict[str, Fault] = {}

    @property
    def problems(self) -> tuple[Fault, ...]:
        """What was corrected or left out, in the order of occurrence."""
        return tuple(self._faults.values())

    def complain(self, message: str, where: str, count: int = 1) -> None:
        """Count problems of one kind; the first is in the record at `where`."""
        self._faults.setdefault(message, Fault(message, 0, where)).count += count

    def add(
        self,
        where: str,
        *,
        id: Any,
        context: str,
        question: str,
        answers: Sequence[tuple[str, Any]],
        impossible: bool = False,
        group: int = 0,
        document: str = "",
    ) -> None:
        """Add a question if it is valid or can be corrected.

        `answers` are texts with their starts; for other arguments see `Question`. If a start is wrong or is not an int,
        take the answer's occurrence in the context nearest to that start. Leave out an answer that does not occur, and
        a question whose answers are all left out. If the id is neither text nor number, or is taken, replace it by
        `where`, such as "dev.json data[0].paragraphs[3].qas[1]"; replace an empty document by the context.
        """
        for name, text in (("context", context), ("question", question)):
            if not text.strip():
                return self.complain(f"empty {name}, question left out", where)
            if not _is_unicode(text):
                return self.complain(f"unpaired surrogate in {name}, question left out", where)
        if impossible and answers:
            self.complain("answers to an impossible question, ignored", where)
        found = [] if impossible else list(self._placed(where, context, answers))
        if not found and not impossible:
            return self.complain("no answer in the context, question left out", where)
        texts, starts = tuple(t for t, _ in found), tuple(s for _, s in found)
        id = self._unique(id, where)
        document = document or context
        self.questions.append(
            Question(id, context, question, texts, starts, impossible, group, document)
        )

    def _unique(self, id: Any, where: str) -> str:
        if not isinstance(id, str | int) or not str(id):
            self.complain("no id, replaced by the question's place", where)
            id = where
        elif str(id) in self._ids:
            self.complain("id of another question, replaced by the question's place", where)
            id = where
        self._ids.add(str(id))
        return str(id)

    def _placed(
        self, where: str, context: str, answers: Sequence[tuple[str, Any]]
    ) -> Iterator[tuple[str, int]]:
        """Yield the answers that occur in the context, with their correct starts."""
        for text, start in answers:
            is_start = isinstance(start, int) and start >= 0
            if not text.strip():
                self.complain("empty answer, left out", where)
            elif is_start and context.startswith(text, start):
                yield text, start
            else:
                text = text if text in context else text.strip()
                # A lookahead also finds overlapping occurrences.
                starts = [m.start() for m in re.finditer(f"(?={re.escape(text)})", context)]
                if starts:
                    self.complain("answer_start is not where the answer is, put right", where)
                    wanted = start if is_start else 0
                    yield text, min(starts, key=lambda start: abs(start - wanted))
                else:
                    self.complain("answer is not in its context, left out", where)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
