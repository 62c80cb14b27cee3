import json
import os

import pytest

from relpos.errors import UserError
from relpos.sections import to_plain
from relpos.training import run_config
from relpos.training.run_config import config_class, read_stored
from relpos.training.run_directory import RunDirectory
from relpos.training.stored_run import artefact_path, check_provenance, read_run


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", json.dumps({"config": 3}), "[" * 100_000, "\0", "9" * 5000]
)
def test_a_damaged_config_json_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot read '.*config\.json'"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("corpus", 3), ("corpus", {"splits": [1]}), ("corpus", {"splits": {"train": 3}}),
        ("corpus", {"splits": {"train": {"questions": "3"}}}), ("tokenizers", ["x"]), ("tokenizers", {"x": 3}),
        ("versions", "3.11"), ("versions", {"jax": None}), ("x64", 1),
    ],
)  # fmt: skip
def test_what_stands_beside_the_config_must_be_of_its_kind(tmp_path, section, value):
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, section: value}))
    with pytest.raises(UserError, match=rf"config\.json', restore it: '{section}' is not what"):
        read_run(tmp_path)


def test_a_directory_of_something_else_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="is not a run directory"):
            read_run(path)


def test_a_pipe_in_place_of_config_json_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json' is not a regular file"):
        read_run(tmp_path)


def stored(tmp_path, plain):
    """Reads a stored config."""
    return read_stored(plain, config_class(plain.get("task")), str(tmp_path / "config.json"))


def test_a_run_that_names_its_data_by_older_keys_is_refused(tmp_path):
    plain = to_plain(run_config.load("configs/lm.py"))
    plain["data"] = {"path": "a.txt", "tokenizer": "bytes"}
    with pytest.raises(
        UserError,
        match=r"config\.json': unknown config key 'data\.path'.*another version of relpos",
    ):
        stored(tmp_path, plain)


def test_an_older_config_is_read_with_the_defaults_of_its_task(tmp_path):
    plain = to_plain(run_config.load("configs/qa.py", [("steps", "3")]))
    for section, key in (
        (plain, "longest_answer"),
        (plain["data"], "vocab_size"),
        (plain["encodings"], "t5"),
    ):
        del section[key]
    config = stored(tmp_path, plain)
    assert config == run_config.load("configs/qa.py", [("steps", "3")])


@pytest.mark.parametrize(
    ("key", "value"), [("steps", "3"), ("data", []), ("encoding", None), ("eval_multiples", ["x"])]
)
def test_a_stored_value_of_another_kind_is_named_with_its_file(tmp_path, key, value):
    plain = to_plain(run_config.load("configs/lm.py")) | {key: value}
    with pytest.raises(UserError, match=rf"config\.json': config key '{key}' must be"):
        stored(tmp_path, plain)


def test_a_stored_key_that_no_config_can_have_is_named_with_its_file(tmp_path):
    with pytest.raises(UserError, match=r"config\.json': unknown config key 'a\.b'"):
        stored(tmp_path, {"task": "algorithmic", "a.b": 3})


def begun(path, toy_config):
    path.mkdir()
    file, is_new = artefact_path(path, "tokenizer.model")
    assert is_new
    file.write_bytes(b"pieces")
    directory = RunDirectory(path, toy_config())
    directory.describe({"corpus": {"sha256": "abc"}})
    directory.close()
    return file


def test_the_tokenizer_that_a_run_began_with_is_the_only_one(tmp_path, toy_config):
    file = begun(tmp_path / "run", toy_config)
    assert artefact_path(tmp_path / "run", "tokenizer.model") == (file, False)
    file.write_bytes(b"seceip")
    with pytest.raises(UserError, match=r"tokenizer\.model' is not the file that this run was"):
        artefact_path(tmp_path / "run", "tokenizer.model")
    run = read_run(tmp_path / "run")
    assert list(run.pop("tokenizers")) == ["tokenizer.model"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(run))
    assert artefact_path(tmp_path / "run", "tokenizer.model") == (file, False)  # an older run
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="is not a regular file"):
        artefact_path(tmp_path / "run", "tokenizer.model")
    file.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model' is missing"):
        artefact_path(tmp_path / "run", "tokenizer.model")


@pytest.mark.parametrize("killed", [False, True])
def test_what_the_user_has_put_there_outlives_starts_that_fail(tmp_path, toy_config, killed):
    (tmp_path / "tokenizer.model").write_text("precious")
    (tmp_path / "old.tokenizer.model").write_text("precious too")
    for _ in range(2):
        directory = RunDirectory(tmp_path, toy_config())
        file, is_new = artefact_path(tmp_path, "tokenizer.model")
        assert is_new
        assert not file.exists()
        file.write_text("ours")
        if not killed:
            directory.forget()
        directory.close()
    left = {path.name: path.read_text() for path in tmp_path.glob("*tokenizer.*")}
    assert left.pop("old.tokenizer.model") == "precious too"
    if killed:
        assert left.pop("old2.tokenizer.model") == "precious"
        assert left == {"tokenizer.model": "ours", "old3.tokenizer.model": "ours"}
    else:
        assert left == {"tokenizer.model": "precious"}


def test_what_was_put_aside_first_is_what_comes_back(tmp_path, toy_config):
    (tmp_path / "tokenizer.model").write_text("precious")
    directory = RunDirectory(tmp_path, toy_config())
    for number in range(3):
        artefact_path(tmp_path, "tokenizer.model")[0].write_text(f"ours {number}")
    directory.forget()
    directory.close()
    assert [path.read_text() for path in tmp_path.glob("*tokenizer.*")] == ["precious"]


def test_names_of_files_are_no_facts_where_there_is_a_hash(tmp_path):
    there = {"name": "a", "sha256": "abc", "splits": {"train": {"bytes": 3}}}
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "corpus": there}))
    check_provenance(tmp_path, {"corpus": there | {"name": "b"}})
    for other in ({"sha256": "xyz"}, {"splits": {"train": {"bytes": 4}}}):
        with pytest.raises(UserError, match="another corpus"):
            check_provenance(tmp_path, {"corpus": there | other})
    check_provenance(tmp_path / "nowhere", {"corpus": {}})
