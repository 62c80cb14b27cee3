"""The command line itself: kill -9 and Ctrl-C from outside, exit codes, what is printed where."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from relpos.runs import Run
from relpos.training import checksums
from relpos.training.checkpoints import Checkpoints
from relpos.training.optimizer import create_optimizer
from relpos.training.step import init_state
from relpos.training.task import create_task

ROOT = Path(__file__).parents[1]
CONFIG = "tests/training/toy_config.py"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One compilation cache: every process would compile the same step otherwise."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return os.environ | cache | {"PYTHONPATH": str(ROOT)}


def command(workdir, *overrides):
    flags = ["--config", CONFIG, "--workdir", str(workdir)]
    return [sys.executable, "-m", "relpos.train", *flags, *overrides]


def train(environment, workdir, *overrides, kill=None):
    return subprocess.run(
        command(workdir, *overrides),
        cwd=ROOT,
        env=environment | ({"TOY_KILL": kill} if kill else {}),
        capture_output=True,
        text=True,
        timeout=120,
    )


def records(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("tokens_per_second", None)
    return lines


def complete(workdir):
    """Returns the names of the complete checkpoints."""
    return sorted(path.name for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(environment, tmp_path):
    reference = train(environment, tmp_path / "reference")
    assert reference.returncode == 0, reference.stderr
    assert reference.stderr == ""
    assert "\x1b" not in reference.stdout
    assert "\r" not in reference.stdout

    workdir = tmp_path / "killed run"
    for moment in ("compile", "save", "batch 14"):
        assert not complete(workdir)
        killed = train(environment, workdir, kill=moment)
        assert killed.returncode == -signal.SIGKILL
    # Saving step 10 waited for step 5 and may itself have been complete by batch 14, or not.
    assert (steps := complete(workdir)) in (["5"], ["10", "5"])
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "split": "tr')  # torn
    finished = train(environment, workdir)
    assert finished.returncode == 0, finished.stderr
    assert f"resuming at step {max(map(int, steps))}\n" in finished.stdout
    assert records(workdir) == records(tmp_path / "reference")


STEPS = 40
EVERY_STEP = (f"--config.steps={STEPS}", "--config.checkpoint_every=1", "--config.log_every=1")


def kill(environment, workdir, moment, choose, seconds):
    """Starts a run and kills it; returns whether it was still running.

    Moments are 'saving' and 'removing', which folders in the run directory show, or any.
    """
    process = subprocess.Popen(
        command(workdir, *EVERY_STEP),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if moment == "any":
        time.sleep(choose.uniform(0, seconds))
    else:
        wanted = choose.randrange(1, STEPS - 3)
        while process.poll() is None and not is_at(workdir / "checkpoints", moment, wanted):
            time.sleep(0.0002)
        time.sleep(choose.expovariate(1 / 0.005))
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


def is_at(directory, moment, wanted):
    """Tells whether some step from `wanted` on is being saved or removed."""
    names = os.listdir(directory) if directory.exists() else []
    complete = [int(name) for name in names if name.isdigit()]
    under_way = [int(name.split(".")[1]) for name in names if name.startswith(".")]
    if moment == "saving":
        return any(step >= max(wanted, *complete, 0) for step in under_way)
    return any(wanted <= step < max(complete, default=0) for step in under_way)


def final_state(workdir):
    """Returns every array of the last checkpoint: parameters, moments, counts."""
    config = Run(workdir, trust_code=True).config
    task = create_task(config, workdir)
    options = config.optimizer
    _, state = init_state(task, create_optimizer(options, STEPS), jax.random.key(1))
    checkpoints = Checkpoints(workdir, read_only=True)
    state, meta = checkpoints.restore(STEPS, state, batches := task.train_batches())
    checkpoints.close()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)], meta, str(batches.get_state())


@pytest.mark.long
def test_twenty_kills_half_of_them_while_saving_and_removing(environment, tmp_path):
    """Each run goes on to the end, bit for bit as if it had not been killed."""
    train(environment, tmp_path / "warm", *EVERY_STEP)
    started = time.monotonic()
    reference = train(environment, tmp_path / "reference", *EVERY_STEP)
    seconds = time.monotonic() - started
    assert reference.returncode == 0, reference.stderr
    arrays, meta, batches = final_state(tmp_path / "reference")
    choose = random.Random(0)
    for number, moment in enumerate(5 * ["saving", "any", "removing", "any"]):
        workdir = tmp_path / str(number)
        while not kill(environment, workdir, moment, choose, seconds):
            shutil.rmtree(workdir)  # it came too late
        left = (
            sorted(os.listdir(workdir / "checkpoints"))
            if (workdir / "checkpoints").exists()
            else []
        )
        print(number, moment, left)
        for name in filter(str.isdigit, left):
            checksums.verify(workdir / "checkpoints" / name)
        resumed = train(environment, workdir, *EVERY_STEP)
        assert resumed.returncode == 0, resumed.stderr
        assert resumed.stderr == ""
        assert records(workdir) == records(tmp_path / "reference")
        assert complete(workdir) == sorted(os.listdir(workdir / "checkpoints")) == ["39", "40"]
        again, meta_again, batches_again = final_state(workdir)
        for wanted, got in zip(arrays, again, strict=True):
            np.testing.assert_array_equal(wanted, got)
        assert (meta_again["metrics_lines"], batches_again) == (meta["metrics_lines"], batches)
        shutil.rmtree(workdir)


def test_a_signal_saves_and_leaves_the_directory_locked_until_then(environment, tmp_path):
    endless = "--config.steps=100000000"
    with subprocess.Popen(
        command(tmp_path, endless, "--config.checkpoint_every=100000000"),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not process.stdout.readline().startswith("step 8/"):
            assert process.poll() is None, process.stderr.read()
        second = train(environment, tmp_path, endless)
        assert second.returncode == 3
        assert f"in use by another process (process {process.pid}" in second.stderr
        process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaints == ""
    assert "stopping after this step (once more to quit at once)" in printed
    assert printed.splitlines()[-1].endswith("saved; the same command resumes it")
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert f"stopped at step {checkpoint.name}," in printed.splitlines()[-1]


def test_a_mistake_is_one_line_and_exit_code_2(environment, tmp_path):
    made = train(environment, tmp_path / "run", "--config.stps=3")
    assert made.returncode == 2
    assert made.stderr == "error: unknown config key 'stps': did you mean 'steps'?\n"
    assert made.stdout == ""
    assert not (tmp_path / "run").exists()
