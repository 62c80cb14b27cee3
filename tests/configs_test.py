import json
from pathlib import Path

import pytest

from relpos import config_files, encodings, places
from relpos.data import algorithmic, pairs, questions, text
from relpos.sections import to_plain
from relpos.training import run_config

ROOT = Path(__file__).parent.parent
SOURCES = {
    "language_modelling": text,
    "translation": pairs,
    "question_answering": questions,
    "algorithmic": algorithmic,
}


@pytest.mark.parametrize("path", config_files.shipped().values(), ids=lambda path: path.stem)
def test_options_are_those_of_the_code(path):
    chosen = to_plain(run_config.load(path))
    for registry, found in (
        (encodings, chosen.get("encodings")),
        (places, chosen.get("places")),
        (SOURCES.get(chosen["task"]), chosen.get("data", {}).get("sources")),
    ):
        if found is not None:
            expected = {name: registry.options(name) for name in registry.names()}
            assert found == json.loads(json.dumps(expected))
    if "data" in chosen:
        assert chosen["data"]["source"] in chosen["data"]["sources"]


def test_ci_runs_readmes_test_line():
    line = next(
        line for line in (ROOT / "README.md").read_text().splitlines() if line.endswith("-m pytest")
    )
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()
