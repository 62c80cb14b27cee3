import gc
import logging
import resource
import shutil
import sys

import jax
import numpy as np
import pytest

from relpos import cli
from relpos.errors import UserError
from relpos.training.checkpoints import KEEP, CheckpointError, Checkpoints
from tests.training.states import make_state


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


@pytest.fixture
def _hushed(monkeypatch):
    """As in a command's process, but for one test."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    levels = {name: logging.getLogger(name).level for name in ("absl", "asyncio")}
    cli.hush_orbax()
    yield
    gc.collect()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("_hushed")
def test_a_disk_that_fills_up_is_told_in_a_line(tmp_path, batches, capfd):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(0, 2), batches, {})
    checkpoints.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        checkpoints.save(2, make_state(0), batches, {})
        with pytest.raises(CheckpointError, match=r"one is step 1\).*: File too large$") as caught:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints.close()
    assert len(str(caught.value)) < 500
    gc.collect()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("axes", "what"), [(2, "a parameter"), (1, "the optimizer's state")])
def test_a_state_that_is_not_finite_is_not_restored(tmp_path, batches, axes, what):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(0, 2), batches, {})
    spoilt = jax.tree.map(
        lambda x: x.at[(0,) * axes].set(np.nan) if x.ndim == axes else x, make_state(0, 2)
    )
    checkpoints.save(2, spoilt, batches, {})
    checkpoints.wait()
    with pytest.raises(
        CheckpointError, match=rf"{what} is not a finite number.*remove .*2' to use step 1"
    ):
        checkpoints.restore(2, make_state(0, 2), batches)
    checkpoints.close()
