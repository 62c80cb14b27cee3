"""The command ``relpos``, also ``python -m relpos``, and ``relpos-train`` and so on, one per command."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import relpos
from relpos import cli
from relpos.errors import UserError, did_you_mean

COMMANDS = ("train", "evaluate", "predict", "sweep", "report")
_PLAIN = ("sweep", "report")  # train nothing themselves: child processes prepare themselves
_USAGE = f"usage: relpos {{{','.join(COMMANDS)}}} ...   or: relpos --help, relpos --version"


def run_command(argv: Sequence[str]) -> int | None:
    """Run the command in the first argument on the rest; return its exit code.

    Raises:
      UserError: there is no such command.
    """
    if not argv:
        raise UserError(f"a command is missing. {_USAGE}")
    name, *arguments = argv
    if name == "--version":
        print(f"relpos {relpos.__version__}")
    elif name in ("-h", "--help"):
        print(f"{_USAGE}\n")
        for command in COMMANDS:
            title, examples = (_module(command).__doc__ or "").split("\n\n")[:2]
            print(f"{title}\n\n{examples}\n")
    elif name in COMMANDS:
        return _module(name).main(arguments)
    else:
        raise UserError(f"unknown command {name!r}{did_you_mean(name, COMMANDS)}")
    return None


def _module(command: str):
    return importlib.import_module(f"relpos.{command}")


def main() -> NoReturn:
    """Run the command line and exit. Called as ``relpos-NAME`` it is the command NAME."""
    _, dash, command = Path(sys.argv[0]).name.partition("relpos-")
    given = [command] if dash and command in COMMANDS else []
    sys.path.append(str(Path.cwd()))  # where a task of your own may be, as for python -m
    start = cli.run if [*given, *sys.argv[1:]][:1] in [[name] for name in _PLAIN] else cli.command
    start(lambda argv: run_command([*given, *argv]))


if __name__ == "__main__":
    main()
