"""The command line itself: kill -9 and Ctrl-C from outside, exit codes, what is printed where."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
        assert second.returncode == 2
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
