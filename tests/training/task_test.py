import pkgutil

import pytest
from ml_collections import ConfigDict

import relpos.tasks
from relpos.errors import UserError
from relpos.training.task import create_task


def test_a_task_of_another_package_is_found_by_its_module(toy_config, tmp_path):
    assert type(create_task(toy_config(), tmp_path)).__name__ == "Toy"


@pytest.mark.parametrize("name", ["nonesuch.module", "relpos.nonesuch", "tests..toy", ".x", "x."])
def test_a_module_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(UserError, match="is no importable module"):
        create_task(ConfigDict({"task": name}), tmp_path)


@pytest.mark.parametrize("task", [{}, {"task": None}, {"task": ""}, {"task": 3}])
def test_a_config_that_names_no_task_is_told_so(task, tmp_path):
    with pytest.raises(UserError, match="config key 'task' must name a task"):
        create_task(ConfigDict(task), tmp_path)


def test_the_folder_is_the_registry(tmp_path, monkeypatch):
    (tmp_path / "counting_sheep.py").write_text(
        "def create(config, workdir):\n    return workdir\n"
    )
    monkeypatch.setattr(relpos.tasks, "__path__", [*relpos.tasks.__path__, str(tmp_path)])
    assert create_task(ConfigDict({"task": "counting_sheep"}), tmp_path) == tmp_path
    with pytest.raises(UserError, match="did you mean 'counting_sheep'"):
        create_task(ConfigDict({"task": "counting_sheeps"}), tmp_path)
    names = {module.name for module in pkgutil.iter_modules(relpos.tasks.__path__)}
    with pytest.raises(UserError) as caught:
        create_task(ConfigDict({"task": "zzz"}), tmp_path)
    assert all(name in str(caught.value) for name in names)
