import gzip
import json
import lzma

import pytest

from relpos import data
from relpos.data import text as text_data
from relpos.data.text.sources.files import read_documents


def write(path, records, pack=None):
    text = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    path.write_bytes(pack(text) if pack else text)
    return str(path)


def records(count):
    return [{"id": i, "text": f"Document {i},\nof two lines."} for i in range(count)]


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("", None), (".gz", gzip.compress), (".xz", lzma.compress)],
    ids=["plain", "gz", "xz"],
)
def test_each_line_is_a_document_and_stays_whole(tmp_path, ending, pack):
    path = write(tmp_path / f"a.jsonl{ending}", records(400), pack)
    corpus = text_data.load("files", path=path)
    wanted = [record["text"].encode() for record in records(400)]
    assert read_documents(path) == wanted
    found = [document for documents in corpus.splits.values() for document in documents]
    assert sorted(found) == sorted(wanted)
    assert 5 <= len(corpus.splits["validation"]) <= 15
    assert 5 <= len(corpus.splits["test"]) <= 15
    assert corpus.splits["train"] == [d for d in wanted if d in set(corpus.splits["train"])]


def test_three_documents_are_enough_and_copies_stay_in_one_split(tmp_path):
    texts = [{"text": letter * 20} for letter in "abc" for _ in range(4)]
    splits = text_data.load("files", path=write(tmp_path / "a.jsonl", texts)).splits
    assert {split: len(documents) for split, documents in splits.items()} == dict.fromkeys(
        splits, 4
    )
    assert all(len(set(documents)) == 1 for documents in splits.values())
    with pytest.raises(data.DataError, match="2 different documents are too few"):
        text_data.load("files", path=write(tmp_path / "b.jsonl", texts[:8]))


def test_a_long_document_is_not_cut(tmp_path):
    long = "A line of a long document.\n" * 10_000
    path = write(tmp_path / "a.jsonl", [{"text": long}, *records(100)])
    assert long.encode() in text_data.load("files", path=path).splits["train"]


def test_the_field_is_chosen_and_a_missing_one_lists_those_there_are(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"body": f"text {i}", "n": i} for i in range(100)])
    assert read_documents(path, "body")[1] == b"text 1"
    assert text_data.load("files", path=path, field="body").splits["train"]
    for field in ("text", "boddy"):
        with pytest.raises(
            data.DataError, match=r"line 1: no field .*data\.sources\.files\.field.*'body', 'n'"
        ):
            text_data.load("files", path=path, field=field)


def test_files_of_other_names_know_no_fields(tmp_path):
    path = write(tmp_path / "a.json", records(50))
    assert b"".join(read_documents(path, "body")) == (tmp_path / "a.json").read_bytes()


def test_text_and_lines_of_json_in_one_folder(tmp_path):
    write(tmp_path / "a.jsonl", records(100))
    text = b"".join(b"line %d of a text\n" % i for i in range(200))
    (tmp_path / "b.txt").write_bytes(text)
    splits = text_data.load("files", path=str(tmp_path)).splits
    joined = b"".join(d for documents in splits.values() for d in documents if b"of a text" in d)
    assert joined == text
    assert sum(map(len, splits.values())) == 100 + 3


def test_lines_that_cannot_be_used_are_counted_and_named(tmp_path, caplog):
    good = b'{"text": "good"}\n'
    bad = [
        b"{",
        b"[1]",
        b'{"text": 5}',
        b'{"text": " "}',
        b'{"n": 1}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
    ]
    content = b"\xef\xbb\xbf" + good + b"\n" + b"\n".join(bad) + b"\r\n" + good
    (tmp_path / "a.jsonl").write_bytes(content)
    assert read_documents(str(tmp_path / "a.jsonl")) == [b"good", b"good"]
    (record,) = caplog.records
    told = record.getMessage()
    assert "7 of 9 lines are left out: line 3: not JSON: column 2" in told
    assert "line 4: not a JSON object; line 5: field 'text' is not text but 5; line 6:" in told
    assert told.endswith("line 7: no field 'text'; ...")
    (tmp_path / "b.jsonl").write_bytes(b"".join(bad[:2]))
    with pytest.raises(data.DataError, match=r"b\.jsonl holds no line with text: line 1"):
        text_data.load("files", path=str(tmp_path / "b.jsonl"))
