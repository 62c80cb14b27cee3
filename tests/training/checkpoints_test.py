import gc
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos import evaluate, predict
from relpos.errors import UserError
from relpos.training.checkpoints import KEEP, CheckpointError, Checkpoints, load_model
from relpos.training.loop import train
from relpos.training.task import create_task


@pytest.fixture
def batches(toy_config, tmp_path):
    return create_task(toy_config(), tmp_path).train_batches()


def make_state(seed, width=1000):
    key = jax.random.key(seed)
    model = nnx.State({"kernel": nnx.Param(jax.random.normal(key, (width, 300)))})
    optimizer = nnx.State({"opt_state": {0: {"mu": nnx.Param(jax.random.normal(key, (7,)))}}})
    return nnx.State({0: model, 1: optimizer})


def test_a_state_may_be_donated_as_soon_as_the_save_has_begun(tmp_path, batches):
    checkpoints = Checkpoints(tmp_path)
    state = make_state(0)
    expected = jax.tree.map(np.array, jax.tree.leaves(state))
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: 0 * x - 1, state), donate_argnums=0)
    checkpoints.save(3, state, batches, {})
    for _ in range(5):
        state = overwrite(state)
    checkpoints.wait()
    restored, _ = checkpoints.restore(3, make_state(1), batches)
    checkpoints.close()
    for wanted, got in zip(expected, jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(wanted, got)


def test_the_iterator_goes_on_with_the_next_batch(tmp_path, toy_config, batches):
    checkpoints = Checkpoints(tmp_path)
    for _ in range(20):  # 16 batches are one epoch
        next(batches)
    checkpoints.save(20, make_state(0, 2), batches, {"window": {"loss": [0.1, 3]}})
    checkpoints.wait()
    expected = [next(batches)["tokens"] for _ in range(3)]
    for _ in range(5):
        next(batches)
    _, meta = checkpoints.restore(20, make_state(1, 2), batches)
    checkpoints.close()
    assert meta == {"window": {"loss": [0.1, 3]}}
    np.testing.assert_array_equal([next(batches)["tokens"] for _ in range(3)], expected)


def test_the_last_two_are_kept_and_unfinished_ones_ignored(tmp_path, batches):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, make_state(step, 2), batches, {})
    checkpoints.wait()
    checkpoints.close()
    directory = tmp_path / "checkpoints"
    assert sorted(path.name for path in directory.iterdir()) == ["3", "4"]
    assert KEEP == 2
    shutil.copytree(directory / "4", directory / "5.orbax-checkpoint-tmp")
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.latest_step() == 4
    reader.close()
    assert len(list(directory.iterdir())) == 3  # it may be another process's save
    again = Checkpoints(tmp_path)
    assert again.latest_step() == 4
    with pytest.raises(UserError, match=r"no checkpoint of step 9 in .*; there are \[3, 4\]"):
        again.restore(9, make_state(0, 2), batches)
    with pytest.raises(CheckpointError, match="cannot restore step 4"):
        again.restore(4, make_state(0, 5), batches)
    again.close()


# Where Orbax fails it may leave coroutines behind, for the garbage collector to complain about.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_refuses_is_an_error_which_says_what_is_left(tmp_path, batches):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(0, 2), batches, {})
    checkpoints.wait()
    (tmp_path / "checkpoints").rename(tmp_path / "moved")
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(
        CheckpointError, match=r"cannot save a checkpoint in .* \(there is none yet"
    ):
        checkpoints.save(2, make_state(0, 2), batches, {})
    checkpoints.close()
    gc.collect()


def test_a_trained_model_is_loaded_without_its_optimizer(toy_config, tmp_path):
    config = toy_config(checkpoint_every=10)
    train(config, tmp_path, Console(quiet=True))
    loaded, task, model, step = load_model(tmp_path, trust_code=True)
    assert loaded.to_dict() == config.to_dict()
    assert step == 20
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert task.evaluate(model, "test")[0]["loss"] == record["loss"]
    _, _, earlier, step = load_model(tmp_path, step=10, trust_code=True)
    assert step == 10
    assert task.evaluate(earlier, "test")[0]["loss"] > record["loss"]
    with pytest.raises(UserError, match="no checkpoint of step 4"):
        load_model(tmp_path, step=4, trust_code=True)


def test_a_run_directory_runs_no_code(toy_config, tmp_path, monkeypatch):
    config = toy_config(steps=1)
    train(config, tmp_path / "run", Console(quiet=True))
    run = load_model(tmp_path / "run", trust_code=True)
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
        load_model(tmp_path / "run")
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
    load_model(tmp_path, trust_code=True)
    assert not caplog.records
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["versions"]["jax"] = "0.1\x1b[2J\n"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    load_model(tmp_path, trust_code=True)
    (told,) = (record.getMessage() for record in caplog.records)
    assert r"other versions than the run began with: jax 0.1\x1b[2J\n -> " in told
    assert told.isprintable()


def test_a_directory_without_checkpoints_is_refused(toy_config, tmp_path):
    with pytest.raises(UserError, match="is no run directory"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_model(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_state_that_is_not_finite_is_not_restored(tmp_path, batches):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(0, 2), batches, {})
    spoilt = jax.tree.map(lambda x: x.at[0, 0].set(np.nan) if x.ndim == 2 else x, make_state(0, 2))
    checkpoints.save(2, spoilt, batches, {})
    checkpoints.wait()
    with pytest.raises(CheckpointError, match=r"not a finite number.*remove .*2' to use step 1"):
        checkpoints.restore(2, make_state(0, 2), batches)
    checkpoints.close()
