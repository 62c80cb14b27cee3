import functools
import importlib
import json
import sys

import pytest
from ml_collections import ConfigDict

from relpos import config as config_lib
from relpos import defaults
from relpos.errors import UserError

DEFAULTS = {
    "task": "sums", "seed": 0, "steps": 5, "rate": 0.5, "tied": True, "lengths": [1, 2], "free": None,
    "encodings": {"rope": {"base": 1.0}, "none": {}}, "data": {"source": "x", "sources": {"copy": {"letters": 3}}},
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
        ("free", "x"), ("free", [1]), ("data.source", ""), ("data.source", "\udcff"), ("own", object),
        ("encodings.none.x", 1),
    ],
)  # fmt: skip
def test_a_value_of_its_defaults_type_conforms(key, value):
    plain = changed(key, value)
    assert defaults.conform(plain, DEFAULTS) == plain


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
        ("data.source", 3, "text, got 3"),
        ("data.source", "a\0b", "text"),
        ("data.source", "\ud800", "text"),
        ("data.sources.copy", 3, "a section, got 3"),
        ("encodings", [], "a section"),
        ("encodings.rope.base", "1", "a finite number"),
    ],
)
def test_a_value_of_another_type_is_named(key, value, wanted):
    for stored_in, start in (("", ""), ("a/config.json", "'a/config.json': ")):
        with pytest.raises(UserError) as caught:
            defaults.conform(changed(key, value), DEFAULTS, stored_in=stored_in)
        assert str(caught.value).startswith(f"{start}config key {key!r} must be {wanted}")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


def test_what_lacks_in_a_given_config_is_named_and_in_a_stored_one_is_the_default():
    plain = changed("steps", 7)
    for section in (plain, plain["data"]):
        del section[next(iter(section))]
    del plain["encodings"]["rope"], plain["data"]["sources"]
    with pytest.raises(UserError, match=r"the config lacks task, data.source: copy"):
        defaults.conform(plain, DEFAULTS)
    full = defaults.conform(plain, DEFAULTS, stored_in="x")
    assert full == changed("steps", 7)
    assert defaults.conform({**DEFAULTS, "encodings": {}}, DEFAULTS) == DEFAULTS


@pytest.mark.parametrize("name", sorted(config_lib.shipped()))
def test_a_shipped_config_has_its_own_defaults_and_is_complete(name):
    config = config_lib.load(config_lib.shipped()[name])
    assert defaults.defaults_for(config_lib.to_plain(config)) == config_lib.to_plain(config)
    assert defaults.complete(config).to_dict() == config.to_dict()


def test_what_an_older_run_did_not_know_is_off_where_configs_differ():
    """DroPE's config is nearest to this run of before DroPE, which kept its encoding."""
    plain = config_lib.to_plain(config_lib.load("drope"))
    assert plain.pop("drop_encoding_at") > 0
    assert defaults.defaults_for(plain)["drop_encoding_at"] == 0
    assert defaults.defaults_for(plain)["model"] == plain["model"]


def test_a_task_of_ones_own_needs_what_the_loop_reads():
    plain = {"task": "my.task", "seed": "x"}
    assert {"steps", "optimizer", "log_every"} <= set(defaults.defaults_for(plain))
    assert not {"encoding", "model", "data"} & set(defaults.defaults_for(plain))
    with pytest.raises(UserError, match="config key 'seed' must be a whole number"):
        defaults.complete(ConfigDict(plain))
    with pytest.raises(UserError, match=r"the config lacks steps, .*, optimizer, "):
        defaults.complete(ConfigDict({"task": "my.task", "seed": 1}))
    assert defaults.defaults_for({"steps": 1}) == {}


def test_what_json_has_not_is_refused():
    with pytest.raises(UserError, match=r"cannot be stored as JSON.*not JSON serializable"):
        defaults.complete(ConfigDict({"task": "lm", "own": {1, 2}}))


def test_the_users_own_package_of_the_same_name_changes_no_defaults(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "encodings.py").write_text("ENCODINGS = {'mine': {}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    mine = importlib.import_module("configs.encodings")
    try:
        expected = defaults.defaults_for({"task": "language_modelling"})
        defaults._shipped_configs.cache_clear()
        assert defaults.defaults_for({"task": "language_modelling"}) == expected
        assert "rope" in expected["encodings"]
        assert sys.modules["configs.encodings"] is mine
    finally:
        for name in ("configs", "configs.encodings"):
            sys.modules.pop(name, None)
