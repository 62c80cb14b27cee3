import bz2
import gzip
import lzma
import os
import shlex
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from relpos import data
from relpos.data import pairs, questions, reading
from relpos.data import text as text_data
from relpos.data.text.sources import files
from relpos.data.tokenizers import Bytes


def read(splits):
    """All bytes of each split."""
    return {split: b"".join(documents) for split, documents in splits.items()}


def lines(count: int, tag: str = "") -> bytes:
    return b"".join(b"%s line %d of a file of many\n" % (tag.encode(), i) for i in range(count))


def test_one_file_is_held_out_at_its_end_and_nothing_is_lost(tmp_path):
    text = lines(20_000)
    (tmp_path / "a text.txt").write_bytes(text)
    corpus = text_data.load("files", path=str(tmp_path / "a text.txt"))
    parts = read(corpus.splits)
    assert parts["train"] + parts["validation"] + parts["test"] == text
    assert all(part.endswith(b"\n") for part in parts.values())
    assert len(corpus.splits["train"]) > 5
    for split in ("validation", "test"):
        assert 0.01 < len(parts[split]) / len(text) < 0.05
    assert corpus.name == "a text.txt"
    assert corpus.describe()["splits"]["train"]["bytes"] == len(parts["train"])


ODD = {
    "crlf": b"one\r\ntwo\r\n" * 50,
    "mark": "\ufefftext with a byte order mark\n".encode() * 20,
    "surrogate": b"lone \xed\xa0\x80 surrogate\n" * 50,
    "invalid": bytes(range(1, 256)) * 5,
    "right_to_left": "שלום עולם\n".encode() * 50,
    "one_line": "é€𝄞".encode() * 100_000,
    "tabs": b"\t\t  \t\n" * 100,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_bytes_pass_through_unchanged(tmp_path, name):
    (tmp_path / name).write_bytes(ODD[name])
    parts = read(text_data.load("files", path=str(tmp_path / name)).splits)
    assert parts["train"] + parts["validation"] + parts["test"] == ODD[name]
    tokenizer = Bytes()
    assert tokenizer.decode(tokenizer.encode(parts["train"])) == parts["train"]


def test_a_line_without_end_is_cut_between_characters(tmp_path):
    (tmp_path / "x").write_bytes(ODD["one_line"])
    splits = text_data.load("files", path=str(tmp_path / "x")).splits
    for documents in splits.values():
        for document in documents:
            assert 0 < len(document) <= files.DOCUMENT_BYTES
            document.decode("utf-8")


def test_many_files_are_split_by_file_and_copies_dropped(tmp_path):
    for i in range(100):
        (tmp_path / f"{i}.txt").write_bytes(lines(20, f"file {i}"))
    (tmp_path / "copy.txt").write_bytes(lines(20, "file 7"))
    corpus = text_data.load("files", path=str(tmp_path / "*.txt"))
    found = [d for documents in corpus.splits.values() for d in documents]
    assert sorted(found) == sorted(lines(20, f"file {i}") for i in range(100))
    assert all(len(documents) >= 2 for documents in corpus.splits.values())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for i in range(100):
        os.rename(tmp_path / f"{i}.txt", moved / f"{i}.txt")
    assert text_data.load("files", path=str(moved)).sha256 == corpus.sha256


def test_many_large_files_are_held_out_at_their_ends(tmp_path):
    for i in range(files.MANY_FILES):
        (tmp_path / f"{i}.txt").write_bytes(lines(2000, f"file {i}"))
    corpus = text_data.load("files", path=str(tmp_path))
    sizes = {split: len(part) for split, part in read(corpus.splits).items()}
    assert 0 < sizes["test"] <= 1.5 * files.HELD_OUT_BYTES
    assert 0 < sizes["validation"] <= 1.5 * files.HELD_OUT_BYTES


def test_gzip(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(lines(300)))
    parts = read(text_data.load("files", path=str(tmp_path / "x.gz")).splits)
    assert b"".join(parts.values()) == lines(300)


def test_a_folder_gives_its_text_files(tmp_path, caplog):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub" / "a.txt").write_bytes(lines(100))
    (tmp_path / ".git" / "b").write_bytes(lines(100, "hidden"))
    (tmp_path / "picture").write_bytes(b"\x89PNG\0\0\0")
    parts = read(text_data.load("files", path=str(tmp_path)).splits)
    assert b"".join(parts.values()) == lines(100)
    assert "1 of 2 files are not text and are left out: picture" in caplog.text


def broken_paths(tmp_path):
    (tmp_path / "shakespeare.txt").write_bytes(b"")
    (tmp_path / "short.txt").write_bytes(b"too short")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines(300))[:-20])
    (tmp_path / "no.gz").write_bytes(b"no gzip at all")
    bad = bytearray(gzip.compress(lines(300)))
    bad[40] ^= 0xFF
    (tmp_path / "flipped.gz").write_bytes(bytes(bad))
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nul").write_bytes(lines(1) + b"a\0b\n" + lines(50))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("shakespaere.txt", "There is no file .* Did you mean 'shakespeare.txt'"),
        ("shakespeare.txt", "holds no text"),
        ("short.txt", "only 9 bytes"),
        ("*.text", "No file matches"),
        ("cut.gz", "truncated gzip"),
        ("no.gz", "not a sound gzip"),
        ("flipped.gz", "not a sound gzip"),
        ("folder", "holds no files"),
        ("foldr/x.txt", "folder .*foldr is missing. Did you mean 'folder'"),
        ("loop", "loop is a link that leads back to itself"),
        ("broken", "broken is a link to nowhere, which is not there"),
        ("pipe", "pipe is a pipe, not a file"),
        ("short.txt/x", "short.txt is not a folder"),
        ("~nobody_x/a", "there is no user 'nobody_x'"),
        ("a\0b", "cannot hold a NUL byte"),
        ("n" * 5000, r"n{30}.* characters is too long"),
        ("nul", r"nul, line 2: a NUL byte, .*tr -d"),
    ],
)
def test_what_cannot_be_used_is_explained(tmp_path, monkeypatch, path, message):
    broken_paths(tmp_path)
    monkeypatch.chdir(tmp_path)
    for read in (files.load, lambda *, path: files.read_documents(path)):
        if path != "short.txt" or read is files.load:
            with pytest.raises(data.DataError, match=message) as told:
                read(path=path)
            assert "\n" not in str(told.value)
            assert len(str(told.value)) < 400


