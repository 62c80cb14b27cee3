"""The user's own parallel text: two files, one sentence a line, line i of one translating line i.

A line ends at a line feed, and at nothing else: other characters that Unicode counts as line ends
stand inside sentences, and cutting there would put all later lines beside the wrong ones.
"""

from __future__ import annotations

from pathlib import Path

from relpos.data.errors import DataError
from relpos.data.pairs import Pair, drop_empty
from relpos.data.reading import read_utf8


def read_pairs(source: str, target: str) -> tuple[list[Pair], list[str]]:
    """Reads two files of sentences; those that end in .gz or .xz are unpacked.

    White space around a sentence is dropped, and so are pairs with an empty side.

    Args:
        source: file of the source sentences.
        target: file of their translations.

    Returns:
        The pairs, and notes on what was dropped.

    Raises:
        DataError: a file cannot be read or is not UTF-8, the files have unequal numbers of lines,
            or no pair is left.
    """
    sources, targets = _lines(source), _lines(target)
    if len(sources) != len(targets):
        raise DataError(
            f"{source} has {len(sources)} lines, but {target} has {len(targets)}: each line must "
            "stand beside its translation."
        )
    pairs, dropped = drop_empty(zip(sources, targets, strict=True))
    names = f"{Path(source).name}, {Path(target).name}"
    if not pairs:
        raise DataError(f"{source} and {target} hold no pair of sentences.")
    if not dropped:
        return pairs, []
    return pairs, [f"{names}: {dropped} of {len(sources)} pairs had an empty side and were dropped"]


def _lines(name: str) -> list[bytes]:
    """Returns the lines of a UTF-8 file."""
    lines = read_utf8(name).split(b"\n")
    return lines[:-1] if not lines[-1] else lines
