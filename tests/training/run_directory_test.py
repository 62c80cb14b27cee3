import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path

import pytest

import relpos
from relpos.errors import UserError
from relpos.sections import read, to_plain
from relpos.training.run_config import RunConfig
from relpos.training.run_directory import RunDirectory
from relpos.training.stored_run import read_run
from tests.training.powerless import powerless


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    base: float = 1.0
    layout: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    path: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    files: Files = Files()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    sources: Sources = Sources()
    other: str = "x"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    task: str = "nothing"
    steps: int = 5
    log_every: int = 1
    sizes: tuple[int, ...] = (1, 2)
    rope: Rope = Rope()
    data: Data = Data()


CORPUS = {"corpus": {"name": "library", "sha256": "abc"}}


def claim(path, changes=None, facts=CORPUS, config=None):
    directory = RunDirectory(path, config or read(Config, changes or {}))
    try:
        directory.describe(facts)
    finally:
        directory.close()


def test_config_json_holds_the_config_the_facts_and_the_versions(tmp_path):
    claim(tmp_path / "a b" / "run")
    run = read_run(tmp_path / "a b" / "run")
    assert run["config"] == to_plain(Config())
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
        claim(tmp_path, {"steps": 6, "rope": {"base": 2.0}})
    message = str(caught.value)
    assert "belongs to a run with another config" in message
    for line in ("steps: 5 there, 6 asked for", "rope.base: 1.0 there, 2.0 asked for"):
        assert f"  {line}\n" in message
    assert "sizes" not in message
    assert "another --workdir" in message
    claim(tmp_path)  # nothing was lost


def test_another_corpus_is_refused(tmp_path):
    claim(tmp_path)
    with pytest.raises(UserError, match=r"corpus.sha256: 'abc' there, 'abd' asked for"):
        claim(tmp_path, facts={"corpus": {"name": "library", "sha256": "abd"}})


def test_one_process_at_a_time(tmp_path):
    first = RunDirectory(tmp_path, Config())
    with pytest.raises(UserError, match=rf"in use by another process \(process {os.getpid()} on"):
        RunDirectory(tmp_path, Config())
    first.close()
    claim(tmp_path)


def test_a_refused_config_leaves_the_directory_unlocked(tmp_path):
    claim(tmp_path)
    with pytest.raises(UserError, match="steps"):
        claim(tmp_path, {"steps": 6})
    claim(tmp_path)


def test_a_new_claim_can_be_withdrawn_but_an_old_one_stays(tmp_path):
    directory = RunDirectory(tmp_path, Config())
    directory.describe(CORPUS)
    directory.forget()
    directory.close()
    claim(tmp_path, {"steps": 6})
    directory = RunDirectory(tmp_path, Config(steps=6))
    directory.forget()
    directory.close()
    assert read_run(tmp_path)["config"]["steps"] == 6


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="a file is in its place"):
            claim(path)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_directory_without_the_right_to_write_is_refused():
    refused = r"cannot write to --workdir .*: (Perm|Read-only)"
    for path in ("/", "/relpos-run/deeper", "/usr/bin"):
        with powerless(), pytest.raises(UserError, match=refused):
            claim(Path(path))


def test_a_directory_that_cannot_be_made_is_refused():
    with pytest.raises(
        UserError, match=r"cannot write to --workdir '/dev/null/x'|file is in its place"
    ):
        claim(Path("/dev/null/x"))


def notes(path, changes=None, facts=CORPUS):
    """Returns what is said of a run that goes on."""
    directory = RunDirectory(path, read(Config, changes or {}))
    try:
        directory.describe(facts)
        return directory.notes
    finally:
        directory.close()


@pytest.mark.parametrize("left", ["metrics.jsonl", "summary.txt", "checkpoints/20"])
def test_a_run_that_has_lost_its_config_is_not_begun_anew(tmp_path, left):
    claim(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("of a run")
    with pytest.raises(UserError, match=rf"has {left} of a run but no config\.json: restore it"):
        claim(tmp_path)
    assert not (tmp_path / "config.json").exists()
    (tmp_path / left).unlink()
    claim(tmp_path)  # an empty folder of checkpoints is no run


@pytest.mark.parametrize("name", ["007", "²", "-1", "backup"])
def test_a_folder_of_another_name_beside_checkpoints_is_not_of_a_run(tmp_path, name):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    claim(tmp_path)


def lock_is_link(lock, precious):
    lock.symlink_to(precious)


def lock_is_hard_link(lock, precious):
    os.link(precious, lock)


def lock_is_pipe(lock, precious):
    os.mkfifo(lock)


def lock_is_directory(lock, precious):
    lock.mkdir()


@pytest.mark.parametrize("make", [lock_is_link, lock_is_hard_link, lock_is_pipe, lock_is_directory])
def test_a_lock_that_is_something_else_is_refused_untouched(tmp_path, make):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / ".lock", precious)
    with pytest.raises(UserError, match=r"\.lock'.*remove"):
        claim(tmp_path / "run")
    assert precious.read_text() == "precious"


