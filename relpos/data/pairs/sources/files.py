"""The user's own parallel text: two files, one sentence per line, line i of one translating line i of the other.

A line ends only at a line feed. Other characters that Unicode counts as line breaks occur within sentences, and cutting
there would misalign all later lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relpos.data.corpus import Corpus
from relpos.data.errors import DataError
from relpos.data.pairs.corpus import Pair, drop_empty, overlaps, pairs_corpus, with_held_out
from relpos.data.reading import read_utf8

VERSION = "1.0.0"  # of the rules that clean and split files


def load(
    *,
    source: str = "",
    target: str = "",
    validation_source: str = "",
    validation_target: str = "",
    test_source: str = "",
    test_target: str = "",
    languages: Sequence[str] = ("en", "de"),
    train_words: int = 0,
) -> Corpus[Pair]:
    """Load the user's own parallel text.

    Args:
      source: file of train's source sentences, one per line, plain, .gz or .xz.
      target: file of their translations.
      validation_source: "", also for validation_target, means to hold out from train.
      validation_target: see validation_source.
      test_source: "", also for test_target, means to hold out from train.
      test_target: see test_source.
      languages: of source and target; the target's decides how BLEU splits words.
      train_words: keep only the train pairs whose source has at most this many words; 0 keeps all.

    Raises:
      DataError: a file cannot be used, or the files do not match.
    """
    files = {
        "train": (source, target),
        "validation": (validation_source, validation_target),
        "test": (test_source, test_target),
    }
    for split, (of_source, of_target) in files.items():
        if bool(of_source) != bool(of_target):
            raise DataError(
                f"{split} has only its {'source' if of_source else 'target'} file: sentences and their "
                "translations come in two files."
            )
    if len(languages) != 2:
        raise DataError(f"languages are those of source and target, not {list(languages)}.")
    if not source:
        raise DataError("No files given: set source and target to the training files.")
    notes: list[str] = []
    given: dict[str, list[Pair]] = {}
    for split, (of_source, of_target) in files.items():
        if of_source:
            given[split], dropped = _read_pairs(of_source, of_target)
            notes += dropped
    splits, held = with_held_out(given)
    notes += held
    if train_words:
        kept = [pair for pair in splits["train"] if len(pair[0].split()) <= train_words]
        notes.append(
            f"train: {len(splits['train']) - len(kept)} pairs with more than {train_words} words left out"
        )
        splits["train"] = kept
    return pairs_corpus(
        ", ".join(Path(file).name for file in files["train"]),
        VERSION,
        splits,
        languages=tuple(languages),
        notes=(*notes, *overlaps(splits)),
    )


def _read_pairs(source: str, target: str) -> tuple[list[Pair], list[str]]:
    """Return the pairs of two files, without those with an empty side, and a note if any were dropped."""
    sources, targets = _lines(source), _lines(target)
    if len(sources) != len(targets):
        raise DataError(
            f"{source} has {len(sources)} lines, but {target} has {len(targets)}: line i of one must be the "
            "translation of line i of the other."
        )
    pairs, dropped = drop_empty(zip(sources, targets, strict=True))
    if not pairs:
        raise DataError(f"{source} and {target} hold no pair of sentences.")
    names = f"{Path(source).name}, {Path(target).name}"
    note = f"{names}: {dropped} of {len(sources)} pairs had an empty side and were dropped"
    return pairs, [note] if dropped else []


def _lines(name: str) -> list[bytes]:
    """Return the lines of a UTF-8 file."""
    lines = read_utf8(name).split(b"\n")
    return lines[:-1] if not lines[-1] else lines
