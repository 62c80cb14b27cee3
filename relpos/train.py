"""Train a model: ``python -m relpos.train --config configs/lm.py --workdir DIR``.

Every key of the config can be set on the command line: ``--config.steps=100``,
``--config.encodings.rope.base=500000``. The same line again resumes a run that was interrupted.
"""

from collections.abc import Sequence

from rich.console import Console

from relpos import cli, config


def main(argv: Sequence[str]) -> int:
    """Read the flags and train; return the exit code."""
    parser = cli.Parser(
        prog="python -m relpos.train", description="Train a model, or go on with it."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a file of configs/")
    parser.add_argument("--workdir", required=True, type=cli.directory, metavar="DIR")
    parser.add_argument(
        "--config.KEY=VALUE", dest="_", metavar="", help="replace a value of the config"
    )
    flags, overrides = parser.parse_with_overrides(argv)
    chosen = config.load(flags.config, overrides)

    from relpos.training.loop import train  # after the config is read: mistakes are told at once

    return train(chosen, flags.workdir, Console())


if __name__ == "__main__":
    cli.run(main)
