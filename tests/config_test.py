import functools
import json
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


def test_a_config_imports_its_neighbours_wherever_the_command_is_given(tmp_path, monkeypatch):
    folder = tmp_path / "my_configs"
    folder.mkdir()
    (folder / "shared.py").write_text("STEPS = 7\n")
    (folder / "small.py").write_text(
        "from ml_collections import ConfigDict\n\nfrom my_configs.shared import STEPS\n\n\n"
        "def get_config():\n    return ConfigDict({'steps': STEPS})\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = list(sys.path)
    assert config_lib.load("../my_configs/small.py").steps == 7
    assert sys.path == before


def test_the_configs_that_come_with_relpos_are_known_by_name():
    found = config_lib.shipped()
    assert {"lm", "translation", "scan", "qa", "algorithmic"} == set(found)
    for path in found.values():
        assert config_lib.load(path).steps > 0


DEFAULTS = {
    "task": "sums", "seed": 0, "steps": 5, "rate": 0.5, "tied": True, "lengths": [1, 2], "free": None,
    "encodings": {"rope": {"base": 1.0}, "none": {}}, "data": {"name": "x", "options": {"copy": {"letters": 3}}},
}  # fmt: skip


def changed(key, value):
    """The defaults with one value replaced, `key` with dots."""
    plain = json.loads(json.dumps(DEFAULTS))
    *sections, last = key.split(".")
    functools.reduce(dict.__getitem__, sections, plain)[last] = value
    return plain


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 2**31 - 1), ("steps", -(2**31)), ("seed", 2**32 - 1), ("rate", 3), ("lengths", ()), ("lengths", [7]),
        ("free", "x"), ("free", [1]), ("data.name", ""), ("data.name", "\udcff"), ("own", object),
        ("encodings.none.x", 1),
    ],
)  # fmt: skip
def test_a_value_of_its_defaults_type_conforms(key, value):
    plain = changed(key, value)
    assert config_lib.conform(plain, DEFAULTS) == plain


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("steps", "5", "a whole number from -2147483648 to 2147483647, got '5'"),
        ("steps", 5.0, "a whole number"),
        ("steps", True, "a whole number"),
        ("steps", None, "a whole number"),
        ("steps", 2**31, "a whole number"),
        ("seed", 2**32, "a whole number from 0 to 4294967295, got 4294967296"),
        ("rate", float("inf"), "a finite number, got inf"),
        ("rate", float("nan"), "a finite number"),
        ("rate", 10**400, "a finite number"),
        ("rate", False, "a finite number"),
        ("tied", 1, "true or false, got 1"),
        ("lengths", 3, "a list, got 3"),
        ("lengths", [1, "2"], "a list, each a whole number"),
        ("data.name", 3, "text, got 3"),
        ("data.name", "a\0b", "text"),
        ("data.name", "\ud800", "text"),
        ("data.options.copy", 3, "a section, got 3"),
        ("encodings", [], "a section"),
        ("encodings.rope.base", "1", "a finite number"),
    ],
)
def test_a_value_of_another_type_is_named(key, value, wanted):
    for stored_in, start in (("", ""), ("a/config.json", "'a/config.json': ")):
        with pytest.raises(UserError) as caught:
            config_lib.conform(changed(key, value), DEFAULTS, stored_in=stored_in)
        assert str(caught.value).startswith(f"{start}config key {key!r} must be {wanted}")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


def test_what_lacks_in_a_given_config_is_named_and_in_a_stored_one_is_the_default():
    plain = changed("steps", 7)
    for section in (plain, plain["data"]):
        del section[next(iter(section))]
    del plain["encodings"]["rope"], plain["data"]["options"]
    with pytest.raises(UserError, match=r"the config lacks task, data\.name: copy"):
        config_lib.conform(plain, DEFAULTS)
    full = config_lib.conform(plain, DEFAULTS, stored_in="x")
    assert full == changed("steps", 7)
    assert config_lib.conform({**DEFAULTS, "encodings": {}}, DEFAULTS) == DEFAULTS


@pytest.mark.parametrize("name", sorted(config_lib.shipped()))
def test_a_shipped_config_has_its_own_defaults_and_is_complete(name):
    config = config_lib.load(config_lib.shipped()[name])
    assert config_lib.defaults_for(config_lib.to_plain(config)) == config_lib.to_plain(config)
    assert config_lib.complete(config).to_dict() == config.to_dict()


def test_a_task_of_ones_own_needs_what_the_loop_reads():
    plain = {"task": "my.task", "seed": "x"}
    assert {"steps", "optimizer", "log_every"} <= set(config_lib.defaults_for(plain))
    assert not {"encoding", "model", "data"} & set(config_lib.defaults_for(plain))
    with pytest.raises(UserError, match="config key 'seed' must be a whole number"):
        config_lib.complete(ConfigDict(plain))
    with pytest.raises(UserError, match=r"the config lacks steps, .*, optimizer, "):
        config_lib.complete(ConfigDict({"task": "my.task", "seed": 1}))
    assert config_lib.defaults_for({"steps": 1}) == {}


def test_a_key_that_no_config_can_have_is_refused():
    with pytest.raises(UserError, match="no config can be made of it"):
        config_lib.from_plain({"data": {"a.b": 1}})


def test_what_json_has_not_is_refused():
    with pytest.raises(UserError, match=r"cannot be stored as JSON.*not JSON serializable"):
        config_lib.complete(ConfigDict({"task": "lm", "own": {1, 2}}))
