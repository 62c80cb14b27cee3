import os
import random

import pytest

from relpos.training import checksums
from relpos.training.checksums import ChecksumError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "numbers").write_bytes(bytes(range(256)))
    (tmp_path / "a" / "empty").write_bytes(b"")
    (tmp_path / "é\n").write_text("text")
    checksums.write(tmp_path)
    return tmp_path


def test_what_was_written_is_verified(folder):
    checksums.verify(folder)
    checksums.write(folder)  # the list does not count itself
    checksums.verify(folder)


def test_a_folder_without_checksums_is_refused(folder):
    (folder / checksums.NAME).unlink()
    with pytest.raises(ChecksumError, match=r"^'checksums.json' is missing, restore it$"):
        checksums.verify(folder)


def test_any_flipped_bit_is_named(folder):
    flip = random.Random(0)
    for name in ("a/b/numbers", "é\n", checksums.NAME):
        path = folder / name
        content = path.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << flip.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(ChecksumError) as caught:
                checksums.verify(folder)
            assert str(caught.value) == f"{name!r} is damaged"
        path.write_bytes(content)
    checksums.verify(folder)


def test_missing_and_added_files_are_named(folder):
    (folder / "a" / "more").write_bytes(b"")
    with pytest.raises(ChecksumError, match=r"^'a/more' was added$"):
        checksums.verify(folder)
    (folder / "a" / "empty").unlink()
    with pytest.raises(ChecksumError, match=r"^'a/empty' is missing \(and 1 more .*\)$"):
        checksums.verify(folder)
    (folder / "a" / "more").rename(folder / "a" / "empty")
    checksums.verify(folder)
    os.mkfifo(folder / "a" / "pipe")
    with pytest.raises(ChecksumError, match="'pipe' is neither a file nor a directory"):
        checksums.verify(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"files": 3}', "[" * 10**5, '{"files": {}}'])
def test_a_damaged_list_is_named(folder, text):
    (folder / checksums.NAME).write_text(text)
    with pytest.raises(ChecksumError, match=r"^'checksums.json' is damaged$"):
        checksums.verify(folder)
