import json

import pytest
from tensorboardX.proto import event_pb2

from relpos.training.metrics import MetricsLog, Window


def read(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_means_are_sums_over_counts():
    window = Window()
    window.add({"loss": (6.0, 2), "accuracy": (1, 1)})
    window.add({"loss": (1.0, 5), "nothing": (0.0, 0)})
    assert window.means() == {"loss": 1.0, "accuracy": 1.0}


def test_a_window_goes_on_from_its_totals():
    window = Window()
    window.add({"loss": (0.1, 3)})
    again = Window(json.loads(json.dumps(window.totals)))
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