def test_files_must_be_named():
    with pytest.raises(data.DataError, match="set path to a file"):
        text_data.load("files")


def test_another_text_encoding_is_told(tmp_path, caplog):
    latin = ("caf\u00e9 " * 40).encode("latin-1")
    (tmp_path / "latin.txt").write_bytes(latin)
    parts = read(text_data.load("files", path=str(tmp_path / "latin.txt")).splits)
    assert b"".join(parts.values()) == latin
    assert "latin.txt: byte 3 (0xe9) is not UTF-8" in caplog.text


@pytest.mark.parametrize(
    ("kind", "source", "options"),
    [
        (pairs, "files", ("source", "target")),
        (questions, "squad", ("train",)),
        (questions, "babi", ("train",)),
    ],
)
def test_a_device_as_data_of_any_task_is_refused(kind, source, options):
    with pytest.raises(data.DataError, match="/dev/zero is a device, not a file"):
        kind.load(source, **dict.fromkeys(options, "/dev/zero"))


def test_what_is_put_there_after_a_look_at_a_file_is_refused(monkeypatch):
    regular = os.stat(__file__)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: regular)
    with pytest.raises(data.DataError, match=r"/dev/null is .*, not a file"):
        reading.read_text(Path("/dev/null"))


def test_a_python_without_lzma_says_how_to_unpack(tmp_path, monkeypatch):
    (tmp_path / "a b.xz").write_bytes(lzma.compress(lines(300)))
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(data.DataError, match=r"no lzma .*: unxz -k '.*a b\.xz'$"):
        text_data.load("files", path=str(tmp_path / "a b.xz"))


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_remedy_is_for_any_name(tmp_path, ending):
    path = tmp_path / f'it\'s a "{ending}".{ending}'
    path.write_bytes(lines(1))
    with pytest.raises(data.DataError, match="lines of JSON") as told:
        text_data.load("files", path=str(path))
    command = shlex.split(str(told.value).rpartition("lines of JSON: ")[2])
    assert command[-1] == str(path)
    compile(command[2], "remedy", "exec")


def test_old_word_documents_have_a_remedy_of_their_own():
    assert "soffice" in reading.fault_of_name(Path("a.doc"))
    assert "pandoc" in reading.fault_of_name(Path("a.docx"))


@pytest.mark.parametrize("kind", [k for kind in reading.KINDS for k in kind.endings])
def test_a_kind_of_file_that_is_no_text_is_known_by_its_name(tmp_path, kind):
    for name in (f"a b{kind}", f"a b{kind.upper()}.gz"):
        (tmp_path / name).write_bytes(lines(100))
        with pytest.raises(data.DataError, match=r"not readable text: \w+ ") as told:
            text_data.load("files", path=str(tmp_path / name))
        assert name in str(told.value)


def packed(path, tmp_path):
    """A file of each kind, made by what makes it, under a name that says nothing."""
    text = lines(100)
    if path == "zip":
        with zipfile.ZipFile(tmp_path / path, "w") as archive:
            archive.writestr("a.txt", text)
    elif path == "tar":
        (tmp_path / "a.txt").write_bytes(text)
        with tarfile.open(tmp_path / path, "w") as archive:
            archive.add(tmp_path / "a.txt", "a.txt")
    elif path == "npy":
        with (tmp_path / path).open("wb") as file:
            np.save(file, np.arange(3))
    else:
        pack = {
            "bzip2": bz2.compress, "gzip": gzip.compress, "xz": lzma.compress,
            "UTF-16": lambda text: text.decode().encode("utf-16"),
        }[path]  # fmt: skip
        (tmp_path / path).write_bytes(pack(text))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("zip", "zip archive, .*unzip"),
        ("tar", "a NUL byte"),
        ("npy", "NumPy array"),
        ("bzip2", "packed by bzip2, .*bunzip2"),
        ("gzip", "packed by gzip, .*let its name end in .gz"),
        ("xz", "packed by xz, .*let its name end in .xz"),
        ("UTF-16", "UTF-16, .*iconv"),
    ],
)
def test_a_kind_of_file_that_is_no_text_is_known_by_its_content(tmp_path, path, message):
    packed(path, tmp_path)
    with pytest.raises(data.DataError, match=message):
        text_data.load("files", path=str(tmp_path / path))


def test_a_folder_leaves_out_what_is_no_text(tmp_path, caplog):
    broken = tmp_path / "some"
    broken.mkdir()
    packed("zip", broken)
    (broken / "a.pdf").write_bytes(b"%PDF-1.7")
    (broken / "link").symlink_to("nowhere")
    os.mkfifo(broken / "pipe")
    with pytest.raises(data.DataError, match=r"holds no text: .*a\.pdf is a PDF document"):
        text_data.load("files", path=str(broken))
    (broken / "text").write_bytes(lines(100))
    parts = read(text_data.load("files", path=str(broken)).splits)
    assert b"".join(parts.values()) == lines(100)
    assert "4 of 5 files are not text and are left out: a.pdf, link, pipe, ..." in caplog.text
