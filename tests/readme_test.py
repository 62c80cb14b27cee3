import re
import shlex
from pathlib import Path

import pytest

from relpos import train
from relpos.encodings import names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_gives_what_it_says():
    example, own_scheme = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found = {}
    exec(example, found)
    assert found["out"].shape == (2, 128, 8, 64)
    assert found["y"].shape == (2, 128, 512)
    before = found["out"]
    exec(own_scheme, found)
    assert found["out"].shape == before.shape
    assert (found["out"] != before).any()


def test_the_files_it_links_are_there():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    assert all((ROOT / link).is_file() for link in links)


def test_the_table_has_every_scheme():
    table = README.split("## Schemes")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == list(names())


PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]


def commands():
    """The lines of README and the other pages that call this library, as arguments."""
    for block in re.findall(r"```sh\n(.*?)```", "\n".join(PAGES), re.DOTALL):
        for line in re.split(r"\n|;|&&", block):
            if match := re.search(r"python (-m relpos\.(\w+)|scripts/(\w+)\.py) ?(.*)", line):
                yield match[2] or match[3], shlex.split(match[4].replace("$e", "rope"))


@pytest.mark.parametrize(("program", "arguments"), list(commands()), ids=str)
def test_its_commands_are_understood(program, arguments, monkeypatch):
    asked = [a for a in arguments if a.startswith("--")]
    if program == "train":
        monkeypatch.setattr("relpos.training.loop.train", lambda *given: 0)
        assert train.main(arguments) == 0
        return
    folder = "relpos" if program in ("evaluate", "predict") else "scripts"
    source = (ROOT / folder / f"{program}.py").read_text()
    assert all(f'"{flag.partition("=")[0]}"' in source for flag in asked)
