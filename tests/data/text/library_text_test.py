import json
import os
import subprocess
import sys

import numpy as np
import pytest

from relpos.data import text as text_data
from relpos.data.errors import DataError
from relpos.data.text.corpus import text_corpus
from relpos.data.text.stdlib import builder as library_text_builder
from relpos.data.text.stdlib import documents as library_text


def fingerprint(splits):
    return text_corpus("", "", splits).sha256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def corpus(folder):
    return text_data.load("library_text", data_dir=str(folder))


def all_of(documents):
    return [documents[i] for i in range(len(documents))]


def test_sizes(corpus):
    described = json.loads(json.dumps(corpus.describe()))
    assert described["name"] == "library_text"
    assert described["version"] == "1.0.0"
    assert described["splits"]["train"]["bytes"] > 2_000_000
    for split in ("validation", "test"):
        assert 30_000 < described["splits"][split]["bytes"] <= 300_000
        assert described["splits"][split]["documents"] >= 10


def sixty_four(text: bytes) -> np.ndarray:
    """Every 64-byte window of a text, as two columns of random linear combinations."""
    mixed = np.random.default_rng(0).integers(1, 2**63, (2, 64), dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(text, np.uint8), 64)
    return (windows.astype(np.uint64) @ mixed.T)[:, 0]


def test_held_out_text_shares_no_passage_with_train(corpus):
    """Independent of passages.py: plain 64-byte windows, those of mostly white space aside."""
    train = np.sort(
        np.concatenate([sixty_four(d) for d in all_of(corpus.splits["train"]) if len(d) >= 64])
    )
    checked = 0
    for split in ("validation", "test"):
        for document in all_of(corpus.splits[split]):
            codes = sixty_four(document)
            found = train[np.minimum(np.searchsorted(train, codes), len(train) - 1)] == codes
            for i in np.flatnonzero(found):
                assert len(b"".join(document[i : i + 64].split())) < 48, document[i : i + 64]
            checked += len(codes)
    assert checked > 50_000


def test_another_build_in_another_process_is_equal_and_silent(corpus, tmp_path):
    """It runs without pytest, whose plugins put their own functions into sys."""
    script = (
        "import sys; from relpos.data import text; c = text.load('library_text', data_dir=sys.argv[1]);"
        f"assert c.sha256 == {corpus.sha256!r}, c.sha256;"
        "assert not {'tensorflow', 'antigravity', 'this', 'turtle'} & set(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_prepared_once_then_read(folder, corpus, monkeypatch):
    monkeypatch.setattr(library_text, "build", lambda found: pytest.fail("built again"))
    again = text_data.load("library_text", data_dir=str(folder))
    assert again.sha256 == corpus.sha256


def test_another_installation_has_another_folder():
    found = {"source/a.py": b"x = 1\n"}
    assert library_text_builder._config_name(found) != library_text_builder._config_name(
        {"source/a.py": b"x = 2\n"}
    )


def tiny_found() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    found = {}
    for i in range(600):
        kind = ("source", "topics", "builtins")[i % 3]  # 200 of each, so that a fortieth is five
        letters = rng.integers(97, 123, 600, dtype=np.uint8).tobytes()
        found[f"{kind}/{i:03}"] = b"\n".join(letters[j : j + 30] for j in range(0, 600, 30))
    return found


def test_a_folder_that_cannot_be_written_is_replaced_with_one_warning(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(library_text, "documents", tiny_found)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    os.mkdir(tmp_path / "temporary")
    (tmp_path / "file").write_text("a file where the folder should be")
    with caplog.at_level("WARNING", "relpos"):
        splits = library_text_builder.prepare(str(tmp_path / "file"))
    assert len(splits["train"]) > 0
    (record,) = caplog.records
    assert "cannot be written" in record.getMessage()
    assert list((tmp_path / "temporary").glob("tensorflow_datasets-*/library_text/*/1.0.0"))
    folder = tmp_path / "temporary" / f"tensorflow_datasets-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    again = library_text_builder.prepare(str(tmp_path / "file"))
    assert fingerprint(again) == fingerprint(splits)


@pytest.mark.parametrize(
    ("in_its_place", "message"),
    [
        ("link", "is a link or a file, no folder"),
        ("broken link", "cannot be made|is a link"),
        ("file", "cannot be made"),
        ("of another user", "belongs to another user"),
        ("open to all", r"can be written by others \(mode 777\)"),
    ],
)
def test_a_temporary_folder_that_may_be_anothers_is_refused(
    tmp_path, monkeypatch, in_its_place, message
):
    monkeypatch.setattr(library_text, "documents", tiny_found)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fallback = tmp_path / f"tensorflow_datasets-{os.getuid()}"
    planted = tmp_path / "planted"
    library_text_builder.prepare(str(planted))
    (tmp_path / "file").write_text("a file where the folder should be")
    if in_its_place == "link":
        fallback.symlink_to(planted)
    elif in_its_place == "broken link":
        fallback.symlink_to("nowhere")
    elif in_its_place == "file":
        fallback.write_text("")
    else:
        planted.rename(fallback)
        if in_its_place == "open to all":
            fallback.chmod(0o777)
        else:
            if os.getuid() != 0:
                pytest.skip("only root can give a folder away")
            os.chown(fallback, 12345, -1)
    with pytest.raises(DataError, match=message) as told:
        library_text_builder.prepare(str(tmp_path / "file"))
    assert "the option data_dir of the source library_text or by $TFDS_DATA_DIR" in str(told.value)
    assert str(fallback) in str(told.value)


def test_a_data_dir_of_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(library_text, "documents", tiny_found)
    with pytest.raises(DataError, match="there is no user 'nobody_x'"):
        library_text_builder.prepare("~nobody_x/a")


def test_two_processes_preparing_at_once(tmp_path):
    script = (
        "import sys, time; from relpos.data.text.stdlib import documents as t, builder as b;"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r});"
        "from library_text_test import tiny_found; t.documents = tiny_found;"
        "from relpos.data.text.corpus import text_corpus;"
        "build = t.build; t.build = lambda found: (time.sleep(1.5), build(found))[1];"
        "print(text_corpus('', '', b.prepare(sys.argv[1])).sha256)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate()[0].strip() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 64
    left = [p.name for p in tmp_path.glob("library_text/*/*")]
    assert left == ["1.0.0"]


def test_copies_are_dropped_before_the_split():
    found = tiny_found()
    found["source/zzz"] = found["source/000"]
    built = library_text.build(found)
    texts = [t for documents in built.values() for t in documents.values()]
    assert len(texts) == len(set(texts)) == 600
    assert all(built[s] for s in built)


def test_builtin_docstrings_are_found():
    found = library_text.documents()
    assert b"math.gcd" in found["builtins/math"]
    assert b"str.partition(" in found["builtins/builtins"]
    assert not any(b"object at 0x" in text for n, text in found.items() if n.startswith("builtins"))
    assert fingerprint({"train": [b"ab", b"c"], "validation": [], "test": []}) != fingerprint(
        {"train": [b"a", b"bc"], "validation": [], "test": []}
    )
