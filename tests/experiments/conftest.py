"""The folder of a small experiment."""

import pytest

from tests.experiments.sweeping import SWEEP


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "an experiment"
    folder.mkdir()
    (folder / "sweep.toml").write_text(SWEEP.format(config="tests/training/toy_config.py"))
    return folder
