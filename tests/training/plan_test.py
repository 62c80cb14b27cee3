import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from relpos.training.plan import plan
from relpos.training.run_config import RunConfig

CONFIG = RunConfig(task="x", steps=2800, batch_size=8, sequence_length=256)
SHAPES = {"a": jax.ShapeDtypeStruct((1000, 425), jnp.float32)}
TEXT = {"train": {"documents": 12_345, "bytes": 11_900_000}, "test": {"documents": 3, "bytes": 1}}
PAIRS = {"train": {"pairs": 20_000, "source_bytes": 1_000_000, "target_bytes": 1_500_000}}
QUESTIONS = {"train": {"questions": 10_000, "impossible": 0}}


def lines(facts):
    return plan(CONFIG, facts, SHAPES, [SHAPES, SHAPES], Path("runs/lm"))


def test_the_plan_of_a_run_fits_60_columns():
    found = lines({"corpus": {"name": "library_text", "sha256": "0" * 64, "splits": TEXT}})
    assert found == [
        "model      425,000 parameters, 5.1 MB with the optimizer",
        "device     cpu",
        "corpus     library_text, train: 12,345 documents, 11.9 MB",
        "steps      2,800 of 8 x 256 tokens at most",
        "writes to  runs/lm",
    ]
    assert max(map(len, found)) <= 60


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"name": "cldr", "splits": PAIRS}, "corpus     cldr, train: 20,000 pairs, 2.5 MB"),
        ({"name": "x", "splits": QUESTIONS}, "corpus     x, train: 10,000 questions"),
        ({"name": "flip_flop", "sha256": "0"}, "corpus     flip_flop"),
    ],
)
def test_it_says_of_the_data_what_is_known(facts, line):
    assert lines({"corpus": facts})[2] == line


def test_a_task_without_a_corpus_has_no_line_of_it():
    assert [line.split()[0] for line in lines({})] == ["model", "device", "steps", "writes"]


def test_it_says_which_of_several_devices_have_rows():
    program = """
        from relpos.training.plan import plan
        from relpos.training.run_config import RunConfig
        for rows in (1, 4, 6):
            config = RunConfig(task="x", steps=1, batch_size=rows, sequence_length=1)
            print("\\n".join(plan(config, {}, {}, {}, "x")))
    """
    printed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu",
             "XLA_FLAGS": "--xla_force_host_platform_device_count=3"},
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert [line for line in printed.splitlines() if line.startswith("device")] == [
        "device     cpu, one of 3: the others are idle",
        "device     cpu, 2 cores with 2 rows of each batch; idle: 1",
        "device     cpu, 3 cores with 2 rows of each batch",
    ]
