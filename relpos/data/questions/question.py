"""Questions whose answers are spans of a text, and the account of those that could not be used.

Texts are str and offsets count characters, as in SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question on a text.

    Attributes:
      id: unlike that of any other question of its file.
      context: the text that holds the answer.
      question: what is asked.
      answers: the texts that count as right; () for a question without an answer.
      starts: where each answer begins in context, in characters:
        context[start : start + len(answer)] == answer, always.
      impossible: the context does not answer the question (SQuAD 2.0).
      group: what results may be told apart by. For stories and bAbI the distance in sentences
        from the question back to the farthest fact it needs, 1 for the last sentence; else 0.
      document: the article or the story; one document's questions stay in one split.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    impossible: bool = False
    group: int = 0
    document: str = ""


@dataclasses.dataclass(frozen=True)
class Fault:
    """What was wrong with some records, how many there were, and where the first one stands."""

    message: str
    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.message}: {self.count}, first {self.first}"


class Reading:
    """Questions as they are read, and an account of what was wrong with them.

    Attributes:
      questions: those that can be used.
    """

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self._ids: set[str] = set()
        self._found: dict[str, tuple[int, str]] = {}

    @property
    def problems(self) -> tuple[Fault, ...]:
        """What was put right or left out, in the order it was met."""
        return tuple(Fault(m, count, first) for m, (count, first) in self._found.items())

    def complain(self, message: str, where: str) -> None:
        """Count a problem of the record that stands at `where`."""
        count, first = self._found.get(message, (0, where))
        self._found[message] = (count + 1, first)

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
        """Keep a question if it is sound or can be made so.

        An answer whose start is wrong or missing is searched in the context, and the occurrence
        nearest to that start taken. An answer that is not there is left out, and so is a question
        without any. An id that is no text or number, or that another question has, becomes `where`.

        Args:
          where: the record's place, such as "dev.json data[0].paragraphs[3].qas[1]".
          id: see `Question`, as do context, question, impossible, group and document.
          context: the text.
          question: what is asked.
          answers: text and start of each; a start that is no int is none.
          impossible: whether the context has no answer.
          group: the distance.
          document: the article or story; "" stands for the context.
        """
        for name, text in (("context", context), ("question", question)):
            if not text.strip():
                return self.complain(f"empty {name}, question left out", where)
            if not _is_unicode(text):
                return self.complain(f"half a surrogate pair in {name}, question left out", where)
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
        """Yield the answers that are in the context, with their true starts."""
        for text, start in answers:
            is_start = isinstance(start, int) and start >= 0
            if not text.strip():
                self.complain("empty answer, left out", where)
            elif is_start and context.startswith(text, start):
                yield text, start
            else:
                text = text if text in context else text.strip()
                places = list(_occurrences(context, text))
                if places:
                    self.complain("answer_start is not where the answer is, put right", where)
                    wanted = start if is_start else 0
                    yield text, min(places, key=lambda place: abs(place - wanted))
                else:
                    self.complain("answer is not in its context, left out", where)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _occurrences(context: str, text: str) -> Iterator[int]:
    place = context.find(text)
    while place >= 0:
        yield place
        place = context.find(text, place + 1)
