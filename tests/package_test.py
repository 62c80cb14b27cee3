"""What is imported where `pip install relpos` brought the core alone, and what is said there."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import relpos
from relpos.errors import what_is_missing

ROOT = Path(__file__).parent.parent

# The modules of relpos[train] that no dependency of the core brings.
WITHOUT_TRAIN = """
import sys

for name in ("ml_collections", "grain", "tensorflow_datasets", "tensorboardX", "sacrebleu", "babel"):
    sys.modules[name] = None
"""


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TRAIN + code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_core_alone_says_what_the_rest_wants():
    done = run(
        "import relpos, relpos.linen\n"
        "try:\n    relpos.load_run('runs/lm')\n"
        "except ImportError as error:\n    print(error)\n"
        "sys.argv = ['relpos', 'train', '--config', 'lm', '--workdir', 'x']\n"
        "from relpos.__main__ import main\nmain()"
    )
    hint = "pip install 'relpos[train]' installs what training and its commands need"
    assert done.stdout.startswith("relpos.load_run: ")
    assert done.stdout.endswith(f": {hint}\n")
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(f": {hint}\n")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2


def test_version_and_citation_are_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == relpos.__version__
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {relpos.__version__}" in citation
    assert f"license: {project['license']}" in citation
    assert f'repository-code: "{project["urls"]["Source"]}"' in citation


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'lod_run'"):
        _ = relpos.lod_run


def names(requirements):
    return {re.split(r"[<>=\[ ;]", line)[0].lower().replace("_", "-") for line in requirements}


def test_a_missing_module_of_relpos_train_is_told_with_the_command_that_brings_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = names(project["optional-dependencies"]["train"]) - names(project["dependencies"])
    modules = importlib.metadata.packages_distributions().items()
    brought = {name for name, by in modules if name.isidentifier() and names(by) & wanted}
    assert {"absl", "grain", "orbax", "rich"} <= brought
    for name in brought:
        error = ModuleNotFoundError(f"No module named {name!r}", name=name)
        assert ": pip install 'relpos[train]' installs" in what_is_missing(error)
