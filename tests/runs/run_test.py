import json
import logging
import shutil
import sys
import warnings

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos import evaluate, predict, report
from relpos.errors import UserError
from relpos.runs import Run, load_run
from relpos.training import checksums
from relpos.training.checkpoints import CheckpointError
from relpos.training.loop import train
from relpos.training.run_directory import RunDirectory


def test_a_trained_model_is_loaded_without_its_optimizer(toy_config, tmp_path):
    config = toy_config(checkpoint_every=10)
    train(config, tmp_path, Console(quiet=True))
    run = load_run(tmp_path, trust_code=True)
    assert run.config == config
    assert run.step == 20
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert run.evaluate("test")[0]["loss"] == record["loss"]
    earlier = load_run(tmp_path, step=10, trust_code=True)
    assert earlier.step == 10
    assert earlier.evaluate("test")[0]["loss"] > record["loss"]
    with pytest.raises(UserError, match="no checkpoint of step 4"):
        _ = load_run(tmp_path, step=4, trust_code=True).model
    (tmp_path / "checkpoints" / "20" / "optimizer" / "_METADATA").write_text("{}")
    with pytest.raises(CheckpointError, match="'optimizer/_METADATA' is damaged"):
        _ = load_run(tmp_path, trust_code=True).model  # whatever it would need


def test_a_run_that_was_trained_on_a_gpu_is_loaded_here(toy_config, tmp_path):
    train(toy_config(steps=1), tmp_path, Console(quiet=True))
    checkpoint = tmp_path / "checkpoints" / "1"
    kept = checkpoint / "model" / "_sharding"
    there = kept.read_text().replace("cpu:0", "cuda:0").replace("TFRT_CPU_0", "cuda:0")
    assert there != kept.read_text()
    kept.write_text(there)
    (checkpoint / checksums.NAME).unlink()
    checksums.write(checkpoint)
    model = load_run(tmp_path, trust_code=True).model
    devices = {device for x in jax.tree.leaves(nnx.state(model)) for device in x.devices()}
    assert devices == {jax.local_devices()[0]}


