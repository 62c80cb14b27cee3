import json
import os
import threading

import pytest
from rich.console import Console

from relpos import evaluate
from relpos.errors import UserError
from relpos.runs import load_run
from relpos.training import run_config
from relpos.training.loop import train


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    small = {
        "steps": 0,
        "eval_lengths": "3",
        "test_examples": 2,
        "model.features": 8,
        "model.num_layers": 1,
    }
    small |= {"data.source": "reverse", "sequence_length": 4, "model.num_heads": 2}
    config = run_config.load("configs/algorithmic.py", [(k, str(v)) for k, v in small.items()])
    path = tmp_path_factory.mktemp("evaluate") / "run"
    assert train(config, path, Console(quiet=True)) == 0
    return path


def test_records_go_through_a_pipe_which_stays(workdir, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    evaluate.main([f"--workdir={workdir}", f"--json={tmp_path / 'pipe'}"])
    reader.join()
    (record,) = json.loads(found[0])
    assert (record["split"], record["length"]) == ("test", 3)
    assert (tmp_path / "pipe").is_fifo()


def test_a_run_answers_and_is_scored_from_python(workdir):
    run = load_run(workdir)
    assert not run.continues
    (answer,) = run.predict("0 1 1")
    assert set(answer.split()) <= {"0", "1", "_"}
    assert len(run.predict(["0 1", "1 1 0"])) == 2
    with pytest.raises(UserError, match="x"):
        run.predict(["0 1", "x"])
    with pytest.raises(UserError, match="--temperature is for models that continue a text"):
        run.predict("0 1", temperature=0.5)
    assert [record["length"] for record in run.evaluate(lengths=[2, 5])] == [2, 5]
    with pytest.raises(UserError, match="--text is for language models"):
        run.evaluate(text="a.txt")
    with pytest.raises(UserError, match="has no single tokenizer"):
        _ = run.tokenizer


def test_records_that_cannot_be_written_are_told_and_the_device_stays(workdir, tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device") as caught:
        evaluate.main([f"--workdir={workdir}", f"--json={tmp_path / 'full'}"])
    assert caught.value.exit_code == 1
    assert (tmp_path / "full").is_symlink()


@pytest.mark.parametrize(
    ("path", "message"), [("", "it is a folder"), ("a/b", "folder is missing")]
)
def test_a_json_file_that_cannot_be_is_refused_before_the_work(tmp_path, path, message):
    with pytest.raises(UserError, match=message):
        evaluate.main([f"--workdir={tmp_path / 'nonesuch'}", f"--json={tmp_path / path}"])
