"""The command `relpos`: what it runs, its help, and that the help's examples work."""

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

import relpos
from relpos import config_files, encodings, process, sections
from relpos.__main__ import COMMANDS, main, run_command
from relpos.errors import UserError
from relpos.sections import to_plain
from relpos.training import run_config

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, *arguments):
    """What the command line prints; it must exit with 0."""
    sys.argv = ["relpos", *arguments]
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(process, "prepare", lambda: None)  # it starts the command's process anew
    monkeypatch.setenv("COLUMNS", "80")


def test_version(capsys):
    assert printed(capsys, "--version") == f"relpos {relpos.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is missing"),
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (
            ["--workdir=x"],
            "unknown command '--workdir=x'; known: evaluate, predict, report, sweep, train",
        ),
        (["evaluate", "--workdr=x"], "did you mean '--workdir'?"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    with pytest.raises(UserError) as caught:
        run_command(arguments)
    assert message in str(caught.value)


def examples(text):
    return [shlex.split(line) for line in re.findall(r"^ +relpos (.*)$", text, re.MULTILINE)]


def test_help_names_the_commands_with_their_examples(capsys):
    own = printed(capsys, "--help")
    for command in COMMANDS:
        assert len([e for e in examples(own) if e[0] == command]) == 2
        assert printed(capsys, command, "--help").startswith(f"usage: relpos {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_help_work(command, capsys, monkeypatch):
    trained = []
    monkeypatch.setattr("relpos.training.loop.train", lambda *given: trained.append(given))
    monkeypatch.setattr("relpos.sweep._train", lambda *given: trained.append(given))
    given = examples(printed(capsys, command, "--help"))
    assert len(given) >= 2
    for name, *arguments in given:
        assert name == command
        if command == "train" or "--grid" in arguments:
            run_command([name, *arguments])
        else:  # the flags are right: what is missing is the run
            arguments = arguments[: arguments.index("<")] if "<" in arguments else arguments
            with pytest.raises(UserError, match=r"'(runs|experiments)/"):
                run_command([name, *arguments])
    assert len(trained) == (len(given) if command == "train" else command == "sweep")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_name_of_its_own(name, capsys, monkeypatch):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[f"relpos-{name}"] == scripts["relpos"] == "relpos.__main__:main"
    prepared = []
    monkeypatch.setattr(process, "prepare", lambda: prepared.append(name))
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/relpos-{name}", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.startswith(f"usage: relpos {name} ")
    # What these start prepares a process of its own, for the cores that it is given.
    assert bool(prepared) == (name not in ("sweep", "report"))


def test_help_of_train_tells_configs_sections_schemes_and_sources(capsys):
    text = " ".join(printed(capsys, "train", "--help").split())
    for name, path in config_files.shipped().items():
        assert f" {name}: " in text
        assert f"relpos train --config {name} --workdir" in text
        plain = to_plain(run_config.load(path))
        defaults = to_plain(run_config.config_class(plain["task"])(task=plain["task"]))
        for key in sections.flatten(defaults | {"encodings": {}, "places": {}}):
            assert re.search(rf"[ .]{key.rpartition('.')[2]}\b", text), key
        for source, options in plain.get("data", {}).get("sources", {}).items():
            assert f"source={defaults['data']['source']}" in text
            assert f"data.sources.{source}" in text
            for option in options:
                assert re.search(rf" data.sources.{source}: [^:]*\b{option}\b", text), option
    for scheme in encodings.names():
        for option in encodings.options(scheme):
            assert re.search(rf" {scheme}: [^:]*\b{option}=", text), option


def test_a_task_of_ones_own_is_found_where_the_command_is_given(tmp_path, capsys):
    (tmp_path / "own_task_here.py").write_text("")
    sys.path[:] = [
        path for path in sys.path if path not in ("", str(tmp_path))
    ]  # a console script's
    assert importlib.util.find_spec("own_task_here") is None
    printed(capsys, "--version")
    importlib.invalidate_caches()
    assert importlib.util.find_spec("own_task_here") is not None
    assert sys.path[-1] == str(tmp_path)  # it hides nothing that is installed
