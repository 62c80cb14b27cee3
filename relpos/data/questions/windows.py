"""Split long contexts into overlapping windows of tokens, and convert token spans to character spans.

As in BERT's run_squad (Devlin et al. 2019, arXiv:1810.04805): a context that is too long for the model is split into
windows of `size` tokens, one every `stride` tokens. An answer is a training target in the windows that hold it whole. A
span is scored in the window that gives it the most context, so that every span has one score. Here this is the context
of the whole span; in run_squad, that of its first token.

Shapes: N tokens of a context, W windows, S tokens of a window.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from relpos.data.errors import DataError


class Span(NamedTuple):
    """A span of tokens [start, stop) and its score."""

    start: int
    stop: int
    score: float


def windows(length: int, *, size: int, stride: int) -> np.ndarray:
    """Return the token range [first, stop) of every window, int64 [W, 2].

    Every token is in a window, and every span of at most size - stride + 1 tokens is whole in some window.

    Args:
      length: N, tokens of the context.
      size: S, tokens of a window; the last may have fewer.
      stride: the distance between the first tokens of consecutive windows.

    Raises:
      DataError: the stride is not from 1 to size, so that there would be gaps.
    """
    if not 1 <= stride <= size:
        raise DataError(
            f"stride={stride} should be from 1 to size={size}, or tokens would be left out."
        )
    count = 1 + max(0, -(-(length - size) // stride))
    starts = stride * np.arange(count if length else 0)
    return np.stack([starts, np.minimum(starts + size, length)], axis=1)


def holding(windows_W2: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return which windows hold the tokens [start, stop) whole, bool [W]."""
    return (windows_W2[:, 0] <= start) & (stop <= windows_W2[:, 1])


def best_span(
    start_WS: np.ndarray, stop_WS: np.ndarray, windows_W2: np.ndarray, *, longest: int
) -> Span:
    """Return the span with the highest sum of scores, each taken in its window with the most context.

    Args:
      start_WS: score of each token of each window as the first of an answer.
      stop_WS: score of each token of each window as the last of an answer.
      windows_W2: the ranges that `windows` returns; scores beyond the end of a window are ignored.
      longest: the maximum number of tokens in an answer.

    Raises:
      DataError: there are no windows.
    """
    if not len(windows_W2):
        raise DataError("There are no windows, so no span to choose.")
    length = int(windows_W2[:, 1].max())
    longest = min(longest, length)
    # Rows: the first token. Columns: how many tokens follow it.
    context = np.full((length, longest), -np.inf)
    score = np.full((length, longest), -np.inf)
    for (low, high), starts_S, stops_S in zip(windows_W2, start_WS, stop_WS, strict=True):
        size = int(high - low)
        first = np.arange(size)[:, None]
        last = first + np.arange(longest)
        inside = last < size
        last = np.minimum(last, size - 1)
        # The smaller side counts; ties go to the earlier window, which is never the shorter one.
        here = np.where(inside, np.minimum(first, size - 1 - last), -np.inf)
        better = here > context[low:high]
        context[low:high] = np.where(better, here, context[low:high])
        sums = starts_S[:size, None].astype(np.float64) + stops_S[last]
        score[low:high] = np.where(better, sums, score[low:high])
    start, more = np.unravel_index(int(np.argmax(score)), score.shape)
    return Span(int(start), int(start + more + 1), float(score[start, more]))


def token_span(offsets_N2: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Return the smallest token range [first, stop) that holds the characters [start, stop), start < stop.

    The offsets are those of `relpos.data.tokenizers.offsets`.
    """
    first = int(np.searchsorted(offsets_N2[:, 1], start, side="right"))
    behind = int(np.searchsorted(offsets_N2[:, 0], stop, side="left"))
    return first, behind
