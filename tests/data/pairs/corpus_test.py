import gzip
import itertools
import json
import lzma

import numpy as np
import pytest
import tensorflow_datasets as tfds

from relpos import data
from relpos.data import pairs as pairs_data
from relpos.data.pairs.sources import scan
from tests.data.tiny_sets import prepare


def write(folder, name, lines, pack=lambda text: text):
    path = folder / name
    path.write_bytes(pack("".join(f"{line}\n" for line in lines).encode()))
    return str(path)


def numbered(count, tag=""):
    return [(f"sentence {tag}{i}", f"Satz {tag}{i}") for i in range(count)]


def load(folder, **splits):
    """Writes each split's pairs to two files and loads them."""
    files = {}
    for split, pairs in splits.items():
        before = "" if split == "train" else f"{split}_"
        files[f"{before}source"] = write(folder, f"{split}.en", [source for source, _ in pairs])
        files[f"{before}target"] = write(folder, f"{split}.de", [target for _, target in pairs])
    return pairs_data.load("files", **files)


def encoded(pairs):
    return [(source.encode(), target.encode()) for source, target in pairs]


def test_given_files_are_the_splits(tmp_path):
    given = {"train": numbered(5), "validation": numbered(3, "v"), "test": numbered(2, "t")}
    corpus = load(tmp_path, **given)
    assert {s: list(p) for s, p in corpus.splits.items()} == {
        s: encoded(p) for s, p in given.items()
    }
    described = json.loads(json.dumps(corpus.describe()))
    assert described["name"] == "train.en, train.de"
    assert described["splits"]["test"] == {
        "pairs": 2,
        "source_bytes": len("sentence t0" * 2),
        "target_bytes": len("Satz t0" * 2),
    }
    assert described["sha256"] == load(tmp_path, **given).sha256
    given["test"] = [("sentence t0", "Satz t0"), ("sentence t1S", "atz t1")]
    assert described["sha256"] != load(tmp_path, **given).sha256


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_packed_files(tmp_path, suffix, pack):
    source = write(tmp_path, "a" + suffix, [s for s, _ in numbered(50)], pack)
    target = write(tmp_path, "b", [t for _, t in numbered(50)])
    splits = pairs_data.load("files", source=source, target=target).splits
    assert sorted(itertools.chain(*splits.values())) == sorted(encoded(numbered(50)))


def test_lines_end_at_line_feeds_alone(tmp_path):
    odd = "one\u2028two\x0bthree\x85four\x0cfive\rsix"
    pairs = [("a", "b"), (odd, "ü"), ("c", odd)]
    (tmp_path / "en").write_bytes(f"\ufeffa\r\n{odd}\r\nc\r\n".encode())
    (tmp_path / "de").write_bytes(f"b\nü\n{odd}".encode())  # no line feed at the end
    files = {"source": str(tmp_path / "en"), "target": str(tmp_path / "de")}
    more = {
        f"{split}_{side}": path for split in ("validation", "test") for side, path in files.items()
    }
    assert list(pairs_data.load("files", **files, **more).splits["train"]) == encoded(pairs)


def test_empty_lines_are_dropped_and_counted(tmp_path):
    train = [*numbered(3), ("", "x"), ("y", "  \u00a0"), ("", "")]
    corpus = load(tmp_path, train=train, validation=numbered(2, "v"), test=numbered(1, "t"))
    assert list(corpus.splits["train"]) == encoded(numbered(3))
    assert corpus.notes == ("train.en, train.de: 3 of 6 pairs had an empty side and were dropped",)


def test_identical_sentences_are_held_out_together(tmp_path):
    # Every source comes with two targets, every target with two sources, in rings of six pairs.
    rings = [
        (f"s{ring} {i}", f"t{ring} {(i + step) % 3}")
        for ring in range(400)
        for i in range(3)
        for step in (0, 1)
    ]
    shuffled = [rings[i] for i in np.random.default_rng(0).permutation(len(rings))]
    corpus = load(tmp_path, train=shuffled)
    assert sorted(itertools.chain(*corpus.splits.values())) == sorted(encoded(rings))
    for one, other in itertools.combinations(corpus.splits, 2):
        for side in (0, 1):
            sentences = [{pair[side] for pair in corpus.splits[s]} for s in (one, other)]
            assert not sentences[0] & sentences[1]
    assert 30 <= len(corpus.splits["validation"]) <= 60
    assert 30 <= len(corpus.splits["test"]) <= 60
    assert corpus.notes == ("validation and test held out from train",)
    # Where a pair goes depends on what it says, not on where it stands.
    assert set(load(tmp_path, train=rings).splits["test"]) == set(corpus.splits["test"])


