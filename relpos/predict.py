"""Use a trained model.

    relpos predict --workdir runs/lm "def main(" "The " --temperature=0.7
    relpos predict --workdir runs/cldr < sentences.txt

Without prompts, every line of standard input is a prompt. A causal language model prints each prompt with its
continuation, in order, separated by empty lines. A prompt longer than the longest evaluation window is cut to its last
tokens; --context sets how many. Other models answer each prompt with one line. If a line cannot be answered, its output
line is empty, the error goes to standard error, and the final exit code is 1:

- masked language models fill in every [MASK] of a line with one token;
- translation models translate the line;
- question answering reads {"context": ..., "question": ...} and writes JSON with the answer;
- algorithmic tasks read the symbols of a question, separated by spaces.
"""

import io
import select
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from relpos import cli
from relpos.errors import UserError
from relpos.terminal import printable

LINES_AT_ONCE = 512
BYTES_AT_ONCE = 1 << 22  # per batch of lines, unless a single line is longer
READ_BYTES = 1 << 16


def main(argv: Sequence[str]) -> int:
    """Read the flags and write the continuations or answers to standard output; return 1 if one is missing."""
    parser = cli.Parser(prog="relpos predict", description=__doc__)
    parser.add_argument("prompts", nargs="*", help="default: the lines of standard input")
    parser.add_argument("--workdir", required=True, type=cli.directory, metavar="DIR")
    parser.add_argument("--step", type=int, help="which checkpoint; default: the newest")
    parser.add_argument(
        "--max_tokens",
        type=int,
        help="most tokens of a continuation; default: the config's",
    )
    parser.add_argument(
        "--context",
        type=int,
        help="how many of a prompt's last tokens are read; default: as many as the run is evaluated at",
    )
    parser.add_argument("--temperature", type=float, help="0: the most probable token")
    parser.add_argument("--top_k", type=int, help="0: all")
    parser.add_argument("--top_p", type=float)
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--trust_code", action="store_true", help="run a task of your own")
    flags = parser.parse_args(argv)
    if flags.context is not None and flags.context < 1:
        raise UserError(f"--context must be positive, got {flags.context}")
    if flags.seed is not None and not 0 <= flags.seed < 2**32:
        raise UserError(f"--seed must be from 0 to {2**32 - 1}, got {flags.seed}")

    # Imported late, to report invalid flags at once.
    from relpos.nn import Sampling
    from relpos.nn.generate import check_new_tokens
    from relpos.runs import load_run

    given = {name: getattr(flags, name) for name in ("temperature", "top_k", "top_p")}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        Sampling(**given)  # validates them early
        if flags.max_tokens is not None:
            check_new_tokens(flags.max_tokens)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    run = load_run(flags.workdir, flags.step, trust_code=flags.trust_code)
    prompts = [prompt.encode("utf-8", "surrogateescape") for prompt in flags.prompts]  # as typed
    chunks = iter([prompts]) if prompts else _chunks()
    how = {"max_tokens": flags.max_tokens, "context": flags.context, "seed": flags.seed}
    answers = run.answers(chunks, **how, **given)
    return 1 if _write(answers, between=b"\n" if run.continues else b"") else 0


def _write(answers: Iterable[bytes | UserError], between: bytes) -> int:
    """Write each answer on a line, with `between` before all but the first; return the number of errors."""
    out = sys.stdout.buffer
    refused = 0
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, UserError):
            print(printable(f"line {number}: {answer}"), file=sys.stderr)
            answer = b""
            refused += 1
        out.write((between if number > 1 else b"") + answer + b"\n")
        out.flush()
    return refused


def _chunks() -> Iterator[list[bytes]]:
    """Yield the lines of standard input in chunks as they arrive, so that interactive callers need not wait."""
    begun: list[bytes] = []  # pieces of an incomplete line
    waiting: list[bytes] = []
    size = 0
    source = cast(io.BufferedReader, sys.stdin.buffer)
    while read := source.read1(READ_BYTES):
        if b"\n" not in read:
            begun.append(read)
            continue
        *lines, rest = b"".join([*begun, read]).split(b"\n")
        begun = [rest]
        for line in lines:
            waiting.append(line.rstrip(b"\r"))
            size += len(line)
            if len(waiting) == LINES_AT_ONCE or size >= BYTES_AT_ONCE:
                yield waiting
                waiting, size = [], 0
        if waiting and not _more_is_there(source):
            yield waiting
            waiting, size = [], 0
    if last := b"".join(begun):
        waiting.append(last.rstrip(b"\r"))
    if waiting:
        yield waiting


def _more_is_there(source: io.BufferedReader) -> bool:
    """Return whether reading would not block. Files never block; pipes and terminals do if they are empty."""
    try:
        return bool(select.select([source], [], [], 0)[0])
    except io.UnsupportedOperation:  # no file descriptor: the data are in memory
        return True


if __name__ == "__main__":
    cli.command(main)
