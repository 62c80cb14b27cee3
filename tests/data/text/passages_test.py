import random

import numpy as np
import pytest

from relpos.data.text.stdlib import passages

WORDS = [f"{a}{b}" for a in ("al", "be", "gam", "del") for b in ("pha", "ta", "ma", "lon", "rho")]


def visible(text: bytes) -> bytes:
    return b"".join(text.split())


def windows(text: bytes, n: int) -> set[bytes]:
    text = visible(text)
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def words(rng: random.Random, count: int) -> bytes:
    lines = []
    for _ in range(count):
        line = " ".join(rng.choice(WORDS) for _ in range(6))
        lines.append(" " * rng.randrange(8) + line + "\n")
    return "".join(lines).encode()


@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 48, 63])
def test_equal_windows_and_only_they_have_equal_hashes(window):
    text = words(random.Random(window), 30)
    p = passages.Passages(text, window)
    by_hash: dict[int, set[bytes]] = {}
    for start, end, code in zip(p.starts, p.ends, p.hashes.tolist(), strict=True):
        by_hash.setdefault(code, set()).add(visible(text[start:end]))
    assert all(len(same) == 1 for same in by_hash.values())
    assert set.union(*by_hash.values()) == windows(text, window)


def test_text_shorter_than_the_window_has_no_passage():
    assert len(passages.Passages(b"short", 48).hashes) == 0
    assert len(passages.Passages(b"", 1).hashes) == 0


def test_nothing_is_shared_after_cutting_even_where_cuts_join_lines():
    rng = random.Random(0)
    train = [words(rng, 40) for _ in range(5)]
    held = [words(rng, 30) + train[i][100:400] + words(rng, 30) for i in range(3)]
    window = 20
    known = set().union(*(windows(t, window) for t in train))
    assert any(windows(h, window) & known for h in held)
    kept = passages.cut_shared(held, train, window=window)
    assert not any(windows(k, window) & known for k in kept)
    assert all(k for k in kept)
    for before, after in zip(held, kept, strict=True):  # whole lines went, the rest is unchanged
        lines = iter(before.splitlines(keepends=True))
        assert all(line in lines for line in after.splitlines(keepends=True))


def test_repeats_of_an_earlier_document_go_and_its_own_stay():
    copied = b"This paragraph stands in both documents.\nIt has two lines of some length.\n"
    own = b"A line of this document alone, twice as it happens.\n" * 2
    first = b"The beginning of the first document.\n" + copied
    second = own + b"    " + copied.replace(b"\nIt", b"\n    It") + b"And an end of its own, too.\n"
    kept = passages.drop_repeats([first, second], window=24)
    assert kept[0] == first
    assert kept[1] == own + b"And an end of its own, too.\n"


def test_a_line_that_only_quotes_a_passage_stays_in_train():
    first = b"the quick brown fox jumps over the lazy dog\n"
    second = b"He wrote: the quick brown fox jumps over the lazy dog, and left.\n"
    assert passages.drop_repeats([first, second], window=20) == [first, second]
    assert passages.cut_shared([second], [first], window=20) == [b""]


def test_no_documents():
    assert passages.drop_repeats([]) == []
    assert passages.cut_shared([b"text"], []) == [b"text"]


def test_a_last_line_without_an_end_is_cut_too():
    text = b"one\ntwo two"
    covered = np.zeros(len(text), bool)
    covered[4:] = True
    assert passages.cut_lines(text, covered, wholly=False) == b"one\n"
