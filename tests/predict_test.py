import io
import os
import sys
from concurrent import futures

import pytest

from relpos import predict


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


def test_a_file_comes_in_chunks(monkeypatch):
    lines = [b"%d" % n for n in range(100)]
    chunks = read(monkeypatch, b"\n".join(lines))
    assert [line for chunk in chunks for line in chunk] == lines
    assert max(map(len, chunks)) == predict.LINES_AT_ONCE


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
