"""Questions as rows of tokens, and their targets; N tokens of a context, W windows, T positions of a row.

    inputs      <sep> Where is Ada ? <sep> Ada went to the attic . Ben took ...  _ _
    parts         1    1    1   1  1   1    2   2    2  2    2   2  2   2   ...  0 0
    candidates    n    .    .   .  .   .    x   x    x  x    x   x  x   x   ...  . .

A context that is too long is read in overlapping windows, one per row. An answer is a first and a last token among
those marked x; if questions may have no answer, both are n, the first separator, for such a question.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from relpos.data.errors import DataError
from relpos.data.questions.question import Question
from relpos.data.questions.windows import holding, token_span, windows
from relpos.data.tokenizers.offsets import OffsetTokenizer, TokensWithOffsets

Row = dict[str, np.ndarray]

PADDING, QUESTION, CONTEXT = 0, 1, 2  # the parts of a row

NOT_TRAINED = -1  # a target
_NO_ANSWER = 0  # the place of the first separator


class Prepared(NamedTuple):
    """A question as tokens.

    Attributes:
      question: ids.
      context: ids and their offsets in the text.
      windows: the token range of each window of the context, [W, 2].
    """

    question: np.ndarray
    context: TokensWithOffsets
    windows: np.ndarray

    @property
    def head(self) -> int:
        """The number of positions before the context."""
        return len(self.question) + 2


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """How questions are laid out in rows.

    Attributes:
      tokenizer: the tokenizer.
      length: T.
      overlap: tokens that a window shares with the next one; a question must leave room for a window of twice as many
        tokens.
      longest_answer: in tokens; at most overlap + 1, so that every answer is whole in some window.
      no_answer: whether a question may have no answer.
    """

    tokenizer: OffsetTokenizer
    length: int
    overlap: int
    longest_answer: int
    no_answer: bool

    def __post_init__(self) -> None:
        if not 1 <= self.longest_answer <= self.overlap + 1:
            raise DataError(
                f"longest_answer={self.longest_answer} should be from 1 to overlap + 1, which is "
                f"{self.overlap + 1}: longer answers might not fit whole into any window."
            )
        if self.longest_question < 1:
            raise DataError(
                f"Rows of {self.length} tokens have no room for a question and windows that overlap by "
                f"{self.overlap}: make them longer than {2 + 2 * self.overlap}, or reduce the overlap."
            )

    @property
    def longest_question(self) -> int:
        """The most tokens of a question."""
        return self.length - 2 - 2 * self.overlap

    def prepare(self, context: str, question: str) -> Prepared:
        """Return a question as tokens.

        Raises:
          DataError: the question is too long.
        """
        asked = self.tokenizer.tokens(question).ids
        if len(asked) > self.longest_question:
            raise DataError(
                f"question of {len(asked)} tokens, more than the {self.longest_question} that fit"
            )
        tokens = self.tokenizer.tokens(context)
        size = self.length - 2 - len(asked)
        return Prepared(
            asked, tokens, windows(len(tokens.ids), size=size, stride=size - self.overlap)
        )

    def targets(self, prepared: Prepared, question: Question) -> np.ndarray | None:
        """Return the first and the last position of the answer in each window's row, int [W, 2].

        The answer is the first of those given. A window that does not hold it whole has no answer or, if every question
        must have one, is `NOT_TRAINED`.

        Returns:
          The targets, or None if the answer is longer than `longest_answer`.
        """
        elsewhere = _NO_ANSWER if self.no_answer else NOT_TRAINED
        targets = np.full((len(prepared.windows), 2), elsewhere)
        if question.impossible:
            return targets
        first, start = question.answers[0], question.starts[0]
        low, high = token_span(prepared.context.offsets, start, start + len(first))
        if high - low > self.longest_answer:
            return None
        whole = holding(prepared.windows, low, high)
        shift = prepared.head - prepared.windows[whole, :1]
        targets[whole] = np.array([low, high - 1]) + shift
        return targets

    def row(self, question: np.ndarray, context: np.ndarray, target: np.ndarray) -> Row:
        """Return the row of a window from the ids of the question and of the window, and a row of `targets`."""
        separator, head = self.tokenizer.separator, len(question) + 2
        stop = head + len(context)
        inputs = np.zeros(self.length, np.int32)
        inputs[:stop] = np.concatenate([[separator], question, [separator], context])
        index = np.arange(self.length)
        parts = np.where(index < head, QUESTION, np.where(index < stop, CONTEXT, PADDING))
        candidates = parts == CONTEXT
        candidates[_NO_ANSWER] = self.no_answer
        return {
            "inputs": inputs,
            "parts": parts.astype(np.int32),
            "candidates": candidates,
            "target": np.asarray(target, np.int32),
        }

    def rows(self, prepared: Prepared, targets: np.ndarray | None = None) -> list[Row]:
        """Return the rows of all windows of a question; without targets, they are not trained on."""
        if targets is None:
            targets = np.full((len(prepared.windows), 2), NOT_TRAINED)
        return [
            self.row(prepared.question, prepared.context.ids[low:high], target)
            for (low, high), target in zip(prepared.windows, targets, strict=True)
        ]
