"""Hostile configs: each is carried out for a step or refused by a UserError, within bounds of time and memory."""

import time
from pathlib import Path

import jax
import numpy as np
import pytest

from relpos import device_memory
from relpos.errors import UserError
from relpos.training import loop
from relpos.training.optimizer import create_optimizer, learning_rate
from relpos.training.run_directory import RunDirectory
from relpos.training.step import init_state, make_train_step
from tests import fuzzing

QUICK = 20
ALL = 300
MOST_SECONDS = 20
MOST_BYTES = 2e9
CLEAR = Path("/proc/self/clear_refs")  # Linux: 5 sets the peak to what is in use now


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small data to train on, by the names that `fuzzing.small` knows."""
    folder = tmp_path_factory.mktemp("data")
    text = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(2000))
    lines = "".join(f"line number {i} of {i % 7} words\n" for i in range(200))
    names, places = ("Ada", "Ben", "Eve", "Tom"), ("hall", "garden", "attic")
    stories = "".join(
        f"1 {names[i % 4]} went to the {places[i % 3]}.\n2 Pat went to barn {i}.\n"
        f"3 Where is {names[i % 4]}?\t{places[i % 3]}\t1\n"
        for i in range(200)
    )
    found = {}
    for name, content in (("TEXT", text), ("LINES", lines), ("STORIES", stories)):
        (folder / f"{name}.txt").write_text(content)
        found[name] = str(folder / f"{name}.txt")
    return found


def take_a_step(config, workdir, *, compiled):
    """Does what `loop.train` does up to its first step, which is taken or, to be quick, only traced."""
    optimizer = config.optimizer
    directory = RunDirectory(workdir, config)
    try:
        task, shapes, _ = loop.prepare(config, directory)
        if device_memory.tree_bytes(shapes) > MOST_BYTES / 20:
            return  # it would be carried out, but not here
        batches = task.train_batches()
        if config.batch_size * config.sequence_length > 10_000:
            return
        batch = next(batches)
        task.tokens(batch)
        tx, rate = create_optimizer(optimizer, config.steps), learning_rate(optimizer, config.steps)

        def first_step(batch):
            key = jax.random.key(0)
            graphdef, state = init_state(task, tx, key)
            return make_train_step(task, graphdef, rate)(state, batch, key)

        if compiled:
            first_step(jax.device_put(batch))
        else:
            jax.eval_shape(first_step, batch)
    finally:
        directory.close()


def attempt(seed, files, workdir, *, compiled=False):
    """Fails unless the config of a seed is carried out or refused in a line, in bounds."""
    name, overrides = fuzzing.hostile(seed)
    # Of this thread alone: on a busy machine others take their share of the clock.
    began, before = time.thread_time(), begin_peak()
    try:
        take_a_step(fuzzing.small(name, files, overrides), workdir, compiled=compiled)
    except UserError:
        pass
    except Exception as error:
        error.add_note(f"seed {seed}: {name} with {overrides}")
        raise
    assert time.thread_time() - began < MOST_SECONDS, f"seed {seed}: {name} with {overrides}"
    assert peak() - before < MOST_BYTES, f"seed {seed}: {name} with {overrides}"


def begin_peak():
    """Forgets the peak of earlier tests; returns the memory that is in use."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return peak()


def peak():
    """Returns the most memory that has been in use since `begin_peak`; 0 where the system does not tell."""
    if not CLEAR.exists():
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes)


@pytest.mark.skipif(not CLEAR.exists(), reason="the system does not tell the peak")
def test_the_peak_is_that_of_one_test():
    for _ in range(2):
        before = begin_peak()
        assert np.ones(3 * 10**7).sum() == 3 * 10**7
        assert 2e8 < peak() - before < 4e8


@pytest.mark.parametrize("seed", range(QUICK))
def test_a_hostile_config_takes_a_step_or_is_refused(seed, files, tmp_path):
    attempt(seed, files, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(ALL))
def test_many_hostile_configs_take_a_step_or_are_refused(seed, files, tmp_path):
    attempt(seed, files, tmp_path, compiled=True)
