"""Train a model, or resume training.

    relpos train --config lm --workdir runs/lm
    relpos train --config lm --workdir runs/t5 --config.encoding=t5 --config.encodings.t5.num_buckets=64

Every key of the config can be set on the command line. Repeat the command to resume an interrupted run.
``python -m relpos.train`` is the same command.
"""

from collections.abc import Sequence

from relpos import cli


def main(argv: Sequence[str]) -> int:
    """Read the flags and train; return the exit code."""
    parser = cli.Parser(prog="relpos train", description=__doc__, more=_configs)
    parser.add_argument(
        "--config", required=True, metavar="NAME", help="one of those below, or a file of your own"
    )
    parser.add_argument("--workdir", required=True, type=cli.directory, metavar="DIR")
    parser.add_argument(
        "--config.KEY=VALUE", dest="_", metavar="", help="replace a value of the config"
    )
    flags, overrides = parser.parse_with_overrides(argv)

    from rich.console import Console  # imported late, to report invalid flags at once

    from relpos.training import run_config

    config = run_config.load(flags.config, overrides)

    from relpos.training.loop import train

    return train(config, flags.workdir, Console())


def _configs() -> str:
    from relpos import config_help

    return config_help.describe()


if __name__ == "__main__":
    cli.command(main)
