import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp

from relpos import cores

ROOT = Path(__file__).parents[1]


def test_rows_on_four_devices():
    done = subprocess.run(
        [sys.executable, "-m", "tests.four_devices"],
        cwd=ROOT, env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_where_nobody_asks_for_more_there_is_one_device():
    assert len(cores.sharing(8, jnp.zeros(3))) == 1
