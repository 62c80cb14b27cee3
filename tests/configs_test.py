from pathlib import Path

import pytest

from configs.algorithmic_options import OPTIONS
from configs.encodings import ENCODINGS
from configs.places import PLACES
from relpos import encodings, places
from relpos.data import algorithmic

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", encodings.names())
def test_each_scheme_has_a_config_entry_with_its_own_defaults(name):
    assert ENCODINGS[name] == encodings.options(name)


def test_no_config_entry_is_left_over():
    assert set(ENCODINGS) == set(encodings.names())


def test_each_way_to_place_tokens_has_a_config_entry_with_its_own_defaults():
    assert {name: places.options(name) for name in places.names()} == PLACES


def test_each_algorithmic_task_has_a_config_entry_with_its_own_defaults():
    assert {name: algorithmic.options(name) for name in algorithmic.names()} == OPTIONS


def test_ci_runs_readmes_test_line():
    line = next(
        line for line in (ROOT / "README.md").read_text().splitlines() if line.endswith("-m pytest")
    )
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()
