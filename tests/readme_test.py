import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest
from flax import nnx

from relpos import places, train
from relpos.__main__ import COMMANDS
from relpos.encodings import names
from tests.scripts.load import script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def example(word):
    """Runs the only example with this word, with what it imports itself; returns its names."""
    (code,) = [code for code in EXAMPLES if word in code]
    found = {"__name__": "__main__"}
    exec(code, found)
    return found


def test_the_example_runs_and_gives_what_it_says():
    found = example("RelativeAttention")
    assert found["out"].shape == (2, 128, 8, 64)
    assert found["y"].shape == (2, 128, 512)
    own = example("class Linear")
    assert (own["q"] == found["q"]).all()
    assert own["out"].shape == found["out"].shape
    assert (own["out"] != found["out"]).any()


def test_a_trained_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_bytes(b"".join(b"Line %d of a text.\n" % n for n in range(200)))
    small = {
        "data.source": "files",
        "data.sources.files.path": "text.txt",
        "steps": 1,
        "batch_size": 2,
        "sequence_length": 64,
    }
    small |= {"model.num_layers": 1, "model.features": 8, "sample.prompts": ""}
    small |= {"eval_multiples": 1, "optimizer.warmup_steps": 0, "optimizer.name": "adamw"}
    arguments = [f"--config.{key}={value}" for key, value in small.items()]
    assert train.main(["--config=lm", "--workdir=runs/lm", *arguments]) == 0
    found = example("load_run")
    run = found["run"]
    assert (run.step, run.config.sequence_length) == (1, 64)
    assert isinstance(run.model, nnx.Module)
    assert found["logits"].shape == (1, len("def main("), run.tokenizer.vocab_size)


def test_every_example_is_run():
    assert len(EXAMPLES) == 3


def test_the_files_it_links_are_there():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    assert all((ROOT / link).is_file() for link in links)


def test_the_table_has_every_scheme():
    table = README.split("## Schemes")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == list(names()), (
        "run python scripts/encodings_page.py"
    )


def test_the_table_of_places_has_each():
    table = README.split("## Position transforms")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == list(places.names())


PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]


def commands():
    """The lines of README and the other pages that call this library, as arguments."""
    for block in re.findall(r"```sh\n(.*?)```", "\n".join(PAGES), re.DOTALL):
        for line in re.split(r"\n|;|&&", block):
            if match := re.search(
                r"(?:python -m relpos\.|python scripts/|^relpos )(\w+)(?:\.py)? ?(.*)", line
            ):
                yield match[1], shlex.split(match[2].replace("$e", "rope"))


COMMAND_LINES = list(commands())


def test_its_commands_are_found_and_their_experiments_are_there():
    assert len(COMMAND_LINES) > 50
    named = [
        text
        for _, arguments in COMMAND_LINES
        for text in arguments
        if text.startswith("experiments/")
    ]
    assert named
    assert all((ROOT / text).is_dir() for text in named)


class UnderstoodError(Exception):
    pass


@pytest.mark.parametrize(("program", "arguments"), COMMAND_LINES, ids=str)
def test_its_commands_are_understood(program, arguments, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def stop(*given):
        parse(*given)
        raise UnderstoodError

    if program == "train":
        monkeypatch.setattr("relpos.training.loop.train", lambda *given: 0)
        assert train.main(arguments) == 0
    elif arguments:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        entry = (
            importlib.import_module(f"relpos.{program}") if program in COMMANDS else script(program)
        )
        with pytest.raises(UnderstoodError):
            entry.main(arguments)
    else:
        assert script(program).main
