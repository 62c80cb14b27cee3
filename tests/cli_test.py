import logging

import jax.numpy as jnp
import numpy as np
import pytest

from relpos import cli
from relpos.data.errors import DataError
from relpos.errors import UserError


@pytest.fixture
def parser():
    parser = cli.Parser("prog", "Does things.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--top-k", type=int)
    return parser


def test_overrides_are_told_from_flags(parser):
    flags, overrides = parser.parse_with_overrides(
        ["--config.a.b=1=2", "--config", "x.py", "--config.c", "3", "--workdir=a b"]
    )
    assert (flags.config, flags.workdir) == ("x.py", "a b")
    assert overrides == [("a.b", "1=2"), ("c", "3")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--config x --wrkdir y", "unknown flag '--wrkdir': did you mean '--workdir'?"),
        ("--confg x --workdir y", "unknown flag '--confg': did you mean '--config'?"),
        ("--config x --workdir y --top-k z", "--top-k: invalid int value: 'z'"),
        ("--config x", "required: --workdir"),
        ("--config x --workdir y stray", "stray"),
        ("--config x --workdir y --config.a", "--config.a needs a value"),
        ("--config.a --config x --workdir y", "--config.a needs a value"),
    ],
)
def test_a_wrong_flag_is_answered_clearly(parser, line, message):
    with pytest.raises(UserError) as caught:
        parser.parse_with_overrides(line.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class OurError(UserError):
    exit_code = 1


@pytest.mark.parametrize(
    ("error", "code", "answer"),
    [
        (UserError("what and why"), 2, "error: what and why\n"),
        (OurError("what and why"), 1, "error: what and why\n"),
        (DataError("what and why"), 2, "error: what and why\n"),
        (UserError("a \x1b[2J\r\nb"), 2, "error: a \\x1b[2J\\r\nb\n"),
        (OSError(28, "No space left on device", "f"), 1, "No space left on device: 'f'\n"),
        (
            ModuleNotFoundError("No module named 'foo'", name="foo"),
            2,
            "error: No module named 'foo'\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (None, 0, ""),
    ],
)
def test_errors_of_the_user_and_the_disk_exit_without_a_traceback(error, code, answer, capsys):
    def main(argv):
        if error:
            raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == code
    assert capsys.readouterr().err.endswith(answer)


def too_big_for_numpy():
    np.zeros(2**62, np.int64)


def too_many_dimensions_for_numpy():
    np.zeros((2**40, 2**40))


def too_big_for_python():
    bytearray(2**62)


def too_big_for_jax():
    jnp.zeros(2**60, jnp.int8).block_until_ready()  # beyond any address


@pytest.mark.parametrize(
    "ask",
    [too_big_for_numpy, too_many_dimensions_for_numpy, too_big_for_python, too_big_for_jax],
)
def test_out_of_memory_is_one_line(ask, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda argv: ask())
    assert caught.value.code == 1
    answer = capsys.readouterr().err
    assert answer.startswith("error: out of memory (")
    assert answer.endswith("a smaller batch_size, sequence_length or model may fit\n")
    assert answer.count("\n") == 1


def test_other_errors_keep_their_traceback():
    def main(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)


def test_what_is_logged_is_a_plain_line_of_standard_error(capsys):
    def main(argv):
        logging.getLogger("relpos.data.text.sources.files").warning("%s is odd", "a\x1b[2Jb")

    with pytest.raises(SystemExit):
        cli.run(main)
    assert capsys.readouterr().err == "note: a\\x1b[2Jb is odd\n"
    assert not logging.getLogger("relpos").handlers