def test_who_holds_the_lock_is_shown_without_escape_codes(tmp_path):
    first = RunDirectory(tmp_path, Config())
    (tmp_path / ".lock").write_bytes(b"\x1b[2J\n\xff")
    with pytest.raises(UserError, match=r"another process \(\\x1b\[2J\\n\ufffd\)"):
        RunDirectory(tmp_path, Config())
    first.close()


def store(path, **changes):
    run = read_run(path) | changes
    (path / "config.json").write_text(json.dumps(run))


def test_other_versions_and_x64_are_told_in_a_line_each(tmp_path):
    claim(tmp_path)
    assert notes(tmp_path) == []
    there = read_run(tmp_path)["versions"]
    store(tmp_path, versions=there | {"jax": "0.1.2", "python": "3.0"}, x64=True)
    versions, x64 = notes(tmp_path)
    assert versions == (
        f"other versions than the run began with: python 3.0 -> {there['python']}, jax 0.1.2 -> {there['jax']}"
    )
    assert x64 == "the run began with jax_enable_x64=True, now it is False"
    run = read_run(tmp_path)
    del run["versions"], run["x64"]
    (tmp_path / "config.json").write_text(json.dumps(run))
    assert notes(tmp_path) == []  # an older run


def test_a_bare_checkout_on_the_path_has_its_own_version(tmp_path, monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    claim(tmp_path)
    assert read_run(tmp_path)["versions"] == {
        "python": platform.python_version(),
        "relpos": relpos.__version__,
    }
    assert notes(tmp_path) == []


def at(path):
    return {"data": {"sources": {"files": {"path": path}}, "other": "x"}}


def test_the_same_data_at_another_path_go_on_and_config_json_follows(tmp_path):
    facts = {"corpus": {"name": "a.txt", "version": "1", "sha256": "abc"}}
    moved = {"corpus": facts["corpus"] | {"name": "b.txt"}}
    claim(tmp_path, at("a.txt"), facts)
    assert notes(tmp_path, at("b.txt"), moved) == [
        "data.sources.files.path was 'a.txt', now 'b.txt': the same data"
    ]
    run = read_run(tmp_path)
    assert run["config"]["data"] == at("b.txt")["data"]
    assert run["corpus"] == facts["corpus"]
    assert notes(tmp_path, at("b.txt"), moved) == []
    for changes in ({"sha256": "xyz"}, {"version": "2"}):
        with pytest.raises(UserError, match="another corpus"):
            claim(tmp_path, at("c.txt"), {"corpus": facts["corpus"] | changes})
    with pytest.raises(UserError, match=r"data\.other: 'x' there, 'y' asked for"):
        claim(tmp_path, {"data": at("b.txt")["data"] | {"other": "y"}}, moved)
    assert read_run(tmp_path) == run


def test_another_path_of_data_without_a_hash_is_refused(tmp_path):
    claim(tmp_path, at("a.txt"), {"corpus": {"name": "x"}})
    with pytest.raises(
        UserError, match=r"data\.sources\.files\.path: 'a\.txt' there, 'b\.txt' asked for"
    ):
        claim(tmp_path, at("b.txt"), {"corpus": {"name": "x"}})


def test_a_run_of_an_older_version_gets_the_defaults_of_new_keys(tmp_path, toy_config):
    claim(tmp_path, config=toy_config())
    run = read_run(tmp_path)
    del run["config"]["optimizer"]["clip_norm"]
    store(tmp_path, config=run["config"])
    shutil.copy(tmp_path / "config.json", tmp_path / "kept")
    claim(tmp_path, config=toy_config(optimizer__clip_norm=1))
    with pytest.raises(UserError, match=r"optimizer\.clip_norm: 1\.0 there, 2\.0 asked for"):
        claim(tmp_path, config=toy_config(optimizer__clip_norm=2))
    assert (tmp_path / "config.json").read_text() == (tmp_path / "kept").read_text()


def test_the_task_is_that_of_the_file_given_not_of_the_directory(tmp_path, toy_config):
    claim(tmp_path, config=toy_config())
    store(tmp_path, config=read_run(tmp_path)["config"] | {"task": "evil.code"})
    with pytest.raises(UserError, match=r"task: 'evil\.code' there, 'tests\.training\.toy' asked"):
        claim(tmp_path, config=toy_config())
