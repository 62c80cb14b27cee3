import math
import subprocess
import sys

import pytest

from relpos.errors import UserError
from relpos.metrics.translations import scores


def test_bleu_of_a_sentence_by_hand():
    found, wanted = "the cat sat on a mat", "the cat sat on the mat"
    # n-grams that match: 5 of 6, 3 of 5, 2 of 4, 1 of 3; no brevity penalty.
    expected = 100 * math.prod([5 / 6, 3 / 5, 2 / 4, 1 / 3]) ** 0.25
    record = scores([found], [wanted])
    assert record["bleu"] == pytest.approx(expected)
    assert record["exact_match"] == 0
    assert "tok:13a" in record["bleu_signature"]
    assert "case:mixed" in record["bleu_signature"]
    assert record["chrf_signature"]


def test_case_counts_and_spaces_do_not():
    found = scores(["A b ", "a b", "c"], ["A  b", "A b", "c"])
    assert found["exact_match"] == pytest.approx(200 / 3)
    assert scores(["A b c d"], ["A b c d"])["bleu"] == pytest.approx(100)
    assert scores(["a b c d"], ["A B C D"])["bleu"] < 10


def test_counts_that_do_not_fit():
    with pytest.raises(UserError, match=r"1 translations .* 2 references"):
        scores(["a"], ["a", "b"])
    with pytest.raises(UserError, match="0 translations cannot be compared with 0"):
        scores([], [])


def test_bleu_is_that_of_the_sacrebleu_command_on_the_written_files(tmp_path):
    found = ["Der Hund läuft, schnell!", "Zwei Männer  am Tisch.", "ein rotes Haus und ein Baum"]
    wanted = ["Ein Hund läuft schnell.", "Zwei Männer am Tisch.", "ein rotes Haus und der Baum"]
    for name, lines in (("found", found), ("wanted", wanted)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for metric in ("bleu", "chrf"):
        command = ["-m", "sacrebleu", str(tmp_path / "wanted"), "-i", str(tmp_path / "found")]
        said = subprocess.run(
            [sys.executable, *command, "-m", metric, "-b", "-w", "6"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert float(said.stdout) == pytest.approx(scores(found, wanted)[metric], abs=1e-6)


def test_languages_without_spaces_are_cut_otherwise():
    found, wanted = ["今日は良い天気ですね"], ["今日は悪い天気ですね"]
    assert scores(found, wanted)["bleu"] == pytest.approx(0, abs=1e-6)
    for language, kind in (("ja", "char"), ("zh_Hant", "zh"), ("zh-CN", "zh")):
        record = scores(found, wanted, language)
        assert 40 < record["bleu"] < 100
        assert f"tok:{kind}" in record["bleu_signature"]
