import dataclasses
import json
import typing
from pathlib import Path

import pytest

from relpos import config_files
from relpos.sections import Options, to_plain
from relpos.training import run_config

ROOT = Path(__file__).parent.parent


def registries(section):
    """Yield the options of registries in a section and in those below it, each with its registry."""
    kinds = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from registries(value)
        elif kinds[field.name] == Options:
            yield value, *field.default_factory.args  # `options_of(registry)`, and nothing restated


@pytest.mark.parametrize("path", config_files.shipped().values(), ids=lambda path: path.stem)
def test_options_are_those_of_the_code(path):
    config = run_config.load(path)
    found = list(registries(config))
    assert found
    for options, registry in found:
        expected = {name: registry.options(name) for name in registry.names()}
        assert json.dumps(options, sort_keys=True) == json.dumps(expected, sort_keys=True)
    chosen = to_plain(config)
    if "data" in chosen:
        assert chosen["data"]["source"] in chosen["data"]["sources"]


def test_ci_runs_readmes_test_line():
    line = next(
        line for line in (ROOT / "README.md").read_text().splitlines() if line.endswith("-m pytest")
    )
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()
