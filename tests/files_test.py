import os
import subprocess
import sys
import threading

import pytest

from relpos import files
from relpos.errors import UserError


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/full")


def directory(path):
    path.mkdir()


@pytest.mark.parametrize("make", [pipe, device, directory])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "x.json")
    for read in (files.read_file, files.read_json, files.read_records):
        with pytest.raises(UserError, match=r"x\.json' is not a regular file"):
            read(tmp_path / "x.json")


def test_a_link_is_followed_and_a_loop_is_named(tmp_path):
    (tmp_path / "there").write_bytes(b"content")
    (tmp_path / "link").symlink_to("there")
    assert files.read_file(tmp_path / "link") == b"content"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"cannot read '.*loop': Too many levels"):
        files.read_file(tmp_path / "loop")
    for gone in ("nonesuch", "there/nonesuch"):
        with pytest.raises(FileNotFoundError):
            files.read_file(tmp_path / gone)


def test_a_file_of_no_sane_size_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert files.read_file(tmp_path / "x", 5) == b"12345"
    with pytest.raises(UserError, match="more than 4 bytes"):
        files.read_file(tmp_path / "x", 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Expecting property name"),
        (b"\xff", "not UTF-8: invalid start byte at byte 0"),
        (b"[" * 100_000, "nested"),
        (b"[" * 60 + b"]" * 60, "nested more than 50 deep"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "nested more than 50 deep"),
        (b"1" * 5000, "4300 digits"),
    ],
)
def test_json_that_is_none_is_named(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        files.read_json(tmp_path / "x.json")
    assert str(caught.value).startswith(f"cannot read '{tmp_path}/x.json', restore it: ")
    assert "\n" not in str(caught.value)


def test_records_are_the_lines_that_are_objects(tmp_path):
    (tmp_path / "x").write_bytes(b'{"a": 1}\n[2]\n\xff\n\n{"b": {}}\n{"torn": ')
    assert files.read_records(tmp_path / "x") == [{"a": 1}, {"b": {}}]


def test_a_text_is_written_to_a_file_or_where_a_link_points(tmp_path):
    files.write_out(tmp_path / "new", "1")
    assert (tmp_path / "new").read_text() == "1"
    (tmp_path / "link").symlink_to("new")
    files.write_out(tmp_path / "link", "2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new").read_text() == "2"


def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    files.write_out(tmp_path / "pipe", "text")
    reader.join()
    assert found == ["text"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_device_is_written_to_and_a_failure_told(tmp_path):
    # A link to it: what would replace the device replaces the link alone.
    device(tmp_path / "full")
    with pytest.raises(files.WriteError, match=r"cannot write '.*full': No space left") as caught:
        files.write_out(tmp_path / "full", "text")
    assert caught.value.exit_code == 1
    assert (tmp_path / "full").is_symlink()


def test_standard_output_that_is_a_file_goes_on(tmp_path):
    program = "from pathlib import Path; from relpos.files import write_out; print('first'); "
    program += "write_out(Path('/dev/stdout'), 'second\\n')"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "first\nsecond\n"
