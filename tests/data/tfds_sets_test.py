import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from relpos import data
from relpos.data import text as text_data

LINES = [f"Document {i} is about the number {i}." for i in range(300)]


def tiny_set(name: str, features: dict, splits: dict[str, list[str]]):
    """A builder class, whose text goes into every text feature."""

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.1.0")
        RELEASE_NOTES = {"2.1.0": "made by the tests"}  # noqa: RUF012
        url_infos = None

        @classmethod
        def get_metadata(cls):
            return tfds.core.DatasetMetadata(description="", citation="", tags=[])

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(texts) for split, texts in splits.items()}

        def _generate_examples(self, texts):
            for i, text in enumerate(texts):
                yield i, {f: i if features[f] is np.int32 else text for f in features}

    Builder.name = name
    return Builder


def prepare(tmp_path, name, features, splits, file_format="array_record"):
    with tfds.core.registered.skip_registration():
        cls = tiny_set(name, features, splits)
        builder = cls(data_dir=str(tmp_path), file_format=file_format)
        builder.download_and_prepare()


TEXT = {"text": tfds.features.Text(), "id": np.int32}


def all_of(documents):
    return [documents[i] for i in range(len(documents))]


def test_three_splits(tmp_path, capfd):
    splits = {"train": LINES[:250], "validation": LINES[250:275], "test": LINES[275:]}
    prepare(tmp_path, "tiny_three", TEXT, splits)
    capfd.readouterr()
    corpus = text_data.load("tfds", name="tiny_three", data_dir=str(tmp_path))
    for split, texts in splits.items():
        assert sorted(all_of(corpus.splits[split])) == sorted(t.encode() for t in texts)
    described = corpus.describe()
    assert described["name"] == "tiny_three"
    assert described["version"] == "2.1.0"
    assert described["splits"]["train"] == {
        "documents": 250,
        "bytes": sum(map(len, splits["train"])),
    }
    assert (
        text_data.load("tfds", name="tiny_three:2.1.0", data_dir=str(tmp_path)).sha256
        == corpus.sha256
    )
    assert capfd.readouterr() == ("", "")
    assert isinstance(corpus.splits["train"][3:5], list)
    assert corpus.splits["train"][-1] == corpus.splits["train"][249]
    with pytest.raises(IndexError):
        corpus.splits["train"][250]


@pytest.mark.parametrize("given", [["train"], ["train", "test"], ["train", "validation"]])
def test_missing_splits_are_carved_from_train(tmp_path, given):
    splits = {split: LINES[100 * i : 100 * i + 100] for i, split in enumerate(given)}
    prepare(tmp_path, "tiny_carved", TEXT, splits)
    corpus = text_data.load("tfds", name="tiny_carved", data_dir=str(tmp_path))
    found = {split: all_of(documents) for split, documents in corpus.splits.items()}
    assert list(found) == ["train", "validation", "test"]
    assert all(found.values())
    together = sorted(d for documents in found.values() for d in documents)
    assert together == sorted(t.encode() for texts in splits.values() for t in texts)
    for split in given[1:]:
        assert len(found[split]) == 100


def test_the_only_text_feature(tmp_path):
    prepare(tmp_path, "tiny_book", {"book": tfds.features.Text(), "id": np.int32}, {"train": LINES})
    corpus = text_data.load("tfds", name="tiny_book", data_dir=str(tmp_path))
    assert corpus.splits["train"][0].decode() in LINES


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"id": np.int32}, "its features are id"),
        ({"a": tfds.features.Text(), "b": tfds.features.Text()}, "its features are a, b"),
    ],
)
def test_no_single_text_feature(tmp_path, features, message):
    prepare(tmp_path, "tiny_features", features, {"train": LINES})
    with pytest.raises(data.DataError, match=message):
        text_data.load("tfds", name="tiny_features", data_dir=str(tmp_path))


def test_large_sets_are_known_by_their_description(tmp_path, monkeypatch):
    monkeypatch.setattr("relpos.data.tfds_sets.HASHED_BYTES", 1000)
    prepare(tmp_path / "a", "tiny_large", TEXT, {"train": LINES})
    prepare(tmp_path / "b", "tiny_large", TEXT, {"train": LINES})
    prepare(tmp_path / "c", "tiny_large", TEXT, {"train": LINES[1:]})
    a, b, c = (text_data.load("tfds", name="tiny_large", data_dir=str(tmp_path / x)) for x in "abc")
    assert a.sha256 == b.sha256 != c.sha256
    assert a.describe()["hashed"] == "description"
    assert a.describe()["splits"]["test"] == {"documents": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lm1b", "'lm1b' is not prepared in .*cannot be prepared here: .*\n.*tfds build lm1b"),
        ("wiki40b/en", "'wiki40b/en' is not prepared in"),
        ("lm1", "no tensorflow-datasets set 'lm1'.* Did you mean 'lm1b'"),
        ("wiki4ob/en", "Did you mean 'wiki40b'"),
        ("tiny_thre", "Did you mean 'tiny_three'"),
        ("not a name!", "'not a name!'"),
    ],
)
def test_what_is_not_there_is_explained_at_once(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr("relpos.data.tfds_sets._silent_server", lambda urls: "www.statmt.org")
    (tmp_path / "tiny_three").mkdir()
    began = time.monotonic()
    with pytest.raises(data.DataError, match=message) as caught:
        text_data.load("tfds", name=name, data_dir=str(tmp_path))
    assert time.monotonic() - began < 10
    assert str(tmp_path) in str(caught.value)


def test_a_server_that_is_not_there():
    from relpos.data.tfds_sets import _silent_server

    assert _silent_server(["http://127.0.0.1:9/x.tar.gz"]) == "127.0.0.1:9"
    assert _silent_server([]) is None
