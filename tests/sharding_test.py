"""Arrays cut among eight devices: programs move no rows or heads between them, and give what one device gives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOVES = ("all-gather", "all-to-all", "collective-permute")


@pytest.mark.parametrize("part", ["quick", pytest.param("long", marks=pytest.mark.long)])
def test_sharded_inputs(part):
    command = [sys.executable, "-m", "tests.eight_devices", part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) >= {"quick": 5, "long": 58}[part]
    for result in found:
        assert result["error"] < 1e-5, result
        # A sequence is gathered: every query may see every key. It also shows that what is counted is there. Heads
        # that mix their logits send them to each other.
        # Queries, keys and values come out of one kernel: cut by heads, they are sent to where their heads are.
        names = MOVES[:1] if "kernels" in result["case"] else MOVES
        moved = sum(result[name] for name in names)
        case = result["case"]
        assert (moved > 0) == ("sequence" in case or "mixed" in case), result
