import json
import os
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from relpos.errors import UserError
from relpos.training.run_directory import RunDirectory, read_run

CONFIG = {"steps": 5, "log_every": 1, "sizes": (1, 2), "rope": {"base": 1.0, "layout": None}}
CORPUS = {"corpus": {"name": "library", "sha256": "abc"}}


def claim(path, changes=None, facts=CORPUS):
    directory = RunDirectory(path, ConfigDict(CONFIG | (changes or {})))
    try:
        directory.describe(facts)
    finally:
        directory.close()


def test_config_json_holds_the_config_the_facts_and_the_versions(tmp_path):
    claim(tmp_path / "a b" / "run")
    run = read_run(tmp_path / "a b" / "run")
    assert run["config"] == CONFIG | {"sizes": [1, 2]}
    assert run["corpus"] == CORPUS["corpus"]
    assert {"python", "relpos", "jax", "flax"} <= set(run["versions"])


def test_the_same_config_may_come_again_with_other_free_keys(tmp_path):
    claim(tmp_path)
    claim(tmp_path)
    claim(tmp_path, {"log_every": 7})
    assert read_run(tmp_path)["config"]["log_every"] == 1


def test_another_config_is_refused_with_every_key_that_differs(tmp_path):
    claim(tmp_path)
    with pytest.raises(UserError) as caught:
        claim(tmp_path, {"steps": 6, "rope": {"base": 2.0, "layout": None}, "new": 1})
    message = str(caught.value)
    assert "belongs to a run with another config" in message
    for line in ("steps: 5 there, 6 asked for", "rope.base: 1.0 there, 2.0 asked for"):
        assert f"  {line}\n" in message
    assert "new: '(nothing)' there, 1 asked for" in message
    assert "sizes" not in message
    assert "another --workdir" in message
    claim(tmp_path)  # nothing was lost


def test_another_corpus_is_refused(tmp_path):
    claim(tmp_path)
    with pytest.raises(UserError, match=r"corpus.sha256: 'abc' there, 'abd' asked for"):
        claim(tmp_path, facts={"corpus": {"name": "library", "sha256": "abd"}})


def test_one_process_at_a_time(tmp_path):
    first = RunDirectory(tmp_path, ConfigDict(CONFIG))
    with pytest.raises(UserError, match=rf"in use by another process \(process {os.getpid()} on"):
        RunDirectory(tmp_path, ConfigDict(CONFIG))
    first.close()
    claim(tmp_path)


def test_a_refused_config_leaves_the_directory_unlocked(tmp_path):
    claim(tmp_path)
    with pytest.raises(UserError):
        claim(tmp_path, {"steps": 6})
    claim(tmp_path)


def test_a_new_claim_can_be_withdrawn_but_an_old_one_stays(tmp_path):
    directory = RunDirectory(tmp_path, ConfigDict(CONFIG))
    directory.describe(CORPUS)
    directory.forget()
    directory.close()
    claim(tmp_path, {"steps": 6})
    directory = RunDirectory(tmp_path, ConfigDict(CONFIG | {"steps": 6}))
    directory.forget()
    directory.close()
    assert read_run(tmp_path)["config"]["steps"] == 6


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="a file is in its place"):
            claim(path)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.fixture
def powerless():
    """Root may write anywhere, so it becomes nobody for the test."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("powerless")
def test_a_directory_without_the_right_to_write_is_refused():
    for path in ("/", "/relpos-run/deeper", "/usr/bin"):
        with pytest.raises(
            UserError, match=r"cannot (make|write to) --workdir .*: (Perm|Read-only)"
        ):
            claim(Path(path))


def test_a_directory_that_cannot_be_made_is_refused():
    with pytest.raises(
        UserError, match=r"cannot make --workdir '/dev/null/x'|file is in its place"
    ):
        claim(Path("/dev/null/x"))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"config": 3})])
def test_a_damaged_config_json_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot read '.*config\.json'"):
        read_run(tmp_path)


def test_a_directory_of_something_else_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="is no run directory"):
            read_run(path)
