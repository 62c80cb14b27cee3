"""Score a trained model.

    relpos evaluate --workdir runs/lm
    relpos evaluate --workdir runs/lm --lengths=256,4096

Scores one split, test by default. (The end of training scores all splits except train and validation.)
``--lengths=256,4096`` sets the window lengths, in tokens, of texts and of question contexts, or the lengths of
examples of an algorithmic task; translation has no lengths. ``--text=FILE`` scores a language model on a file, a glob
or a folder instead of a split. A task of your own, a module named in the run's config, requires ``--trust_code``.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from relpos import cli
from relpos.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Read the flags and print the table."""
    parser = cli.Parser(prog="relpos evaluate", description=__doc__)
    parser.add_argument("--workdir", required=True, type=cli.directory, metavar="DIR")
    parser.add_argument("--step", type=int, help="which checkpoint; default: the newest")
    parser.add_argument("--split", default="", help="such as test (the default), or longer")
    parser.add_argument("--text", default="", metavar="FILE", help="score this in place of a split")
    parser.add_argument("--lengths", default="", metavar="N,N", help="default: those of the config")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there too")
    parser.add_argument("--trust_code", action="store_true", help="run a task of your own")
    flags = parser.parse_args(argv)
    if flags.json is not None and not flags.json.parent.is_dir():
        raise UserError(f"--json {str(flags.json)!r}: its folder is missing")
    if flags.json is not None and flags.json.is_dir():
        raise UserError(f"--json {str(flags.json)!r}: it is a folder")
    if flags.text and flags.split:
        raise UserError("--text is scored in place of a split: give it or --split, not both")
    lengths = [_length(part) for part in flags.lengths.split(",") if part.strip()]

    from rich.console import Console  # imported late, to report invalid flags at once

    from relpos.runs import load_run

    run = load_run(flags.workdir, flags.step, trust_code=flags.trust_code)
    records = run.evaluate(
        flags.split or "test", lengths=lengths, text=flags.text, console=Console()
    )
    if flags.json is not None:
        from relpos.files import write_out
        from relpos.training.metrics_log import finite

        text = json.dumps([finite(record) for record in records], indent=2, allow_nan=False)
        write_out(flags.json, text + "\n")


def _length(text: str) -> int:
    try:
        length = int(text)
    except ValueError:
        raise UserError(f"--lengths takes whole numbers such as 256,512; got {text!r}") from None
    if length < 1:
        raise UserError(f"--lengths must be positive, got {length}")
    return length


if __name__ == "__main__":
    cli.command(main)
