import pkgutil

import pytest

import relpos.tasks
from relpos.errors import UserError
from relpos.training.run_config import config_class
from relpos.training.task import create_task, find_module


def test_a_task_of_another_package_is_found_by_its_module(toy_config, tmp_path):
    assert type(create_task(toy_config(), tmp_path)).__name__ == "Toy"


@pytest.mark.parametrize("name", ["nonesuch.module", "relpos.nonesuch", "tests..toy", ".x", "x."])
def test_a_module_that_is_not_there_is_named(name):
    with pytest.raises(UserError, match="is no importable module"):
        find_module(name)


@pytest.mark.parametrize("task", [None, "", 3])
def test_a_config_that_names_no_task_is_told_so(task):
    with pytest.raises(UserError, match="config key 'task' must name a task"):
        find_module(task)


def test_the_folder_is_the_registry(tmp_path, monkeypatch):
    (tmp_path / "counting_sheep.py").write_text(
        "class Config:\n    pass\n\n\ndef create(config, workdir):\n    return workdir\n"
    )
    monkeypatch.setattr(relpos.tasks, "__path__", [*relpos.tasks.__path__, str(tmp_path)])
    assert find_module("counting_sheep").create(None, tmp_path) == tmp_path
    with pytest.raises(UserError, match="its Config must be a subclass"):
        config_class("counting_sheep")
    with pytest.raises(UserError, match="did you mean 'counting_sheep'"):
        find_module("counting_sheeps")
    names = {module.name for module in pkgutil.iter_modules(relpos.tasks.__path__)}
    with pytest.raises(UserError) as caught:
        find_module("zzz")
    assert all(name in str(caught.value) for name in names)
