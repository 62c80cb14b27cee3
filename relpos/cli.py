"""What the entry points share: flags with config overrides, and errors answered in a line."""

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

# A disk that is full or read-only, a path without the right to it or with something else in its place.
_OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG,
)  # fmt: skip


def directory(text: str) -> Path:
    """Return the path of a flag that names a directory; "" is none."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


class _Paragraphs(argparse.HelpFormatter):
    """Fills each paragraph of a text on its own, but for what is indented or a list."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.strip("\n").split("\n\n")
        return "\n\n".join(
            part if part.startswith((" ", "-")) else fill(part, width, indent) for part in parts
        )


class Parser(argparse.ArgumentParser):
    """An argparse parser which names the nearest right flag and knows ``--config.KEY=VALUE``."""

    def __init__(self, prog: str, description: str, more: Callable[[], str] = str):
        """Build it.

        Args:
          prog: the command.
          description: what --help says first; indented paragraphs and lists are printed as they are.
          more: what it says last, asked for only then.
        """
        super().__init__(
            prog=prog,
            description=description.replace("``", ""),
            allow_abbrev=False,
            formatter_class=_Paragraphs,
        )
        self._more = more

    def format_help(self) -> str:
        """Return what --help prints."""
        return "\n".join(filter(None, (super().format_help(), self._more())))

    def error(self, message: str) -> NoReturn:
        """Raise a UserError where argparse would print its usage and exit."""
        raise UserError(f"{message} (see --help)")

    def parse_with_overrides(
        self, argv: Sequence[str]
    ) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
        """Return the flags and the (key, text) pairs of ``--config.KEY=VALUE``.

        ``--config.KEY VALUE`` is read as well.

        Raises:
          UserError: an unknown flag, or an override without a value.
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
        """Parse as argparse does; an unknown flag raises a UserError with the nearest known one."""
        args = sys.argv[1:] if args is None else list(args)
        # argparse would complain of the missing flag before the one that is misspelt.
        for token in itertools.takewhile(lambda token: token != "--", args):
            flag = token.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                hint = did_you_mean(flag, self._long_flags())
                if "--config" in self._option_string_actions:
                    hint += f" A key of the config is set by --config.{flag[2:]}=VALUE."
                raise UserError(f"unknown flag {flag!r}{hint}")
        return super().parse_args(args, namespace)

    def _long_flags(self) -> list[str]:
        return [f for f in self._option_string_actions if f.startswith("--") and f != "--help"]


def command(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run a command as all of this process, which is prepared for it."""
    process.prepare()
    run(main)


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Call ``main(argv)`` and exit: with 0, its code, or one clear line on standard error.

    A mistake of the user's exits with 2, a run that failed with 1. Other exceptions are faults of
    relpos and keep their traceback.
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
    except BrokenPipeError:  # the reader, `head` say, has gone
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
        said = (str(error).strip() or "no more to be had").splitlines()[0]
        hint = "a smaller batch_size, sequence_length or model may fit"
        code = _complain(f"out of memory ({said}): {hint}", 1)
    sys.exit(code)


def hush_orbax() -> None:
    """Keep Orbax from logging every phase of a save, and from telling again the errors that it raises.

    What it leaves unfinished when it fails complains that its event loop is closed, whenever that is collected: all
    of this is for the rest of a command's process. Where relpos is imported, such settings are the importer's.
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
    """Write what relpos logs as lines of standard error, whatever handlers other libraries have installed."""
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
    """Tell whether Python, NumPy or JAX could not have the memory they asked for."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ValueError):
        return str(error).startswith(("array is too big", "Maximum allowed dimension exceeded"))
    jax = sys.modules.get("jax")  # not imported for this: an error of JAX's has imported it
    return (
        jax is not None
        and isinstance(error, jax.errors.JaxRuntimeError)
        and str(error).startswith("RESOURCE_EXHAUSTED")
    )


def _complain(error: Exception | str, code: int) -> int:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    return code