def test_a_run_directory_runs_no_code(toy_config, tmp_path, monkeypatch):
    config = toy_config(steps=1)
    train(config, tmp_path / "run", Console(quiet=True))
    run = load_run(tmp_path / "run", trust_code=True)
    assert (run.config.steps, run.step, type(run.task).__name__) == (1, 1, "Toy")
    # What came with the directory, as anyone may have written it.
    (tmp_path / "downloaded").mkdir()
    (tmp_path / "downloaded" / "code.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    stored["config"]["task"] = "downloaded.code"
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    refused = r"run/config\.json' asks for code .*'downloaded\.code'.*--trust_code"
    with pytest.raises(UserError, match=refused):
        _ = load_run(tmp_path / "run").task
    for main, more in ((evaluate.main, []), (predict.main, ["x"])):
        with pytest.raises(UserError, match=refused):
            main([f"--workdir={tmp_path / 'run'}", *more])
        with pytest.raises(SystemExit, match="it ran"):
            main([f"--workdir={tmp_path / 'run'}", "--trust_code", *more])
    report.main([str(tmp_path / "run"), f"--output={tmp_path / 'a.html'}"])
    for flag in ("--scale=cpu", "--runs=runs"):
        with pytest.raises(UserError, match="--scale and --runs are for experiments"):
            report.main([str(tmp_path / "run"), flag])
    with pytest.raises(
        UserError, match=r"task: 'downloaded\.code' there, 'tests\.training\.toy' asked"
    ):
        train(config, tmp_path / "run", Console(quiet=True))


def test_what_is_not_as_it_was_is_logged_in_a_line(toy_config, tmp_path, caplog):
    train(toy_config(steps=1), tmp_path, Console(quiet=True))
    _ = load_run(tmp_path, trust_code=True).model
    assert not caplog.records
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["versions"]["jax"] = "0.1\x1b[2J\n"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    _ = load_run(tmp_path, trust_code=True).model
    (told,) = (record.getMessage() for record in caplog.records)
    assert r"other versions than the run began with: jax 0.1\x1b[2J\n -> " in told
    assert told.isprintable()


def test_training_and_loading_change_no_settings_of_the_process(toy_config, tmp_path):
    def settings():
        levels = [logging.getLogger(name).level for name in ("absl", "asyncio")]
        return [*levels, warnings.filters.copy(), sys.unraisablehook]

    before = settings()
    train(toy_config(steps=1), tmp_path, Console(quiet=True))
    _ = load_run(tmp_path, trust_code=True).model
    assert settings() == before


def test_a_directory_without_checkpoints_is_refused(toy_config, tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(UserError, match="has no checkpoint yet"):
        _ = load_run(tmp_path).step
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_tells_how_far_it_is(toy_config, tmp_path):
    run = Run(tmp_path / "run")
    assert (run.state, run.in_use, run.records(), run.metrics, run.last_step) == (
        "waiting",
        False,
        [],
        {},
        0,
    )
    directory = RunDirectory(run.path, toy_config())
    assert run.in_use
    directory.describe({"corpus": {"name": "a"}})
    directory.close()
    assert (run.state, run.in_use, run.settings["steps"]) == ("begun", False, 20)
    with pytest.raises(UserError, match="code that is no part of relpos"):
        _ = run.config
    assert type(Run(run.path, trust_code=True).task).__name__ == "Toy"
    with pytest.raises(UserError, match="has no checkpoint yet"):
        _ = Run(run.path, trust_code=True).model
    assert run.settings["toy.width"] == 7
    assert run.provenance["corpus"] == {"name": "a"}
    assert "jax" in run.provenance["versions"]
    assert "config" not in run.provenance
    train(toy_config(steps=8, toy__corpus="b"), tmp_path / "other", Console(quiet=True))
    other = Run(tmp_path / "other")
    assert (other.state, other.in_use, other.last_step) == ("finished", False, 8)


def test_metrics_are_columns_of_each_split(tmp_path):
    lines = [
        {"step": 4, "split": "train", "loss": 2.5},
        {"step": 8, "split": "train", "loss": None, "speed": 3},
        {"step": 8, "split": "test", "length": 8, "loss": 1.5, "mode": "greedy"},
        {"step": 8, "split": ["?"]},
        {"step": 8, "split": "test", "length": 16, "loss": 1.25},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '[1]\n{"step": 12, "split": "te')
    found = Run(tmp_path).metrics
    assert list(found) == ["train", "test"]
    np.testing.assert_array_equal(found["train"]["step"], [4, 8])
    assert found["train"]["step"].dtype == np.int64
    np.testing.assert_array_equal(found["train"]["loss"], [2.5, np.nan])
    np.testing.assert_array_equal(found["train"]["speed"], [np.nan, 3])
    np.testing.assert_array_equal(found["test"]["length"], [8, 16])
    assert found["test"]["mode"].tolist() == ["greedy", None]


def test_a_frame_has_a_row_for_each_record(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "split": "train", "loss": 2.5}\n')
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="needs pandas"):
        Run(tmp_path).frame()
    monkeypatch.undo()
    assert Run(tmp_path).frame()["loss"].tolist() == [2.5]


def test_a_run_is_drawn(toy_config, tmp_path, monkeypatch):
    train(toy_config(), tmp_path, Console(quiet=True))
    run = load_run(tmp_path)
    (panel,) = run.plot().axes
    of_training, of_validation = (line.get_ydata() for line in panel.lines)
    assert of_training.tolist() == run.metrics["train"]["loss"].tolist()
    assert of_validation.tolist() == run.metrics["validation"]["loss"].tolist()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "split": "test", "length": 16, "bits_per_byte": 4.5}\n')
        file.write(
            '{"step": 20, "split": "test", "length": 16, "distance": "3", "bits_per_byte": 9.0}\n'
        )
    _, lengths = run.plot().axes
    assert list(lengths.lines[0].get_xdata()) == [8, 16]
    assert lengths.lines[0].get_ydata()[1] == 4.5  # of all of the length, not of a part
    assert lengths.lines[1].get_xdata() == [8, 8]
    assert lengths.get_xlabel() == "length (dotted: trained)"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'relpos\[plots\]'"):
        run.plot()


def test_the_model_of_a_run_under_way_is_the_newest_there_is(toy_config, tmp_path):
    train(toy_config(checkpoint_every=10), tmp_path, Console(quiet=True))
    shutil.move(tmp_path / "checkpoints" / "20", tmp_path / "20")
    run = load_run(tmp_path, trust_code=True)
    assert run.step == 10
    shutil.rmtree(tmp_path / "checkpoints" / "10")  # as the run does once it has a newer one
    shutil.move(tmp_path / "20", tmp_path / "checkpoints" / "20")
    assert isinstance(run.model, nnx.Module)
    assert run.step == 20
