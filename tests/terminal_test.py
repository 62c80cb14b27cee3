import pytest

from relpos.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\x07b", r"a\x1b[2J\x07b"),
        ("\x9b31m \x7f\r\x00", r"\x9b31m \x7f\r\x00"),
        ("right\u202eleft\u2066", r"right\u202eleft\u2066"),
        ("half a pair \ud800", r"half a pair \ud800"),
        ("lines\nand\ttabs, Zoë, Ада, ┏━┓, 👩\u200d🔬, \u00a0", None),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(text, shown):
    assert printable(text) == (text if shown is None else shown)


def test_nothing_stays_but_what_is_to_be_kept():
    assert printable("a\nb\t", keep="") == r"a\nb\t"
