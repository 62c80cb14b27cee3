import io
import os
import sys
from concurrent import futures

import pytest

from relpos import predict
from relpos.errors import UserError


def read(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return list(predict._chunks())


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\r\n\nb\n", [b"a", b"", b"b"]),
        (b"\n", [b""]),
        (b"x" * 300_000 + b"\ny", [b"x" * 300_000, b"y"]),
    ],
    ids=["nothing", "no end", "ends", "an empty line", "a long line"],
)
def test_lines_are_those_of_the_input(monkeypatch, content, lines):
    assert [line for chunk in read(monkeypatch, content) for line in chunk] == lines


def test_a_file_comes_in_whole_chunks(monkeypatch, tmp_path):
    lines = [b"line %d" % n for n in range(30_000)]  # several reads
    (tmp_path / "lines").write_bytes(b"\n".join(lines))
    with (tmp_path / "lines").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        chunks = list(predict._chunks())
    assert [line for chunk in chunks for line in chunk] == lines
    assert {len(chunk) for chunk in chunks[:-1]} == {predict.LINES_AT_ONCE}


def test_long_lines_come_a_few_at_once(monkeypatch):
    line = b"x" * (predict.BYTES_AT_ONCE // 2)
    assert list(map(len, read(monkeypatch, (line + b"\n") * 5))) == [2, 2, 1]


def test_numbers_that_cannot_be_are_refused_before_anything_is_read(tmp_path):
    for flag, message in (
        ("--max_tokens=1000000000", "--max_tokens must be from 1 to 65536, for the cache"),
        ("--max_tokens=0", "--max_tokens must be from 1"),
        ("--context=0", "--context must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            predict.main([f"--workdir={tmp_path / 'none'}", flag, "a"])


def test_a_line_is_answered_before_the_next_is_there(monkeypatch):
    out, into = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(out))
    chunks = predict._chunks()
    for number in range(3):
        os.write(into, b"line %d\n" % number)
        with futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(next, chunks).result(10) == [b"line %d" % number]
    os.close(into)
    assert list(chunks) == []
    sys.stdin.close()
