import json
import shutil
import sys

import pytest
from ml_collections import ConfigDict

from relpos import config as config_lib
from relpos.errors import UserError

SOURCE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "steps": 100, "rate": 0.5, "name": "lm", "tied": True, "path": None,
        "encoding": "rope", "lengths": (1, 2), "schemes": ("rope",), "splits": ["a"],
        "encodings": {"rope": {"base": 10000.0, "fraction": 1.0}, "t5": {"num_buckets": 32}},
        "data": {"path": None},
    })
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some config.py"
    path.write_text(SOURCE)
    return path


def load(path, *overrides):
    return config_lib.load(path, [tuple(text.split("=", 1)) for text in overrides])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("steps=7", 7),
        ("steps=1e3", 1000),
        ("rate=1", 1.0),
        ("rate=1e-4", 1e-4),
        ("rate=inf", float("inf")),
        ("name=3", "3"),
        ("name=a=b", "a=b"),
        ("tied=false", False),
        ("tied=True", True),
        ("path=none", None),
        ("path=3", 3),
        ("path=3.5", 3.5),
        ("path=true", True),
        ("path=/a b/*.txt", "/a b/*.txt"),
        ("path=1,2", (1, 2)),
        ("lengths=3", (3,)),
        ("lengths=3,4,5", (3, 4, 5)),
        ("lengths=(3, 4)", (3, 4)),
        ("lengths=", ()),
        ("schemes=rope, t5", ("rope", "t5")),
        ("encodings.rope.base=500000", 500000.0),
    ],
)
def test_a_text_is_read_as_the_type_of_its_default(path, override, value):
    read = config_lib.flatten(load(path, override).to_dict())[override.partition("=")[0]]
    assert read == value
    assert type(read) is type(value)


def test_the_last_override_wins_and_the_others_stay(path):
    config = load(path, "steps=1", "steps=2", "encodings.rope.base=3")
    assert config.steps == 2
    assert config.encodings.rope.base == 3.0
    assert config.encodings.rope.fraction == 1.0
    assert config.encodings.t5.num_buckets == 32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stps=3", "unknown config key 'stps': did you mean 'steps'?"),
        (
            "encodings.rope.bse=3",
            "unknown config key 'encodings.rope.bse': did you mean 'encodings.rope.base'?",
        ),
        ("encodings.rpe.base=3", "did you mean 'encodings.rope.base'?"),
        ("base=3", "did you mean 'encodings.rope.base'?"),
        ("qqqqqq=3", "the sections and keys are data, encoding, encodings, lengths"),
        ("encodings.rope=3", "is a section, set one of its keys: encodings.rope.base, enc"),
        ("steps=abc", "config key 'steps' takes a value of type int, such as 100; got 'abc'"),
        ("steps=1.5", "type int"),
        ("steps=", "type int"),
        ("rate=nan", "type float"),
        ("tied=maybe", "type bool"),
        ("lengths=a,b", "config key 'lengths' takes a value of type int, such as 1; got 'a'"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_right_one(path, override, message):
    with pytest.raises(UserError) as caught:
        load(path, override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "defines no function get_config"),
        ("def get_config(:", "SyntaxError"),
        ("import nonesuch", "No module named 'nonesuch' (line 1)"),
        ("def get_config():\n    return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def get_config():\n    return {}", "returns dict, not a ConfigDict"),
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
    with pytest.raises(UserError, match=r"no config file 'qqq' \(with relpos come .*lm, qa, scan"):
        load("qqq")
    with pytest.raises(UserError, match=r"did you mean 'translation'\?"):
        load("translaton")


def test_a_config_survives_json(path):
    config = load(path, "lengths=5,6", "path=1,2")
    text = json.dumps(config_lib.to_plain(config))
    assert config_lib.from_plain(json.loads(text)).to_dict() == config.to_dict()


def test_a_config_is_locked(path):
    with pytest.raises(AttributeError):
        load(path).stps = 3


def test_numbers_are_checked():
    config = ConfigDict({"a": {"size": 0, "name": "x", "on": True}, "b": float("nan")})
    config_lib.require_at_least(config, {"a.size": 0})
    for key, minimum, message in [
        ("a.size", 1, r"config key 'a\.size' must be a number >= 1, got 0"),
        ("a.name", 0, "got 'x'"),
        ("a.on", 0, "got True"),
        ("b", 0, "got nan"),
        ("a.sze", 0, r"no key 'a\.sze': did you mean 'a\.size'"),
    ]:
        with pytest.raises(UserError, match=message):
            config_lib.require_at_least(config, {key: minimum})


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
    assert config_lib.load(f"../{folder}/small.py").steps == len("seven")
    assert sys.path == path
    assert set(sys.modules) == modules


@pytest.mark.parametrize("folder", ["mine", "configs"])
def test_a_copy_of_a_config_still_finds_what_comes_with_relpos(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir()
    shutil.copy(config_lib.shipped()["scan"], tmp_path / folder / "copy.py")
    assert config_lib.load(f"{folder}/copy.py").to_dict() == config_lib.load("scan").to_dict()


def test_a_folder_beside_the_command_does_not_stand_before_what_comes_with_relpos(
    tmp_path, monkeypatch
):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "encodings.py").write_text("ENCODINGS = {}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert "t5" in config_lib.load("lm").encodings


def test_nothing_of_relpos_is_imported_as_if_it_were_no_part_of_it(tmp_path):
    folder = tmp_path / "site-packages" / "relpos"
    folder.mkdir(parents=True)
    write_config(folder / "configs" / "x.py", package="cli", module="run", name="RUN")
    (folder / "cli.py").write_text("")
    with pytest.raises(UserError, match="No module named 'cli'"):
        config_lib.load(folder / "configs" / "x.py")


def test_a_config_in_a_folder_named_as_a_module_may_import_that(tmp_path):
    write_config(tmp_path / "json" / "x.py", package="json", module="tool", name="__name__")
    assert config_lib.load(tmp_path / "json" / "x.py").steps == len("json.tool")


def test_a_file_stands_before_a_name(tmp_path, monkeypatch):
    (tmp_path / "lm").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'lm' is not a Python file"):
        config_lib.load("lm")


def test_the_configs_that_come_with_relpos_are_known_by_name():
    found = config_lib.shipped()
    assert {"lm", "drope", "translation", "scan", "qa", "algorithmic"} == set(found)
    for name, path in found.items():
        assert config_lib.load(name).to_dict() == config_lib.load(path).to_dict()


def test_a_key_that_no_config_can_have_is_refused():
    with pytest.raises(UserError, match="no config can be made of it"):
        config_lib.from_plain({"data": {"a.b": 1}})
