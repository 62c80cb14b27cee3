"""Shared code of the commands: flags with config overrides, and one-line error messages."""

import argparse
import contextlib
import errno
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from relpos import process
from relpos.errors import UserError, did_you_mean, what_is_missing
from relpos.terminal import printable

# A full or read-only disk, missing permissions, or a path that does not exist or is of the wrong kind.
_OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
)  # fmt: skip

RUNS = Path("runs")  # where the run directories of sweeps are by default


def directory(text: str) -> Path:
    """Parse a flag's directory path; reject ""."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


class _Paragraphs(argparse.HelpFormatter):
    """A help formatter that fills each paragraph separately, and keeps indented paragraphs and lists."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.strip("\n").split("\n\n")
        return "\n\n".join(
            part if part.startswith((" ", "-")) else fill(part, width, indent) for part in parts
        )


class Parser(argparse.ArgumentParser):
    """An argparse parser that suggests the nearest flag and accepts ``--config.KEY=VALUE``."""

    def __init__(self, prog: str, description: str, more: Callable[[], str] = str):
        """Build the parser.

        Args:
          prog: the command.
          description: the start of the help; indented paragraphs and lists are printed as they are.
          more: returns the end of the help; called only for --help.
        """
        super().__init__(
            prog=prog,
            description=description.replace("``", ""),
            allow_abbrev=False,
            formatter_class=_Paragraphs,
        )
        self._more = more

    def format_help(self) -> str:
        """Return the help text."""
        return "\n".join(filter(None, (super().format_help(), self._more())))

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage and exiting."""
        raise UserError(f"{message} (see --help)")

    def parse_with_overrides(
        self, argv: Sequence[str]
    ) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
        """Return the flags and the (key, text) pairs of ``--config.KEY=VALUE``.

        ``--config.KEY VALUE`` is accepted as well.

        Raises:
          UserError: a flag is unknown, or an override has no value.
        """
        own, overrides = [], []
        rest = list(argv)
        while rest:
            token = rest.pop(0)
            if token.startswith("--config."):
                key, equals, text = token.removeprefix("--config.").partition("=")
                if not equals:
                    if not rest or rest[0].startswith("--"):
                        raise UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
                    text = rest.pop(0)
                overrides.append((key, text))
            else:
                own.append(token)
        return self.parse_args(own), overrides

    def parse_args(self, args=None, namespace=None):
        """Parse like argparse; for an unknown flag raise a UserError that suggests the nearest known one."""
        args = sys.argv[1:] if args is None else list(args)
        # argparse would report a missing flag before a misspelt one.
        for token in itertools.takewhile(lambda token: token != "--", args):
            flag = token.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                known = (f for f in self._option_string_actions if f[:2] == "--" and f != "--help")
                hint = did_you_mean(flag, known)
                if "--config" in self._option_string_actions:
                    hint += f" To set a key of the config, use --config.{flag[2:]}=VALUE."
                raise UserError(f"unknown flag {flag!r}{hint}")
        return super().parse_args(args, namespace)


def command(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Prepare this process for a command, run the command and exit."""
    process.prepare()
    run(main)


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Call ``main(argv)`` and exit with its code, or with a one-line message on standard error.

    The exit code is 2 for a user's mistake, 3 for a directory in use, and 1 for a failed run. Other exceptions are bugs
    in relpos and keep their traceback.
    """
    hush_orbax()
    try:
        with _plain_notes():
            code = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except UserError as error:
        code = _complain(error, error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in (
            "relpos",
            *sys.stdlib_module_names,
        ):
            raise
        code = _complain(what_is_missing(error), 2)
    except BrokenPipeError:  # the reader, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        code = _complain(error, 1)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        said = (str(error).strip() or "allocation failed").splitlines()[0]
        hint = "a smaller batch_size, sequence_length or model may fit"
        code = _complain(f"out of memory ({said}): {hint}", 1)
    sys.exit(code)


def hush_orbax() -> None:
    """Keep Orbax from logging every phase of a save and the errors that it raises.

    After a failure, its unfinished coroutines also complain about a closed event loop when they are collected. These
    settings last until a command's process ends; programs that import relpos make their own.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    show = sys.unraisablehook

    def show_others(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others


@contextlib.contextmanager
def _plain_notes() -> Iterator[None]:
    """Write log messages of relpos to standard error as plain lines, whatever handlers other libraries install."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Note("note: %(message)s"))
    logger = logging.getLogger("relpos")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Note(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether Python, NumPy or JAX failed to allocate memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ValueError):
        return str(error).startswith(("array is too big", "Maximum allowed dimension exceeded"))
    jax = sys.modules.get("jax")  # if the error is JAX's, JAX is imported already
    return (
        jax is not None
        and isinstance(error, jax.errors.JaxRuntimeError)
        and str(error).startswith("RESOURCE_EXHAUSTED")
    )


def _complain(error: Exception | str, code: int) -> int:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    return code
