import json
import os

import pytest

from relpos.data import DataError
from tests.scripts.load import script

lengths = script("compare_lengths")


def make_run(path, encoding, figures):
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"config": {"encoding": encoding, "sequence_length": 8}})
    )
    records = [
        {"step": 3, "split": "test", "length": length, "bits_per_byte": value}
        for length, value in figures
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_the_newest_figures_of_every_run_stand_under_their_length(tmp_path, capsys):
    first = make_run(tmp_path / "a", "rope", [(8, 9.0), (8, 2.5), (16, 3.5)])
    second = make_run(tmp_path / "t5", "t5", [(8, 2.25), (32, 2.75)])
    picture = tmp_path / "new" / "lengths.png"
    assert lengths.main(["--workdir", first, "--workdir", second, "--output", str(picture)]) == 0
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["a", "(rope)", "8", "2.5000", "3.5000"] in rows
    assert ["t5", "8", "2.2500", "2.7500"] in rows
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_a_line_for_each_run(tmp_path):
    run = script("runs").Run("a", "rope", 8, {}, 3, {8: 2.5, 16: 3.5})
    axes = lengths.draw([run]).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[8, 2.5], [16, 3.5]]
    assert [text.get_text() for text in axes.texts] == ["a (rope)"]


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert lengths.main(["--workdir", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"\xff", b'{"config": {"encoding": 3, "sequence_length": 8}}']
)
def test_a_damaged_run_is_named(tmp_path, content):
    make_run(tmp_path / "a", "rope", [(8, 9.0)])
    (tmp_path / "a" / "config.json").write_bytes(content)
    with pytest.raises(DataError, match="a is not a language model's run directory"):
        script("runs").read_run(tmp_path / "a")


def test_records_of_another_kind_are_left_out_and_pipes_not_waited_for(tmp_path):
    make_run(tmp_path / "a", "\x1b[2Jrope", [(8, 9.0), (8, 2.5)])
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"split": "test", "bits_per_byte": 1.0, "step": "9", "length": [8]}\n')
    run = script("runs").read_run(tmp_path / "a")
    assert (run.encoding, run.step, run.bits_per_byte) == (r"\x1b[2Jrope", 3, {8: 2.5})
    (tmp_path / "a" / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "a" / "metrics.jsonl")
    with pytest.raises(DataError, match="is not a regular file"):
        script("runs").read_run(tmp_path / "a")
