import math

import pytest

from relpos.data import DataError
from relpos.data.translation_scores import exact_matches, scores


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
    assert exact_matches(["A b ", "a b", "c"], ["A  b", "A b", "c"]) == 2
    assert scores(["A b c d"], ["A b c d"])["bleu"] == pytest.approx(100)
    assert scores(["a b c d"], ["A B C D"])["bleu"] < 10


def test_counts_that_do_not_fit():
    with pytest.raises(DataError, match=r"1 translations .* 2 references"):
        scores(["a"], ["a", "b"])
    with pytest.raises(DataError):
        scores([], [])
