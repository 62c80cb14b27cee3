import numpy as np
import pytest

from relpos.data import DataError
from relpos.data.tokenizers import words


def test_words_there_and_back(tmp_path):
    path = tmp_path / "words.json"
    made = words.load_or_make(path, [b"walk twice", b"jump  walk", b"\xff \xe2\x82\xac"])
    assert made.vocab_size == 7
    assert made.encode(b"walk")[0] == 0  # the most frequent
    text = b"jump twice \xff \xe2\x82\xac walk"
    again = words.load_or_make(path, [])
    np.testing.assert_array_equal(again.encode(text), made.encode(text))
    assert again.decode(again.encode(text)) == text
    assert made.decode([made.separator, 0, made.separator]) == b"walk"


def test_unknown_words_are_named():
    made = words.Words([b"a", b"b"])
    assert made.encode(b"a c b").tolist() == [0, 2, 1]
    assert made.decode([0, 2]) == b"a <unknown>"
    assert made.unknown(b"a c \xff") == ["c", "\ufffd"]


def test_what_is_no_vocabulary(tmp_path):
    path = tmp_path / "words.json"
    for content in ("not json", "3", "[3]", '["a", "b", "a"]', '["\\ud800"]', "[" * 100_000):
        path.write_text(content)
        with pytest.raises(DataError, match=r"words\.json is not a vocabulary"):
            words.load_or_make(path, [b"a"])
    with pytest.raises(DataError, match="no words"):
        words.load_or_make(tmp_path / "other.json", [b"  "])
