import itertools
import json

import numpy as np
import pytest

from relpos import data
from relpos.data import text as text_data
from tests.scripts.load import script

ngram = script("ngram")
compare = script("compare_baselines")


def direct(train, test, order):
    """Witten-Bell by its definition, in dictionaries."""
    counts: dict = {}
    for document in train:
        symbols = [ngram.END] * (order - 1) + [*document, ngram.END]
        for i in range(order - 1, len(symbols)):
            for n in range(order):
                seen = counts.setdefault(tuple(symbols[i - n : i]), {})
                seen[symbols[i]] = seen.get(symbols[i], 0) + 1

    def p(history, symbol):
        shorter = p(history[1:], symbol) if history else 1 / 257
        seen = counts.get(history)
        if seen is None:
            return shorter
        total, kinds = sum(seen.values()), len(seen)
        return (seen.get(symbol, 0) + kinds * shorter) / (total + kinds)

    for document in test:
        symbols = [ngram.END] * (order - 1) + [*document, ngram.END]
        for i in range(order - 1, len(symbols)):
            yield p(tuple(symbols[i - order + 1 : i]), symbols[i])


def test_by_hand():
    """ "aab" once, order 2: the unigrams are a a b end, 4 symbols of 3 kinds."""
    model = ngram.WittenBell([b"aab"], order=2)
    p_a = (2 + 3 / 257) / 7
    p_b = p_end = (1 + 3 / 257) / 7
    expected = [
        (1 + p_a) / 2,  # a at the start: followed once by one kind
        (1 + 2 * p_b) / 4,  # b after a: a was followed by a and b
        (1 + p_end) / 2,  # the end after b
    ]
    np.testing.assert_allclose(model.probabilities([b"ab"]), expected, rtol=1e-12)
    bits = -np.log2(expected).sum() / 2
    assert model.bits_per_byte([b"ab"]) == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 7])
def test_equals_the_definition(order):
    rng = np.random.default_rng(order)
    train = [bytes(rng.integers(97, 101, n).astype(np.uint8)) for n in (40, 0, 1, 17)]
    test = [b"abcd", b"", b"\xff\0a", train[0]]
    found = ngram.WittenBell(train, order=order).probabilities(test)
    np.testing.assert_allclose(found, list(direct(train, test, order)), rtol=1e-12)


def test_probabilities_sum_to_one():
    model = ngram.WittenBell([b"abracadabra", b"cadaver"], order=5)
    for before in (b"", b"a", b"abra", b"xyz\xff", b"cada"):
        total = sum(model.probabilities([before + bytes([c])])[len(before)] for c in range(256))
        total += model.probabilities([before])[len(before)]
        assert total == pytest.approx(1, rel=1e-12)


def test_contexts_do_not_cross_documents():
    one = ngram.WittenBell([b"ab", b"cd"], order=3).probabilities([b"cd"])
    other = ngram.WittenBell([b"cd", b"ab"], order=3).probabilities([b"x", b"cd"])[2:]
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("order", [0, 8])
def test_order_out_of_range(order):
    with pytest.raises(ValueError, match="order"):
        ngram.WittenBell([b"a"], order=order)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a, b, c in itertools.product("bdg", "aeiou", ["n", "rst"])]
    drawn = [words[i] + ("\n" if i % 7 == 0 else " ") for i in rng.integers(0, 30, 9000)]
    path.write_text("".join(drawn))
    return path


def run(tmp_path, text, *, config=None, metrics=()):
    workdir = tmp_path / "run"
    workdir.mkdir()
    described = json.loads(json.dumps(text_data.load("files", path=str(text)).describe()))
    chosen = {"encoding": "rope", "sequence_length": 64}
    config = {"corpus": described, "config": chosen, **(config or {})}
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "metrics.jsonl").write_text("".join(metrics))
    return workdir


def line(**values):
    return json.dumps({"step": 5, "split": "test", **values}) + "\n"


def test_table(tmp_path, text, capsys):
    workdir = run(
        tmp_path,
        text,
        metrics=[
            line(length=64, bits_per_byte=9.0),
            line(length=64, bits_per_byte=1.25),
            line(length=128, bits_per_byte=7.0),
            line(split="validation", length=64, bits_per_byte=8.0),
            '{"step": 6, "split": "te',
        ],
    )
    assert compare.main(["--workdir", str(workdir), "--source=files", "--path", str(text)]) == 0
    shown = capsys.readouterr().out
    assert "5-gram" in shown
    assert "xz" in shown
    assert "1.2500" in shown
    assert not any(wrong in shown for wrong in ("9.0", "7.0", "8.0"))


def test_baselines_are_plausible(text):
    """Thirty equally likely words of 3 or 5 letters and a space: log2(30) / 5 bits per byte."""
    corpus = text_data.load("files", path=str(text))
    entropy = np.log2(30) / 5
    assert entropy < compare.ngram_result(corpus).bits_per_byte < 1.25 * entropy
    assert entropy < compare.xz_result(corpus).bits_per_byte < 2 * entropy


def test_xz_copies_from_the_farthest_train_text(tmp_path):
    block = np.random.default_rng(0).integers(0, 256, 30_000, dtype=np.uint8).tobytes()
    far = np.random.default_rng(1).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    corpus = data.Corpus(
        "x", "1", "", {"train": [block, far], "validation": [], "test": [block]}, {}
    )
    assert compare.xz_result(corpus).bits_per_byte < 0.3  # where random bytes cost 8


@pytest.mark.parametrize("key", ["name", "version", "sha256"])
def test_another_corpus_is_refused(tmp_path, text, key, capsys):
    corpus = {**text_data.load("files", path=str(text)).describe(), key: "other"}
    workdir = run(
        tmp_path, text, config={"corpus": corpus}, metrics=[line(length=64, bits_per_byte=1.0)]
    )
    assert compare.main(["--workdir", str(workdir), "--source=files", "--path", str(text)]) == 1
    assert f"its {key} is 'other'" in capsys.readouterr().err


def test_a_run_without_a_result_is_named(tmp_path, text, capsys):
    workdir = run(tmp_path, text, metrics=[line(length=32, bits_per_byte=1.0)])
    assert compare.main(["--workdir", str(workdir), "--source=files", "--path", str(text)]) == 1
    assert "no bits_per_byte" in capsys.readouterr().err
    assert (
        compare.main(["--workdir", str(tmp_path / "none"), "--source=files", "--path", str(text)])
        == 1
    )
    assert "is not a run directory" in capsys.readouterr().err