@pytest.mark.parametrize("given", ["validation", "test"])
def test_only_what_is_missing_is_held_out(tmp_path, given):
    missing = {"validation": "test", "test": "validation"}[given]
    corpus = load(tmp_path, train=numbered(200), **{given: numbered(4, "g")})
    assert list(corpus.splits[given]) == encoded(numbered(4, "g"))
    assert len(corpus.splits[missing]) == 5
    assert len(corpus.splits["train"]) == 195
    assert corpus.notes == (f"{missing} held out from train",)


def test_overlap_with_train_is_counted(tmp_path):
    test = [*numbered(3), ("new", "neu"), ("sentence 1", "anders")]
    corpus = load(tmp_path, train=numbered(10), validation=numbered(2, "v"), test=test)
    assert corpus.notes == ("test: 4 of 5 source sentences are also in train",)
    corpus = load(tmp_path, train=numbered(10), validation=test, test=numbered(2, "t"))
    assert corpus.notes == ("validation: 4 of 5 source sentences are also in train",)


def test_unequal_numbers_of_lines(tmp_path):
    source = write(tmp_path, "long.en", ["x"] * 7)
    target = write(tmp_path, "short.de", ["y"] * 5)
    with pytest.raises(data.DataError, match=r"long\.en has 7 lines, .*short\.de has 5"):
        pairs_data.load("files", source=source, target=target)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"one\ntwo\ncaf\xe9\nfour\n", "bad, line 3: byte 0xe9 is not UTF-8"),
        ("one\ntwo\n".encode("utf-16-le"), "bad, line 1: a NUL byte"),
        (b"\n \n\t\n\n", "hold no pair"),
    ],
)
def test_what_is_no_text_is_told_by_line(tmp_path, text, message):
    (tmp_path / "bad").write_bytes(text)
    target = write(tmp_path, "good", ["x"] * 4)
    with pytest.raises(data.DataError, match=message):
        pairs_data.load("files", source=str(tmp_path / "bad"), target=target)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"source": "a.en"}, "train has only its source file"),
        ({"source": "a.en", "target": "a.de", "test_target": "a.de"}, "test has only its target"),
        ({"test_source": "a.en", "test_target": "a.de"}, "set source and target"),
        ({"source": "a.en", "target": "a.dee"}, "There is no file .*Did you mean 'a.de'"),
        ({"source": "a.en", "target": ""}, "only its source"),
        ({"source": ".", "target": "a.de"}, "is a folder"),
        ({"source": "cut.xz", "target": "a.de"}, "truncated xz"),
        ({"source": "no.xz", "target": "a.de"}, "not a sound xz"),
        ({"source": "a.en", "target": "a.de"}, "too few to hold any out"),
        ({"sorce": "a.en"}, "unknown option of files 'sorce': did you mean 'source'"),
        ({"source": 3}, "files.source must be text"),
        (
            {"source": "a.en", "target": "a.de", "languages": ("en",)},
            "languages are those of source and target",
        ),
    ],
)
def test_what_cannot_be_used_is_explained(tmp_path, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.en", ["one", "two"])
    write(tmp_path, "a.de", ["eins", "zwei"])
    write(tmp_path, "cut.xz", ["x"] * 100, lambda text: lzma.compress(text)[:-8])
    write(tmp_path, "no.xz", ["no xz at all"])
    with pytest.raises(data.DataError, match=message):
        pairs_data.load("files", **files)


def test_an_unknown_source_is_answered_with_the_nearest():
    with pytest.raises(
        data.DataError, match="unknown source of pairs 'scann': did you mean 'scan'"
    ):
        pairs_data.load("scann")


def test_cldr_is_embedded(monkeypatch):
    sizes = {"train": 60, "validation": 20, "test": 20, "longer": 30}
    monkeypatch.setattr("relpos.data.pairs.sources.cldr.PAIRS", sizes)
    corpus = pairs_data.load("cldr", lengths=(1, 2), seed=1)
    assert {split: len(pairs) for split, pairs in corpus.splits.items()} == sizes
    assert corpus.languages == ("en", "de")
    assert "cldr" in corpus.version
    assert not any(b", and " in source for source, _ in corpus.splits["train"])
    assert all(b", and " in source for source, _ in corpus.splits["longer"])
    assert pairs_data.load("cldr", lengths=(1, 2), seed=1).sha256 == corpus.sha256
    assert pairs_data.load("cldr", lengths=(1, 2), seed=2).sha256 != corpus.sha256
    french = pairs_data.load("cldr", languages=("en", "fr")).splits["train"]
    assert any(b" et " in target for _, target in french)


def test_scan_is_embedded():
    corpus = pairs_data.load("scan", cutoff=26, seed=3)
    expected = scan.split(26, 3)
    assert list(corpus.splits) == ["train", "validation", "test", "longer"]
    for split, pairs in corpus.splits.items():
        assert pairs == [(a.encode(), b.encode()) for a, b in expected[split]]


def records(splits):
    return {s: [{"en": source, "de": target} for source, target in p] for s, p in splits.items()}


TRANSLATION = tfds.features.Translation(languages=("en", "de"))
GIVEN = {"train": numbered(60), "validation": numbered(4, "v"), "test": numbered(3, "t")}


def test_a_set_with_two_languages(tmp_path):
    prepare(tmp_path, "tiny_pairs", TRANSLATION, records(GIVEN))
    corpus = pairs_data.load("tfds", name="tiny_pairs", data_dir=str(tmp_path))
    for split, pairs in GIVEN.items():
        assert sorted(corpus.splits[split]) == sorted(encoded(pairs))
    assert (corpus.name, corpus.version, corpus.notes) == ("tiny_pairs", "1.2.0", ())
    turned = pairs_data.load(
        "tfds", name="tiny_pairs", data_dir=str(tmp_path), languages=("de", "en")
    )
    assert sorted(turned.splits["test"]) == sorted((t, s) for s, t in encoded(GIVEN["test"]))


def test_a_large_set_stays_on_disk(tmp_path, monkeypatch):
    prepare(tmp_path, "tiny_pairs", TRANSLATION, records(GIVEN))
    monkeypatch.setattr("relpos.data.tfds_sets.HASHED_BYTES", 10)
    corpus = pairs_data.load("tfds", name="tiny_pairs", data_dir=str(tmp_path))
    train = corpus.splits["train"]
    assert not isinstance(train, list)
    assert sorted(train) == sorted(encoded(GIVEN["train"]))
    assert train[-1] == train[59] == train[58:][1]
    with pytest.raises(IndexError):
        train[60]
    assert corpus.describe()["splits"]["train"] == {"pairs": 60}
    assert corpus.describe()["hashed"] == "description"


def test_texts_inside_another_feature_and_empty_ones(tmp_path):
    features = tfds.features.FeaturesDict({"id": np.int32, "pair": TRANSLATION})
    train = records({"train": [*numbered(60), ("", "leer")]})["train"]
    nested = [{"id": i, "pair": pair} for i, pair in enumerate(train)]
    prepare(tmp_path, "tiny_pairs", features, {"train": nested})
    corpus = pairs_data.load("tfds", name="tiny_pairs", data_dir=str(tmp_path))
    assert sorted(itertools.chain(*corpus.splits.values())) == sorted(encoded(numbered(60)))
    assert corpus.notes == (
        "train: 1 pairs had an empty side and were dropped",
        "validation and test held out from train",
    )


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (("en", "fr"), "no text feature 'fr'.* It has: de, en"),
        (("eng", "de"), "Did you mean 'en'"),
        (("en", "en"), "two different languages"),
        (("en",), "two different languages"),
    ],
)
def test_a_language_that_is_not_there(tmp_path, languages, message):
    prepare(tmp_path, "tiny_pairs", TRANSLATION, records(GIVEN))
    with pytest.raises(data.DataError, match=message):
        pairs_data.load("tfds", name="tiny_pairs", data_dir=str(tmp_path), languages=languages)
