import shutil
import sys

import pytest

from relpos import config_files
from relpos.errors import UserError

SOURCE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"steps": 100, "data": {"lengths": (1, 2)}})
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some config.py"
    path.write_text(SOURCE)
    return path


def load(path):
    return config_files.read_file(path)


def test_a_file_says_what_differs_from_the_defaults(path):
    assert load(path) == {"steps": 100, "data": {"lengths": (1, 2)}}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "defines no function get_config"),
        ("def get_config(:", "SyntaxError"),
        ("import nonesuch", "No module named 'nonesuch' (line 1)"),
        ("def get_config():\n    return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def get_config():\n    return []", "returns list, not a ConfigDict"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, source, message):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "bad.py")
    assert message in str(caught.value)


def test_a_missing_file_is_answered_with_the_nearest_one(path):
    with pytest.raises(UserError, match=r"did you mean '.*some config\.py'"):
        load(path.parent / "some confg.py")
    with pytest.raises(UserError, match="no config file"):
        load(path.parent / "nowhere" / "x.py")
    with pytest.raises(UserError, match="no config file"):
        load(path.parent)
    with pytest.raises(UserError, match=r"no config file 'qqq' \(relpos ships .*lm, qa, scan"):
        load("qqq")
    with pytest.raises(UserError, match=r"did you mean 'translation'\?"):
        load("translaton")


CONFIG_OF_STEPS = """
from ml_collections import ConfigDict

from {package}.{module} import {name} as steps


def get_config():
    return ConfigDict({{"steps": len(steps)}})
"""


def write_config(path, **imported):
    path.parent.mkdir(exist_ok=True)
    path.write_text(CONFIG_OF_STEPS.format(**imported))


@pytest.mark.parametrize("folder", ["my_configs", "configs"])
def test_a_config_imports_its_neighbours_wherever_the_command_is_given(
    tmp_path, monkeypatch, folder
):
    write_config(tmp_path / folder / "small.py", package=folder, module="shared", name="STEPS")
    (tmp_path / folder / "shared.py").write_text("STEPS = 'seven'\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path, modules = list(sys.path), set(sys.modules)
    assert config_files.read_file(f"../{folder}/small.py")["steps"] == len("seven")
    assert sys.path == path
    assert set(sys.modules) == modules


@pytest.mark.parametrize("folder", ["mine", "configs"])
def test_a_copy_of_a_config_still_finds_what_comes_with_relpos(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir()
    shutil.copy(config_files.shipped()["scan"], tmp_path / folder / "copy.py")
    assert config_files.read_file(f"{folder}/copy.py") == config_files.read_file("scan")


def test_a_folder_beside_the_command_does_not_stand_before_what_comes_with_relpos(
    tmp_path, monkeypatch
):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "translation.py").write_text("MINE = {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert config_files.read_file("scan")["data"]["source"] == "scan"


def test_nothing_of_relpos_is_imported_as_if_it_were_no_part_of_it(tmp_path):
    folder = tmp_path / "site-packages" / "relpos"
    folder.mkdir(parents=True)
    write_config(folder / "configs" / "x.py", package="cli", module="run", name="RUN")
    (folder / "cli.py").write_text("")
    with pytest.raises(UserError, match="No module named 'cli'"):
        config_files.read_file(folder / "configs" / "x.py")


def test_a_config_in_a_folder_named_as_a_module_may_import_that(tmp_path):
    write_config(tmp_path / "json" / "x.py", package="json", module="tool", name="__name__")
    assert config_files.read_file(tmp_path / "json" / "x.py")["steps"] == len("json.tool")


def test_a_file_stands_before_a_name(tmp_path, monkeypatch):
    (tmp_path / "lm").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'lm' is not a Python file"):
        config_files.read_file("lm")


def test_the_configs_that_come_with_relpos_are_known_by_name():
    found = config_files.shipped()
    assert {"lm", "drope", "translation", "scan", "qa", "algorithmic"} <= set(found)
    for name, path in found.items():
        assert config_files.read_file(name) == config_files.read_file(path)
