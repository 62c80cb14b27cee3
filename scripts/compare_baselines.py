"""Compares language models with a 5-gram model and xz, on the same held-out bytes.

    python scripts/compare_baselines.py [--workdir RUN ...] [--source files --path TEXT]

Prints bits per byte of the corpus' test split:

- of a 5-gram Witten-Bell byte model (ngram.py) counted on the train split;
- of xz: what the test split adds to the compressed size of the train split, with a dictionary that
  spans both, so that any passage of train can be copied;
- of every run named: what it wrote last for its own trained length into metrics.jsonl. A run that
  was trained on another corpus is refused.
"""

from __future__ import annotations

import lzma
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness import Parser
from ngram import WittenBell
from rich.console import Console
from rich.table import Table

from relpos.data import Corpus, DataError, text
from relpos.errors import UserError
from relpos.runs import Run, load_run
from relpos.runs.metrics import by_length
from relpos.terminal import printable

ORDER = 5


class Result(NamedTuple):
    """One line of the table."""

    name: str
    bits_per_byte: float
    remark: str


def ngram_result(corpus: Corpus[bytes]) -> Result:
    """Return the 5-gram model's bits per byte of the test split."""
    model = WittenBell(corpus.splits["train"], order=ORDER)
    bits = model.bits_per_byte(corpus.splits["test"])
    return Result(f"{ORDER}-gram Witten-Bell", bits, "bytes, ends of documents included")


def xz_result(corpus: Corpus[bytes]) -> Result:
    """Return the bits per byte that the test split adds to the train split under xz."""
    train, test = (b"".join(corpus.splits[split]) for split in ("train", "test"))
    # The smallest power of two, from 4 KiB up to the format's 1.5 GiB, that spans everything.
    window = min(max(4096, 1 << (len(train) + len(test) - 1).bit_length()), 3 << 29)
    spans = "spans" if window >= len(train) + len(test) else "does NOT span"

    def size(text: bytes) -> int:
        preset = 9 | lzma.PRESET_EXTREME
        filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": window}]
        return len(lzma.compress(text, filters=filters))

    bits = 8 * (size(train + test) - size(train)) / len(test)
    return Result("xz", bits, f"-9e, dictionary of {window >> 10:,} KiB {spans} train and test")


def run_result(run: Run, corpus: Corpus) -> Result:
    """Return what a run measured on the test split at its trained length.

    Raises:
        DataError: the run belongs to another corpus, or has no such figure.
    """
    there = run.provenance.get("corpus", {})
    for key, value in corpus.describe().items():
        if key in ("name", "version", "sha256") and there.get(key) != value:
            raise DataError(
                f"{run.name} was trained on another corpus: its {key} is {there.get(key)!r}, here it is {value!r}. "
                "Bits per byte of different texts cannot be compared."
            )
    settings = run.settings
    length = settings.get("sequence_length")
    figures = by_length(run.records(), "bits_per_byte")
    if length not in figures:
        raise DataError(
            f"{run.path}/metrics.jsonl has no bits_per_byte of the test split at length {length}: let a language "
            "model's run finish."
        )
    name = printable(f"{run.name} ({settings.get('encoding')})")
    return Result(name, figures[length], f"step {run.last_step}, length {length}")


def table(results: Sequence[Result], corpus: Corpus[bytes]) -> Table:
    """Return the results, each relative to the n-gram model, which comes first."""
    size = sum(map(len, corpus.splits["test"]))
    shown = Table(title=f"{corpus.name} {corpus.version}, test split: {size:,} bytes")
    shown.add_column("model")
    shown.add_column("bits per byte", justify="right")
    shown.add_column(f"vs {ORDER}-gram", justify="right")
    shown.add_column("remark", style="dim")
    for result in results:
        change = result.bits_per_byte / results[0].bits_per_byte - 1
        relative = "" if result is results[0] else f"{change:+.1%}"
        shown.add_row(result.name, f"{result.bits_per_byte:.4f}", relative, result.remark)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the process's exit status."""
    parser = Parser(__doc__)
    parser.add_argument("--workdir", action="append", default=[], type=Path, help="a run's folder")
    parser.add_argument("--source", default="library_text", help=", ".join(text.names()))
    parser.add_argument("--path", help="of files: the user's own text")
    parser.add_argument("--name", help="of tfds: a tensorflow-datasets set")
    parser.add_argument("--data_dir", help="the tensorflow-datasets folder")
    options = parser.parse_args(arguments)
    try:
        given = {"path": options.path, "name": options.name, "data_dir": options.data_dir}
        chosen = {key: value for key, value in given.items() if value is not None}
        corpus = text.load(options.source, **chosen)
        runs = [run_result(load_run(workdir), corpus) for workdir in options.workdir]
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    Console().print(table([ngram_result(corpus), xz_result(corpus), *runs], corpus))
    return 0


if __name__ == "__main__":
    sys.exit(main())
