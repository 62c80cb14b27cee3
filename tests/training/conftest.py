import signal
from pathlib import Path

import jax
import pytest

from relpos.training import run_config
from relpos.training.task import create_task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def toy_config():
    """Returns make(**overrides) for the toy task; '__' in a key stands for a dot."""

    def make(**overrides):
        pairs = [(key.replace("__", "."), str(value)) for key, value in overrides.items()]
        return run_config.load(ROOT / "tests/training/toy_config.py", pairs)

    return make


@pytest.fixture
def batches(toy_config, tmp_path):
    return create_task(toy_config(), tmp_path).train_batches()


@pytest.fixture(scope="session", autouse=True)
def hangups_arrive():
    """Under nohup a process ignores SIGHUP, and so does all that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Many tests run the same small programs; every run of the loop would compile them anew."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    directory = str(tmp_path_factory.mktemp("compilation_cache"))
    for name, value in zip(names, (directory, 0.0), strict=True):
        jax.config.update(name, value)
    yield directory
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
