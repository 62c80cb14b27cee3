import json
import logging
import sys
import warnings

import jax
import pytest
from flax import nnx
from rich.console import Console

from relpos import evaluate, predict
from relpos.errors import UserError
from relpos.training import checksums
from relpos.training.checkpoints import CheckpointError
from relpos.training.evaluation import evaluate as evaluate_split
from relpos.training.loaded_run import load_run
from relpos.training.loop import train


def test_a_trained_model_is_loaded_without_its_optimizer(toy_config, tmp_path):
    config = toy_config(checkpoint_every=10)
    train(config, tmp_path, Console(quiet=True))
    loaded, task, model, step = load_run(tmp_path, trust_code=True)
    assert loaded == config
    assert step == 20
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluate_split(task, model, "test")[0]["loss"] == record["loss"]
    _, _, earlier, step = load_run(tmp_path, step=10, trust_code=True)
    assert step == 10
    assert evaluate_split(task, earlier, "test")[0]["loss"] > record["loss"]
    with pytest.raises(UserError, match="no checkpoint of step 4"):
        load_run(tmp_path, step=4, trust_code=True)
    (tmp_path / "checkpoints" / "20" / "optimizer" / "_METADATA").write_text("{}")
    with pytest.raises(CheckpointError, match="'optimizer/_METADATA' is damaged"):
        load_run(tmp_path, trust_code=True)  # whatever it would need


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
        load_run(tmp_path / "run")
    for main, more in ((evaluate.main, []), (predict.main, ["x"])):
        with pytest.raises(UserError, match=refused):
            main([f"--workdir={tmp_path / 'run'}", *more])
        with pytest.raises(SystemExit, match="it ran"):
            main([f"--workdir={tmp_path / 'run'}", "--trust_code", *more])
    with pytest.raises(
        UserError, match=r"task: 'downloaded\.code' there, 'tests\.training\.toy' asked"
    ):
        train(config, tmp_path / "run", Console(quiet=True))


def test_what_is_not_as_it_was_is_logged_in_a_line(toy_config, tmp_path, caplog):
    train(toy_config(steps=1), tmp_path, Console(quiet=True))
    load_run(tmp_path, trust_code=True)
    assert not caplog.records
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["versions"]["jax"] = "0.1\x1b[2J\n"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    load_run(tmp_path, trust_code=True)
    (told,) = (record.getMessage() for record in caplog.records)
    assert r"other versions than the run began with: jax 0.1\x1b[2J\n -> " in told
    assert told.isprintable()


def test_training_and_loading_change_no_settings_of_the_process(toy_config, tmp_path):
    def settings():
        levels = [logging.getLogger(name).level for name in ("absl", "asyncio")]
        return [*levels, warnings.filters.copy(), sys.unraisablehook]

    before = settings()
    train(toy_config(steps=1), tmp_path, Console(quiet=True))
    load_run(tmp_path, trust_code=True)
    assert settings() == before


def test_a_directory_without_checkpoints_is_refused(toy_config, tmp_path):
    with pytest.raises(UserError, match="is no run directory"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
