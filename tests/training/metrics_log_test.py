import json
import os

import pytest
from tensorboardX.proto import event_pb2

from relpos.files import read_records
from relpos.training.metrics_log import MetricsLog, MetricSums, RecordError


def read(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_means_are_sums_over_counts():
    window = MetricSums()
    window.add({"loss": (6.0, 2), "accuracy": (1, 1)})
    window.add({"loss": (1.0, 5), "nothing": (0.0, 0)})
    assert window.means() == {"loss": 1.0, "accuracy": 1.0}


def test_a_window_goes_on_from_its_totals():
    window = MetricSums()
    window.add({"loss": (0.1, 3)})
    again = MetricSums(json.loads(json.dumps(window.totals)))
    for each in (window, again):
        each.add({"loss": (0.2, 3)})
    assert again.means() == window.means()


def test_records_are_lines(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(3, {"split": "train", "loss": 1.5})
    assert read(tmp_path) == [{"step": 3, "split": "train", "loss": 1.5}]  # before it is closed
    log.write(4, {"split": "validation", "loss": float("nan")})
    log.close()
    assert read(tmp_path)[1] == {"step": 4, "split": "validation", "loss": None}


@pytest.mark.parametrize("torn", ["", '{"step": 3, "los', '{"step": 3}\n{"step": 4', "\x00\x00\n"])
def test_what_came_after_the_checkpoint_is_dropped(tmp_path, torn):
    kept = '{"step": 1}\n{"step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(kept + torn)
    log = MetricsLog(tmp_path, step=2, lines=2)
    assert (tmp_path / "metrics.jsonl").read_text() == kept
    log.write(3, {})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == kept + '{"step": 3}\n'
    assert log.lines == 3


def test_a_lost_file_is_begun_anew(tmp_path):
    log = MetricsLog(tmp_path, step=2, lines=2)
    log.write(3, {})
    log.close()
    assert read(tmp_path) == [{"step": 3}]


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        ("", "has lost 3 of its 3 lines"),
        ('{"step": 1}\n{"st', "has lost 2 of its 3 lines"),
        ('{"step": 1}\n{"st\n7\n', "has 2 lines that are not JSON objects"),
        (
            '{"step": 1}\n[1]\n',
            "has lost 1 of its 3 lines and has 1 lines that are not JSON objects",
        ),
        ("[" * 10**5 + "\n{}\n{}\n", "has 1 lines that are not JSON objects"),
        ('{"step": 1}\n{"step": 2}\n{"step": 3}\n\xff', ""),
    ],
)
def test_lines_that_were_lost_or_damaged_are_told(tmp_path, text, damage):
    (tmp_path / "metrics.jsonl").write_text(text)
    log = MetricsLog(tmp_path, step=2, lines=3)
    log.close()
    assert log.damage == (f"{str(tmp_path / 'metrics.jsonl')!r} {damage}" if damage else "")


def test_a_line_that_is_not_utf8_is_damaged_as_others_are(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n"\xff"\n')
    log = MetricsLog(tmp_path, step=1, lines=2)
    log.close()
    assert log.damage == f"{str(path)!r} has 1 lines that are not JSON objects"
    assert path.read_bytes() == b'{"step": 1}\n"\xff"\n'
    assert read_records(path) == [{"step": 1}]


def test_a_log_that_cannot_be_opened_leaves_no_file_open(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("relpos.training.metrics_log.EventsWriter", refuse)
    before = os.listdir("/dev/fd")
    with pytest.raises(RecordError, match="No space left") as caught:
        MetricsLog(tmp_path)
    assert os.listdir("/dev/fd") == before
    del caught  # its traceback would have kept an open file


def test_a_new_run_has_lost_nothing(tmp_path):
    log = MetricsLog(tmp_path)
    log.close()
    assert log.damage == ""


def make_link(path):
    (path.parent / "precious").write_text('{"step": 1}\n')
    path.symlink_to("precious")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (make_link, "is a link"),
        (os.mkfifo, "is not a regular file"),
        (os.mkdir, "is not a regular file"),
    ],
)
def test_what_is_no_regular_file_of_its_own_is_refused(tmp_path, make, what):
    path = tmp_path / "metrics.jsonl"
    make(path)
    with pytest.raises(RecordError, match=what) as caught:
        MetricsLog(tmp_path, step=1, lines=2)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if path.is_symlink():
        assert path.read_text() == '{"step": 1}\n'


def events(path):
    """Reads a TensorBoard file: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    content, start = path.read_bytes(), 0
    while start < len(content):
        length = int.from_bytes(content[start : start + 8], "little")
        yield event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
        start += 12 + length + 4


def test_tensorboard_gets_the_values_and_the_purge(tmp_path):
    log = MetricsLog(tmp_path, step=2)
    log.write(
        3, {"split": "test", "length": 256, "loss": 1.5, "text": "words", "none": float("nan")}
    )
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = list(events(path))
    assert [event.step for event in found if event.session_log.status] == [3]  # purge from here
    assert [
        (event.step, value.tag, value.simple_value)
        for event in found
        for value in event.summary.value
    ] == [(3, "test_256/loss", 1.5)]


def test_tensorboard_has_a_curve_for_each_search_and_none_for_a_part_of_a_split(tmp_path):
    log = MetricsLog(tmp_path)
    whole = {"split": "test", "search": "beam 4", "bleu": 40.0}
    log.write(5, whole)
    log.write(5, whole | {"source_words": "21-30", "bleu": 14.0})
    log.write(5, {"split": "test", "length": 256, "exact_match": 0.5})
    log.close()
    assert read(tmp_path)[1]["bleu"] == 14.0
    (path,) = (tmp_path / "tensorboard").iterdir()
    values = [value for event in events(path) for value in event.summary.value]
    assert [(value.tag, value.simple_value) for value in values] == [
        ("test_beam_4/bleu", 40.0),
        ("test_256/exact_match", 0.5),
    ]
