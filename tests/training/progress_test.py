import io
import re

import pytest
from rich.console import Console

from relpos.training import evaluation, progress
from relpos.training.progress import RunProgress, counted, evaluating, say, show_record

MEANS = {"loss": 12.3456, "bits_per_byte": 17.811, "tokens_per_second": 123456.7, "other": 1.0}


FORMATS = {"bits_per_byte": "{:.3f} bpb"}


def console(terminal, width=60):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, _environ={})


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_fits_its_terminal_and_shows_everything(width):
    screen = console(terminal=True, width=width)
    bar = RunProgress(screen, steps=100_000, step=500, formats=FORMATS)
    bar.start()
    bar.update(99_000, MEANS)
    bar.log(99_000, MEANS)
    bar.stop()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", text) if "99000/100000" in line]
    assert lines
    for line in lines:
        assert len(line) <= width
        for part in ("12.346", "17.811 bpb", "123k tok/s"):
            assert part in line
        assert "…" not in line


def test_other_output_gets_a_line_for_each_report_and_no_control_characters():
    screen = console(terminal=False)
    bar = RunProgress(screen, steps=100, step=0, formats=FORMATS)
    bar.start()
    for step in range(1, 51):
        bar.update(step, MEANS)
    bar.log(50, MEANS)
    bar.stop()
    (line,) = screen.file.getvalue().splitlines()
    assert re.fullmatch(r"step 50/100  loss 12\.346  17\.811 bpb  123k tok/s  0:0\d left", line)


def test_lines_are_printed_as_they_are():
    screen = console(terminal=True, width=20)
    say(screen, "[bold]'x' 123 " + "long " * 10)
    assert screen.file.getvalue() == "[bold]'x' 123 " + "long " * 10 + "\n"


def test_escape_codes_of_a_line_are_spelt_out():
    screen = console(terminal=True, width=20)
    say(screen, "a\x1b]0;title\x07\nb")
    assert screen.file.getvalue() == "a\\x1b]0;title\\x07\nb\n"


def test_a_record_on_one_line():
    record = {"split": "validation", "length": 256, "bits_per_byte": 2.01349, "loss": None}
    shown = "validation: length 256, bits_per_byte 2.013, loss None"
    assert show_record(record) == show_record({**record, "bleu_signature": "nrefs:1"}) == shown


def evaluated(screen):
    """What is printed while two cases of three sentences, two of them in one batch, are evaluated."""
    with evaluating("test", ["short", "long"], screen) as cases:
        for case in cases:
            for _ in counted([[1, 2], [3]], f"of {case}", 3, len):
                if bar := progress._evaluation.get():
                    bar.refresh()  # as it does by itself ten times a second
    return "" if screen is None else re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue())


def test_an_evaluation_counts_its_cases_and_what_is_in_them():
    text = evaluated(console(terminal=True))
    assert re.search(r"evaluating test .* 50%", text)
    for case in ("short", "long"):
        for done in ("0%", "67%"):
            assert re.search(rf"of {case} .* {done}", text)
    assert list(counted("ab", "outside")) == ["a", "b"]


@pytest.mark.parametrize("screen", [None, console(terminal=False)])
def test_an_evaluation_that_nobody_watches_prints_no_bar(screen):
    assert not evaluated(screen)


def test_a_title_with_brackets_is_no_markup():
    screen = console(terminal=False, width=120)
    screen.print(evaluation._table([{"split": "a", "loss": 1.0}], "[a-c]*", {"loss": "{}"}, None))
    assert "[a-c]*" in screen.file.getvalue()
    with evaluating("[a-c]*.txt [/x]", [1], console(terminal=True)) as cases:
        assert list(cases) == [1]
